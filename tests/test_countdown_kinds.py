"""Reflections told by their content: the embedded model's notation, running text, hostile text."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrr_utils import tasks
from rrr_utils.miniature import countdown as corpus
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
        "9 * 3 + 4 = 31 ; " * 1_500, "9 * 3 = 27 . " + "27 + 4 = 31 . " * 1_500, "9+3=12;" + "--12=12;" * 1_500,
        "[" * 20_000 + "9*3+4" + "]" * 20_000 + "=31", ";.\n" * 30_000 + "9*3+4",
    ],
    ids=range(20),
)  # fmt: skip
def test_hostile_text_takes_linear_time(text):
    began = time.process_time()
    assert classify(text, ROW).kind in countdown_kinds.KINDS and classify(text).kind in countdown_kinds.KINDS
    assert time.process_time() - began < 5
    for name in ("wrong_in", "answer_of"):
        tasks.told(countdown, name, text, ROW)
    tasks.cut(countdown, text, ROW)
    assert time.process_time() - began < 10


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


SEARCH = "Aim 31 ; 9 - 3 = 6 and 4 : + 10 31 - 2 31 ; 9 * 3 = 27 and 4 : + 31 31 yes ."
FORM = "((3*9)+4)"


@pytest.mark.parametrize(
    ("text", "passages", "left"),
    [
        (SEARCH, ["; 9 * 3 = 27 and 4 : + 31 31 yes"], "Aim 31 ; 9 - 3 = 6 and 4 : + 10 31 - 2 31 ."),
        ("Aim 31 ; 9 * 3 = 27 and 4 : + 31 ; 9 - 4 = 5 and 3 : + 8 .", ["; 9 * 3 = 27 and 4 : + 31"],
         "Aim 31 ; 9 - 4 = 5 and 3 : + 8 ."),
        ("(9*3)+4=31", ["(9*3)+4=31"], ""),
        ("I was hasty. Note that 31 = 4 + 3*9! Good.", [". Note that 31 = 4 + 3*9"], "I was hasty! Good."),
        # a sum in a sentence before is part of the answer; what is only near it is not
        ("Think. 9 × 3 = 27, 27 + 4 = 31, the target. Done.", [". 9 × 3 = 27, 27 + 4 = 31, the target"],
         "Think. Done."),
        ("So:\n1. 9-3=6\n2. 3 * 9 = 27\n3. That is near.\n4. 27 + 4 = 31\n5. Stop",
         ["\n2. 3 * 9 = 27\n3. That is near.\n4. 27 + 4 = 31"], "So:\n1. 9-3=6\n5. Stop"),
        ("Write (9 * 3) + 4 next time.", ["Write (9 * 3) + 4 next time"], "."),
        ("I say [9 \\times 3] + 4 equals 31. Try that.", ["I say [9 \\times 3] + 4 equals 31"], ". Try that."),
        ("9*3+4=31; 9*3+4=31; no", ["9*3+4=31", "; 9*3+4=31"], "; no"),
        # no answer: wrong on the way, wrong at the end, other numbers, a number twice, words
        ("9 + 3 = 27 and 4 : + 31 yes", [], None),
        ("9 * 3 + 4 = 30", [], None),
        ("9 * 3 = 27 and 4 : + 30", [], None),
        ("30 + 1 = 31 and 9 + 9 + 9 + 4 = 31", [], None),
        ("9 * 3 = 28, 28 + 3 = 31", [], None),
        ("Aim 31 . Nine times three plus four .", [], None),
        ("", [], None),
    ],
)  # fmt: skip
def test_passages_that_state_a_right_answer_and_what_is_left_without_them(text, passages, left):
    assert countdown.answers_in(text, ROW) == passages
    assert tasks.cut(countdown, text, ROW) == (text if left is None else left)
    assert [countdown.answer_of(passage, ROW) for passage in passages] == [FORM] * len(passages)


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        ("Aim 31 ; 9 - 3 = 5 and 4 : + 9 ; 9 * 3 = 27 and 4 : + 31 yes .", ["; 9 - 3 = 5 and 4 : + 9"]),
        ("Aim 31 ; 9 * 3 = 27 and 4 : + 31 - 22 .", ["; 9 * 3 = 27 and 4 : + 31 - 22"]),
        ("I got 3 + 4 = 8. And 10 / 3 = 3.33, 9 - 4 = 5.", ["I got 3 + 4 = 8"]),
        ("50 + 1 = 52, but 9 * 3 = 27", ["50 + 1 = 52, but 9 * 3 = 27"]),
        ("50 + 1 = 51 : + 77", []),  # which number is left cannot be told
        (SEARCH, []),
        ("", []),
    ],
)
def test_passages_with_a_wrong_sum(text, passages):
    assert countdown.wrong_in(text, ROW) == passages


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("<answer> ( 9 * 3 ) + 4 </answer>", FORM),
        ("<answer> 4 + ( 3 * 9 ) </answer>", FORM),
        ("so <answer>3</answer> no <answer> 3 × 9 + 4 = 31 </answer>.", FORM),
        ("3 * 9 + 4", FORM),
        ("<answer> 9 * 3 - 4 </answer>", "((3*9)-4)"),
        ("<answer> 4 - 9 * 3 </answer>", "(4-(3*9))"),
        ("<answer> 4 - -(3 * 9) </answer>", "(4--(3*9))"),
        ("<answer> 9 ** 3 </answer>", None),
        ("<answer> (9 * 3) + 4", FORM),
        ("9 * 3 + 5", None),
        ("", None),
    ],
)
def test_the_answer_of_a_completion(text, form):
    assert countdown.answer_of(text, ROW) == form


def test_the_search_states_the_very_answer_that_the_corpus_lets_follow_it():
    found = 0
    for problem in [p for p in countdown.load("pretrain", 250, 0) if corpus.solvable(p)]:
        possible = corpus.steps(problem["nums"])
        text, answer = corpus.search(possible, problem["target"], found, 5)
        passages = countdown.answers_in(text, problem)
        assert len(passages) == (answer is not None)
        if passages:
            found += 1
            assert countdown.answer_of(passages[0], problem) == countdown.answer_of(answer, problem) is not None
            assert tasks.cut(countdown, text, problem) == text.rpartition(" ;")[0] + " ."
    assert found > 50


PIECES = [
    "9 * 3 = 27", "27 + 4 = 31", "and 4 :", "+ 31", "- 23", "9 + 3 = 12", "12 - 4 = 8", "4 + 27 = 31", "(9*3)+4", "= 31",
    "9 * 3 = 28", "28 + 3 = 31", "27", "4", ";", ".", ",", "\n", "\n2. ", "- ", " yes ", "Aim 31", "3 * 9", "!", "?", " x ",
    "\\times", "٣", "(", "<answer>", "</answer>", "12 + 15 = 27", "9 - 4 = 5",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=25), st.sampled_from(["", " "]))
def test_any_text_has_passages_of_its_own_that_stand_alone_and_none_when_they_are_cut(pieces, between):
    text = between.join(pieces)
    answers = countdown_kinds.answers(text, ROW)
    assert not countdown_kinds.classify(text, ROW).hits or answers
    at = 0
    for passage, form in answers:
        at = text.index(passage, at) + len(passage)
        assert form in {other for _, other in countdown_kinds.answers(passage, ROW)}
    for passage in countdown.wrong_in(text, ROW):
        assert passage and passage in text
    left = tasks.cut(countdown, text, ROW)
    assert countdown.answers_in(left, ROW) == []
    assert (left == text) == (not answers)
    countdown.answer_of(text, ROW)


def test_masked_text_is_the_corpus_own():
    rng = random.Random(0)
    rows = [p for p in countdown.load("pretrain", 250, 0) if corpus.solvable(p)]
    known = {corpus.from_mixture(rows, rng, "masked")[1][3]["content"] for _ in range(2_000)}
    ours = {countdown.mask(corpus.search(corpus.steps(p["nums"]), p["target"], 0, 3)[0], p) for p in rows}
    assert len(ours) > 10 and len(ours & known) > 10
    assert countdown.mask("1. In 3.5 tries, -12 and ٣!", ROW) == "?. In ?.? tries, -? and ?!"
    assert countdown.GENERIC in corpus.GENERIC
