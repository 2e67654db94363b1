"""What is committed of a profile's runs, and the texts that are made of them: `make publish`.

Copies tables, figures and each run's `result.json`, `samples.jsonl.gz` and logs into results/<profile>/, under names
without hashes; `trials/`, `ablations/` and files with other names (RECIPE.md) stay. Then fills in the generated parts
of that folder's README.md, and of the tiny profile, which README.md shows, those of README.md too.
"""

import gzip
import hashlib
import shutil
from pathlib import Path

import pandas as pd

from rrr_utils import files, runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.report import cells, deviations, diagnosis, figures, headline, kinds, tables
from rrr_utils.report.text import markdown, safe
from rrr_utils.settings import ROOT, Settings

_CSV = "cells seeds comparisons paper kinds diagnosis claims errors".split()
TABLES = [*(f"{name}.csv" for name in _CSV), "report.md", "result.json"]
#: the generated parts of a folder's README.md, and of README.md
PARTS, FRONT = ("table", "diagnosis", "ablations", "kinds", "examples", "deviations"), ("result", "example")


def publish(settings: Settings, root: Path = ROOT, force: bool = False) -> Path:
    """Copy what the last tables of a profile took into results/<profile>/ and fill in the texts; returns the folder.

    Raises ResultsError where the tables are not of the present results or, unless `force`, lack published rows.
    """
    source, name = runs.stage_dir(settings, "tables"), runs.profile_name(settings)
    made, target = files.read_json(source / "result.json") or {}, root / "results" / name
    settings = settings.model_copy(update={"seeds": tuple(made.get("identity", {}).get("seeds", ()))})
    if not runs.done(settings, "tables"):
        how = f"make them with   python -m rrr_utils.launch tables --profile {settings.profile}"
        raise ResultsError(f"the tables in {source} are not there or not of the present results: {how}")
    if not force and (lost := _in_table(target / "cells.csv") - _in_table(source / "cells.csv")):
        what = f"this table lacks rows of the published one in {target}: {', '.join(sorted(lost))}"
        raise ResultsError(f"{what}. Make it with them (SEEDS=...), or publish with --force")
    (rows, lacking), part = tables.gather(settings), target / ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _copy(source, part, rows)
        kept = ".part", "trials", "ablations", "gates"  # the last three are not made from the tables
        for folder in [path for path in target.iterdir() if path.is_dir() and path.name not in kept]:
            shutil.rmtree(folder)
        for path in sorted(part.iterdir()):
            path.replace(target / path.name)
        part.rmdir()
    except OSError as error:
        raise files.no_space(target, error) from None
    write_page(target, sections(rows, lacking))
    if name == "tiny" and (readme := root / "README.md").is_file():
        parts = {"result": result(rows, target), "example": examples(rows[0], 1)}
        files.write_text(readme, fill(readme.read_text(encoding="utf-8"), parts))
    return target


def write_page(folder: Path, parts: dict[str, str]) -> None:
    """Fill in parts of the README.md of a published folder, which is begun where there is none."""
    page = folder / "README.md"
    begun = "".join(f"\n## {name}\n\n<!-- generated:{name} -->\n<!-- /generated:{name} -->\n" for name in PARTS)
    text = page.read_text(encoding="utf-8") if page.is_file() else f"# Results of {folder.name}\n{begun}"
    files.write_text(page, fill(text, parts, f"{folder.name}/README.md"))


def _in_table(path: Path) -> set[str]:
    """Task, model, policy and seed of every row of a table; none where there is no table."""
    if not path.is_file():
        return set()
    frame = pd.read_csv(path, dtype="string")[["task", "model", "policy", "seed"]].drop_duplicates().fillna("")
    return {f"{r.task} {r.model} {r.policy}{' seed ' + r.seed if r.seed else ''}" for r in frame.itertuples()}


def _copy(source: Path, target: Path, rows: list[tables.Row]) -> None:
    shutil.copytree(source / "figures", target / "figures")
    for name in TABLES:
        copy_placeless(source / name, target / name)
    for one in [one for row in rows for one in row.evaluated]:
        for stage in ("evaluate",) if one.seed is None else ("failures", "train", "evaluate"):
            folder = runs.stage_dir(one, stage)
            to = target / folder.parent.relative_to(runs.root(one)) / folder.name.rpartition("-")[0]
            for name in ("result.json", "training.jsonl", "dev.jsonl"):
                if (folder / name).is_file():
                    copy_placeless(folder / name, to / name)
            if stage == "evaluate":
                packed = gzip.compress((folder / "samples.jsonl").read_bytes(), compresslevel=9, mtime=0)
                (to / "samples.jsonl.gz").write_bytes(packed)


def copy_placeless(source: Path, target: Path) -> None:
    """Copy a text file without the place of this repository."""
    target.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_text(encoding="utf-8").replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    target.write_text(text, encoding="utf-8", newline="\n")


def fill(text: str, parts: dict[str, str], where: str = "README.md") -> str:
    """A text with new content between the markers of each part. Raises ResultsError where a marker is missing.

    >>> fill("a <!-- generated:x --> old <!-- /generated:x --> b", {"x": "new"})
    'a <!-- generated:x -->\\nnew\\n<!-- /generated:x --> b'
    """
    for name, part in parts.items():
        begin, end = f"<!-- generated:{name} -->", f"<!-- /generated:{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < text.index(begin):
            raise ResultsError(f"{where} must hold one '{begin}' and after it one '{end}', where its {name} belongs")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{part.strip()}\n{end}{rest.split(end)[1]}"
    return text


def result(rows: list[tables.Row], target: Path) -> str:
    """What came out, four rows a task. `target`: the published folder; its ablations are the first row's."""
    parts = []
    for row in rows:
        seeds = sum(one.seed is not None for one in row.evaluated)
        how = f"{row.size}; " + (f"mean of {seeds} trainings" if seeds > 1 else "one training")
        frame = headline.table(row, headline.ablated(target) if row is rows[0] else None)
        parts += [f"**{row.name}** ({how}) [95% interval]", markdown(frame), headline.beside(row)]
    return "\n\n".join(parts)


def sections(rows: list[tables.Row], lacking: dict[str, str]) -> dict[str, str]:
    """The generated parts of a folder's README.md, by marker, but for `ablations`, which they are not made from."""
    parts = {name: [] for name in PARTS if name != "ablations"}
    parts["table"] += [f"Not in this table: {tables.absent(lacking)}."] if lacking else []
    for row in rows:
        parts["table"] += _table(row)
        asked = row.settings.task, row.samples, row.settings.verdict
        if len(found := diagnosis.table(*asked)):
            picture = f"![what the second tries are made of](figures/diagnosis-{figures.stem(row)}.png)"
            parts["diagnosis"] += [picture] if "stated" in found else []
            said = f"{row.name}, own reflections, seeds together, in %:"
            parts["diagnosis"] += [said, markdown(diagnosis.in_words(found))]
        frame = tables.kinds_table(kinds.table(*asked), row.decoding)
        picture = f"![reward and kinds of reflection over steps](figures/training-{figures.stem(row)}.png)"
        parts["kinds"] += [picture, f"{row.name}, {row.decoding} reflections on the test failures:", markdown(frame)]
        parts["examples"].append(examples(row))
    parts["deviations"] = [deviations.part([row.settings for row in rows])]
    return {name: "\n\n".join(part) for name, part in parts.items()}


def _table(row: tables.Row) -> list[str]:
    parts, compared = [], cells.comparisons(row.outcomes, row.task, row.model)
    for decoding in row.settings.decodings:
        frame, asked = tables.main_table(row, decoding), compared[compared["decoding"] == decoding]
        if (frame["seed"] == "mean").any():  # the seeds' own rows are in report.md
            frame = frame[frame["seed"].isin(["", "mean"])]
        parts += [f"**{row.name}, {decoding} decoding**: % right of {row.size} [95% interval]", markdown(frame)]
        parts += [markdown(tables.comparison_table(asked))] if len(asked) else []
    parts += [tables.said(row, compared)] if len(compared) else []
    controls = tables.controls_table(row, row.decoding)
    parts += [f"The other second tries, {row.decoding}:", markdown(controls)] if len(controls) else []
    return [
        *(parts + [tables.noted(row.notes)] if row.notes else parts),
        "Every seed, and what the columns say: [report.md](report.md).",
        f"![cells](figures/cells-{figures.stem(row)}.png)",
    ]


def examples(row: tables.Row, count: int = 3) -> str:
    """Real examples, picked by a stated rule, with how many there are to pick from."""
    policy = "reflector" if "reflector" in row.settings.policies else "trained"
    seed = min((one.seed for one in row.evaluated if one.seed is not None), default=None)
    frame = row.outcomes[(row.outcomes["decoding"] == row.decoding) & (row.outcomes["first"] == 0)].set_index("id")
    old, new = frame[frame["policy"] == "vanilla"], frame[(frame["policy"] == policy) & (frame["seed"] == seed)]
    both = pd.concat({"old": old["own"], "new": new["own"]}, axis=1, join="inner")
    failed, lost = both[both["old"] == 0], int((both["old"] > both["new"]).sum())
    found = failed.index[failed["new"] == 1]
    lines = {(x["id"], x["policy"], x["seed"]): x for x in row.samples if x["decoding"] == row.decoding}
    picked = sorted(found, key=lambda item: hashlib.sha256(item.encode()).hexdigest())[:count]
    shown = "Shown is the first" if len(picked) == 1 else f"Shown are the first {len(picked)}"
    parts = [
        f"{row.name}, {row.decoding}: of {len(failed)} test problems that the base model failed in both tries, "
        f"`{policy}` (seed {seed}) got {len(found)} right on the second; of those that the base model got right on the "
        f"second try it lost {lost}. {shown} of the {len(found)} by the sha256 of their id."
    ]
    for before, after in [(lines[item, "vanilla", None], lines[item, policy, seed]) for item in picked]:
        texts = {
            "task": tasks.prompt(tasks.get(row.settings.task), after["row"]),
            "failed attempt": after["attempt"],
            "reflection before training": before["second"]["own"]["reflection"],
            "retry after it (wrong)": before["second"]["own"]["retry"],
            "reflection after training": after["second"]["own"]["reflection"],
            "retry after it (right)": after["second"]["own"]["retry"],
        }
        block = "\n".join(f"{name:26}  {safe(text)}" for name, text in texts.items())
        parts.append(f"```text\n{block}\n```")
    return "\n\n".join(parts)
