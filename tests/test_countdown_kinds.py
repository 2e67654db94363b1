"""Reflections told by their content: the embedded model's notation, running text, hostile text."""

from __future__ import annotations

import random
import time

import pytest

from rrr_utils.miniature import corpus
from rrr_utils.report import kinds
from rrr_utils.tasks import countdown, countdown_kinds
from rrr_utils.tasks.countdown_kinds import classify

ROW = {"nums": [3, 9, 4], "target": 31}


@pytest.mark.parametrize("kind", list(corpus.KINDS))
def test_every_reflection_of_the_corpus_is_told_as_what_it_is(kind):
    rng = random.Random(0)
    for problem in [p for p in countdown.load("pretrain", 250, 0) if corpus.solvable(p)]:
        rows = corpus.steps(problem["nums"])
        text, found = corpus.reflection(kind, problem, rows, corpus.wrong(rows, problem["target"], rng)[1], rng)
        told = classify(text, problem)
        assert told.kind == kind, (text, problem)
        if kind == "search":
            assert (told.hits, told.claims) == (found is not None, found is not None), (text, problem)
        elif kind == "first_step":
            assert told[1:] == (1, False, False), (text, problem)
        else:
            assert told[1:] == (0, False, False)


@pytest.mark.parametrize(
    ("text", "kind", "expressions", "hits", "claims"),
    [
        ("", "empty", 0, False, False),
        ("yes yes .", "empty", 0, False, False),
        # RL drops words: the content stays
        ("31 ; 9 * 3 = 27 : + 31", "search", 2, True, True),
        ("was 27 but 31 low 4", "value", 0, False, False),
        ("9 * 3 = 27", "first_step", 1, False, False),
        # wrong arithmetic, wrong claims, numbers that were not given
        ("Aim 31 ; 9 * 3 = 28 : + 32 - 24 .", "search", 3, False, False),
        ("Aim 31 ; 9 * 3 = 28 : + 31 yes .", "search", 2, False, True),
        ("Aim 31 ; 9 + 3 = 12 : + 31 yes .", "search", 2, False, True),
        ("Aim 31 ; 9 * 9 = 81 : - 31 yes .", "search", 2, False, True),
        ("Aim 31 ; 9 + 3 = 12 : + 16 ; 9 + 3 = 12 : + 16 .", "search", 4, False, False),
        ("9 - 3 = 6 ; 3 * 9 = 27 ; 9 * 3 = 27", "search", 3, False, False),
        # running text
        ("(9*3)+4=31", "search", 1, True, True),
        ("9 × 3 = 27, and 27 + 4 = 31, which hits the target.", "search", 2, True, True),
        ("I computed 9 * 3 = 27 + 4 = 31", "search", 2, True, True),
        ("Note that 31 = 9*3+4.", "search", 1, True, True),
        ("1. 9*3 = 27\n2. 27 - 4 = 23\n- 9 - 3 = 6", "search", 3, False, False),
        ("9 * 3 = 28, then 28 + 3 = 31", "search", 2, False, False),
        ("I wrote $9 \\times 3 = 27$.", "first_step", 1, False, False),
        ("10 / 3 = 3.33", "first_step", 1, False, False),
        ("3 plus 4 equals 8", "first_step", 1, False, False),
        ("4 / 0 = 3 and 9 != 3 + 4", "usage", 0, False, False),
        ("I got 27 instead of 31.", "value", 0, False, False),
        ("I used 9 twice and forgot 4.", "usage", 0, False, False),
    ],
)
def test_content(text, kind, expressions, hits, claims):
    assert classify(text, ROW) == (kind, expressions, hits, claims)


def test_without_a_row_nothing_is_said_to_hit():
    told = classify("Aim 31 ; 9 * 3 = 27 : + 31 yes .")
    assert told == ("search", 2, False, True)
    assert classify("Add the parameter 'unit'.", {"tools": [], "query": ""}).kind == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "(" * 50_000, "-" * 100_000, "1" * 100_000, "1+" * 30_000 + "1=1", "9*3=27 " * 4_000, ": + 31" * 10_000,
        "9 * 3 = 27 :" + " + 31" * 10_000, "=" * 50_000, "\x00\ud800" * 10_000, "1 " * 30_000, "1+2+3=" * 4_000,
        "\n - " * 30_000, " " * 100_000, "٣ × ٩ = ٢٧ " * 3_000, "9 * 3 = 27 : 9 " * 3_000,
    ],
    ids=range(15),
)  # fmt: skip
def test_hostile_text_takes_linear_time(text):
    began = time.time()
    assert classify(text, ROW).kind in countdown_kinds.KINDS and classify(text).kind in countdown_kinds.KINDS
    assert time.time() - began < 5


def test_kinds_over_steps_and_the_table_of_an_evaluation():
    logged = [
        {"step": 1, "row": ROW, "reflection": "I should be more careful .", "reward": 0.0},
        {"step": 1, "row": ROW, "reflection": "Aim 31 ; 9 * 3 = 27 : + 31 yes .", "reward": 1.0},
        {"step": 2, "row": ROW, "reflection": "9 * 3 = 27", "reward": 0.5},
    ]
    frame = kinds.over_steps("countdown", logged)
    wanted = [[1, 2, 0.5, 0.5, 0.5, 0], [2, 1, 0.5, 0, 0, 1]]
    assert frame[["step", "n", "reward", "empty", "search", "first_step"]].values.tolist() == wanted
    assert kinds.over_steps("countdown", []).empty
    right, wrong = ({"correct": c, "error": None, "lenient": True} for c in (True, False))
    place = {"cluster": "x", "row": ROW, "policy": "vanilla", "seed": None, "decoding": "greedy"}
    own = {"reflection": "9 * 3 = 27", "retry": "", "verdict": wrong, "reflection_tokens": 6}
    lines = [
        {"id": "a", "verdict": right, "second": {}, **place},
        {"id": "b", "verdict": wrong, "second": {"own": own}, **place},
    ]
    table = kinds.table("countdown", lines)
    assert table[["id", "kind", "tokens", "recovered"]].values.tolist() == [["b", "first_step", 6, False]]
    assert kinds.table("countdown", lines, "lenient")["recovered"].tolist() == [True]
    assert kinds.table("countdown", []).empty
