"""The error analysis: counts by hand, shares, the paper's beside them, a figure whose rows are what is drawn."""

from __future__ import annotations

import pandas as pd
import pytest
from test_claims import CALLS, SMALL, row, tries

from rrr_utils.report import error_kinds
from rrr_utils.tasks import countdown, function_calling

BEFORE = ["right"] * 2 + ["again"] * 2 + ["wrong_numbers"] * 4 + ["no_answer"] * 2
AFTER = (["right"] * 5 + ["missed_target"] * 5, ["right"] * 7 + ["wrong_numbers"] * 1 + ["missed_target"] * 2)


@pytest.fixture
def made():
    lines = tries("vanilla", None, BEFORE, own="missed_target")
    lines += [line for seed, said in enumerate(AFTER) for line in tries("trained", seed, said)]
    return row(SMALL, lines)


def test_counts_and_shares_by_hand(made):
    frame = error_kinds.table(made)
    assert list(frame.columns) == error_kinds.COLUMNS and len(frame) == 4 * len(countdown.ERRORS)
    got = frame.set_index(["policy", "try", "error"])
    n = {key: int(count) for key, count in got["n"].items() if count}
    assert n == {
        ("vanilla", "first", "missed_target"): 2,  # those that the retry gets right
        ("vanilla", "first", "wrong_numbers"): 4,
        ("vanilla", "first", "no_answer"): 2,
        ("vanilla", "second", "missed_target"): 6,  # the retry's kind counts, not the first try's
        ("trained", "first", "missed_target"): 7,  # of both seeds
        ("trained", "first", "wrong_numbers"): 1,
        ("trained", "second", "missed_target"): 7,
        ("trained", "second", "wrong_numbers"): 1,
    }
    one = got.loc[("trained", "first", "missed_target")]
    assert (one.errors, one.problems, one.of_errors, one.of_all) == (8, 20, 7 / 8, 7 / 20)
    assert got.loc[("vanilla", "second", "missed_target"), "of_errors"] == 1


def test_what_is_right_is_no_error_whatever_its_kind(made):
    lenient = [x | {"verdict": {"correct": False, "error": "no_answer", "lenient": True}} for x in made.samples]
    settings = made.settings.model_copy(update={"verdict": "lenient"})
    frame = error_kinds.table(made._replace(samples=lenient, settings=settings))
    assert frame["n"].sum() == frame["errors"].sum() == 0 and frame["of_errors"].isna().all()
    assert (
        "-" in error_kinds.in_words(made, frame).to_numpy()
        and "nan" not in error_kinds.in_words(made, frame).to_string()
    )


def test_the_papers_share_stands_beside_its_own_model_alone(made):
    printed = error_kinds.in_words(made, error_kinds.table(made)).set_index("error")
    assert printed.loc["missed target", "the paper"] == "14.4 to 30.2 (S)" and (printed["the paper"] != "").sum() == 1
    assert printed.loc["wrong numbers", "first, untrained"] == "50.0 (4)"
    other = made._replace(model="embedded")
    assert "the paper" not in error_kinds.in_words(other, error_kinds.table(other))


@pytest.mark.parametrize("task", ["countdown", "function_calling"])
def test_the_figure_is_what_its_rows_say(made, task, tmp_path):
    if task == "function_calling":
        kinds = list(function_calling.ERRORS)
        made = row(f"a/{CALLS[0]}", tries("vanilla", None, kinds) + tries("trained", 0, ["right", *kinds[1:]]), task)
    frame = error_kinds.table(made)
    for folder in ("a", "b"):
        path = error_kinds.figure(made, frame, tmp_path / folder / "errors")
    drawn = path.with_suffix(".svg").read_text()
    for piece in ("missed target" if task == "countdown" else "wrong argument values", "second try, trained", "greedy"):
        assert piece in drawn
    assert "nan" not in drawn.lower() and path.stat().st_size > 10_000
    assert path.read_bytes() == (tmp_path / "a" / "errors.png").read_bytes()
    assert pd.read_csv(path.with_suffix(".csv"))["n"].tolist() == frame["n"].tolist()


def test_a_row_that_is_not_trained_is_drawn_alone(tmp_path):
    alone = row(SMALL, tries("vanilla", None, BEFORE))
    frame = error_kinds.table(alone)
    assert set(frame["policy"]) == {"vanilla"} and error_kinds.figure(alone, frame, tmp_path / "alone").is_file()
    assert list(error_kinds.in_words(alone, frame).columns) == [
        "error",
        "first, untrained",
        "second, untrained",
        "the paper",
    ]
