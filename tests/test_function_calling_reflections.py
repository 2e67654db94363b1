"""The function-calling task: the answers that a reflection states, and those that are hidden."""

from __future__ import annotations

import json
import time

import pytest
from helpers_calls import GOLD, OSLO, PAIR, PLAY, ROW

from rrr_utils.settings import ROOT
from rrr_utils.tasks import cut, function_calling, told


def one(**arguments) -> str:
    return json.dumps([{"name": "weather", "arguments": arguments}])


# --- what a reflection states ----------------------------------------------------------------------------------------

OTHER = one(city="Rome")


@pytest.mark.parametrize(
    ("text", "row", "passages"),
    [
        (f"I should call {GOLD}, not {OTHER}.", ROW, [GOLD]),
        (f"<tool_call>{json.dumps(OSLO)}</tool_call> or {GOLD}", ROW, [json.dumps(OSLO), GOLD]),
        (f"{one(city='Oslo', days=2, units='metric')} has the default too", ROW,
         [one(city="Oslo", days=2, units="metric")]),
        (f"both {json.dumps([PLAY, OSLO])} at once", PAIR, [json.dumps([PLAY, OSLO])]),
        (f"first {json.dumps(PLAY)} then {json.dumps(OSLO)}.", PAIR, [f"{json.dumps(PLAY)} then {json.dumps(OSLO)}"]),
        (f"only {GOLD}", PAIR, []),
        ("", ROW, []),
    ],
)  # fmt: skip
def test_passages_that_are_the_right_calls(text, row, passages):
    assert function_calling.answers_in(text, row) == passages
    gold = function_calling.answer_of(json.dumps(row["answers"]), row)
    assert [function_calling.answer_of(passage, row) for passage in passages] == [gold] * len(passages)
    assert function_calling.answers_in(cut(function_calling, text, row), row) == []


@pytest.mark.parametrize(
    ("text", "row", "passages", "left"),
    [
        ('Set city to "Oslo" and days to 2.', ROW, ['Set city to "Oslo" and days to 2.'], ""),
        ("I was late. city is oslo; it rains;\ndays is 2.", ROW, [" city is oslo;", "days is 2."], "I was late. it rains;\n"),
        ("Only Oslo is told.", ROW, [], "Only Oslo is told."),
        ("Oslofjord in 2.5 days, 12 and 2", ROW, [], "Oslofjord in 2.5 days, 12 and 2"),
        (f"{GOLD[:-1]}", ROW, [' "Oslo", "days":', " 2}}"], '[{"name": "weather", "arguments": {"city":'),
    ],
)  # fmt: skip
def test_an_answer_in_words_states_every_gold_value(text, row, passages, left):
    """Whether it names the tool or not; what is left without these clauses states them no more."""
    assert function_calling.answers_in(text, row) == passages
    assert cut(function_calling, text, row) == left


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I should be more careful.", "empty"),
        ("The answer must be only JSON.", "form"),
        ("I must write the calls and nothing else.", "form"),
        ("I should have used `weather` here.", "tool"),
        ("The `city` was not given in the right `days`.", "empty"),
        ("The city is oslo.", "values"),
        ("Take 'Rome', not what I took.", "values"),
        ("41 - 4 = 37", "values"),
        ("Call weather for 3 days.", "call"),
        (GOLD, "call"),
        ("", "empty"),
    ],
)
def test_kinds_are_told_by_what_a_reflection_names_and_states(text, expected):
    assert told(function_calling, "kind", text, ROW) == expected


def test_wrong_sums_are_found():
    text = "41 - 4 = 37; 37 + 2 = 38; 6 * 2 = 12. 6 * 7 = 43, 1.5 + 1 = 9; 9 + 1 = 10.5; 3 - 5 = -2"
    assert told(function_calling, "wrong_in", text, ROW) == ["37 + 2 = 38", "6 * 7 = 43"]


def test_equal_answers_are_equal_and_others_are_not():
    def of(*calls_, around="{}"):
        return function_calling.answer_of(around.format(json.dumps(calls_)), ROW)

    assert of(OSLO, PLAY) == of(PLAY, OSLO) == of(PLAY, OSLO, around="I call {} now")
    assert of({"name": "weather", "arguments": {"city": "Oslo"}}) == function_calling.answer_of(
        one(days=1.0, city="Oslo", units="metric"), ROW
    )
    assert len({of(OSLO), of(OSLO, OSLO), of(PLAY), function_calling.answer_of(OTHER, ROW)}) == 4
    assert [function_calling.answer_of(text, ROW) for text in ("", "[]", "{", "Oslo")] == [None] * 4


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (GOLD, '[{"name": "weather", "arguments": {"city": "?", "days": ?}}]'),
        ("It's `city` that isn't 'Oslo', don't say \"New \\\"York\\\"\" -3.5 times.",
         "It's `city` that isn't '?', don't say \"?\" ? times."),
        ("tool_2 wants 2km, not v3", "tool_2 wants ?km, not v3"),
        ("no values", "no values"),
        ("", ""),
    ],
)  # fmt: skip
def test_masked_are_values_and_not_names(text, masked):
    assert function_calling.mask(text, ROW) == masked


@pytest.mark.parametrize(
    "text",
    ["'" * 50_000, '"\\' * 50_000, "'\\" * 50_000, "a'" * 50_000, " '" * 50_000 + "x", "\"'`" * 30_000, "-" * 50_000,
     "1." * 50_000, "[{" * 50_000, GOLD * 1_000, GOLD[:-1] * 2_000, "\ud800" * 1_000, "\\'" * 50_000 + "'"],
    ids=range(13),
)  # fmt: skip
def test_hostile_reflections_take_linear_time(text):
    began = time.process_time()
    for name in ("mask", "answers_in", "answer_of", "kind", "wrong_in"):
        told(function_calling, name, text, PAIR)
    cut(function_calling, text, ROW)
    assert time.process_time() - began < 5


def test_real_rows_state_and_hide_their_answers():
    path = ROOT.parent / "shared" / "data" / "bfcl_as_apigen.jsonl"
    if not path.is_file():
        pytest.skip("no such data here")
    hidden = 0
    for line in path.read_text(encoding="utf-8").splitlines()[::5]:
        stored = json.loads(line)
        row = {**stored, "tools": json.loads(stored["tools"]), "answers": json.loads(stored["answers"])}
        gold = json.dumps(row["answers"])
        text = f"I was wrong. It must be {gold} and no other."
        assert function_calling.answers_in(text, row) == [gold], row["id"]
        assert cut(function_calling, text, row) == "I was wrong. It must be and no other."
        assert function_calling.answer_of(text, row) == function_calling.answer_of(gold, row) is not None
        masked = function_calling.mask(text, row)
        assert all(call["name"] in masked for call in row["answers"])
        hidden += function_calling.answers_in(masked, row) == []
    assert hidden / len(path.read_text(encoding="utf-8").splitlines()[::5]) > 0.95  # what is left: no values, or truth
