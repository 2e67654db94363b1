"""Everything that notebook 04 prints: a profile's evaluations gathered, the main table, the comparisons, the report.

Reads result files only; needs no model, no GPU, no torch. Covered: which runs belong together, which are missing, how
the tables read. Not covered: counting (`cells.py`), statistics (`stats.py`), the paper's numbers (`paper.py`).
"""

from __future__ import annotations

import html
import textwrap
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from rrr_utils import files, runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.report import cells, paper
from rrr_utils.report.kinds import over_steps
from rrr_utils.settings import DATA, ROOT, Settings

#: training seeds of the published table; the first alone is the default run
SEEDS = (0, 1, 2)
TRIES = {
    ("first", ""): "first try",
    ("second", "own"): "second: own reflection",
    ("second", "blind"): "second: blind",
    ("second", "blind_budget"): "second: blind, same tokens",
}


class Run(NamedTuple):
    """All evaluations of one model on one task: the untrained model's and every training seed's."""

    task: str
    model: str
    folders: list[Path]
    samples: list[dict]
    outcomes: pd.DataFrame
    cells: pd.DataFrame
    verdict: str
    ceiling: dict[str, float]

    @property
    def decodings(self) -> list[str]:
        """How the tries were decoded."""
        return list(self.cells["decoding"].unique())

    @property
    def decoding(self) -> str:
        """What is shown where there is room for one only."""
        return "greedy" if "greedy" in self.decodings else self.decodings[0]


def gather(profile: str, results_dir: str = "results/runs") -> list[Run]:
    """Every finished evaluation of a profile, a task and model a `Run`; refused where they do not belong into one table."""
    found: dict[tuple[str, str], list[tuple[Path, dict]]] = {}
    for folder, result in runs.evaluations(profile, results_dir):
        found.setdefault((result["identity"]["task"], result["identity"]["model"]), []).append((folder, result))
    gathered = []
    for (task, model), parts in found.items():
        parts.sort(key=lambda part: -1 if (seed := part[1]["identity"]["seed"]) is None else seed)
        samples, counted, folders = [], [], [folder for folder, _ in parts]
        verdict = parts[0][1]["identity"].get("verdict", "strict")
        for folder, result in parts:
            own = cells.read_samples(folder)
            samples += own
            counted.append(cells.cells(own, task, model, result["identity_hash"], verdict))
        frame = cells.outcomes(samples, verdict)
        gathered.append(Run(task, model, folders, samples, frame, pd.concat(counted, ignore_index=True), verdict, _ceiling(task, model)))
    if not gathered:
        raise ResultsError(
            f"no finished evaluation of profile '{profile}' in {ROOT / results_dir / profile}: "
            f"make reproduce PROFILE={profile} makes them, or notebooks 01, 02 and 03 one by one"
        )
    return gathered


def _ceiling(task: str, model: str) -> dict[str, float]:
    """By decoding, the share of failures that the best kind of reflection rescues: the embedded model's gate, measured on dev
    before any training. Empty for other models, whose kinds of reflection nobody can force.
    """
    gates = (files.read_json(DATA / "embedded" / task / "gate.json") or {}) if model == "embedded" else {}
    return {decoding: gate["rescued"][gate["best_kind"]] for decoding, gate in gates.items()}


def missing(settings: Settings, seeds: tuple[int, ...] = SEEDS) -> list[str]:
    """Which evaluations of the settings' task and model are not there, or are of other settings: a line each.

    >>> missing(Settings(results_dir="/nowhere"), (0,))[1]
    'seed 0: not run'
    """
    lines = []
    for seed in (None, *seeds):
        one = settings.model_copy(update={"seed": seed})
        who = "untrained" if seed is None else f"seed {seed}"
        try:
            if runs.done(one, "evaluate"):
                continue
        except (ResultsError, tasks.DataError) as error:  # no such model or data here
            return [f"{settings.task}, {settings.model}: {error}"]
        there = (runs.stage_dir(one, "evaluate") / "result.json").is_file()
        lines.append(f"{who}: {'there, but of other settings or damaged' if there else 'not run'}")
    return lines


def per_cent(accuracy: float, low: float, high: float) -> str:
    """An accuracy as it is printed.

    >>> per_cent(0.2833, 0.25, 0.32)
    '28.3 [25.0, 32.0]'
    """
    return f"{100 * accuracy:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main_table(run: Run, decoding: str | None = None) -> pd.DataFrame:
    """Policies and seeds down, tries across: % right of all items, with 95% intervals; the share rescued at the end.

    Where a policy has several seeds, their mean comes first. `rescued` is the share of first failures that the retry after
    the own reflection puts right; `way to ceiling` how far that went from the untrained model's towards the best kind's.
    """
    decoding = decoding or run.decoding
    averaged = cells.over_seeds(run.outcomes, run.task, run.model).assign(seed="mean")
    several = averaged[averaged["seeds"] > 1]
    single = run.cells.assign(seed=run.cells["seed"].astype("string").fillna(""))
    rows, untrained = [], None
    for policy in cells.POLICIES:
        for source in (several, single):
            here = source[(source["policy"] == policy) & (source["decoding"] == decoding)]
            for seed, group in here.groupby("seed", sort=False):
                got = {(r.attempt, r.control): r for r in group.itertuples()}
                row = {"policy": policy, "seed": seed}
                for key, title in TRIES.items():
                    row[title] = per_cent(got[key].accuracy, got[key].ci_low, got[key].ci_high) if key in got else ""
                rate = rescued(got["first", ""].accuracy, got["second", "own"].accuracy)
                untrained = rate if policy == "vanilla" else untrained
                row["rescued"] = f"{100 * rate:.1f}"
                ceiling = run.ceiling.get(decoding)
                if None not in (ceiling, untrained) and policy != "vanilla":
                    way = (rate - untrained) / (ceiling - untrained) if ceiling > untrained else None
                    row["way to ceiling"] = "-" if way is None else f"{100 * way:.0f}%"
                rows.append(row)
    return pd.DataFrame(rows).fillna("")


def rescued(first: float, second: float) -> float:
    """Share of the first failures that the second try puts right.

    >>> rescued(0.5, 0.75)
    0.5
    """
    return (second - first) / (1 - first) if first < 1 else 0.0


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as they are printed: differences in points."""
    rows = [
        {
            "a": r.a, "b": r.b, "a - b, points": f"{100 * r.difference:+.1f} [{100 * r.ci_low:+.1f}, {100 * r.ci_high:+.1f}]",
            "p": "< 0.0001" if r.p < 1e-4 else f"{r.p:.4f}", "a only": r.a_only, "b only": r.b_only,
        }
        for r in compared.itertuples()
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["a", "b", "a - b, points", "p", "a only", "b only"])


def signs(compared: pd.DataFrame) -> str:
    """Whether sampled decoding shows what greedy decoding shows, in one sentence."""
    by = {d: group.set_index(["a", "b"])["difference"] for d, group in compared.groupby("decoding")}
    if {"greedy", "sampled"} - by.keys():
        return "Only one decoding was evaluated."
    both = by["greedy"].to_frame("greedy").join(by["sampled"].rename("sampled"), how="inner")
    other = both[(both["greedy"] * both["sampled"]) < 0]
    said = f"Sampled decoding shows the same sign as greedy in {len(both) - len(other)} of {len(both)} comparisons"
    return said + ("." if other.empty else f"; not in {', '.join(f'{a} against {b}' for a, b in other.index)}.")


def kinds_table(kinds: tuple[str, ...], content: pd.DataFrame, decoding: str = "greedy") -> pd.DataFrame:
    """Kinds of reflection before and after training: how often each was written, and how often its retry was right."""
    rows = []
    for policy in cells.POLICIES:
        here = content[(content["policy"] == policy) & (content["decoding"] == decoding)]
        for kind in kinds if len(here) else ():
            of_kind = here[here["kind"] == kind]
            share = f"{100 * of_kind['rescued'].mean():.1f}" if len(of_kind) else "-"
            rows.append({"policy": policy, "kind": kind, "reflections": len(of_kind), "share, %": f"{100 * len(of_kind) / len(here):.1f}",
                         "rescued, %": share, "tokens": f"{of_kind['tokens'].mean():.0f}" if len(of_kind) else "-"})  # fmt: skip
    return pd.DataFrame(rows)


def training_logs(run: Run) -> tuple[dict[int, list[dict]], dict[int, pd.DataFrame]]:
    """By training seed: the lines of training.jsonl, and the kinds of the reflections that were sampled at each step."""
    logs, kinds = {}, {}
    for folder in run.folders:
        trained = folder.parent / "train"
        if (trained / "training.jsonl").is_file() and (trained / "reflections.jsonl").is_file():
            seed = int(folder.parent.name.removeprefix("seed"))
            logs[seed] = files.read_jsonl(trained / "training.jsonl")
            kinds[seed] = over_steps(run.task, files.read_jsonl(trained / "reflections.jsonl"))
    return logs, kinds


def show(title: str, frame: pd.DataFrame) -> None:
    """A table in a notebook, with a line above it."""
    from IPython.display import HTML, display

    display(HTML(f"<b>{html.escape(title)}</b>{frame.to_html(index=False)}"))


def report(runs: list[Run], compared: pd.DataFrame, beside: pd.DataFrame, lacking: list[str] = ()) -> str:
    """The whole report as Markdown that reads well in a terminal."""
    parts = []
    for run in runs:
        first = run.cells.iloc[0]
        parts.append(f"# {run.task}, {run.model}: {first['n']} test problems in {first['clusters']} clusters, {run.verdict} verdict")
        parts.append("% right [95% interval over clusters]. A second try counts right at first or right on the retry, over all problems.")
        own = compared[(compared["task"] == run.task) & (compared["model"] == run.model)]
        for decoding in run.decodings:
            parts += [f"## {decoding} decoding", paper.markdown(main_table(run, decoding))]
            if (pairs := own[own["decoding"] == decoding]).size:
                parts.append(paper.markdown(comparison_table(pairs)))
        best = ", ".join(f"{100 * rate:.1f}% ({decoding})" for decoding, rate in run.ceiling.items())
        ceiling = f" Ceiling: the best kind of reflection, forced on dev before any training, rescues {best} of failures." if best else ""
        parts.append(textwrap.fill(signs(own) + ceiling, 140))
    if lacking:
        parts.append("Not in this report: " + "; ".join(lacking) + ".")
    parts += ["# The paper's cells / ours", PAPER_NOTE]
    for task, group in beside.groupby("task", sort=False):
        parts += [f"## {task}", paper.markdown(paper.table(group).drop(columns="task"))]
    return "\n\n".join(parts) + "\n"


PAPER_NOTE = (
    "% right. V: from the abstract or the first author's talk; S: from readers' summaries that quote the full text. Ours: greedy, the\n"
    "mean over seeds, with its 95% interval; within: the paper's value lies in it. A line in data/paper.csv fills a cell that is not\n"
    "available."
)
