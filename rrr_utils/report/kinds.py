"""What reflections do, by the task's optional `KINDS` and `kind`: before and after training, and over its steps."""

from collections.abc import Iterable

import pandas as pd

from rrr_utils import tasks

COLUMNS = ["id", "cluster", "policy", "seed", "decoding", "tokens", "recovered", "kind"]


def table(task: str, samples: Iterable[dict], verdict: str = "strict") -> pd.DataFrame:
    """Every reflection of an evaluation, a row each: `COLUMNS`; `recovered`: its retry was right; `kind`: of KINDS."""
    module, rows = tasks.get(task), []
    for line in samples:
        if own := (line.get("second") or {}).get("own"):
            kind = module.kind(own["reflection"], line["row"]) if hasattr(module, "KINDS") else None
            told = own["reflection_tokens"], tasks.is_right(own["verdict"], verdict), kind
            rows.append((*(line[name] for name in COLUMNS[:5]), *told))
    kinds = pd.CategoricalDtype(getattr(module, "KINDS", ()))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"seed": "Int64", "kind": kinds})


def over_steps(task: str, logged: Iterable[dict]) -> pd.DataFrame:
    """Shares of the kinds in a training's `reflections.jsonl`, a row per step: `step, n, reward`, a column per kind."""
    module = tasks.get(task)
    kinds = getattr(module, "KINDS", ())
    logged = list(logged)
    kinds = (
        kinds if all("reflection" in line for line in logged) else ()
    )  # first tries (objective `answer`) are of none
    rows = [(r["step"], r["reward"], module.kind(r["reflection"], r["row"]) if kinds else "") for r in logged]
    frame = pd.DataFrame(rows, columns=["step", "reward", "kind"])
    for name in kinds:
        frame[name] = frame["kind"] == name
    steps = frame.groupby("step")
    return steps[["reward", *kinds]].mean().assign(n=steps.size()).reset_index()[["step", "n", "reward", *kinds]]
