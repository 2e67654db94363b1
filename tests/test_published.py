"""What is claimed of the published miniatures, from results/tiny as it is committed."""

from __future__ import annotations

import gzip
import json
import re

import pandas as pd
import pytest

from rrr_utils import grid, settings
from rrr_utils.report import cells as scoring
from rrr_utils.settings import ROOT
from rrr_utils.tasks import calls, function_calling_kinds

HOME = ROOT / "results" / "tiny"
CALLS = sorted((HOME / "function_calling" / "embedded").glob("evaluate-seed*/samples.jsonl.gz"))
published = pytest.mark.skipif(not CALLS, reason="function calling is not published yet: make publish")


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return pd.read_csv(HOME / "cells.csv", dtype={"seed": "string", "control": "string"}).fillna({"control": ""})


def test_every_row_of_the_profile_is_there_with_the_same_seeds(cells):
    rows = settings.load("tiny", {} if CALLS else {"rows": "countdown"})
    wanted = {grid.title(row) for row in grid.rows_of(rows)}
    seeds = {f"{task}:{model}": {*rows["seed"].dropna()} for (task, model), rows in cells.groupby(["task", "model"])}
    assert seeds.keys() == wanted and len({frozenset(some) for some in seeds.values()}) == 1


def accuracy(cells: pd.DataFrame, policy: str, control: str, decoding: str) -> pd.Series:
    """Shares of right second tries, by seed."""
    here = cells[(cells["policy"] == policy) & (cells["control"] == control) & (cells["decoding"] == decoding)]
    return here.set_index("seed")["accuracy"]


@pytest.mark.parametrize("task", ["countdown", pytest.param("function_calling", marks=published)])
def test_training_lifts_the_second_try_above_the_base_model_and_above_trying_again(cells, task):
    mine = cells[cells["task"] == task]
    for decoding, least in (("greedy", 0.08), ("sampled", 0.0)):
        base = accuracy(mine, "vanilla", "own", decoding).item()
        for policy in ("trained", "reflector"):
            own, blind = (accuracy(mine, policy, control, decoding) for control in ("own", "blind"))
            assert (own - base).min() > least and (own - blind).min() > least, (policy, decoding)


@published
@pytest.mark.parametrize("policy", ["trained", "reflector"])
def test_the_gain_of_function_calling_is_no_chance(policy):
    """Over the seeds together, greedily: above the base model's second try and above the own blind one."""
    paths = sorted((HOME / "function_calling" / "embedded").glob("evaluate-*/samples.jsonl.gz"))
    lines = [json.loads(line) for path in paths for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
    frame = scoring.outcomes([line for line in lines if line["decoding"] == "greedy"])
    found = scoring.comparisons(frame[frame["policy"].isin(["vanilla", policy])], "function_calling", "embedded")
    found = found.set_index("question").loc[["training improves the second try", "reflecting beats trying again"]]
    assert (found["n"] >= 1000).all() and (found["seeds"] >= 5).all()
    assert (found["p"] < 0.001).all() and (found["lowest"] >= 0.08).all() and found["a"].str.startswith(policy).all()


@published
def test_rescues_of_function_calling_are_not_told_by_the_reflection():
    """It names the tool and states every gold value in at most half of them, and writes the calls in none."""
    rescued = told = 0
    for path in CALLS:
        for line in map(json.loads, gzip.decompress(path.read_bytes()).decode().splitlines()):
            own, row = line["second"].get("own"), line["row"]
            if own and own["verdict"]["correct"]:
                rescued += 1
                assert not calls.find(own["reflection"])
                named = all(re.search(rf"\b{call['name']}\b", own["reflection"]) for call in row["answers"])
                told += bool(named and function_calling_kinds.stated(own["reflection"], row))
    assert rescued > 500 and told <= rescued / 2
