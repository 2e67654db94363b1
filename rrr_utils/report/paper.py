"""The paper's cells (arXiv 2505.24726) beside ours, with a verdict for each.

The paper's text was not at hand when `data/paper.csv` was made: it holds only the cells that are known, each with how
surely (V: the abstract or the first author's recorded talk; S: readers' summaries that quote the full text). Every
other cell of the paper is "not available" and is never guessed. Whoever has the paper fills a cell by adding a line:

    main,countdown,Qwen2.5-3B-Instruct,trained_second,=,<per cent>,V,<page of the paper>

Covered: reading and checking that file, the comparison, the table. Not covered: our own cells (`cells.py`).
"""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from rrr_utils.errors import DataError, nearest
from rrr_utils.settings import DATA

PATH = DATA / "paper.csv"
COLUMNS = ["table", "task", "model", "cell", "relation", "value", "certainty", "source"]
#: a cell's name in the paper's table, and ours: policy, attempt, control
CELLS = {
    "vanilla_first": ("vanilla", "first", ""),
    "vanilla_second": ("vanilla", "second", "own"),
    "trained_first": ("trained", "first", ""),
    "trained_second": ("trained", "second", "own"),
}
#: rows of the paper's two main tables; those of the second list were not trained
TRAINED = {
    "function_calling": ["Qwen2-1.5B-Instruct", "Qwen2-7B-Instruct", "Llama-3.1-8B-Instruct", "Phi-3.5-mini-instruct"],
    "countdown": [
        "Qwen2.5-1.5B-Instruct", "Qwen2.5-3B-Instruct", "Qwen2.5-7B-Instruct", "Llama-3.1-8B-Instruct", "Llama-3.2-3B-Instruct",
        "Palmyra 1.7B",
    ],
}  # fmt: skip
UNTRAINED = {
    "function_calling": ["Qwen2-72B-Instruct", "Llama-3.1-70B-Instruct", "Palmyra X4"],
    "countdown": ["Qwen2.5-32B-Instruct", "Qwen2.5-72B-Instruct", "Llama-3.1-70B-Instruct", "Palmyra X4"],
}
NOT_RUN, NOT_AVAILABLE = "not run", "not available"


def load(path: Path = PATH) -> pd.DataFrame:
    """The paper's cells, one a row, checked.

    >>> frame = load()
    >>> frame[(frame["model"] == "Qwen2-1.5B-Instruct") & (frame["cell"] == "trained_second")]["value"].item()
    52.9
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV: {error}") from None
    if not lines or lines[0] != COLUMNS:
        raise DataError(f"{path}, line 1: the columns must be {','.join(COLUMNS)}")
    rows, seen = [], {}
    for number, fields in enumerate(lines[1:], start=2):
        if not any(field.strip() for field in fields):
            continue
        row = _checked(fields, f"{path}, line {number}")
        key = tuple(row[name] for name in ("table", "task", "model", "cell"))
        if key in seen:
            raise DataError(f"{path}, line {number}: {row['model']} {row['cell']} is already on line {seen[key]}; keep one of them")
        seen[key] = number
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _checked(fields: list[str], where: str) -> dict:
    if len(fields) != len(COLUMNS):
        raise DataError(f"{where}: {len(fields)} fields, not {len(COLUMNS)} ({', '.join(COLUMNS)}); put a field with a comma in quotes")
    row = dict(zip(COLUMNS, (field.strip() for field in fields), strict=True))
    for name, known in (("task", TRAINED), ("cell", CELLS)):
        if row[name] not in known:
            raise DataError(f"{where}: unknown {name} '{row[name]}'{nearest(row[name], list(known))}")
    if row["relation"] not in ("=", ">", "<"):
        raise DataError(f"{where}: relation '{row['relation']}' must be =, > or <")
    if row["certainty"] not in ("V", "S"):
        raise DataError(f"{where}: certainty '{row['certainty']}' must be V (from the paper or its author) or S (quoted by others)")
    for name in ("table", "model", "source"):
        if not row[name]:
            raise DataError(f"{where}: {name} is empty")
    try:
        value = float(row["value"])
    except ValueError:
        raise DataError(f"{where}: value '{row['value']}' is no number; write per cent, such as 45.0") from None
    if not 0 <= value <= 100:
        raise DataError(f"{where}: value {row['value']} must be per cent, from 0 to 100")
    return row | {"value": value}


def bare(model: str) -> str:
    """A model's name as the paper writes it.

    >>> bare("Qwen/Qwen2.5-1.5B-Instruct")
    'Qwen2.5-1.5B-Instruct'
    """
    return model.rstrip("/").split("/")[-1]


def compare(ours: pd.DataFrame, paper: pd.DataFrame | None = None, decoding: str = "greedy") -> pd.DataFrame:
    """Every cell of the paper's two tables and of our runs: the paper's value, ours in % with its interval, the verdict.

    `ours` are cells with the columns of cells.csv (or averaged over seeds, `cells.over_seeds`); training seeds are
    averaged. The verdict says how ours stands to the paper's: `within` (the paper's value lies in our 95% interval, or
    our interval reaches into "over 50"), `above`, `below`; `not run` where ours is missing, `not available` where the
    paper's is unknown. The paper does not say how it decoded its evaluations; ours are greedy unless asked otherwise.
    """
    paper = load() if paper is None else paper
    known = {(r.task, r.model, r.cell): r for r in paper.itertuples()}
    mine = ours[ours["decoding"] == decoding]
    mine = mine.assign(model=mine["model"].map(bare), control=mine["control"].fillna(""))
    keys = ["task", "model", "policy", "attempt", "control"]
    mean = {key: group[["accuracy", "ci_low", "ci_high"]].mean() * 100 for key, group in mine.groupby(keys)}
    names = [(task, model) for task in TRAINED for model in [*TRAINED[task], *UNTRAINED[task]]]
    names += [(r.task, r.model) for r in paper.itertuples()] + list(mine[["task", "model"]].itertuples(index=False, name=None))
    rows = []
    for task, model in dict.fromkeys(names):
        for cell, place in CELLS.items():
            if cell.startswith("trained") and model in UNTRAINED.get(task, []):
                continue
            theirs, got = known.get((task, model, cell)), mean.get((task, model, *place))
            rows.append({
                "task": task, "model": model, "cell": cell, "relation": theirs.relation if theirs else "",
                "paper": theirs.value if theirs else None, "certainty": theirs.certainty if theirs else "",
                "ours": None if got is None else got["accuracy"], "ci_low": None if got is None else got["ci_low"],
                "ci_high": None if got is None else got["ci_high"], "verdict": verdict(theirs, got),
            })  # fmt: skip
    return pd.DataFrame(rows).astype({"paper": float, "ours": float, "ci_low": float, "ci_high": float})


def verdict(theirs, got) -> str:
    """How one of our cells stands to the paper's (see `compare`)."""
    if theirs is None:
        return NOT_AVAILABLE
    if got is None:
        return NOT_RUN
    if got["ci_high"] < theirs.value or (theirs.relation == ">" and got["ci_high"] == theirs.value):
        return "within" if theirs.relation == "<" else "below"
    if got["ci_low"] > theirs.value or (theirs.relation == "<" and got["ci_low"] == theirs.value):
        return "within" if theirs.relation == ">" else "above"
    return "within"


def table(compared: pd.DataFrame) -> pd.DataFrame:
    """The comparison as it is printed: a model a row, a cell a column, the paper's value first and ours after the bar.

    A model that is not in the paper has a dash for the paper's value.
    """
    text = compared.apply(_entry, axis=1)
    wide = compared.assign(text=text).pivot(index=["task", "model"], columns="cell", values="text")
    order = pd.MultiIndex.from_frame(compared[["task", "model"]].drop_duplicates())
    wide = wide.reindex(index=order, columns=list(CELLS)).fillna("-")
    return wide.rename(columns=lambda cell: cell.replace("_", ", ")).rename_axis(columns=None).reset_index()


def _entry(row: pd.Series) -> str:
    theirs = NOT_AVAILABLE if row["model"] in [*TRAINED.get(row["task"], []), *UNTRAINED.get(row["task"], [])] else "-"
    if row["relation"]:
        theirs = f"{'' if row['relation'] == '=' else row['relation']}{row['paper']:.1f} ({row['certainty']})"
    if pd.isna(row["ours"]):
        return f"{theirs} | {NOT_RUN}" if row["relation"] else theirs
    said = f", {row['verdict']}" if row["relation"] else ""
    return f"{theirs} | {row['ours']:.1f} [{row['ci_low']:.1f}, {row['ci_high']:.1f}]{said}"


def markdown(frame: pd.DataFrame) -> str:
    """A data frame as a Markdown table whose columns stand straight in a terminal too.

    >>> print(markdown(pd.DataFrame({"model": ["a|b"], "first": [1]})))
    | model | first |
    | ----- | ----- |
    | a/b   | 1     |
    """
    lines = [list(frame.columns), *frame.itertuples(index=False)]
    lines = [[("" if pd.isna(value) else str(value)).replace("|", "/") for value in line] for line in lines]
    widths = [max(len(line[k]) for line in lines) for k in range(len(frame.columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines)
