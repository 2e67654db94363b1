"""Figures from data frames. Each is saved as PNG and SVG with its rows as CSV, and its title says what is seen.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. Without pyplot no window or state is needed.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from rrr_utils import files
from rrr_utils.report import statistics
from rrr_utils.report.kinds import over_steps
from rrr_utils.report.tables import Row, controls_table
from rrr_utils.report.text import POLICIES, SECOND, TRIES

GREY, LIGHT, ORANGE, SKY, GREEN = "#9a9a9a", "#c8c8c8", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PINK = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
COLOURS = {"vanilla": GREY, "trained": BLUE, "reflector": RED}
TRY_COLOURS = {"": GREY, "blind": SKY, "generic": GREEN, "fresh": BLUE, "own": RED}
KIND_COLOURS = (LIGHT, YELLOW, PINK, SKY, BLUE, GREEN, ORANGE, RED)
SEED_COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY, "black")
STYLE = {
    **{"font.size": 10, "axes.titlesize": 11.5, "axes.titleweight": "bold", "axes.titlelocation": "left"},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y"},
    **{"axes.axisbelow": True, "grid.color": "#e4e4e4", "legend.frameon": False},
    **{"svg.hashsalt": "rrr", "svg.fonttype": "none", "figure.constrained_layout.use": True},
}


def save(figure: Figure, rows: pd.DataFrame, path: Path) -> Path:
    """Write `path`.png, .svg and .csv, the same bytes for the same rows; returns the PNG's path. Or ResultsError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(path.with_suffix(".csv"), index=False)
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    except OSError as error:
        raise files.no_space(path, error) from None
    return path.with_suffix(".png")


@rc_context(STYLE)
def cells(averaged: pd.DataFrame, single: pd.DataFrame, path: Path, decoding: str = "greedy") -> Path:
    """Accuracy of each policy's tries (`cells.over_seeds`) with 95% intervals; dots are `single` seeds (cells.csv)."""
    here, dots = (x[(x["decoding"] == decoding) & x["control"].isin(TRY_COLOURS)] for x in (averaged, single))
    policies = [name for name in POLICIES if name in set(here["policy"])]
    tries = [name for name in TRY_COLOURS if name in set(here["control"])]
    width, top = 0.84 / len(tries), 100 * max(here["ci_high"].max(), dots["accuracy"].max())
    figure = Figure(figsize=(8.2, 4.4))
    axes = figure.subplots()
    for k, name in enumerate(tries):
        bars = here[here["control"] == name]
        at = bars["policy"].map(policies.index) + (k - (len(tries) - 1) / 2) * width
        style = {"color": TRY_COLOURS[name], "label": TRIES["second" if name else "first", name]}
        mean, low, high = (100 * bars[column].to_numpy() for column in ("accuracy", "ci_low", "ci_high"))
        style["yerr"] = np.clip([mean - low, high - mean], 0, None)
        drawn = axes.bar(at, mean, width * 0.94, capsize=2.5, error_kw={"lw": 1}, **style)
        axes.bar_label(drawn, fmt="%.1f", padding=2, fontsize=8.5)
        for x, policy in zip(at, bars["policy"], strict=True):
            seeds = 100 * dots[(dots["policy"] == policy) & (dots["control"] == name)]["accuracy"]
            if len(seeds) > 1:
                axes.plot(x + width * np.linspace(-0.22, 0.22, len(seeds)), seeds, "ko", ms=3.2, mfc="white", mew=0.7)
    axes.set_xticks(range(len(policies)), [POLICIES[name].replace(" (", "\n(") for name in policies])
    axes.set(ylim=(0, min(104, top * 1.12) if top else 1), ylabel="% of test problems right")
    own = here[here["control"] == "own"].set_index("policy")["accuracy"]
    axes.set_title(f"Right after reflecting ({decoding}): {_said(100 * own, '{:.0f}% {}')}")
    axes.tick_params(axis="x", length=0)
    figure.legend(loc="outside lower center", ncols=3)
    rows = [here.assign(seed="mean"), dots.assign(seed=dots["seed"].astype("string"))]
    return save(figure, pd.concat(rows, ignore_index=True), path)


def _said(values: pd.Series, form: str) -> str:
    """A value per policy, in the policies' order."""
    return ", ".join(form.format(values[name], name) for name in POLICIES if name in values.index)


@rc_context(STYLE)
def controls(averaged: pd.DataFrame, path: Path, decoding: str = "greedy") -> Path:
    """Every second try of the trained policy (of the reflector where it was not run) beside the base model's."""
    here = averaged[(averaged["decoding"] == decoding) & (averaged["attempt"] == "second")]
    policies = [name for name in POLICIES if name in set(here["policy"])][:2]
    names = [name for name in SECOND if name in set(here[here["policy"].isin(policies)]["control"])]
    figure = Figure(figsize=(8.2, 1.2 + 0.48 * len(names)))
    axes = figure.subplots()
    for k, policy in enumerate(policies):
        bars = here[(here["policy"] == policy) & here["control"].isin(names)]
        mean, low, high = (100 * bars[column].to_numpy() for column in ("accuracy", "ci_low", "ci_high"))
        at = bars["control"].map(names.index) + (k - (len(policies) - 1) / 2) * 0.4
        style = {"color": COLOURS[policy], "label": POLICIES[policy], "error_kw": {"lw": 1}}
        drawn = axes.barh(at, mean, 0.38, xerr=np.clip([mean - low, high - mean], 0, None), capsize=2.5, **style)
        axes.bar_label(drawn, fmt="%.1f", padding=2, fontsize=8.5)
    own = 100 * bars.set_index("control")["accuracy"]["own"]  # of the last policy drawn
    others = here[here["policy"].isin(policies) & (here["control"] != "own")]["accuracy"]
    said = f", at most {100 * others.max():.0f}% otherwise" if len(others) else ""
    axes.set_title(f"{policies[-1]} ({decoding}): {own:.0f}% after the own reflection{said}".capitalize())
    axes.set_yticks(range(len(names)), [SECOND[name] for name in names])
    axes.set(xlabel="% of test problems right at the second try", ylim=(len(names) - 0.5, -0.5))
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return save(figure, here[here["policy"].isin(policies)], path)


@rc_context(STYLE)
def training_curves(task: str, folders: dict[int, Path], path: Path) -> Path:
    """Reward and kinds of reflection (mean over seeds) over the steps of training. `folders`: train folder by seed."""
    logs = {seed: pd.DataFrame(files.read_log(folder / "training.jsonl")) for seed, folder in folders.items()}
    reward = pd.concat([log.reindex(columns=["step", "reward"]).assign(seed=seed) for seed, log in logs.items()])
    sampled = {seed: over_steps(task, files.read_log(folder / "reflections.jsonl")) for seed, folder in folders.items()}
    shares = pd.concat([frame.assign(seed=seed) for seed, frame in sampled.items()], ignore_index=True)
    names = [name for name in shares.columns if name not in ("seed", "step", "n", "reward")] if len(shares) else []
    rows = reward[["seed", "step", "reward"]].merge(shares.drop(columns="reward"), on=["seed", "step"], how="outer")
    figure = Figure(figsize=(9.6, 4.0) if names else (6.2, 4.0))
    panels = figure.subplots(1, 2 if names else 1, squeeze=False, width_ratios=[1, 1.15] if names else None)[0]
    for k, (seed, lines) in enumerate(reward.groupby("seed")):
        colour = SEED_COLOURS[k % len(SEED_COLOURS)]
        panels[0].plot(lines["step"], lines["reward"], color=colour, lw=0.7, alpha=0.35)
        smooth = lines["reward"].rolling(7, center=True, min_periods=2).mean()
        panels[0].plot(lines["step"], smooth, color=colour, lw=2, label=f"seed {seed}")
    panels[0].set(ylim=(0, None), xlim=(1, max(2, reward["step"].max())))
    panels[0].set(xlabel="optimiser step", ylabel="reward: share of retries right")
    panels[0].set_title("Reward from {:.2f} to {:.2f}".format(*_ends(reward, "reward")))
    panels[0].legend(loc="upper left")
    if names:  # of reflections, the one that grew most in the title
        window = max(1, round(shares["step"].max() / 25))
        steps = shares.groupby((shares["step"] - 1) // window)[["step", *names]].mean()
        style = {"colors": KIND_COLOURS[: len(names)], "lw": 0.4, "edgecolor": "white"}
        labels = [name.replace("_", " ") for name in names]
        panels[1].stackplot(steps["step"], 100 * steps[names].T, labels=labels, **style)
        panels[1].margins(x=0)
        panels[1].set(xlabel="optimiser step", ylabel="% of sampled reflections", ylim=(0, 100))
        grown = max(names, key=lambda name: steps[name].iloc[-1] - steps[name].iloc[0])
        ends = (100 * share for share in _ends(shares, grown))
        panels[1].set_title("Reflections of kind {}: from {:.0f}% to {:.0f}%".format(grown, *ends))
        panels[1].legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    return save(figure, rows.sort_values(["seed", "step"]), path)


def _ends(frame: pd.DataFrame, column: str) -> tuple[float, float]:
    """A column's mean over the first and the last tenth of the steps."""
    first, last = frame["step"].min(), frame["step"].max()
    tenth = max(1, (last - first) // 10)
    return frame[frame["step"] < first + tenth][column].mean(), frame[frame["step"] > last - tenth][column].mean()


@rc_context(STYLE)
def lengths(content: pd.DataFrame, path: Path, decoding: str = "greedy") -> Path:
    """How long reflections are before and after training. `content`: `kinds.table` of one task and model."""
    here, rows = content[content["decoding"] == decoding], []
    step = max(1, -(-int(here["tokens"].max()) // 40))
    edges = np.arange(0, int(here["tokens"].max()) + 2 * step, step)
    middle = here.groupby("policy")["tokens"].median()
    policies = [name for name in POLICIES if name in middle.index]
    figure = Figure(figsize=(8.2, 0.9 + 1.35 * len(policies)))
    panels = figure.subplots(len(policies), 1, sharex=True, squeeze=False)[:, 0]
    for axes, policy in zip(panels, policies, strict=True):
        counts, _ = np.histogram(here[here["policy"] == policy]["tokens"], edges)
        axes.bar(edges[:-1], 100 * counts / counts.sum(), step * 0.92, align="edge", color=COLOURS[policy])
        said = f"{POLICIES[policy]}: median {middle[policy]:.0f}, {counts.sum():,} reflections"
        axes.axvline(middle[policy], color="black", lw=1.2, ls="--", label=said)
        axes.legend(loc="upper center", frameon=True, framealpha=1, edgecolor="none")
        axes.set_ylabel("%")
        rows += [(policy, *row) for row in zip(edges[:-1], edges[1:], counts, strict=True)]
    panels[-1].set(xlabel="tokens in the reflection", xlim=(0, edges[-1]))
    panels[0].set_title(f"Median length of a reflection in tokens ({decoding}): {_said(middle, '{:.0f} {}')}")
    return save(figure, pd.DataFrame(rows, columns=["policy", "tokens_from", "tokens_below", "n"]), path)


@rc_context(STYLE)
def recovery_by_length(content: pd.DataFrame, path: Path, decoding: str = "greedy", fewest: int = 10) -> Path:
    """Recovery rate (share of failures that the retry recovers) after reflections of like length, with 95% intervals.

    Bins hold like numbers of all policies' reflections together; a point of fewer than `fewest` is only in the CSV.
    """
    here, rows = content[content["decoding"] == decoding], []
    edges = np.unique(np.round(np.quantile(here["tokens"], np.linspace(0, 1, 7))))
    edges = edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1])
    bins = np.clip(np.searchsorted(edges, here["tokens"], side="right") - 1, 0, len(edges) - 2)
    for (policy, k), group in here.groupby(["policy", bins]):
        ends = statistics.cluster_bootstrap(group["recovered"], group["cluster"])
        rows.append((policy, edges[k], edges[k + 1], len(group), *group[["tokens", "recovered"]].mean(), *ends))
    columns = ["policy", "tokens_from", "tokens_to", "n", "mean_tokens", "recovered", "ci_low", "ci_high"]
    frame = pd.DataFrame(rows, columns=columns)
    figure = Figure(figsize=(8.2, 4.2))
    axes = figure.subplots()
    for k, policy in enumerate(POLICIES):
        drawn = frame[(frame["policy"] == policy) & (frame["n"] >= fewest)]
        mean, low, high = (100 * drawn[name].to_numpy() for name in ("recovered", "ci_low", "ci_high"))
        at = np.searchsorted(edges, drawn["tokens_from"]) + 0.13 * (k - 1)
        style = {"color": COLOURS[policy], "marker": "osD"[k], "label": POLICIES[policy] if len(drawn) else None}
        axes.errorbar(at, mean, np.clip([mean - low, high - mean], 0, None), ms=6, lw=1.4, capsize=3, **style)
    last = [*(edges[1:-1] - 1), edges[-1]]  # the last bin holds its upper edge, the others do not
    names = [f"{a:.0f}" if a == b else f"{a:.0f} to {b:.0f}" for a, b in zip(edges[:-1], last, strict=True)]
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="tokens in the reflection", ylabel="% of failures recovered by the retry", ylim=(0, None))
    total = 100 * here.groupby("policy")["recovered"].mean()
    axes.set_title(f"Recovery rate by length ({decoding}): {_said(total, '{:.0f}% {}')}")
    if (frame["n"] >= fewest).any():
        figure.legend(loc="outside lower center", ncols=3)
    return save(figure, frame, path)


def stem(row: Row) -> str:
    """What the names of a row's figures end in: its task and model."""
    return f"{row.task}-{row.model.split('/')[-1]}"


def all_of(row: Row, content: pd.DataFrame, folder: Path) -> Iterator[Path]:
    """Every figure of a row of the table that there is data for. `content`: its `kinds.table`."""
    for decoding in row.settings.decodings:
        name = "cells" if decoding == row.decoding else f"cells-{decoding}"
        yield cells(row.averaged, row.cells, folder / f"{name}-{stem(row)}", decoding)
    if len(controls_table(row)):
        yield controls(row.averaged, folder / f"controls-{stem(row)}", row.decoding)
    if row.trained:
        yield training_curves(row.settings.task, row.trained, folder / f"training-{stem(row)}")
    if (content["decoding"] == row.decoding).any():
        yield lengths(content, folder / f"lengths-{stem(row)}", row.decoding)
        yield recovery_by_length(content, folder / f"recovery-by-length-{stem(row)}", row.decoding)
