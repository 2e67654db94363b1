"""From kept generations to the table's cells: outcomes of every item, cells, comparisons, and verdicts given again.

    samples.jsonl -> outcomes (an item, policy and decoding a row) -> cells.csv, comparisons.csv (`formats` in README)

Second try counts "right at first or right on the retry", over all items. Covered: everything that needs counting.
Not covered: generating (`evaluation.py`), the statistics themselves (`statistics.py`), figures (`plots.py`). No torch.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from rrr_utils import files, runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.report import statistics
from rrr_utils.settings import Settings

CELLS = [
    "task", "model", "policy", "seed", "decoding", "attempt", "control", "n", "correct", "accuracy", "ci_low", "ci_high",
    "clusters", "identity_hash",
]  # fmt: skip
COMPARISONS = ["task", "model", "decoding", "a", "b", "difference", "ci_low", "ci_high", "p", "a_only", "b_only", "n", "clusters"]
#: what a second try can be given: the own reflection, none, or as many blind tries as the own reflection's tokens buy
CONTROLS = ("own", "blind", "blind_budget")
POLICIES = ("vanilla", "trained", "reflector")
KEY = ["policy", "seed", "decoding"]


def read_samples(folder: Path) -> list[dict]:
    """The kept generations of an evaluation, plain or published (`samples.jsonl.gz`)."""
    plain, packed = Path(folder) / "samples.jsonl", Path(folder) / "samples.jsonl.gz"
    if plain.is_file():
        return files.read_jsonl(plain)
    if packed.is_file():
        with gzip.open(packed, "rt", encoding="utf-8", newline="\n") as file:
            return [json.loads(line) for line in file]
    raise ResultsError(f"{folder} holds no samples.jsonl: it is no folder of a finished evaluation (notebook 03)")


def second_right(entry: dict, which: str = "strict") -> bool:
    """Whether a control's second try is right; of several retries, whether any is."""
    return any(tasks.is_right(v, which) for v in entry["verdicts"]) if "verdicts" in entry else tasks.is_right(entry["verdict"], which)


def outcomes(samples: Iterable[dict], verdict: str = "strict") -> pd.DataFrame:
    """One row an item, policy and decoding: `id, cluster, policy, seed, decoding, first` and a column for each control,
    1 where right. A control that was not run is missing. The lines of vanilla and of several seeds may come together.
    """
    rows = []
    for s in samples:
        row = {"id": s["id"], "cluster": s["cluster"], **{name: s[name] for name in KEY}, "first": float(tasks.is_right(s["verdict"], verdict))}
        second = {} if row["first"] else s.get("second") or {}
        rows.append(row | {c: float(second_right(entry, verdict)) for c, entry in second.items()})
    if not rows:
        raise ResultsError("no samples: the evaluation has not written a line yet (notebook 03 goes on with it)")
    frame = pd.DataFrame(rows).astype({"seed": "Int64"})
    if (twice := frame.duplicated(["id", *KEY])).any():
        raise ResultsError(f"sample '{frame['id'][twice].iloc[0]}' is there twice: run the evaluation again (notebook 03)")
    for name in CONTROLS[:2]:
        frame[name] = frame.get(name, np.nan)
    for key, group in frame.groupby(KEY, dropna=False):
        failed = group[group["first"] == 0]
        for name in _controls(frame):
            there = failed[name].notna()
            if there.all() if len(failed) else name in CONTROLS[:2]:
                frame.loc[group.index[group["first"] == 1], name] = 1.0
            elif there.any():
                raise ResultsError(
                    f"item '{failed['id'][~there].iloc[0]}' of {_name(key[0], key[1])} ({key[2]}) has no second try '{name}', "
                    "though others do: the evaluation is not finished, run notebook 03 again"
                )
    return frame


def _controls(frame: pd.DataFrame) -> list[str]:
    return [c for c in frame.columns if c not in ("id", "cluster", *KEY, "first")]


def _groups(frame: pd.DataFrame) -> dict[tuple, pd.DataFrame]:
    """The rows of each policy, seed and decoding, indexed by item, in the table's order."""
    order = {name: k for k, name in enumerate(POLICIES)}
    groups = {
        (policy, None if pd.isna(seed) else int(seed), decoding): group.set_index("id")
        for (policy, seed, decoding), group in frame.groupby(KEY, dropna=False)
    }
    return dict(sorted(groups.items(), key=lambda kv: (kv[0][2], order.get(kv[0][0], 9), -1 if kv[0][1] is None else kv[0][1])))


def _tries(group: pd.DataFrame) -> list[tuple[str, str]]:
    """(attempt, control) of every cell that a group of outcomes has."""
    ran = [c for c in _controls(group.reset_index()) if group[c].notna().all()]
    return [("first", ""), *(("second", c) for c in sorted(ran, key=lambda c: (CONTROLS.index(c) if c in CONTROLS else 9, c)))]


def cells(
    samples: Iterable[dict] | pd.DataFrame, task: str, model: str, identity_hash: str, verdict: str = "strict", seed: int = 0
) -> pd.DataFrame:
    """The cells of one evaluation, a row each, with the columns `CELLS`. `seed` is the bootstrap's."""
    frame = samples if isinstance(samples, pd.DataFrame) else outcomes(samples, verdict)
    rows = []
    for (policy, training_seed, decoding), group in _groups(frame).items():
        for attempt, control in _tries(group):
            values = group[control or "first"].to_numpy()
            interval = statistics.cluster_bootstrap(values, group["cluster"], seed)
            rows.append((
                task, model, policy, training_seed, decoding, attempt, control, len(values), int(values.sum()), values.mean(),
                *interval, group["cluster"].nunique(), identity_hash,
            ))  # fmt: skip
    return pd.DataFrame(rows, columns=CELLS).astype({"seed": "Int64"})


def of_evaluation(settings: Settings) -> pd.DataFrame:
    """The cells of a finished evaluation, as notebook 03 shows them."""
    folder = runs.stage_dir(settings, "evaluate")
    name = runs.identity_hash(runs.identity(settings, "evaluate"))
    return cells(read_samples(folder), runs.task_name(settings), runs.model_name(settings), name, settings.verdict)


def over_seeds(frame: pd.DataFrame, task: str, model: str, seed: int = 0) -> pd.DataFrame:
    """Each policy's cells averaged over its training seeds: an item counts by its mean over them.

    Columns of `CELLS` without the hash; `seed` gives way to `seeds` (how many), `lowest` and `highest` (the seeds' own
    accuracies). The interval is over items, for these seeds; the range tells how seeds differ.
    """
    rows = []
    groups = _groups(frame)
    tries = [("first", ""), *(("second", c) for c in CONTROLS)]
    for (policy, decoding), attempt in product(dict.fromkeys((p, d) for p, _, d in groups), tries):
        same = [g for (p, _, d), g in groups.items() if (p, d) == (policy, decoding) and attempt in _tries(g)]
        if not same:
            continue
        _same_items(same)
        values = np.mean([g[attempt[1] or "first"].reindex(same[0].index).to_numpy() for g in same], axis=0)
        accuracies = [g[attempt[1] or "first"].mean() for g in same]
        interval = statistics.cluster_bootstrap(values, same[0]["cluster"], seed)
        rows.append((
            task, model, policy, decoding, *attempt, len(values), values.mean(), *interval, same[0]["cluster"].nunique(), len(same),
            min(accuracies), max(accuracies),
        ))  # fmt: skip
    return pd.DataFrame(rows, columns=[
        "task", "model", "policy", "decoding", "attempt", "control", "n", "accuracy", "ci_low", "ci_high", "clusters", "seeds",
        "lowest", "highest",
    ])  # fmt: skip


def _same_items(groups: list[pd.DataFrame]) -> None:
    first = set(groups[0].index)
    for group in groups[1:]:
        if set(group.index) != first:
            odd = sorted(first ^ set(group.index))
            raise ResultsError(
                f"evaluations of different items cannot be compared: '{odd[0]}' ({len(odd)} in all) is in one of them only"
            )


def _name(policy: str, seed: int | None, *rest: str) -> str:
    return "/".join([policy, "" if pd.isna(seed) else str(seed), *rest])


def comparisons(samples: Iterable[dict] | pd.DataFrame, task: str, model: str, verdict: str = "strict", seed: int = 0) -> pd.DataFrame:
    """Every comparison that the table prints, with the columns `COMPARISONS`: the lines of vanilla and of all seeds go in.

    A gain of gains, `reflector/0/second/own-blind` against `vanilla//second/own-blind`, says how much more the one
    gets out of its reflection, over a blind retry, than the other.
    """
    frame = samples if isinstance(samples, pd.DataFrame) else outcomes(samples, verdict)
    groups = _groups(frame)
    _same_items(list(groups.values()))
    rows = []
    for decoding in dict.fromkeys(d for _, _, d in groups):
        here = {(p, s): g for (p, s, d), g in groups.items() if d == decoding}
        for a, b in _pairs(list(here)):
            if not all(_has(here, cell) for cell in (a, b)):
                continue
            items = here[a[:2]].index
            test = statistics.paired_difference(_values(here, a, items), _values(here, b, items), here[a[:2]]["cluster"], seed)
            rows.append((task, model, decoding, _name(*a), _name(*b), *test))
    return pd.DataFrame(rows, columns=COMPARISONS)


def _pairs(who: list[tuple[str, int | None]]) -> list[tuple[tuple, tuple]]:
    """The cells to compare: each trained policy with the untrained model, and each policy's own reflection with its controls."""
    pairs = []
    for policy, seed in who:
        own = (policy, seed, "second", "own")
        if policy != "vanilla":
            pairs.append((own, ("vanilla", None, "second", "own")))
            pairs.append((own, ("vanilla", None, "second", "blind")))
        if policy == "trained":
            pairs.append(((policy, seed, "first", ""), ("vanilla", None, "first", "")))
        pairs += [(own, (policy, seed, "second", control)) for control in CONTROLS[1:]]
        if policy != "vanilla":
            pairs.append(((policy, seed, "second", "own-blind"), ("vanilla", None, "second", "own-blind")))
    return pairs


def _has(here: dict, cell: tuple) -> bool:
    policy, seed, attempt, control = cell
    return (policy, seed) in here and all((attempt, c) in _tries(here[policy, seed]) for c in control.split("-"))


def _values(here: dict, cell: tuple, items: pd.Index) -> np.ndarray:
    policy, seed, _, control = cell
    group = here[policy, seed].loc[items]
    own, _, blind = control.partition("-")
    return group[own or "first"].to_numpy() - (group[blind].to_numpy() if blind else 0)


def verify_again(sample: dict, task: ModuleType, which: str = "strict") -> dict:
    """A sample with every verdict given anew by the task's verifier from the kept texts."""

    def judge(text: str) -> dict:
        return task.verify(text, sample["row"])._asdict()

    second = {}
    for control, entry in (sample.get("second") or {}).items():
        if "retries" in entry:
            verdicts = [judge(text) for text in entry["retries"]]
            second[control] = entry | {"verdicts": verdicts, "verdict": best(verdicts, which) or entry["verdict"]}
        else:
            second[control] = entry | {"verdict": judge(entry["retry"])}
    return sample | {"verdict": judge(sample["attempt"]), "second": second}


def best(verdicts: list[dict], which: str = "strict") -> dict | None:
    """The best of several retries' verdicts: the first that is right, else the first; none where there is none."""
    return next((v for v in verdicts if tasks.is_right(v, which)), verdicts[0] if verdicts else None)


def rescore(folder: Path | str, verdict: str | None = None, task: str | None = None) -> pd.DataFrame:
    """Verdicts and cells again from an evaluation's kept generations: prints what changed, writes `cells.rescored.csv`.

    `verdict` strict or lenient says which counts; none takes the evaluation's own setting. `task` is needed for a task
    in a file of one's own, whose place no result records. What the evaluation wrote stays as it is. A first try that is
    no longer right where no second try was generated counts as failed in both.
    """
    folder = Path(folder)
    identity = (files.read_json(folder / "result.json") or {}).get("identity") or files.read_json(folder / "identity.json")
    if not identity:
        raise ResultsError(f"{folder} holds neither result.json nor identity.json: it is no folder of an evaluation (notebook 03)")
    which, old = verdict or identity.get("verdict", "strict"), read_samples(folder)
    module = tasks.get(task or identity["task"])
    new = [verify_again(s, module, which) for s in old]
    changed = sum(a["verdict"] != b["verdict"] for a, b in zip(old, new, strict=True))
    retries = sum(a["second"][c]["verdict"] != b["second"][c]["verdict"] for a, b in zip(old, new, strict=True) for c in a["second"])
    for s in new:
        if not tasks.is_right(s["verdict"], which) and not s["second"]:
            s["second"] = {c: {"verdict": {"correct": False, "lenient": False}} for c in _asked(new, s)}
    frame = cells(new, identity["task"], identity["model"], runs.identity_hash(identity), which)
    files.write_text(folder / "cells.rescored.csv", frame.to_csv(index=False))
    print(f"{len(new)} samples verified again ({which}): {changed} first tries and {retries} second tries changed their verdict")
    return frame


def _asked(samples: list[dict], like: dict) -> list[str]:
    """The controls that were run for a sample's policy and decoding."""
    return sorted({c for s in samples if all(s[k] == like[k] for k in KEY) for c in s["second"]})
