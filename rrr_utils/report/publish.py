"""python -m rrr_utils.report.publish --profile tiny: what is committed of a profile's runs, and README's generated parts.

Copies the tables, the figures and each run's `result.json`, `samples.jsonl.gz` and `training.jsonl` into
results/<profile>/, where every folder is made anew; `trials/` (trials.py) and files of other names (RECIPE.md) stay. Then
writes README's parts between `<!-- generated:NAME -->` and `<!-- /generated:NAME -->`: `table`, `kinds`, `examples`. The same
runs give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import shutil
import sys
from pathlib import Path

from rrr_utils import files, runs, tasks
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.report import cells, figures, kinds, paper, tables
from rrr_utils.settings import ROOT, Settings, load

TABLES = ("cells.csv", "seeds.csv", "comparisons.csv", "paper.csv", "kinds.csv", "report.md", "result.json")
EXAMPLES = 3


def publish(settings: Settings, root: Path = ROOT) -> Path:
    """Copy a profile's results into results/<profile>/ and fill in README; returns the folder."""
    source, target = runs.runs_dir(settings), root / "results" / settings.profile
    if not runs.done(settings, "tables"):
        raise ResultsError(
            f"the tables in {source / 'tables'} are not there or not of the present results: make them with   "
            f"python -m rrr_utils.launch tables --profile {settings.profile}"
        )
    gathered = tables.gather(settings.profile, settings.results_dir)  # refuses what does not belong together
    part = target / ".part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        _copy(source, part, gathered)
        dropped = [p for p in target.glob("*/*/*/*/result.json") if not (part / p.relative_to(target)).exists()]
        for folder in [path for path in target.iterdir() if path.is_dir() and path != part and path.name != "trials"]:
            shutil.rmtree(folder)
        for path in sorted(part.iterdir()):
            path.replace(target / path.name)
        part.rmdir()
    except OSError as error:
        raise files.no_space(target, error) from None
    for path in dropped:
        print(f"was published before and is not among these runs: {path.parent.relative_to(target)}")
    readme = root / "README.md"
    if readme.is_file():
        files.write_text(readme, fill(readme.read_text(encoding="utf-8"), sections(gathered, f"results/{settings.profile}")))
    return target


def _copy(source: Path, target: Path, runs: list[tables.Run]) -> None:
    (target / "figures").mkdir(parents=True)
    for name in TABLES:
        if (source / "tables" / name).is_file():
            copy_placeless(source / "tables" / name, target / name)
    for path in sorted((source / "tables" / "figures").glob("*.*")):
        shutil.copyfile(path, target / "figures" / path.name)
    for folder in sorted({stage for run in runs for evaluated in run.folders for stage in _stages(evaluated)}):
        to = target / folder.relative_to(source)
        to.mkdir(parents=True)
        for name in ("result.json", "training.jsonl", "dev.jsonl"):
            if (folder / name).is_file():
                copy_placeless(folder / name, to / name)
        if (folder / "samples.jsonl").is_file():
            (to / "samples.jsonl.gz").write_bytes(gzip.compress((folder / "samples.jsonl").read_bytes(), compresslevel=9, mtime=0))


def _stages(evaluated: Path) -> list[Path]:
    """The folder of an evaluation, of the training before it, and of the failures that this used."""
    beside = [evaluated, evaluated.parent / "train", evaluated.parents[1] / "vanilla" / "failures"]
    return [folder for folder in beside if (folder / "result.json").is_file()]


def copy_placeless(source: Path, target: Path) -> None:
    """Copy a text file without the place of this repository."""
    target.write_text(_placeless(source), encoding="utf-8", newline="\n")


def _placeless(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace(f"{ROOT}/", "").replace(str(ROOT), ".")


def fill(text: str, parts: dict[str, str], where: str = "README.md") -> str:
    """A text with what stands between the markers of each part replaced; every marker must be there.

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


def sections(runs: list[tables.Run], folder: str) -> dict[str, str]:
    """README's generated parts, by marker."""
    return {
        "table": "\n\n".join(_table(run, folder) for run in runs),
        "kinds": "\n\n".join(_kinds(run, folder) for run in runs),
        "examples": "\n\n".join(examples(run) for run in runs),
    }


def _table(run: tables.Run, folder: str) -> str:
    first, parts = run.cells.iloc[0], []
    for decoding in run.decodings:
        what = f"% right of {first['n']} test problems [95% interval over {first['clusters']} clusters]"
        parts += [f"**{run.task}, {run.model}, {decoding} decoding**: {what}", paper.markdown(tables.main_table(run, decoding))]
    compared = cells.comparisons(run.outcomes, run.task, run.model, run.verdict)
    trained = compared["a"].str.match(r"(reflector|trained)/\d+/second/own") & compared["b"].str.startswith("vanilla")
    main = compared[trained & (compared["decoding"] == run.decoding)]
    parts += [
        f"Against the untrained model, {run.decoding} (p: sign-flip permutation over clusters):",
        paper.markdown(tables.comparison_table(main)),
    ]
    parts.append(tables.signs(compared) + f" Every comparison: [{folder}/report.md]({folder}/report.md).")
    parts.append(f"![cells]({folder}/figures/cells-{figures.stem(run)}.png)")
    return "\n\n".join(parts)


def _kinds(run: tables.Run, folder: str) -> str:
    frame = tables.kinds_table(kinds.kinds_of(run.task), kinds.table(run.task, run.samples, run.verdict), run.decoding)
    picture = f"![reward and kinds of reflection over steps]({folder}/figures/training-{figures.stem(run)}.png)"
    return f"{picture}\n\n{run.task}, {run.model}, {run.decoding} reflections on the test failures:\n\n{paper.markdown(frame)}"


def examples(run: tables.Run, count: int = EXAMPLES) -> str:
    """Real examples, picked by a stated rule, with how many there are to pick from."""
    lines_there = [s for s in run.samples if s["decoding"] == run.decoding]
    before = {s["id"]: s for s in lines_there if s["policy"] == "vanilla"}
    policy = "reflector" if any(s["policy"] == "reflector" for s in lines_there) else "trained"
    seed = min((s["seed"] for s in lines_there if s["policy"] == policy), default=None)
    after = {s["id"]: s for s in lines_there if s["policy"] == policy and s["seed"] == seed}

    def rescued(s: dict) -> bool:
        return bool(s["second"]) and cells.second_right(s["second"]["own"], run.verdict)

    both_failed = [i for i in before if before[i]["second"] and not rescued(before[i]) and i in after and after[i]["second"]]
    picked = sorted((i for i in both_failed if rescued(after[i])), key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    lost = sum(rescued(before[i]) and bool(after[i]["second"]) and not rescued(after[i]) for i in before if i in after)
    lines = [
        f"{run.task}, {run.model}, {run.decoding}: of {len(both_failed)} test problems that the untrained model failed in both tries, "
        f"`{policy}` (seed {seed}) got {len(picked)} right on the second; of those that the untrained model got right on the "
        f"second try it lost {lost}. "
        f"Shown are the first {min(count, len(picked))} of the {len(picked)} by the sha256 of their id."
    ]
    for item in picked[:count]:
        old, new = before[item], after[item]
        texts = {
            "task": _question(run, new["row"]),
            "failed attempt": new["attempt"],
            "reflection before training": old["second"]["own"]["reflection"],
            "retry after it (wrong)": old["second"]["own"]["retry"],
            "reflection after training": new["second"]["own"]["reflection"],
            "retry after it (right)": new["second"]["own"]["retry"],
        }
        width = max(map(len, texts))
        block = "\n".join(f"{name:{width}}  {' '.join(text.split())}" for name, text in texts.items()).replace("```", "'''")
        lines.append(f"```text\n{block}\n```")
    return "\n\n".join(lines)


def _question(run: tables.Run, row: dict) -> str:
    try:
        return tasks.get(run.task).prompt(row)
    except tasks.DataError:  # a task in a file of one's own: no result records where that lies
        return json.dumps(row, ensure_ascii=False)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rrr_utils.report.publish", description="Copy a profile's results to results/<profile>/.")
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--results-dir", default="results/runs", help="where the runs lie")
    given = parser.parse_args(arguments)
    try:
        folder = publish(load(given.profile, {"results_dir": given.results_dir}))
    except (SettingsError, ResultsError, ValueError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 1
    print(f"published to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
