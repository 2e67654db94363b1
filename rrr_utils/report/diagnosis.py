"""What the gain is made of: what own reflections state, and whether the retry is just that. From kept texts.

By the optional names of the task (`answers_in`, `answer_of`, `wrong_in`); a column without its names is not there.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from rrr_utils import tasks
from rrr_utils.report import figures
from rrr_utils.report.text import POLICIES

#: the columns after `policy, decoding, n`, in words, each with what it needs of the task: shares (0..1) of the n
#: reflections, of the right retries (`copied`) or of the reflections with or without a right answer; `tokens` is a mean
COLUMNS = {
    "recovered": ("retry right", ()),
    "stated": ("reflection states a right answer", ("answers_in",)),
    "copied": ("of right retries, those that are this answer", ("answers_in", "answer_of")),
    "recovered_stated": ("retry right where a right answer is stated", ("answers_in",)),
    "recovered_unstated": ("retry right where none is stated", ("answers_in",)),
    "wrong": ("reflection states something wrong", ("wrong_in",)),
    "repeated": ("reflection repeats itself", ()),
    "truncated": ("reflection ends at the token limit", ()),
    "duplicate": ("reflection on another problem is the same but for numbers", ()),
    "tokens": ("tokens in a reflection (mean)", ()),
}
PARTS = {"right, answer stated": figures.RED, "right, not stated": figures.SKY, "wrong": figures.LIGHT}
_CLAUSES, _NUMBER = re.compile(r"[;\n]|\.(?!\d)"), re.compile(r"\d+")


def table(task: str, samples: Iterable[dict], verdict: str = "strict") -> pd.DataFrame:
    """A row per policy and decoding, seeds together: `policy, decoding, n`, then those of COLUMNS that the task allows.

    Over the own reflections on first tries that failed. NaN is a share of nothing.
    """
    module, rows, ids = tasks.get(task), defaultdict(list), defaultdict(set)
    names = [name for name, (_, needs) in COLUMNS.items() if all(hasattr(module, need) for need in needs)]
    for line in samples:
        if own := (line.get("second") or {}).get("own"):
            group = line["policy"], line["decoding"]
            words = *group, line["seed"], *_NUMBER.sub("#", own["reflection"]).split()
            ids[words].add(line["id"])
            told = _told(module, own, line["row"], tasks.is_right(own["verdict"], verdict))
            rows[group].append(told | {"words": words})
    means = []
    for group in sorted(rows, key=lambda group: (list(POLICIES).index(group[0]), group[1])):
        told = [row | {"duplicate": len(ids[row["words"]]) > 1} for row in rows[group]]
        means.append([*group, len(told), *pd.DataFrame(told)[names].astype(float).mean()])
    return pd.DataFrame(means, columns=["policy", "decoding", "n", *names])


def _told(module: ModuleType, own: dict, row: dict, right: bool) -> dict[str, float]:
    """What is told of one reflection and its retry, by the names of COLUMNS; NaN where a share does not count it."""
    text = own["reflection"]
    clauses = [clause for part in _CLAUSES.split(text) if (clause := " ".join(part.split()))]
    told = {"recovered": right, "truncated": own["truncated"], "tokens": own["reflection_tokens"]}
    told["repeated"] = len(set(clauses)) < len(clauses)
    if hasattr(module, "wrong_in"):
        told["wrong"] = bool(tasks.told(module, "wrong_in", text, row))
    if hasattr(module, "answers_in"):
        passages = tasks.told(module, "answers_in", text, row)
        told["stated"] = bool(passages)
        told["recovered_stated"], told["recovered_unstated"] = (right, np.nan) if passages else (np.nan, right)
        if hasattr(module, "answer_of"):
            answers = {tasks.told(module, "answer_of", passage, row) for passage in passages} if right else set()
            answer = tasks.told(module, "answer_of", own["retry"], row) if right else None
            in_words = bool(passages) and answers <= {None}  # a part of an answer says nothing of the whole
            told["copied"] = answer in answers if right and not in_words else np.nan
    return told


def in_words(frame: pd.DataFrame) -> pd.DataFrame:
    """A `table` to print: a line per measure in words, in per cent, and a column per policy and decoding."""
    printed = {"": [COLUMNS[name][0] if name in COLUMNS else "failures" for name in frame.columns[2:]]}
    for _, row in frame.iterrows():
        values = [
            f"{row[name]:,.0f}" if name == "n" else f"{row[name] * (1 if name == 'tokens' else 100):.1f}"
            for name in frame.columns[2:]
        ]
        printed[f"{row['policy']}, {row['decoding']}"] = [value.replace("nan", "") for value in values]
    return pd.DataFrame(printed)


@rc_context(figures.STYLE)
def figure(frame: pd.DataFrame, path: Path) -> Path:
    """What share of the rescued failures is a stated answer: a stacked bar for each row of `table`.

    The frame needs the column `stated`, so a task with `answers_in`.
    """
    rows = frame[["policy", "decoding", "n"]].copy()
    rows["right, answer stated"] = (frame["stated"] * frame["recovered_stated"]).fillna(0)
    rows["right, not stated"] = ((1 - frame["stated"]) * frame["recovered_unstated"]).fillna(0)
    rows["wrong"] = 1 - frame["recovered"]
    drawing = Figure(figsize=(9.6, 1.6 + 0.5 * len(rows)))
    axes, left, at = drawing.subplots(), np.zeros(len(rows)), np.arange(len(rows))[::-1]
    for name, colour in PARTS.items():
        share = 100 * rows[name].to_numpy()
        bars = axes.barh(at, share, 0.72, left=left, color=colour, label=name)
        axes.bar_label(bars, [f"{value:.1f}" if value >= 4 else "" for value in share], label_type="center", fontsize=9)
        left = left + share
    named = zip(rows["policy"], rows["decoding"], rows["n"], strict=True)
    axes.set_yticks(at, [f"{policy}, {decoding}\n({n:,} failures)" for policy, decoding, n in named])
    axes.set(xlim=(0, 100), xlabel="% of failed first tries, by their retry after the own reflection")
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")
    decoding = frame["decoding"].iloc[0]
    first = frame.assign(share=rows["right, answer stated"] / frame["recovered"])  # NaN where nothing is rescued
    first = first[(first["decoding"] == decoding) & first["share"].notna()]
    said = ", ".join(f"{100 * row.share:.0f}% {row.policy}" for row in first.itertuples())
    axes.set_title(f"Rescues with the answer stated ({decoding}): {said or 'none'}")
    drawing.legend(loc="outside lower center", ncols=3)
    return figures.save(drawing, rows, path)
