"""The error analysis as the paper has it: how many errors of each kind, at the first and the second try, before and
after training. A second try errs where both tries are wrong, and its kind is the retry's. Seeds count together."""

from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from rrr_utils import tasks
from rrr_utils.report import claims, figures
from rrr_utils.report.tables import Row

COLUMNS = ["policy", "try", "error", "n", "errors", "problems", "of_errors", "of_all"]
NAMES = {"vanilla": "untrained", "trained": "trained"}


def table(row: Row) -> pd.DataFrame:
    """A line per policy, try and kind of error of the task, with `COLUMNS`: `n` errors of this kind, of so many
    `errors` and `problems`, and both shares (0..1; of no errors NaN). In the row's decoding (`Row.decoding`)."""
    seen, lines = claims.tries(row), []
    for policy in [name for name in NAMES if name in set(seen["policy"])]:
        here = seen[seen["policy"] == policy]
        for name in ("first", "second"):
            counts = here[f"{name}_error"].value_counts()
            for kind in tasks.get(row.settings.task).ERRORS:
                lines.append((policy, name, kind, int(counts.get(kind, 0)), int((~here[name]).sum()), len(here)))
    frame = pd.DataFrame(lines, columns=COLUMNS[:6])
    of_errors = frame["n"] / frame["errors"].replace(0, np.nan)
    return frame.assign(of_errors=of_errors, of_all=frame["n"] / frame["problems"])


def in_words(row: Row, frame: pd.DataFrame) -> pd.DataFrame:
    """A `table` to print: kinds down, tries across: % of the errors and how many; the paper's shares, where known."""
    (questions, listed), here, known = claims.load(), (row.task, [row.model.split("/")[-1]]), {}
    for claim, question in [(one, questions[one["question"]]) for one in listed]:
        if question["after"][1] == "error_share" and (claim["task"], claim["models"]) == here:
            known |= {kind: f"{claim['said']} ({claim['sure']})" for kind in question["errors"]}
    printed = frame.drop_duplicates("error")[["error"]].set_index("error")
    for (policy, name), group in frame.groupby(["policy", "try"], sort=False):
        texts = [f"{100 * r.of_errors:.1f} ({r.n:,})" if r.errors else "-" for r in group.itertuples()]
        printed[f"{name}, {NAMES[policy]}"] = texts
    if known:
        printed["the paper"] = [known.get(kind, "") for kind in printed.index]
    return printed.rename(index=lambda kind: kind.replace("_", " ")).reset_index()


@rc_context(figures.STYLE)
def figure(row: Row, frame: pd.DataFrame, path: Path) -> Path:
    """Each kind's share of the errors and of all problems: stacked bars, a bar for each try before and after training.

    `frame`: `table` of the row, with at least one error.
    """
    order = [(name, who) for name in ("first", "second") for who in NAMES]
    bars = [one for one in order if one in set(zip(frame["try"], frame["policy"], strict=True))]
    drawing = Figure(figsize=(9.6, 1.7 + 0.45 * len(bars)))
    panels = drawing.subplots(1, 2, sharey=True)
    for axes, share, label in zip(panels, ("of_errors", "of_all"), ("errors", "all problems"), strict=True):
        left = np.zeros(len(bars))
        for kind, colour in zip(frame["error"].unique(), cycle(figures.KIND_COLOURS[1:]), strict=False):
            here = frame[frame["error"] == kind].set_index(["try", "policy"])[share]
            values = 100 * here.reindex(bars).fillna(0).to_numpy()
            drawn = axes.barh(range(len(bars)), values, 0.72, left=left, color=colour,
                              label=kind.replace("_", " ") if share == "of_all" else None)  # fmt: skip
            axes.bar_label(drawn, [f"{x:.0f}" if x >= 6 else "" for x in values], label_type="center", fontsize=9)
            left += values
        axes.set(xlabel=f"% of {label}", xlim=(0, 100) if share == "of_errors" else (0, None))
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
    panels[0].set_yticks(range(len(bars)), [f"{name} try, {NAMES[who]}" for name, who in bars])
    panels[0].invert_yaxis()
    first = frame[frame["try"] == "first"].pivot(index="error", columns="policy", values="of_errors")
    kind = first.mean(axis=1).idxmax()
    said = ", ".join(f"{100 * first.loc[kind, who]:.0f}% {NAMES[who]}" for who in NAMES if who in first)
    panels[0].set_title(f"First tries' errors that are {kind.replace('_', ' ')} ({row.decoding}): {said}")
    drawing.legend(loc="outside lower center", ncols=4)
    return figures.save(drawing, frame, path)
