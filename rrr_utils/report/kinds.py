"""What reflections do, by the task's own optional `KINDS` and `kind`: before and after training, and over its steps."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

import pandas as pd

from rrr_utils import tasks
from rrr_utils.errors import DataError


def module_of(task: str) -> ModuleType | None:
    """The task's module, or None where its file is not to be found: no result records where a file of one's own lies."""
    try:
        return tasks.get(task)
    except DataError:
        return None


def kinds_of(task: str) -> tuple[str, ...]:
    """The kinds of reflection that a task tells apart; none where it tells none."""
    return getattr(module_of(task), "KINDS", ())


def table(task: str, samples: Iterable[dict], verdict: str = "strict") -> pd.DataFrame:
    """Every reflection of an evaluation: `id, cluster, policy, seed, decoding, tokens, rescued, kind`."""
    kind = getattr(module_of(task), "kind", lambda text, row: "")
    rows = [
        {name: s[name] for name in ("id", "cluster", "policy", "seed", "decoding")}
        | {
            "tokens": own["reflection_tokens"],
            "rescued": tasks.is_right(own["verdict"], verdict),
            "kind": kind(own["reflection"], s["row"]),
        }
        for s in samples
        if (own := (s.get("second") or {}).get("own"))
    ]
    columns = ["id", "cluster", "policy", "seed", "decoding", "tokens", "rescued", "kind"]
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64"})


def over_steps(task: str, logged: Iterable[dict]) -> pd.DataFrame:
    """Shares of the kinds that training sampled, a row a step: `step, n, reward` and a column a kind.

    `logged`: the lines of a training's `reflections.jsonl`.
    """
    module, kinds = module_of(task), kinds_of(task)
    frame = pd.DataFrame(
        [
            {"step": r["step"], "reward": r["reward"], "kind": module.kind(r["reflection"], r["row"]) if kinds else ""}
            for r in logged
        ],
        columns=["step", "reward", "kind"],
    )
    for kind in kinds:
        frame[kind] = frame["kind"] == kind
    steps = frame.groupby("step")
    return steps[["reward", *kinds]].mean().assign(n=steps.size()).reset_index()[["step", "n", "reward", *kinds]]
