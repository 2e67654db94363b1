"""Everything that notebook 04 prints: the evaluations that are asked for, the tables, the report."""

import html
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from rrr_utils import runs, samples
from rrr_utils.errors import ResultsError
from rrr_utils.report import cells, paper
from rrr_utils.report.text import HEADLINE, SECOND, TRIES, interval, markdown, safe
from rrr_utils.settings import POLICIES, Settings

#: settings of the machine that bear on a stage: they should not change its numbers, and may change single texts
MACHINE = {
    "train": ("dtype", "backend", "micro_batch", "sample_batch", "generation_batch", "gpus"),
    "evaluate": ("dtype", "engine", "sample_batch"),
}


class Row(NamedTuple):
    """The evaluations of one model on one task: the base model's and every training seed's."""

    settings: Settings  # of its first evaluation
    evaluated: list[Settings]
    task: str
    model: str
    samples: list[dict]
    outcomes: pd.DataFrame
    cells: pd.DataFrame
    averaged: pd.DataFrame
    notes: list[str]

    @property
    def name(self) -> str:
        """Task and model as they are printed."""
        return safe(f"{self.task}, {self.model}")

    @property
    def size(self) -> str:
        """How many problems were evaluated, as it is printed."""
        return f"{self.cells['n'].iloc[0]} test problems in {self.cells['clusters'].iloc[0]} clusters"

    @property
    def decoding(self) -> str:
        """The one that is shown where there is room for one."""
        return "greedy" if "greedy" in self.settings.decodings else self.settings.decodings[0]

    @property
    def trained(self) -> dict[int, Path]:
        """The train folder of each seed, where there is a log."""
        folders = {one.seed: runs.stage_dir(one, "train") for one in self.evaluated if one.seed is not None}
        return {seed: folder for seed, folder in folders.items() if (folder / "training.jsonl").is_file()}


def gather(settings: Settings) -> tuple[list[Row], dict[str, str]]:
    """The evaluations that are asked for, a row per task and model (or ResultsError); why others lack, by name."""
    there, (found, others) = {}, runs.evaluated(settings)
    lacking = runs.named(settings, others)
    for one, result in found:
        there.setdefault((runs.task_name(one), runs.model_name(one)), []).append((one, result))
    if not there:
        name, where = settings.profile, f"in {runs.root(settings)} ({absent(lacking)})"
        how = f"make reproduce PROFILE={name} makes them, or notebooks 01, 02 and 03 one by one"
        raise ResultsError(f"no finished evaluation of profile '{name}' {where}: {how}")
    return [_row(*name, parts) for name, parts in there.items()], lacking


def absent(lacking: dict[str, str]) -> str:
    """Which evaluations a table lacks, and why; of several rows, those of a row that lack for one reason together.

    >>> absent({"seed 1": "failed: no space", "seed 2": "not run"})
    'seed 1: failed: no space; seed 2: not run'
    >>> absent({"countdown:a/b, base model": "not run", "countdown:a/b, seed 0": "not run"})
    'countdown:a/b (base model, seed 0): not run'
    """
    together: dict[tuple[str, str], list[str]] = {}
    for name, why in lacking.items():
        row, _, who = name.rpartition(", ")
        together.setdefault((row, why), []).append(who)
    said = [(f"{row} ({', '.join(who)})", why) for (row, why), who in together.items() if row]
    said += [(one, why) for (row, why), who in together.items() if not row for one in who]
    return "; ".join(f"{safe(who)}: {safe(why)}" for who, why in said)


def _row(task: str, model: str, parts: list[tuple[Settings, dict]]) -> Row:
    lines, counted, (first, result) = [], [], parts[0]
    for one, own in parts:
        read = samples.read(runs.stage_dir(one, "evaluate"))
        counted.append(cells.cells(read, task, model, own["identity_hash"], first.verdict))
        lines += read
    frame, every = cells.outcomes(lines, first.verdict), pd.concat(counted, ignore_index=True)
    averaged = cells.over_seeds(frame, task, model).assign(data=result["identity"]["data"])
    return Row(first, [one for one, _ in parts], task, model, lines, frame, every, averaged, _notes(parts))


def _notes(parts: list[tuple[Settings, dict]]) -> list[str]:
    """A line for each setting of the machine in which evaluations or trainings differ, and for lines taken over."""
    trained, notes = [(one, runs.done(one, "train")) for one, _ in parts if one.seed is not None], []
    for stage, name in [(stage, name) for stage, names in MACHINE.items() for name in names]:
        values: dict[Any, list[str]] = {}
        for one, result in trained if stage == "train" else parts:
            if result:
                values.setdefault(result["settings"].get(name), []).append(runs.who(one))
        if len(values) > 1:
            said = ", ".join(f"{value} ({', '.join(who)})" for value, who in values.items())
            notes.append(f"{stage} was run with {name} {said}")
    adopted = [(one, older) for one, result in parts for older in result["summary"].get("adopted") or []]
    return notes + [f"{runs.who(one)} has {older['lines']} lines from {older['folder']}" for one, older in adopted]


def main_table(row: Row, decoding: str | None = None) -> pd.DataFrame:
    """Policies and seeds down (of several seeds their mean first), tries across: % right of all items, 95% intervals.

    `recovery rate`: the share of the base model's first failures, in %, that are right at the second try; so it is of
    the same items for all. Second tries other than HEADLINE's are in `controls_table`.
    """
    decoding, rows = decoding or row.decoding, []
    several = row.averaged[row.averaged["seeds"] > 1].assign(seed="mean")
    single = row.cells.assign(seed=row.cells["seed"].astype("string").fillna(""))
    titles = {key: TRIES[key] for key in TRIES if key[1] in ("", *HEADLINE) and key[1] in set(row.cells["control"])}
    for policy in POLICIES:
        for source in (several, single):
            here = source[(source["policy"] == policy) & (source["decoding"] == decoding)]
            for seed, group in here.groupby("seed", sort=False):
                got = {(r.attempt, r.control): (r.accuracy, r.ci_low, r.ci_high) for r in group.itertuples()}
                shown = {title: interval(*got[key]) if key in got else "" for key, title in titles.items()}
                rate = recovered(row.outcomes, policy, seed, decoding)
                said = "" if pd.isna(rate) else f"{100 * rate:.1f}"
                rows.append({"policy": policy, "seed": seed, **shown, "recovery rate": said})
    return pd.DataFrame(rows)


def recovered(outcomes: pd.DataFrame, policy: str, seed: str, decoding: str) -> float:
    """Of the base model's first failures, the share that a policy gets right at the second try; nan where not known.

    `seed`: a seed, "" for the base model, or "mean" for all of the policy's.
    """
    here = outcomes[outcomes["decoding"] == decoding]
    failed = here[(here["policy"] == "vanilla") & (here["first"] == 0)]["id"]
    own = here[(here["policy"] == policy) & here["id"].isin(failed)]
    return (own if seed == "mean" else own[own["seed"].astype("string").fillna("") == seed])["own"].mean()


def controls_table(row: Row, decoding: str | None = None) -> pd.DataFrame:
    """The own second try and those not in the headline table down, policies across; empty without the latter."""
    rows = []
    for name in ("own", *(name for name in SECOND if name not in HEADLINE)):
        here = row.averaged[row.averaged["control"] == name]
        here = here[here["decoding"] == (decoding or row.decoding)].set_index("policy")
        if len(here):
            got = {who: interval(*here.loc[who, ["accuracy", "ci_low", "ci_high"]]) for who in here.index}
            rows.append({"second try": SECOND[name]} | {who: got.get(who, "") for who in POLICIES})
    frame = pd.DataFrame(rows[1:] and rows)
    return frame.loc[:, (frame != "").any()]


def comparison_table(compared: pd.DataFrame) -> pd.DataFrame:
    """Comparisons as they are printed: differences in points, of single seeds too, and the smallest to be seen."""
    lines = []
    for r in compared.itertuples():
        p = "< 0.0001" if r.p_holm < 1e-4 else f"{r.p_holm:.4f}"
        seeds = f"{100 * r.lowest:+.1f} to {100 * r.highest:+.1f}" if r.seeds > 1 else f"{100 * r.lowest:+.1f}"
        least = "" if pd.isna(r.detectable) else f"{100 * r.detectable:.1f}"
        counts = p, least, r.a_only, r.b_only
        lines.append((r.question, interval(r.difference, r.ci_low, r.ci_high, "+"), seeds, *counts))
    columns = ["question", "a - b, points", "single seeds", "p (Holm)", "to be seen", "a only", "b only"]
    return pd.DataFrame(lines, columns=columns)


def in_words(compared: pd.DataFrame) -> str:
    """What the comparisons say, a line each: policy, question, finding."""
    rows = compared.itertuples()
    return "\n".join(f"- {r.question} ({r.a.split('/')[0]}, {r.decoding}): {r.finding}" for r in rows)


def said(row: Row, compared: pd.DataFrame) -> str:
    """`in_words` of a row's comparisons, and what the paper says of first tries and length."""
    return "\n".join(filter(None, [in_words(compared), paper.beside(row.task, row.averaged, row.samples)]))


def kinds_table(content: pd.DataFrame, decoding: str = "greedy") -> pd.DataFrame:
    """How often each kind of reflection was written, and how often its retry was right. `content`: `kinds.table`."""
    rows = []
    for policy in POLICIES:
        here = content[(content["policy"] == policy) & (content["decoding"] == decoding)]
        for kind in here["kind"].cat.categories if len(here) else ():
            own = here[here["kind"] == kind]
            means = f"{100 * own['recovered'].mean():.1f}", f"{own['tokens'].mean():.0f}"
            rows.append((policy, kind, len(own), f"{100 * len(own) / len(here):.1f}", *(means if len(own) else "--")))
    return pd.DataFrame(rows, columns=["policy", "kind", "reflections", "share, %", "recovery rate, %", "tokens"])


def show(title: str, frame: pd.DataFrame, notes: list[str] = ()) -> None:
    """A table in a notebook, with its title above and its notes below."""
    from IPython.display import HTML, display

    printed = frame.map(lambda value: safe(value) if isinstance(value, str) else value).rename(columns=safe)
    below = f"<p>{html.escape(said)}</p>" if (said := noted(notes)) else ""
    display(HTML(f"<b>{html.escape(safe(title))}</b>{printed.to_html(index=False)}{below}"))


def noted(notes: list[str]) -> str:
    """The line below a table with rows that were not made alike."""
    return f"Rows differ in how they were run: {safe('; '.join(notes))}." if notes else ""


def report(
    rows: list[Row], lacking: dict[str, str], compared: pd.DataFrame, with_paper: pd.DataFrame, more: list[str] = ()
) -> str:
    """The whole report as Markdown that reads well in a terminal. `with_paper`: `paper.compare`; `more`: parts after
    the paper's cells."""
    parts = [f"Not in this table: {absent(lacking)}."] if lacking else []
    for row in rows:
        parts += [f"# {row.name}: {row.size}, {row.settings.verdict} verdict", NOTE]
        own = compared[(compared["task"] == row.task) & (compared["model"] == row.model)]
        for decoding in row.settings.decodings:
            parts += [f"## {decoding} decoding", markdown(main_table(row, decoding))]
            parts += [textwrap.fill(noted(row.notes), 140)] if row.notes else []
            others = controls_table(row, decoding)
            parts += ["The other second tries, the mean over seeds:", markdown(others)] if len(others) else []
            asked = own[own["decoding"] == decoding]
            parts += [markdown(comparison_table(asked))] if len(asked) else []
        parts += ["## In words", said(row, own)] if len(own) else []
    parts += ["# The paper's cells / ours", PAPER_NOTE]
    for task, group in with_paper.groupby("task", sort=False):
        parts += [f"## {safe(task)}", markdown(paper.table(group).drop(columns="task"))]
    return "\n\n".join([*parts, *more]) + "\n"


NOTE = """\
% right [95% interval]. Intervals resample clusters, and of a mean over seeds the seeds with them. A second try counts
right at first or right on the retry, over all problems; "always retried" and "asked for outright" count what they are
alone. Recovery rate: % of the base model's first failures, the same for every row, that are right at the second try.
Comparisons pool the seeds: a is a try of the trained model, b the base model's, or its own after the control named.
p: sign flips over clusters, corrected (Holm) over all questions and decodings; below 0.05 a difference counts as seen.
To be seen: the smallest difference, in points, that would have been seen with 80% power, by the same test."""
PAPER_NOTE = """\
% right. V: from the abstract or the first author's talk; S: from readers' summaries that quote the full text. Ours:
greedy, the mean over seeds, with its 95% interval; within: the paper's value lies in it, or it reaches into "over 50".
Not comparable: our data or their number are not the paper's. A line in data/paper.csv fills a cell not available."""
