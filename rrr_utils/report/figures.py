"""Figures from data frames. Each is saved as PNG and SVG with its rows as CSV beside them, and says in its title what is seen.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. No pyplot: figures are drawn without a window
and leave no state behind. Covered: cells with intervals, training, lengths, rescue rate by length. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rrr_utils import files
from rrr_utils.report import statistics
from rrr_utils.report.kinds import over_steps

if TYPE_CHECKING:
    from rrr_utils.report.tables import Run

GREY, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = (
    "#9a9a9a", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
POLICIES = {
    "vanilla": ("untrained", GREY),
    "trained": ("trained (adapter everywhere)", BLUE),
    "reflector": ("reflector (adapter for reflections)", RED),
}
TRIES = {
    ("first", ""): ("first try", GREY),
    ("second", "blind"): ("second try, blind", SKY),
    ("second", "blind_budget"): ("second try, blind retries for the same tokens", BLUE),
    ("second", "own"): ("second try, own reflection", RED),
}
KIND_COLOURS = ("#c8c8c8", YELLOW, PINK, SKY, BLUE, GREEN, ORANGE, RED)
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "axes.axisbelow": True,
    "grid.color": "#e4e4e4", "axes.titlesize": 11.5, "axes.titleweight": "bold", "axes.titlelocation": "left", "legend.frameon": False,
    "svg.hashsalt": "rrr", "svg.fonttype": "none", "figure.constrained_layout.use": True,
}  # fmt: skip


def save(figure: Figure, rows: pd.DataFrame, path: Path) -> Path:
    """Write `path`.png, .svg and .csv, the same bytes for the same rows; returns the PNG's path."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(path.with_suffix(".csv"), index=False)
        FigureCanvasAgg(figure)
        with rc_context(STYLE):  # its salt makes the names in an SVG the same each time
            figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    except OSError as error:
        raise files.no_space(path, error) from None
    return path.with_suffix(".png")


def cells(averaged: pd.DataFrame, single: pd.DataFrame, path: Path, decoding: str = "greedy") -> Path:
    """Accuracy of each policy's tries as bars with 95% intervals; dots are single training seeds.

    `averaged`: `cells.over_seeds`; `single`: the rows of cells.csv. Both of one task and model.
    """
    here, dots = averaged[averaged["decoding"] == decoding], single[single["decoding"] == decoding]
    policies = [p for p in POLICIES if p in set(here["policy"])]
    tries = [t for t in TRIES if ((here["attempt"] == t[0]) & (here["control"] == t[1])).any()]
    width, top = 0.84 / len(tries), 100 * max(here["ci_high"].max(), dots["accuracy"].max())
    own = {r.policy: 100 * r.accuracy for r in here.itertuples() if (r.attempt, r.control) == ("second", "own")}
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.4))
        axes = figure.subplots()
        for k, (attempt, control) in enumerate(tries):
            label, colour = TRIES[attempt, control]
            for x, policy in enumerate(policies):
                at = x + (k - (len(tries) - 1) / 2) * width
                for r in here[(here["policy"] == policy) & (here["attempt"] == attempt) & (here["control"] == control)].itertuples():
                    mean, low, high = (100 * v for v in (r.accuracy, r.ci_low, r.ci_high))
                    axes.bar(at, mean, width * 0.94, color=colour, label=label if x == 0 else None)
                    axes.errorbar(at, mean, [[max(0, mean - low)], [max(0, high - mean)]], color="black", capsize=2.5, lw=1)
                    axes.text(at, high + top * 0.012, f"{mean:.1f}", ha="center", va="bottom", fontsize=8.5)
                seeds = dots[(dots["policy"] == policy) & (dots["attempt"] == attempt) & (dots["control"] == control)]["accuracy"]
                if len(seeds) > 1:
                    beside = at + width * np.linspace(-0.22, 0.22, len(seeds))
                    axes.plot(beside, 100 * seeds, "o", ms=3.2, mfc="white", mec="black", mew=0.7)
        axes.set_xticks(range(len(policies)), [POLICIES[p][0].replace(" (", "\n(") for p in policies])
        axes.set_ylim(0, min(104, top * 1.12) if top else 1)
        axes.set_ylabel("% of test problems right")
        said = ", ".join(f"{own[p]:.0f}% {'untrained' if p == 'vanilla' else p}" for p in policies if p in own)
        axes.set_title(f"Right after reflecting ({decoding}): {said}")
        axes.tick_params(axis="x", length=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return save(figure, pd.concat([here.assign(seed="mean"), dots.assign(seed=dots["seed"].astype("string"))], ignore_index=True), path)


def training(logs: dict[int, list[dict]], kinds: dict[int, pd.DataFrame], path: Path) -> Path:
    """Reward of every training seed over its steps, and beside it what kinds of reflection were sampled, mean of the seeds.

    `logs`: lines of training.jsonl by seed; `kinds`: `kinds.over_steps` by seed.
    """
    reward = pd.DataFrame([{"seed": seed, "step": r["step"], "reward": r["reward"]} for seed, lines in logs.items() for r in lines])
    shares = pd.concat([frame.assign(seed=seed) for seed, frame in kinds.items()], ignore_index=True)
    names = [column for column in shares.columns if column not in ("seed", "step", "n", "reward")]
    rows = reward.merge(shares.drop(columns="reward"), on=["seed", "step"], how="outer").sort_values(["seed", "step"])
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.0) if names else (6.2, 4.0))
        left, *right = figure.subplots(1, 2 if names else 1, squeeze=False, width_ratios=[1, 1.15] if names else None)[0]
        for (seed, lines), colour in zip(reward.groupby("seed"), [BLUE, RED, GREEN, ORANGE, PINK, SKY, "black"] * 9, strict=False):
            left.plot(lines["step"], lines["reward"], color=colour, lw=0.7, alpha=0.35)
            smooth = lines["reward"].rolling(7, center=True, min_periods=2).mean()
            left.plot(lines["step"], smooth, color=colour, lw=2, label=f"seed {seed}")
        left.set(xlabel="optimiser step", ylabel="reward: share of retries right", ylim=(0, None), xlim=(1, max(2, reward["step"].max())))
        left.set_title(f"Reward {_ends(reward, 'reward', percent=False)}")
        left.legend(loc="upper left")
        for axes in right:
            _stacked_kinds(axes, shares, names)
    return save(figure, rows, path)


def _stacked_kinds(axes: Axes, shares: pd.DataFrame, names: list[str]) -> None:
    """What kinds of reflection were sampled at each step, the one that grew most in the title."""
    window = max(1, round(shares["step"].max() / 25)) if len(shares) else 1
    steps = shares.groupby((shares["step"] - 1) // window)[["step", *names]].mean()
    axes.stackplot(steps["step"], *(100 * steps[k] for k in names), colors=KIND_COLOURS[: len(names)], lw=0.4, edgecolor="white")
    if len(steps) > 1:
        axes.set_xlim(steps["step"].min(), steps["step"].max())
    axes.set(xlabel="optimiser step", ylabel="% of sampled reflections", ylim=(0, 100))
    grown = max(names, key=lambda k: steps[k].iloc[-1] - steps[k].iloc[0]) if len(steps) else names[-1]
    axes.set_title(f"Reflections of kind {grown}: {_ends(shares, grown)}")
    handles = [axes.plot([], [], "s", color=colour, ms=8)[0] for _, colour in zip(names, KIND_COLOURS, strict=False)]
    labels = [name.replace("_", " ") for name in reversed(names)]
    axes.legend(handles[::-1], labels, loc="center left", bbox_to_anchor=(1, 0.5), handletextpad=0.2)


def training_curves(task: str, folders: dict[int, Path], path: Path) -> Path:
    """The training figure of train folders by seed, shown in the notebook as well."""
    logs = {seed: files.read_jsonl(folder / "training.jsonl") for seed, folder in folders.items()}
    kinds = {seed: over_steps(task, files.read_jsonl(folder / "reflections.jsonl")) for seed, folder in folders.items()}
    return show(training(logs, kinds, path))


def show(picture: Path, width: int = 820) -> Path:
    """Display a saved figure in the notebook."""
    from IPython.display import Image, display

    display(Image(filename=str(picture), width=width))
    return picture


def _ends(frame: pd.DataFrame, column: str, percent: bool = True) -> str:
    """A column's mean over the first and the last tenth of the steps."""
    if frame.empty:
        return "(nothing logged)"
    first, last, span = frame["step"].min(), frame["step"].max(), max(1, (frame["step"].max() - frame["step"].min()) // 10)
    values = frame[frame["step"] < first + span][column].mean(), frame[frame["step"] > last - span][column].mean()
    return "from {:.0f}% to {:.0f}%".format(*(100 * v for v in values)) if percent else "from {:.2f} to {:.2f}".format(*values)


def lengths(content: pd.DataFrame, path: Path, decoding: str = "greedy") -> Path:
    """How long reflections are before and after training. `content`: `kinds.table` of one task and model."""
    here = content[content["decoding"] == decoding]
    policies = [p for p in POLICIES if p in set(here["policy"])]
    high = int(here["tokens"].max()) if len(here) else 1
    edges = np.arange(0, high + 2 * (step := max(1, -(-high // 40))), step)
    rows, middle = [], {p: here[here["policy"] == p]["tokens"].median() for p in policies}
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 0.9 + 1.35 * max(1, len(policies))))
        panels = figure.subplots(max(1, len(policies)), 1, sharex=True, squeeze=False)[:, 0]
        for axes, policy in zip(panels, policies, strict=False):
            values = here[here["policy"] == policy]["tokens"]
            counts, _ = np.histogram(values, edges)
            share = 100 * counts / counts.sum()
            label, colour = POLICIES[policy]
            axes.bar(edges[:-1], share, step * 0.92, align="edge", color=colour)
            axes.axvline(middle[policy], color="black", lw=1.2, ls="--")
            text = f"{label}: median {middle[policy]:.0f}, {len(values):,} reflections"
            axes.text(0.99, 0.93, text, ha="right", va="top", transform=axes.transAxes, bbox={"fc": "white", "ec": "none", "pad": 2})
            axes.set_ylabel("%")
            rows += [(policy, *row) for row in zip(edges, edges[1:], counts, strict=False)]
        panels[-1].set(xlabel="tokens in the reflection", xlim=(0, edges[-1]))
        said = ", ".join(f"{middle[p]:.0f} {'untrained' if p == 'vanilla' else p}" for p in policies)
        panels[0].set_title(f"Median length of a reflection in tokens ({decoding}): {said}")
    return save(figure, pd.DataFrame(rows, columns=["policy", "tokens_from", "tokens_below", "n"]), path)


def rescue_by_length(content: pd.DataFrame, path: Path, decoding: str = "greedy", bins: int = 6, fewest: int = 10) -> Path:
    """Share of failures put right after reflections of like length, untrained and trained, with 95% intervals.

    Bins hold like numbers of all policies' reflections together; a point of fewer than `fewest` is in the CSV but not drawn.
    """
    here = content[content["decoding"] == decoding]
    edges = np.unique(np.round(np.quantile(here["tokens"], np.linspace(0, 1, bins + 1)))) if len(here) else np.array([0, 1])
    if len(edges) == 1:
        edges = np.array([edges[0], edges[0] + 1])
    rows = []
    for policy in POLICIES:
        of = here[here["policy"] == policy]
        where = np.clip(np.searchsorted(edges, of["tokens"], side="right") - 1, 0, len(edges) - 2)
        for k in sorted(set(where)):
            group = of[where == k]
            low, high = statistics.cluster_bootstrap(group["rescued"], group["cluster"])
            rows.append((policy, edges[k], edges[k + 1], len(group), group["tokens"].mean(), group["rescued"].mean(), low, high))
    columns = ["policy", "tokens_from", "tokens_to", "n", "mean_tokens", "rescued", "ci_low", "ci_high"]
    frame = pd.DataFrame(rows, columns=columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(8.2, 4.2))
        axes = figure.subplots()
        for k, (policy, (label, colour)) in enumerate(POLICIES.items()):
            drawn = frame[(frame["policy"] == policy) & (frame["n"] >= fewest)]
            mean, low, high = (100 * drawn[c].to_numpy() for c in ("rescued", "ci_low", "ci_high"))
            if len(drawn):
                at = np.searchsorted(edges, drawn["tokens_from"]) + 0.13 * (k - 1)
                errors = np.clip([mean - low, high - mean], 0, None)
                axes.errorbar(at, mean, errors, color=colour, marker="osD"[k], ms=6, lw=1.4, capsize=3, label=label)
        ends = [*(edges[1:-1] - 1), edges[-1]]  # the last bin holds its upper edge, the others do not
        names = [f"{a:.0f}" if a == b else f"{a:.0f} to {b:.0f}" for a, b in zip(edges, ends, strict=False)]
        axes.set_xticks(range(len(names)), names)
        axes.set(xlabel="tokens in the reflection", ylabel="% of failures rescued by the retry", ylim=(0, None))
        total = {p: 100 * here[here["policy"] == p]["rescued"].mean() for p in POLICIES if (here["policy"] == p).any()}
        said = ", ".join(f"{v:.0f}% {'untrained' if p == 'vanilla' else p}" for p, v in total.items())
        axes.set_title(f"Failures rescued, by length ({decoding}): {said}")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return save(figure, frame, path)


def stem(run: Run) -> str:
    """What the names of a run's figures end in: its task and model."""
    return f"{Path(run.task).stem}-{run.model.rstrip('/').split('/')[-1]}"


def all_of(run: Run, averaged: pd.DataFrame, content: pd.DataFrame, logs: dict, kinds: dict, folder: Path) -> Iterator[Path]:
    """Every figure of a run that has the rows for it, named after task and model; see the functions above for the rest."""
    for decoding in run.decodings:
        name = "cells" if decoding == run.decoding else f"cells-{decoding}"
        yield cells(averaged, run.cells, folder / f"{name}-{stem(run)}", decoding)
    if logs and kinds:
        yield training(logs, kinds, folder / f"training-{stem(run)}")
    if len(content):
        yield lengths(content, folder / f"lengths-{stem(run)}", run.decoding)
        yield rescue_by_length(content, folder / f"rescue-by-length-{stem(run)}", run.decoding)
