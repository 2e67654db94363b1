"""The paper's cells (arXiv 2505.24726) next to ours, with a verdict for each.

`data/paper.csv` holds only the cells that are known, each with its certainty (V: the abstract or the first author's
recorded talk; S: readers' summaries that quote the full text). Every other cell is "not available" and is never
guessed. If you have the paper, add a line: main,countdown,Qwen2.5-3B-Instruct,trained_second,=,<per cent>,V,<page>
"""

import csv
import math
import re
from pathlib import Path

import pandas as pd

from rrr_utils.errors import DataError, nearest
from rrr_utils.report.text import interval
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
#: the paper's test sets: data on the hub and number of items. S, and inferred from S; which items they are is not known
TEST_SETS = {
    "function_calling": ("Salesforce/xlam-function-calling-60k", 12_000),
    "countdown": ("Jiayi-Pan/Countdown-Tasks-3to4", 15_000),
}
#: rows of the paper's two main tables; those of the second list were not trained
TRAINED = {
    "function_calling": ["Qwen2-1.5B-Instruct", "Qwen2-7B-Instruct", "Llama-3.1-8B-Instruct", "Phi-3.5-mini-instruct"],
    "countdown": [f"Qwen2.5-{size}-Instruct" for size in ("1.5B", "3B", "7B")]
    + ["Llama-3.1-8B-Instruct", "Llama-3.2-3B-Instruct", "Palmyra 1.7B"],
}
UNTRAINED = {
    "function_calling": ["Qwen2-72B-Instruct", "Llama-3.1-70B-Instruct", "Palmyra X4"],
    "countdown": ["Qwen2.5-32B-Instruct", "Qwen2.5-72B-Instruct", "Llama-3.1-70B-Instruct", "Palmyra X4"],
}


def load(path: Path = PATH) -> pd.DataFrame:
    """The paper's cells, one a row, checked. Raises DataError, which names the line.

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
    rows = {}
    for number, line in enumerate(lines[1:], start=2):
        if any(fields := [field.strip() for field in line]):
            if flaw := _flaw(fields, rows):
                raise DataError(f"{path}, line {number}: {flaw}")
            rows[tuple(fields[:4])] = fields
    return pd.DataFrame(list(rows.values()), columns=COLUMNS).astype({"value": float})


def _flaw(fields: list[str], known: dict[tuple, list[str]]) -> str | None:
    """What is wrong with a line, in words."""
    if len(fields) != len(COLUMNS):
        return f"{len(fields)} fields, not {len(COLUMNS)} ({', '.join(COLUMNS)}); quote a field with a comma"
    allowed = {"task": list(TRAINED), "cell": list(CELLS), "relation": ["=", ">", "<"], "certainty": ["V", "S"]}
    for name, value in zip(COLUMNS, fields, strict=True):
        if not value:
            return f"{name} is empty"
        if value not in allowed.get(name, [value]):
            return f"unknown {name} '{value}'{nearest(value, allowed[name])}"
    if not re.fullmatch(r"\d+(\.\d+)?", value := fields[COLUMNS.index("value")]) or float(value) > 100:
        return f"value '{value}' is not a number from 0 to 100; write per cent, for example 45.0"
    return f"{fields[2]} {fields[3]} is there twice; keep one of them" if tuple(fields[:4]) in known else None


def compare(averaged: pd.DataFrame, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every cell of the paper's two tables and of our runs: the paper's value, ours in % and its interval, the verdict.

    `averaged`: `cells.over_seeds` with a column `data`, the fingerprint of the test data ("hub:owner/name@commit").
    The verdict says where ours, greedy, is: `within +-0.8` (half the width in points of our 95% interval: the paper's
    value lies in it, or it reaches into "over 50"), `above`, `below`; else why that cannot be said.
    """
    paper = load() if paper is None else paper
    known = {(r.task, r.model, r.cell): r for r in paper.itertuples()}
    ours = averaged[averaged["decoding"] == "greedy"]
    mine = {(r.task, r.model.split("/")[-1], r.policy, r.attempt, r.control): r for r in ours.itertuples()}
    names = [(task, model) for task in TRAINED for model in [*TRAINED[task], *UNTRAINED[task]]]
    names += [key[:2] for key in (*known, *mine)]
    rows = []
    for task, model in dict.fromkeys(names):
        for cell, place in CELLS.items():
            if cell.startswith("trained") and model in UNTRAINED.get(task, []):
                continue
            theirs, got = known.get((task, model, cell)), mine.get((task, model, *place))
            said = (theirs.relation, theirs.value, theirs.certainty) if theirs else ("", math.nan, "")
            share = [100 * end for end in (got.accuracy, got.ci_low, got.ci_high)] if got else [math.nan] * 3
            rows.append((task, model, cell, *said, *share, verdict(theirs, got)))
    columns = ["task", "model", "cell", "relation", "paper", "certainty", "ours", "ci_low", "ci_high", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def verdict(theirs, got) -> str:
    """Where one of our cells is, seen from the paper's (see `compare`)."""
    if theirs is None or got is None:
        return "not available" if theirs is None else "not run"
    source, items = TEST_SETS[theirs.task]
    if got.data.split("@")[0] != f"hub:{source}":
        return "not comparable: other data"
    if got.n != items:
        return f"not comparable: {got.n} items, not {items}"
    low, high, value = 100 * got.ci_low, 100 * got.ci_high, theirs.value
    within = f"within +-{(high - low) / 2:.1f}"
    if high < value or (theirs.relation == ">" and high == value):
        return within if theirs.relation == "<" else "below"
    if low > value or (theirs.relation == "<" and low == value):
        return within if theirs.relation == ">" else "above"
    return within


def table(compared: pd.DataFrame) -> pd.DataFrame:
    """The comparison as it is printed, a model a row and a cell a column: the paper's value (or a dash) / ours."""
    texts = compared.assign(text=compared.apply(_entry, axis=1)).set_index(["task", "model", "cell"])["text"]
    wide = texts.unstack(sort=False).reindex(columns=list(CELLS)).fillna("-")
    return wide.rename(columns=lambda cell: cell.replace("_", ", ")).rename_axis(columns=None).reset_index()


def _entry(row: pd.Series) -> str:
    in_paper = row["model"] in [*TRAINED.get(row["task"], []), *UNTRAINED.get(row["task"], [])]
    value = f"{row['relation'].strip('=')}{row['paper']:.1f} ({row['certainty']})"
    theirs = value if row["relation"] else "not available" if in_paper else "-"
    if pd.isna(row["ours"]):
        return f"{theirs} / not run" if row["relation"] else theirs
    ours = interval(*(row[["ours", "ci_low", "ci_high"]] / 100))
    return f"{theirs} / {ours}{', ' + row['verdict'] if row['relation'] else ''}"


def beside(task: str, averaged: pd.DataFrame, samples: list[dict]) -> str:
    """What training does to the first try and to the length of reflections, in the paper and here, a line each. Empty
    for a task that is not the paper's, or where `trained` and the base model were not both evaluated."""
    first = averaged[averaged["attempt"] == "first"].set_index(["policy", "decoding"])["accuracy"]
    ways = [how for how in averaged["decoding"].unique() if {("vanilla", how), ("trained", how)} <= set(first.index)]
    if task not in TRAINED or not ways:
        return ""
    known = load()
    known = known[known["task"] == task].drop_duplicates(["model", "cell"])
    cells = known.pivot(index="model", columns="cell", values="value")
    both = cells.reindex(columns=["vanilla_first", "trained_first"]).dropna()
    theirs = ", ".join(f"{name} {old:.1f} to {new:.1f}" for name, old, new in both.itertuples())
    ours = ", ".join(f"{100 * first['vanilla', how]:.1f} to {100 * first['trained', how]:.1f} ({how})" for how in ways)
    own = [
        (x["policy"], x["decoding"], x["second"]["own"]["reflection_tokens"]) for x in samples if "own" in x["second"]
    ]
    mean = pd.DataFrame(own, columns=["policy", "decoding", "tokens"]).groupby(["policy", "decoding"])["tokens"].mean()
    wide = [how for how in ways if {("vanilla", how), ("trained", how)} <= set(mean.index)]
    long = ", ".join(f"{mean['vanilla', how]:.0f} to {mean['trained', how]:.0f} tokens ({how})" for how in wide)
    return (
        f"- First try, untrained to trained, %: in the paper {theirs};\n  here {ours}.\n"
        f"- Reflections: in the paper they get shorter, more general and less repetitive (S, V);\n  here from {long}."
    )
