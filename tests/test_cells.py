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
from rrr_utils.settings import CONTROLS, EVERY_ITEM


def verdict(right: bool, lenient: bool = False) -> dict:
    return {"correct": right, "error": None if right else "missed_target", "lenient": right or lenient}


def line(item: str, policy: str, first: bool, own: bool = False, blind: bool = False, seed: int | None = None) -> dict:
    """A line with the tries own, blind, fresh (item c is right at its second text) and always (d is right, a is not)."""
    tries = [verdict(blind), verdict(blind or item == "c")]
    second = {
        "own": {"reflection": "r", "retry": "t", "verdict": verdict(own, lenient=True)},
        "blind": {"reflection": "", "retry": "t", "verdict": verdict(blind)},
        "fresh": {"tries": ["t", "u"], "verdicts": tries, "verdict": tries[-1], "tokens": 2},
    }
    always = {"always": {"reflection": "r", "retry": "t", "verdict": verdict(item == "d")}}
    return {
        "id": item, "cluster": item, "policy": policy, "seed": seed, "decoding": "greedy", "attempt": "t",
        "verdict": verdict(first), "second": always if first else second | always,
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
        ["second", "fresh", 4, 3, 0.75, 4], ["second", "always", 4, 1, 0.25, 4],
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
    assert lines[1].startswith("countdown,embedded,vanilla,,greedy,first,,4,1,0.25,") and lines[6].startswith(
        "countdown,embedded,reflector,0,greedy,first,,"
    )


def trained(lines: list[dict], seed: int) -> list[dict]:
    return [one | {"policy": "trained", "seed": seed} for one in lines]


def test_comparisons_are_counted_as_by_hand():
    frame = cells.comparisons(cells.outcomes(VANILLA + REFLECTOR), "countdown", "embedded")
    assert list(frame.columns) == cells.COMPARISONS
    assert frame[["question", "a", "b"]].values.tolist() == [
        ["training improves the second try", "reflector/mean/second/own", "vanilla//second/own"],
        ["reflecting beats trying again", "reflector/mean/second/own", "reflector/mean/second/blind"],
        ["reflecting beats new first tries for the same tokens", "reflector/mean/second/own", "reflector/mean/second/fresh"],
    ]  # fmt: skip
    own, blind, fresh = frame.to_dict("records")
    assert (own["difference"], own["a_only"], own["b_only"], own["n"], own["p"]) == (0.5, 2, 0, 4, 0.5)
    assert (blind["difference"], blind["a_only"], blind["b_only"], blind["p"]) == (0.25, 1, 0, 1)
    assert (own["seeds"], own["lowest"], own["highest"]) == (1, 0.5, 0.5)
    assert frame["p_holm"].tolist() == [1, 1, 1] and own["finding"].startswith("no difference seen; one of ")
    assert fresh["difference"] == 0 and fresh["finding"] == "no difference in any item" and pd.isna(fresh["detectable"])


def test_comparisons_are_of_trained_where_it_is_there_and_pool_its_seeds():
    lines = VANILLA + REFLECTOR + trained(REFLECTOR, 0) + trained(VANILLA[:2] + REFLECTOR[2:], 1)
    frame = cells.comparisons(cells.outcomes(lines), "t", "m").set_index("question")
    assert set(frame["a"]) == {"trained/mean/second/own", "trained/mean/first/"} and len(frame) == 4
    own = frame.loc["training improves the second try"]
    assert (own["difference"], own["seeds"], own["lowest"], own["highest"]) == (0.375, 2, 0.25, 0.5)
    assert (own["a_only"], own["b_only"]) == (2, 0)  # b in one of two seeds, c in both
    blind = frame.loc["reflecting beats trying again"]
    assert (blind["difference"], blind["lowest"], blind["a_only"], blind["b_only"]) == (0.125, 0.0, 1, 1)
    assert frame.loc["training improves the first try", "difference"] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_a_finding_says_in_words_what_was_found(sign):
    base = [line(str(k), "vanilla", k % 3 == 0, own=sign < 0) for k in range(60)]
    other = [line(str(k), "x", k % 3 == 0, own=sign > 0, blind=k % 7 == 0) for k in range(60)]
    worse = [line(str(k), "x", k % 3 == 0, own=sign > 0 and k % 2 == 0, blind=k % 7 == 0) for k in range(60)]
    for seeds, said in (
        ([other], f"{sign * 66.7:+.1f} points in one seed"),
        ([other] * 3, f"{sign * 66.7:+.1f} points in the mean, {'above' if sign > 0 else 'below'} in 3 of 3 seeds"),
    ):
        lines = base + [one for seed, lines in enumerate(seeds) for one in trained(lines, seed)]
        found = cells.comparisons(cells.outcomes(lines), "t", "m").set_index("question")["finding"]
        assert (
            found["training improves the second try"] == ("yes, " if sign > 0 else "no, the other way round: ") + said
        )
    if sign > 0:
        lines = base + trained(other, 0) + trained(worse, 1)
        own = cells.comparisons(cells.outcomes(lines), "t", "m").iloc[0]
        assert own["ci_low"] < 0 and own["finding"].endswith(
            "in 2 of 2 seeds; other seeds may differ, the interval holds 0"
        )


def test_holm_corrects_over_both_decodings_together():
    base = [line(str(k), "vanilla", k % 3 == 0) for k in range(60)]
    both = base + trained([line(str(k), "x", k % 3 == 0, own=k < 14) for k in range(60)], 0)
    one = cells.comparisons(cells.outcomes(both), "t", "m")
    two = cells.comparisons(cells.outcomes(both + [x | {"decoding": "sampled"} for x in both]), "t", "m")
    assert len(two) == 2 * len(one) == 8 and two["decoding"].tolist() == ["greedy"] * 4 + ["sampled"] * 4
    assert one["p_holm"].iloc[0] == pytest.approx(4 * one["p"].iloc[0])
    assert two["p_holm"].iloc[0] == pytest.approx(8 * one["p"].iloc[0])


def test_without_a_trained_model_there_is_nothing_to_compare():
    assert cells.comparisons(cells.outcomes(VANILLA), "t", "m").empty


def test_seeds_are_averaged_item_by_item():
    worse = [s | {"seed": 1, "second": VANILLA[k]["second"]} for k, s in enumerate(REFLECTOR)]
    frame = cells.over_seeds(cells.outcomes(VANILLA + REFLECTOR + worse), "countdown", "embedded")
    own = frame[(frame["policy"] == "reflector") & (frame["control"] == "own")].iloc[0]
    assert (own["accuracy"], own["seeds"], own["lowest"], own["highest"]) == (0.5, 2, 0.25, 0.75)
    assert frame[(frame["policy"] == "vanilla") & (frame["attempt"] == "first")]["seeds"].item() == 1
    assert own["ci_low"] == 0 and own["ci_high"] == 1  # two seeds 50 points apart; no share is below 0 or above 1
    first = frame[(frame["policy"] == "reflector") & (frame["control"] == "")].iloc[0]
    assert 0 <= first["ci_low"] < 0.25 < first["ci_high"] < 1


def test_always_counts_alone_and_must_be_on_every_line():
    frame = cells.outcomes(VANILLA).set_index("id")
    assert frame["always"].tolist() == [0, 0, 0, 1] and frame["fresh"].tolist() == [1, 1, 1, 0]
    with pytest.raises(ResultsError, match="'a' of vanilla/ .* no second try 'always'"):
        cells.outcomes([VANILLA[0] | {"second": {}}, *VANILLA[1:]])
    stale = VANILLA[0] | {"second": VANILLA[1]["second"]}  # a try that a right first one does not need
    assert cells.outcomes([stale, *VANILLA[1:]]).set_index("id").loc["a", "own"] == 1


def test_all_right_at_first_makes_the_second_try_as_right():
    frame = cells.cells([line("a", "vanilla", True), line("b", "vanilla", True)], "t", "m", "h")
    assert (
        frame["control"].tolist() == ["", "own", "blind", "always"]
        and frame["accuracy"].tolist() == [1, 1, 1, 0]
        and (frame["ci_low"] < 1).all()
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has not written a line"),
        (VANILLA + VANILLA[:1], "'a' is there twice"),
        (
            VANILLA[:3] + [VANILLA[3] | {"second": {x: VANILLA[3]["second"][x] for x in ("own", "always")}}],
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
    lost = before - cells.rescore(evaluated).set_index(["decoding", "control"])["correct"]
    assert lost["greedy"].to_dict() == {name: int(name not in EVERY_ITEM) for name in ("", *CONTROLS)}
    assert set(lost["sampled"]) == {0}


def test_rescoring_no_evaluation_is_one_plain_line(tmp_path):
    with pytest.raises(ResultsError, match="not the folder of an evaluation"):
        cells.rescore(tmp_path)
