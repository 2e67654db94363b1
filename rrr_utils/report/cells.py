"""From kept generations to the table's cells: outcomes of every item, cells, comparisons, and verdicts given again.

    samples.jsonl -> outcomes (a row per item, policy and decoding) -> cells.csv, comparisons.csv

results/tiny/README.md says what the columns are.
A second try counts "right at first or right on the retry", over all items; one of EVERY_ITEM counts what it is alone.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rrr_utils import files, runs, samples, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.report import statistics
from rrr_utils.settings import CONTROLS, EVERY_ITEM, POLICIES, Settings

COUNTED = ["accuracy", "ci_low", "ci_high", "clusters"]
PLACE = ["task", "model", "policy", "seed", "decoding", "attempt", "control"]
CELLS = [*PLACE, "n", "correct", *COUNTED, "identity_hash"]
AVERAGED = [*(name for name in PLACE if name != "seed"), "n", *COUNTED, "seeds", "lowest", "highest"]
_TEST = "difference ci_low ci_high p p_holm seeds lowest highest detectable a_only b_only n clusters finding"
COMPARISONS = ["task", "model", "decoding", "question", "a", "b", *_TEST.split()]
KEY = ["policy", "seed", "decoding"]
#: the comparisons, in words: a try of the trained policy (a), and whose try it is held against (b; none: its own)
QUESTIONS = {
    "training improves the second try": (("second", "own"), "vanilla", ("second", "own")),
    "reflecting beats trying again": (("second", "own"), None, ("second", "blind")),
    "reflecting beats a fixed hint": (("second", "own"), None, ("second", "generic")),
    "reflecting beats new first tries for the same tokens": (("second", "own"), None, ("second", "fresh")),
    "training improves the first try": (("first", ""), "vanilla", ("first", "")),
}
Tries = dict[tuple[str, str], pd.Series]  # by attempt and control


def outcomes(lines: Iterable[dict], verdict: str = "strict") -> pd.DataFrame:
    """A row per item, policy and decoding: `id, cluster, policy, seed, decoding, first` and a column per control.

    1 is right (of several tries: any of them), 0 wrong; a control that was not run is missing. The lines of several
    evaluations may come together. Raises ResultsError where a line is there twice, or where only some failed items
    have a second try.
    """
    rows = []
    for line in lines:
        first = float(tasks.is_right(line["verdict"], verdict))
        second = (line.get("second") or {}).items()
        given = {name: x.get("verdicts", [x["verdict"]]) for name, x in second if not first or name in EVERY_ITEM}
        right = {name: float(any(tasks.is_right(one, verdict) for one in every)) for name, every in given.items()}
        rows.append({name: line[name] for name in ("id", "cluster", *KEY)} | {"first": first} | right)
    if not rows:
        raise ResultsError("no samples: the evaluation has not written a line yet (notebook 03 goes on with it)")
    frame = pd.DataFrame(rows).astype({"seed": "Int64"})
    if (twice := frame.duplicated(["id", *KEY])).any():
        raise ResultsError(f"sample '{frame['id'][twice].iloc[0]}' is there twice: run the evaluation again")
    for name in CONTROLS[:2]:
        frame[name] = frame.get(name, np.nan)
    for (policy, seed, decoding), group in frame.groupby(KEY, dropna=False):
        failed = group[group["first"] == 0]
        for name in [name for name in CONTROLS if name in frame]:
            asked = group if name in EVERY_ITEM else failed
            there = asked[name].notna()
            if there.all() if len(asked) else name in CONTROLS[:2]:
                frame.loc[group.index.difference(asked.index), name] = 1.0
            elif there.any():
                which = f"item '{asked['id'][~there].iloc[0]}' of {_name(policy, seed)} ({decoding})"
                text = f"{which} has no second try '{name}', though others do"
                raise ResultsError(f"{text}: the evaluation is not finished, run notebook 03 again")
    return frame


def _groups(frame: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """The rows of each policy, seed and decoding, indexed by item, in the table's order."""
    groups = sorted(frame.groupby(KEY, dropna=False), key=lambda group: (group[0][2], POLICIES.index(group[0][0])))
    return {
        (who, None if pd.isna(seed) else int(seed), how): group.set_index("id") for (who, seed, how), group in groups
    }


def _tries(group: pd.DataFrame) -> Tries:
    """Each try that was run of a group of outcomes."""
    ran = [name for name in CONTROLS if name in group and group[name].notna().all()]
    return {("first", ""): group["first"], **{("second", name): group[name] for name in ran}}


def _counted(values: list[pd.Series], clusters: pd.Series) -> tuple[float, float, float, int]:
    """`COUNTED` of a cell: the mean over items, and over seeds where there are several of values."""
    right = np.array([one.loc[clusters.index] for one in values])
    ends = np.clip(statistics.cluster_bootstrap(right, clusters), 0, 1)  # a few seeds' Student's t may lead beyond
    return right.mean(), *ends, clusters.nunique()


def cells(lines: Iterable[dict], task: str, model: str, identity_hash: str, verdict: str = "strict") -> pd.DataFrame:
    """The cells of one evaluation's lines, a row each, with the columns `CELLS`."""
    rows = []
    for key, group in _groups(outcomes(lines, verdict)).items():
        for name, values in _tries(group).items():
            counted = len(values), int(values.sum()), *_counted([values], group["cluster"])
            rows.append((task, model, *key, *name, *counted, identity_hash))
    return pd.DataFrame(rows, columns=CELLS).astype({"seed": "Int64"})


def of_evaluation(settings: Settings) -> pd.DataFrame:
    """The cells of a finished evaluation, as notebook 03 shows them."""
    name, folder = runs.identity_hash(runs.identity(settings, "evaluate")), runs.stage_dir(settings, "evaluate")
    return cells(samples.read(folder), runs.task_name(settings), runs.model_name(settings), name, settings.verdict)


def over_seeds(frame: pd.DataFrame, task: str, model: str) -> pd.DataFrame:
    """Each policy's cells averaged over its training seeds, with the columns `AVERAGED`. `frame`: `outcomes`.

    Intervals resample seeds with the clusters. `lowest` and `highest` are the seeds' own accuracies. Raises
    ResultsError where seeds were evaluated on different items.
    """
    rows, groups = [], _groups(frame)
    for policy, decoding in dict.fromkeys((policy, decoding) for policy, _, decoding in groups):
        same = [group for (p, _, d), group in groups.items() if (p, d) == (policy, decoding)]
        _same_items(same)
        tries = [_tries(group) for group in same]
        for attempt, control in dict.fromkeys(name for ran in tries for name in ran):
            values = [ran[attempt, control] for ran in tries if (attempt, control) in ran]
            own = [one.mean() for one in values]
            counted = len(values[0]), *_counted(values, same[0]["cluster"]), len(own), min(own), max(own)
            rows.append((task, model, policy, decoding, attempt, control, *counted))
    return pd.DataFrame(rows, columns=AVERAGED)


def _same_items(groups: list[pd.DataFrame]) -> None:
    for group in groups[1:]:
        if odd := sorted(set(groups[0].index) ^ set(group.index)):
            where = f"'{odd[0]}' ({len(odd)} in all) is in one of them"
            raise ResultsError(f"evaluations of different items cannot be compared: {where}")


def _name(policy: str, seed: int | None, *rest: str) -> str:
    return "/".join([policy, "" if pd.isna(seed) else str(seed), *rest])


def comparisons(frame: pd.DataFrame, task: str, model: str) -> pd.DataFrame:
    """The `QUESTIONS` that can be answered, by decoding, with the columns `COMPARISONS`. `frame`: `outcomes` of all.

    They are asked of `trained`, or of `reflector` where that was not evaluated (its first try is the base model's),
    pooled over seeds. `p_holm` is corrected over all rows here; `lowest` and `highest` are single seeds' differences.
    """
    groups, rows = _groups(frame), []
    _same_items(list(groups.values()))
    clusters = next(iter(groups.values()))["cluster"]
    policy = next((name for name in POLICIES[1:] if name in set(frame["policy"])), None)
    for decoding in dict.fromkeys(decoding for _, _, decoding in groups):
        here = {(who, seed): _tries(group) for (who, seed, how), group in groups.items() if how == decoding}
        for question, (mine, base, theirs) in QUESTIONS.items():
            own = {seed: tries for (who, seed), tries in here.items() if who == policy}
            other = dict.fromkeys(own, here.get((base, None), {})) if base else own
            seeds = [seed for seed in own if mine in own[seed] and theirs in other[seed]]
            if seeds and (policy, mine[0]) != ("reflector", "first"):
                sides = (own, mine), (other, theirs)
                a, b = (np.array([side[seed][name].loc[clusters.index] for seed in seeds]) for side, name in sides)
                names = _name(policy, "mean", *mine), _name(base or policy, None if base else "mean", *theirs)
                row = dict(zip(COMPARISONS, (task, model, decoding, question, *names), strict=False))
                test = statistics.paired_difference(a, b, clusters)
                rows.append(row | test._asdict() | {"by_seed": (a - b).mean(axis=1)})
    return judged(rows)


def judged(rows: list[dict]) -> pd.DataFrame:
    """Comparisons with what is told of all together: `p_holm`, and the `finding` in words. A row holds COMPARISONS as
    far as they are known, and `by_seed`, single seeds' differences."""
    for row, p in zip(rows, statistics.holm([row["p"] for row in rows]), strict=True):
        by_seed, least = row["by_seed"], statistics.detectable(row["error"], len(rows))
        row |= {"p_holm": p, "seeds": len(by_seed), "lowest": min(by_seed), "highest": max(by_seed)}
        row |= {"detectable": least, "finding": _finding(row | {"detectable": least})}
    return pd.DataFrame(rows, columns=COMPARISONS)


def _finding(row: dict) -> str:
    """What a comparison says, in words: 5% after Holm's correction is the limit."""
    gain, by_seed = row["difference"], row["by_seed"]
    if row["p_holm"] >= 0.05:
        if row["a_only"] == row["b_only"] == 0:
            return "no difference in any item"
        limit = (
            f"; one of {100 * row['detectable']:.1f} points would probably have been" if row["detectable"] > 0 else ""
        )
        return f"no difference seen{limit}"
    same, side = int((by_seed * gain > 0).sum()), "above" if gain > 0 else "below"
    where = f"in the mean, {side} in {same} of {len(by_seed)} seeds" if len(by_seed) > 1 else "in one seed"
    said = f"{'yes, ' if gain > 0 else 'no, the other way round: '}{100 * gain:+.1f} points {where}"
    holds_0 = row["ci_low"] <= 0 <= row["ci_high"]  # p is about these seeds, the interval about any
    return f"{said}; other seeds may differ, the interval holds 0" if holds_0 else said


def rescore(folder: Path | str, task: str | None = None) -> pd.DataFrame:
    """Verdicts and cells again from an evaluation's kept generations: prints what changed, writes `cells.rescored.csv`.

    `task`: where the task's .py file lies now. A first try that is no longer right where no second try was generated
    counts as failed in both. Raises ResultsError, and DataError where the task is not to be found.
    """
    folder = Path(folder)
    result = files.read_json(folder / "result.json") or files.read_json(folder / "begun.json") or {}
    if (identity := result.get("identity")) is None:
        raise ResultsError(f"{folder} holds no result.json: it is not the folder of an evaluation (notebook 03)")
    which, old = identity.get("verdict", "strict"), samples.read(folder)
    module = tasks.get(task or result.get("settings", identity)["task"])
    new = [samples.verify_again(module, line, which) for line in old]
    firsts = retries = 0
    ran: dict[tuple, set] = {}
    for before, after in zip(old, new, strict=True):
        firsts += before["verdict"] != after["verdict"]
        retries += sum(entry["verdict"] != before["second"][name]["verdict"] for name, entry in after["second"].items())
        ran.setdefault(tuple(after[name] for name in KEY), set()).update(after["second"])
    for line in new:
        if not tasks.is_right(line["verdict"], which) and not line["second"].keys() - EVERY_ITEM:
            wrong = {"verdict": {"correct": False, "lenient": False}}
            line["second"] = dict.fromkeys(ran[tuple(line[name] for name in KEY)], wrong) | line["second"]
    frame = cells(new, identity["task"], identity["model"], runs.identity_hash(identity), which)
    files.write_text(folder / "cells.rescored.csv", frame.to_csv(index=False))
    said = f"{firsts} first tries and {retries} second tries changed their verdict"
    print(f"{len(new)} samples verified again ({which}): {said}")
    return frame
