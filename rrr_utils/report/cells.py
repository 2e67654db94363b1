"""From kept generations to the table's cells: outcomes of every item, cells, comparisons, and verdicts given again.

    samples.jsonl -> outcomes (a row per item, policy and decoding) -> cells.csv, comparisons.csv (columns: README)

A second try counts "right at first or right on the retry", over all items.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from rrr_utils import files, runs, samples, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.report import statistics
from rrr_utils.settings import CONTROLS, POLICIES, Settings

COUNTED = ["accuracy", "ci_low", "ci_high", "clusters"]
PLACE = ["task", "model", "policy", "seed", "decoding", "attempt", "control"]
CELLS = [*PLACE, "n", "correct", *COUNTED, "identity_hash"]
AVERAGED = [*(name for name in PLACE if name != "seed"), "n", *COUNTED, "seeds", "lowest", "highest"]
COMPARISONS = ["task", "model", "decoding", "a", "b", *statistics.Comparison._fields]
KEY = ["policy", "seed", "decoding"]
GAIN = "own-blind"  # what a retry brings after the own reflection, over a blind one: in comparisons only
Tries = dict[tuple[str, str], pd.Series]  # by attempt and control


def outcomes(lines: Iterable[dict], verdict: str = "strict") -> pd.DataFrame:
    """A row per item, policy and decoding: `id, cluster, policy, seed, decoding, first` and a column per control.

    1 is right (of several retries: any of them), 0 wrong; a control that was not run is missing. The lines of several
    evaluations may come together. Raises ResultsError where a line is there twice, or where only some failed items
    have a second try.
    """
    rows = []
    for line in lines:
        first = float(tasks.is_right(line["verdict"], verdict))
        second = {} if first else line.get("second") or {}
        given = {name: entry.get("verdicts", [entry["verdict"]]) for name, entry in second.items()}
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
            there = failed[name].notna()
            if there.all() if len(failed) else name in CONTROLS[:2]:
                frame.loc[group.index[group["first"] == 1], name] = 1.0
            elif there.any():
                which = f"item '{failed['id'][~there].iloc[0]}' of {_name(policy, seed)} ({decoding})"
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
    ran = [name for name in (*CONTROLS, GAIN) if name in group and group[name].notna().all()]
    return {("first", ""): group["first"], **{("second", name): group[name] for name in ran}}


def _counted(values: list[pd.Series], clusters: pd.Series) -> tuple[float, float, float, int]:
    """`COUNTED` of a cell; of several seeds' values, each item counts by its mean over them."""
    items = values[0].index
    mean = np.mean([one.reindex(items).to_numpy() for one in values], axis=0)
    return mean.mean(), *statistics.cluster_bootstrap(mean, clusters.loc[items]), clusters.nunique()


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

    The interval is of the mean over these seeds: items are resampled. `lowest` and `highest` are the seeds' own
    accuracies. Raises ResultsError where seeds were evaluated on different items.
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
    """Every comparison that the table prints, with the columns `COMPARISONS`. `frame`: `outcomes` of all evaluations.

    A gain of gains, `reflector/0/second/own-blind` against `vanilla//second/own-blind`, says how much more the one
    gets out of its reflection, over a blind retry, than the other.
    """
    groups, rows = _groups(frame.assign(**{GAIN: frame["own"] - frame["blind"]})), []
    _same_items(list(groups.values()))
    for decoding in dict.fromkeys(decoding for _, _, decoding in groups):
        here = {(policy, seed): group for (policy, seed, how), group in groups.items() if how == decoding}
        values = {(*who, *name): one for who, group in here.items() for name, one in _tries(group).items()}
        for a, b in _pairs(list(here)):
            if a in values and b in values:
                both = values[a], values[b].loc[values[a].index]
                test = statistics.paired_difference(*both, here[a[:2]]["cluster"])
                rows.append((task, model, decoding, _name(*a), _name(*b), *test))
    return pd.DataFrame(rows, columns=COMPARISONS)


def _pairs(who: list[tuple[str, int | None]]) -> list[tuple[tuple, tuple]]:
    """The cells to compare: a trained policy with the base model, and a policy's own reflection with its controls."""
    pairs = []
    for policy, seed in who:
        own, base = (policy, seed, "second", "own"), ("vanilla", None, "second")
        if policy != "vanilla":
            pairs += [(own, (*base, "own")), (own, (*base, "blind"))]
        if policy == "trained":
            pairs.append(((policy, seed, "first", ""), ("vanilla", None, "first", "")))
        pairs += [(own, (policy, seed, "second", control)) for control in CONTROLS[1:]]
        if policy != "vanilla":
            pairs.append(((policy, seed, "second", GAIN), (*base, GAIN)))
    return pairs


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
        if not tasks.is_right(line["verdict"], which) and not line["second"]:
            wrong = {"verdict": {"correct": False, "lenient": False}}
            line["second"] = dict.fromkeys(ran[tuple(line[name] for name in KEY)], wrong)
    frame = cells(new, identity["task"], identity["model"], runs.identity_hash(identity), which)
    files.write_text(folder / "cells.rescored.csv", frame.to_csv(index=False))
    said = f"{firsts} first tries and {retries} second tries changed their verdict"
    print(f"{len(new)} samples verified again ({which}): {said}")
    return frame
