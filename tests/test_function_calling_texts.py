"""The function-calling task on any text: hostile, mutated, made up; what it raises, how long it takes, and what stays true."""

from __future__ import annotations

import functools
import json
import random

import pytest
from helpers_calls import GOLD, OSLO, PAIR, PLAY, RIGHT, ROW, written
from hypothesis import given, settings
from hypothesis import strategies as st

from rrr_utils.tasks import Verdict, strictjson
from rrr_utils.tasks.function_calling import ERRORS, verify


def one(**arguments) -> str:
    return json.dumps([{"name": "weather", "arguments": arguments}])


DEEP = "[" * 100_000
HOSTILE = {
    "NaN": '[{"name": "weather", "arguments": {"city": NaN, "days": 2}}]',
    "Infinity": '[{"name": "weather", "arguments": {"city": -Infinity, "days": 2}}]',
    "overflow": '[{"name": "weather", "arguments": {"city": "Oslo", "days": 1e999}}]',
    "vanishing": '[{"name": "weather", "arguments": {"city": "Oslo", "days": 2e-999}}]',
    "duplicate key": '[{"name": "weather", "arguments": {"city": "Rome", "city": "Oslo", "days": 2}}]',
    "duplicate name": '[{"name": "play", "name": "weather", "arguments": {"city": "Oslo", "days": 2}}]',
    "5,000 digits": f'[{{"name": "weather", "arguments": {{"city": "Oslo", "days": {"9" * 5000}}}}}]',
    "5,000 digits of a float": f'[{{"name": "weather", "arguments": {{"city": "Oslo", "days": 2.{"0" * 5000}}}}}]',
    "deep": DEEP,
    "deep and closed": DEEP + "]" * 100_000,
    "deep in an argument": '[{"name": "weather", "arguments": {"city": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}}]",
    "65 levels": '[{"name": "weather", "arguments": {"city": ' + "[" * 62 + "]" * 62 + "}}]",
    "lone surrogate": GOLD.replace("Oslo", "\ud800"),
    "escaped lone surrogate": GOLD.replace("Oslo", "\\ud800"),
    "NUL": GOLD.replace("Oslo", "\x00"),
    "newline in a string": GOLD.replace("Oslo", "Os\nlo"),
    "too long": "[" + " " * (1 << 20) + "]",
    "byte order mark": "\ufeff" + GOLD,
    "other white space": "\u00a0" + GOLD,
    "comment": GOLD + " // done",
    "trailing comma": GOLD.replace("}]", "},]"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_bad_json(name):
    verdict = verify(HOSTILE[name], ROW)
    assert (verdict.correct, verdict.error) == (False, "bad_json")


@pytest.mark.parametrize(
    "text", [HOSTILE[name] for name in HOSTILE if name not in ("byte order mark", "other white space", "comment")]
)
def test_hostile_text_is_wrong_leniently_too(text):
    assert not verify(text, ROW).lenient
    assert not verify(f"Here: {text}", ROW).correct


def test_brackets_inside_strings_are_no_depth():
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"city": "[{" * 500 + '"\\' * 10}}]}
    assert verify(json.dumps(row["answers"]), row) == RIGHT
    assert verify(f"So: {json.dumps(row['answers'])}.", row) == Verdict(False, "bad_json", True)


def test_text_of_other_types_is_no_answer():
    assert verify(None, ROW) == Verdict(False, "no_json", False)


# --- properties ------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
value = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
call = st.fixed_dictionaries(
    {"name": st.sampled_from(["weather", "play"]), "arguments": st.dictionaries(text, value, max_size=4)}
)
answer = st.lists(call, min_size=1, max_size=4)


def places(value, path=()):
    """Paths to every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


@settings(max_examples=200, deadline=None)
@given(answer, st.randoms(use_true_random=False))
def test_gold_verifies_however_it_is_written(gold, rng):
    calls_ = gold[:]
    rng.shuffle(calls_)
    assert verify(written(calls_, rng), {**ROW, "answers": gold}) == RIGHT


@settings(max_examples=300, deadline=None)
@given(answer, st.data())
def test_any_change_of_one_value_is_wrong(gold, data):
    changed = json.loads(json.dumps(gold))
    paths = [(i, "arguments", *path) for i, item in enumerate(gold) for path in places(item["arguments"])] + [
        (0, "name")
    ]
    path = data.draw(st.sampled_from(paths))
    where = functools.reduce(lambda inner, key: inner[key], path[:-1], changed)
    where[path[-1]] = data.draw(
        value.filter(lambda new: strictjson.canonical(new) != strictjson.canonical(where[path[-1]]))
    )
    verdict = verify(json.dumps(changed), {**ROW, "answers": gold})
    assert not verdict.correct and not verdict.lenient and verdict.error in ERRORS


PIECES = [
    *'{}[]",:\\', "'", "\n", "\x00", "\ud800", "\udfff", "é", "١", "\u2028", "NaN", "-Infinity", "1e999", "9" * 500,
    "-", "0", "true", "null", "<tool_call>", "</tool_call>", "```json", "```", '"name":', '"arguments":', "\\ud800",
    "\\u0000", "[" * 70, '{"a":' * 70, GOLD, json.dumps(PLAY),
]  # fmt: skip


def mutated(rng: random.Random) -> str:
    text = rng.choice(
        [
            GOLD,
            json.dumps([PLAY, OSLO]),
            f"```json\n{GOLD}\n```",
            f"<tool_call>{json.dumps(PLAY)}</tool_call>",
            f"So: {GOLD}.",
        ]
    )
    for _ in range(rng.randint(1, 5)):
        at, end = sorted(rng.choices(range(len(text) + 1), k=2))
        end = min(end, at + rng.randint(0, 12))
        text = text[:at] + rng.choice([rng.choice(PIECES), "", text[at:end] * 2]) + text[end:]
    return text


def mutate(count: int) -> None:
    rng = random.Random(0)
    for _ in range(count):
        text = mutated(rng)
        verdict = verify(text, PAIR)
        assert verdict.error in ERRORS or verdict == RIGHT, text
        assert verdict.lenient or not verdict.correct


def test_mutated_answers_raise_nothing():
    mutate(20_000)


@pytest.mark.slow
def test_100_000_mutated_answers_raise_nothing():
    mutate(100_000)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(st.sampled_from(list('{}[]",:\\ naemrgutsp1e')), max_size=60))
def test_any_text_raises_nothing(text):
    assert verify(text, ROW).error in ERRORS
