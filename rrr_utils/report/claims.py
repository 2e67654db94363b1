"""The paper's headline claims (`data/claims.yaml`) beside what our runs say of them, and the same asked of any model.

A question is a difference, after less before, between two policies on the same problems; of several models it is the
mean of theirs. Intervals (95%) resample clusters and seeds, as everywhere.

- direction: `true` where the interval lies wholly on the claim's side of 0, `false` where on the other, else `open`;
  of kinds of errors it is `false`, too, where another kind fell by more.
- number, of a claim that states one: `true` where the paper's value lies in the interval, whose half width is told,
  else `false`; `not comparable` where data or number of items are not the paper's, or where a model of the claim's
  lacks because its weights are not public.
- `not run` names the models that lack.
"""

import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from rrr_utils import models, tasks
from rrr_utils.errors import DataError, one_line
from rrr_utils.report import paper, statistics
from rrr_utils.report.tables import Row
from rrr_utils.report.text import safe
from rrr_utils.settings import DATA

PATH = DATA / "claims.yaml"
NUMBERS = ["before", "after", "difference", "ci_low", "ci_high"]  # in points (% of problems, of errors), or in tokens
COLUMNS = ["task", "model", "claim", "paper", "certainty", *NUMBERS, "unit", "models", "direction", "number"]
MEASURES = ("first", "second", "tokens", "errors", "error_share")


class Seen(NamedTuple):
    """A row of the table and its `tries`."""

    row: Row
    tries: pd.DataFrame


def load(path: Path = PATH) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """The questions by name, and the claims. Raises DataError, in one line."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        questions, claims = found["questions"], found["claims"]
        for one in claims:
            sides = [MEASURES.index(questions[one["question"]][side][1]) for side in ("after", "before")]
            _ = *sides, paper.TRAINED[one["task"]], one["models"][0], 0.0 + one.get("points", 0.0)
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"{path} cannot be used: {one_line(error)}") from None
    return questions, claims


def table(rows: list[Row], path: Path = PATH) -> pd.DataFrame:
    """Every claim of the paper's beside what our rows say of it, a line each, with the columns `COLUMNS`."""
    return _held(*load(path), rows)


def of_rows(rows: list[Row], path: Path = PATH) -> pd.DataFrame:
    """The questions asked of each row alone, whether the paper has its model or not, with the columns `COLUMNS`."""
    questions, asked = load(path)[0], []
    for row in rows:
        kinds, name = tasks.get(row.settings.task).ERRORS, row.model.split("/")[-1]
        is_theirs = name in paper.TRAINED.get(row.task, []) + paper.UNTRAINED.get(row.task, [])
        fit = [one for one, question in questions.items() if set(question.get("errors", ())) <= set(kinds)]
        more = {"task": row.task, "models": [name], "of": row.model if is_theirs else f"{row.model}, not the paper's"}
        asked += [{"question": one, **more} for one in fit]
    found = _held(questions, asked, rows)
    return found[~found["direction"].str.startswith("not run")].reset_index(drop=True)


def _held(questions: dict[str, dict[str, Any]], claims: list[dict[str, Any]], rows: list[Row]) -> pd.DataFrame:
    lines, ours = [], {(row.task, row.model.split("/")[-1]): Seen(row, tries(row)) for row in rows}
    for claim in claims:
        question, names = questions[claim["question"]], claim["models"]
        line = {"task": claim["task"], "claim": claim.get("says", question["says"])}
        line["model"] = claim.get("of", f"the mean of {len(names)}" if names[1:] else names[0])
        line |= {"paper": claim.get("said", ""), "certainty": claim.get("sure"), "number": ""}
        pairs, lacking = [], []
        for name in [name for name in names if not models.unpublished(name)]:
            both = {"after": name, "before": claim.get("against", name)}
            pairs.append({side: ours.get((claim["task"], one)) for side, one in both.items()})
            for side, seen in pairs[-1].items():
                if not seen or question[side][0] not in seen.tries["policy"].unique():
                    lacking.append(both[side] if not seen else f"{both[side]} ({question[side][0]})")
        if lacking:
            line["direction"] = f"not run: {', '.join(dict.fromkeys(lacking))}"
        else:
            line |= _measured(question, pairs)
        if "points" in claim and "difference" in line:
            line["number"] = _number(claim, line, pairs)
        lines.append(line)
    return pd.DataFrame(lines, columns=COLUMNS)


def tries(row: Row) -> pd.DataFrame:
    """A line per policy (base, trained), seed (of the base model -1) and problem, in this order, in the row's decoding.

    `policy, seed, id, cluster, first, second` (right or not), `tokens` of the reflection, `first_error, second_error`.
    """
    verdict, lines = row.settings.verdict, []
    for line in row.samples:
        if line["decoding"] == row.decoding and line["policy"] in ("vanilla", "trained"):
            each = [line["verdict"], line["second"].get("own", {}).get("verdict", line["verdict"])]
            first, again = (tasks.is_right(one, verdict) for one in each)
            errors = [None if right else one["error"] for right, one in zip((first, first or again), each, strict=True)]
            tokens = 0 if first else line["second"].get("own", {}).get("reflection_tokens", 0)
            seed = -1 if line["seed"] is None else line["seed"]
            lines.append((line["policy"], seed, line["id"], line["cluster"], first, first or again, tokens, *errors))
    frame = pd.DataFrame(lines, columns="policy seed id cluster first second tokens first_error second_error".split())
    return frame.sort_values(["policy", "seed", "id"])


def _values(seen: Seen, policy: str, measure: str, errors: list[str]) -> np.ndarray:
    """Seeds x problems (by id) of a policy: the mean over problems is its measure. Of a ratio (tokens of a reflection,
    share of the errors) these are the linear parts, so that resampling problems resamples the ratio."""
    here = seen.tries[seen.tries["policy"] == policy]
    kind = 100.0 * here["first_error"].isin(errors)
    top = {"tokens": here["tokens"], "errors": kind, "error_share": kind}
    top = top[measure] if measure in top else 100.0 * here[measure]
    below = ~here["first"] if measure in ("tokens", "error_share") else here["first"].notna()
    seeds = here["seed"].nunique()
    top, below = (one.to_numpy(float).reshape(seeds, -1) for one in (top, below))  # in order: see `tries`
    each = below.mean(axis=1, keepdims=True)
    each[each == 0] = 1  # nothing failed: the ratio is told as 0
    ratio = top.mean(axis=1, keepdims=True) / each
    return (top - ratio * below) / each + ratio


def _measured(question: dict[str, Any], pairs: list[dict[str, Seen]]) -> dict[str, Any]:
    """The mean over the pairs, its interval and direction, and in how many pairs it goes the claim's way.

    Of pairs with unlike numbers of seeds, as many count as all have.
    """
    first, *others = [seen.tries.groupby("id")["cluster"].first() for pair in pairs for seen in pair.values()]
    if not all(one.equals(first) for one in others):
        return {"direction": "not comparable: evaluated on different problems"}
    sign, kinds = -1 if question.get("down") else 1, question.get("errors", [])
    after, before, apart = _apart(question, pairs, kinds)
    mean = np.mean([one[: min(map(len, apart))] for one in apart], axis=0)
    low, high = _interval(mean, first)
    direction = "open" if low <= 0 <= high else "true" if sign * mean.mean() > 0 else "false"
    if question.get("most") and direction == "true":
        known = [one for one in tasks.get(pairs[0]["after"].row.settings.task).ERRORS if one not in kinds]
        rest = {one: np.mean([apart.mean() for apart in _apart(question, pairs, [one])[2]]) for one in known}
        top = max(known, key=lambda one: sign * rest[one])
        if sign * rest[top] > sign * mean.mean():
            direction = f"false: {top.replace('_', ' ')} {rest[top]:+.1f}"
    ends = (np.mean([one.mean() for one in side]) for side in (before, after))
    line = dict(zip(NUMBERS, (*ends, mean.mean(), low, high), strict=True)) | {"direction": direction}
    line["unit"] = "tokens" if question["after"][1] == "tokens" else "points"
    return line | {"models": f"{sum(sign * one.mean() > 0 for one in apart)} of {len(apart)}"}


def _apart(question: dict[str, Any], pairs: list[dict[str, Seen]], kinds: list[str]) -> tuple[list[np.ndarray], ...]:
    """Of each pair the `_values` after, those before, and their difference, seeds x problems."""
    after, before = ([_values(pair[s], *question[s], kinds) for pair in pairs] for s in ("after", "before"))
    return (
        after,
        before,
        [new - old for new, old in zip(after, before, strict=True)],
    )  # the base model's go with each seed


def _interval(values: np.ndarray, clusters: pd.Series) -> tuple[float, float]:
    """95% interval of the mean. Of many values each is rounded, to a tenth of their spread: thousands of clusters that
    all differ are slow to draw, and the ends hardly move (tests/test_claims.py)."""
    if not values.any():  # no difference anywhere
        return 0.0, 0.0
    if len(np.unique(values)) <= 100:
        return statistics.cluster_bootstrap(values, clusters)
    step = values.std() / 10
    low, high = statistics.cluster_bootstrap(np.round(values / step), clusters)
    return step * low, step * high


def _number(claim: dict[str, Any], line: dict[str, Any], pairs: list[dict[str, Seen]]) -> str:
    """Whether the paper's number is ours, by the rule that its cells are held to (`paper.verdict`)."""
    theirs = SimpleNamespace(task=claim["task"], relation="=", value=claim["points"])
    ends = {end: line[end] / 100 for end in ("ci_low", "ci_high")}
    every = [seen.row.averaged.iloc[0] for pair in pairs for seen in pair.values()]
    said = [paper.verdict(theirs, SimpleNamespace(data=one["data"], n=one["n"], **ends)) for one in every]
    if len(pairs) < len(claim["models"]):
        said.append("not comparable: a model has no public weights")
    found = next((one for one in said if one.startswith("not")), said[0])
    return {"w": f"true, {found}", "n": found}.get(found[0], f"false: ours is {found}")


def in_words(found: pd.DataFrame) -> pd.DataFrame:
    """`table` or `of_rows` as it is printed."""
    lines = []
    for r in found.itertuples():
        theirs = "" if pd.isna(r.certainty) else f"{r.paper or 'no number known'} ({r.certainty})"
        ours = f"{r.before:.1f} to {r.after:.1f}: {r.difference:+.1f} [{r.ci_low:+.1f}, {r.ci_high:+.1f}] {r.unit}"
        ours = "" if pd.isna(r.difference) else ours if r.models.endswith(" 1") else f"{ours}, so in {r.models} models"
        lines.append((r.task, r.model, r.claim, theirs, ours, r.direction, r.number))
    frame = pd.DataFrame(lines, columns=["task", "of", "claim", "the paper", "ours", "direction", "its number"])
    return frame.loc[:, (frame != "").any()]


def said(found: pd.DataFrame) -> str:
    """The same in sentences, a claim a line."""
    lines = []
    for row in in_words(found).to_dict("records"):
        told = [f"{row.pop('task')}, {row.pop('of')}: {row.pop('claim')}: {row.pop('direction')}"]
        told += [f"{name} {value}" for name, value in row.items() if value]
        lines.append(textwrap.fill(f"- {safe('; '.join(told))}", 118, subsequent_indent="  "))
    return "\n".join(lines)
