"""Cells and comparisons of a few made-up samples that can be counted by hand, and rescoring of real texts."""

from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest
import synthetic

from rrr_utils import files, runs, samples
from rrr_utils.errors import ResultsError
from rrr_utils.report import cells, statistics


def verdict(right: bool, lenient: bool = False) -> dict:
    return {"correct": right, "error": None if right else "missed_target", "lenient": right or lenient}


def line(item: str, policy: str, first: bool, own: bool = False, blind: bool = False, seed: int | None = None) -> dict:
    budget = blind or item == "c"
    second = {
        "own": {"reflection": "r", "retry": "t", "verdict": verdict(own, lenient=True)},
        "blind": {"reflection": "", "retry": "t", "verdict": verdict(blind)},
        "blind_budget": {
            "retries": ["t", "u"],
            "verdicts": [verdict(blind), verdict(budget)],
            "verdict": verdict(budget),
            "tokens": 2,
        },
    }
    return {
        "id": item, "cluster": item, "policy": policy, "seed": seed, "decoding": "greedy", "attempt": "t",
        "verdict": verdict(first), "second": {} if first else second,
    }  # fmt: skip


#: a right at first; b and c recovered by the reflector's reflections; b by the blind retry; d by nothing
VANILLA = [
    line("a", "vanilla", True),
    line("b", "vanilla", False, False, True),
    line("c", "vanilla", False),
    line("d", "vanilla", False),
]
REFLECTOR = [
    line("a", "reflector", True, seed=0), line("b", "reflector", False, True, True, 0),
    line("c", "reflector", False, True, False, 0), line("d", "reflector", False, seed=0),
]  # fmt: skip


def test_cells_are_counted_as_by_hand():
    frame = cells.cells(VANILLA, "countdown", "embedded", "0123abcd")
    assert list(frame.columns) == [
        "task", "model", "policy", "seed", "decoding", "attempt", "control", "n", "correct", "accuracy", "ci_low",
        "ci_high", "clusters", "identity_hash",
    ]  # fmt: skip
    assert frame[["attempt", "control", "n", "correct", "accuracy", "clusters"]].values.tolist() == [
        ["first", "", 4, 1, 0.25, 4], ["second", "own", 4, 1, 0.25, 4], ["second", "blind", 4, 2, 0.5, 4],
        ["second", "blind_budget", 4, 3, 0.75, 4],
    ]  # fmt: skip
    assert frame["seed"].isna().all() and set(frame["identity_hash"]) == {"0123abcd"}
    assert tuple(frame.loc[0, ["ci_low", "ci_high"]]) == statistics.wilson(1, 4)


def test_the_lenient_verdict_counts_where_it_is_asked_for():
    frame = cells.cells(VANILLA, "countdown", "embedded", "0123abcd", verdict="lenient")
    assert frame[frame["control"] == "own"]["correct"].item() == 4


def test_cells_as_csv_keep_whole_seeds_and_empty_fields(tmp_path):
    frame = pd.concat([cells.cells(s, "countdown", "embedded", "h") for s in (VANILLA, REFLECTOR)])
    frame.to_csv(tmp_path / "cells.csv", index=False)
    lines = (tmp_path / "cells.csv").read_text().splitlines()
    assert lines[1].startswith("countdown,embedded,vanilla,,greedy,first,,4,1,0.25,") and lines[5].startswith(
        "countdown,embedded,reflector,0,greedy,first,,"
    )


def test_comparisons_are_counted_as_by_hand():
    frame = cells.comparisons(cells.outcomes(VANILLA + REFLECTOR), "countdown", "embedded").set_index(["a", "b"])
    assert list(frame.reset_index().columns) == ["a", "b", *[c for c in cells.COMPARISONS if c not in ("a", "b")]]
    own = frame.loc[("reflector/0/second/own", "vanilla//second/own")]
    assert (own["difference"], own["a_only"], own["b_only"], own["n"], own["p"]) == (0.5, 2, 0, 4, 0.5)
    blind = frame.loc[("reflector/0/second/own", "vanilla//second/blind")]
    assert (blind["difference"], blind["a_only"], blind["b_only"]) == (0.25, 1, 0)
    assert frame.loc[("vanilla//second/own", "vanilla//second/blind")]["difference"] == -0.25
    assert frame.loc[("reflector/0/second/own", "reflector/0/second/blind_budget")]["difference"] == 0.0
    gain = frame.loc[("reflector/0/second/own-blind", "vanilla//second/own-blind")]
    assert (gain["difference"], gain["a_only"], gain["b_only"]) == (0.5, 2, 0)  # 0.25 - (-0.25)
    assert len(frame) == 2 + 5


def test_every_comparison_that_the_table_prints_is_there():
    lines = VANILLA + REFLECTOR + [s | {"policy": "trained"} for s in REFLECTOR] + [s | {"seed": 1} for s in REFLECTOR]
    pairs = set(cells.comparisons(cells.outcomes(lines), "t", "m")[["a", "b"]].itertuples(index=False, name=None))
    for who in ("trained/0", "reflector/0", "reflector/1"):
        assert (f"{who}/second/own", "vanilla//second/own") in pairs and (
            f"{who}/second/own",
            "vanilla//second/blind",
        ) in pairs
        assert (f"{who}/second/own", f"{who}/second/blind") in pairs and (
            f"{who}/second/own",
            f"{who}/second/blind_budget",
        ) in pairs
        assert (f"{who}/second/own-blind", "vanilla//second/own-blind") in pairs
    assert ("trained/0/first/", "vanilla//first/") in pairs and (
        "vanilla//second/own",
        "vanilla//second/blind",
    ) in pairs


def test_seeds_are_averaged_item_by_item():
    worse = [s | {"seed": 1, "second": VANILLA[k]["second"]} for k, s in enumerate(REFLECTOR)]
    frame = cells.over_seeds(cells.outcomes(VANILLA + REFLECTOR + worse), "countdown", "embedded")
    own = frame[(frame["policy"] == "reflector") & (frame["control"] == "own")].iloc[0]
    assert (own["accuracy"], own["seeds"], own["lowest"], own["highest"]) == (0.5, 2, 0.25, 0.75)
    assert frame[(frame["policy"] == "vanilla") & (frame["attempt"] == "first")]["seeds"].item() == 1


def test_all_right_at_first_makes_the_second_try_as_right():
    frame = cells.cells([line("a", "vanilla", True), line("b", "vanilla", True)], "t", "m", "h")
    assert (
        frame["control"].tolist() == ["", "own", "blind"]
        and (frame["accuracy"] == 1).all()
        and (frame["ci_low"] < 1).all()
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has not written a line"),
        (VANILLA + VANILLA[:1], "'a' is there twice"),
        (
            VANILLA[:3] + [VANILLA[3] | {"second": {"own": VANILLA[3]["second"]["own"]}}],
            "'d' of vanilla/ .* no second try 'blind'",
        ),
        (VANILLA + REFLECTOR[:3], "'d' .* is in one of them"),
    ],
)
def test_what_cannot_be_counted_is_refused_in_one_line(lines, message):
    with pytest.raises(ResultsError, match=message) as refused:
        cells.comparisons(cells.outcomes(lines), "t", "m")
    assert "\n" not in str(refused.value)


@pytest.fixture
def evaluated(tmp_path):
    """A finished evaluation of the base model, with real texts."""
    settings = synthetic.made(tmp_path, (), 40, seed=None)
    return runs.stage_dir(settings, "evaluate")


def test_rescoring_gives_what_the_evaluation_wrote(evaluated, capsys):
    result = files.read_json(evaluated / "result.json")
    written = cells.cells(samples.read(evaluated), "countdown", "model", result["identity_hash"])
    before = (evaluated / "samples.jsonl").read_bytes()
    pd.testing.assert_frame_equal(cells.rescore(evaluated), written)
    assert "0 first tries and 0 second tries changed" in capsys.readouterr().out
    assert (evaluated / "samples.jsonl").read_bytes() == before
    assert (evaluated / "cells.rescored.csv").read_text() == written.to_csv(index=False)


def test_rescoring_judges_texts_and_not_what_is_stored(evaluated, capsys):
    lines = samples.read(evaluated)
    flipped = next(s for s in lines if s["verdict"]["correct"])
    before = cells.cells(lines, "countdown", "model", "h")
    flipped["verdict"] = {"correct": False, "error": "missed_target", "lenient": False}
    packed = evaluated.parent / "published"
    packed.mkdir()
    (packed / "result.json").write_bytes((evaluated / "result.json").read_bytes())
    with gzip.open(packed / "samples.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(s) + "\n" for s in lines)
    again = cells.rescore(packed)
    assert "1 first tries and 0 second tries changed" in capsys.readouterr().out
    assert again["correct"].tolist() == before["correct"].tolist()


def test_a_first_try_that_is_wrong_by_now_counts_as_failed_in_both(evaluated):
    lines = samples.read(evaluated)
    right = next(s for s in lines if s["verdict"]["correct"] and s["decoding"] == "greedy")
    before = cells.cells(lines, "countdown", "model", "h").set_index(["decoding", "control"])["correct"]
    right["attempt"] = "no answer"
    files.write_text(evaluated / "samples.jsonl", "".join(json.dumps(s) + "\n" for s in lines))
    after = cells.rescore(evaluated).set_index(["decoding", "control"])["correct"]
    assert (before - after)["greedy"].tolist() == [1, 1, 1, 1] and (before - after)["sampled"].tolist() == [0, 0, 0, 0]


def test_rescoring_no_evaluation_is_one_plain_line(tmp_path):
    with pytest.raises(ResultsError, match="not the folder of an evaluation"):
        cells.rescore(tmp_path)
