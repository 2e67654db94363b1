"""The function-calling task: what its verifier takes and refuses."""

from __future__ import annotations

import functools
import json
import random
import time

import pytest
from helpers_calls import GOLD, OSLO, PAIR, PLAY, RIGHT, ROW, TOOLS, written
from hypothesis import given, settings
from hypothesis import strategies as st

from rrr_utils.settings import ROOT
from rrr_utils.tasks import Verdict, calls, check, cut, function_calling, strictjson, told
from rrr_utils.tasks.function_calling import ERRORS, verify


def one(**arguments) -> str:
    return json.dumps([{"name": "weather", "arguments": arguments}])


# --- what is right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        GOLD,
        f"\n {GOLD} \r\n",
        json.dumps(OSLO),
        f"```json\n{GOLD}\n```",
        f"```json {json.dumps(OSLO)} ```",
        f"<tool_call>\n{json.dumps(OSLO)}\n</tool_call>",
        json.dumps({"name": "weather", "parameters": OSLO["arguments"]}),
        '[{"arguments": {"days": 2.0, "city": "Oslo"}, "name": "weather"}]',
        '[{"name": "weather", "arguments": {"city": "\\u004fslo", "days": 2e0}}]',
    ],
)
def test_forms(text):
    assert verify(text, ROW) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([PLAY, OSLO]),
        f"<tool_call>{json.dumps(PLAY)}</tool_call>\n<tool_call>{json.dumps(OSLO)}</tool_call>",
        '[{"name": "play", "arguments": {"loud": true, "ids": [1, 2.50]}}, ' + GOLD[1:],
    ],
)
def test_parallel_calls_in_any_order(text):
    assert verify(text, PAIR) == RIGHT


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no_json"),
        ("I cannot do that.", "no_json"),
        ('"weather"', "no_json"),
        ("null", "no_json"),
        (GOLD[:-1], "bad_json"),
        (GOLD + "]", "bad_json"),
        (GOLD.replace('"', "'"), "bad_json"),
        ("{}", "bad_json"),
        ("[1]", "bad_json"),
        ("[[]]", "bad_json"),
        ('[{"name": "weather"}]', "bad_json"),
        ('[{"name": 5, "arguments": {}}]', "bad_json"),
        ('[{"name": "weather", "arguments": ["Oslo", 2]}]', "bad_json"),
        ('[{"name": "weather", "arguments": null}]', "bad_json"),
        ('[{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 2}"}]', "bad_json"),
        ('[{"name": "weather", "arguments": {"city": "Oslo", "days": 2}, "id": 1}]', "bad_json"),
        ('[{"name": "weather", "arguments": {"city": "Oslo", "days": 2}, "parameters": {}}]', "bad_json"),
        ("<tool_call></tool_call>", "no_json"),
        ("<tool_call>" + json.dumps(OSLO), "bad_json"),
        ('[{"name": "storm", "arguments": {"city": "Oslo", "days": 2}}]', "unknown_tool"),
        ('[{"name": "Weather", "arguments": {"city": "Oslo", "days": 2}}]', "unknown_tool"),
        ("[]", "wrong_number_of_calls"),
        (json.dumps([OSLO, OSLO]), "wrong_number_of_calls"),
        (json.dumps([PLAY]), "wrong_tool"),
        (one(city="Oslo", day=2), "wrong_argument_names"),
        (one(city="Oslo", days=2, units="metric"), "wrong_argument_names"),
        (one(city="oslo", days=2), "wrong_argument_values"),
        (one(city="Oslo ", days=2), "wrong_argument_values"),
        (one(city="Oslo", days="2"), "wrong_argument_values"),
        (one(city="Oslo", days=-2), "wrong_argument_values"),
        (one(city=["Oslo"], days=2), "wrong_argument_values"),
        (one(city="Oslo", days=[2]), "wrong_argument_values"),
    ],
)
def test_error_kinds(text, error):
    verdict = verify(text, ROW)
    assert (verdict.correct, verdict.error) == (False, error)


def test_each_error_kind_is_a_known_one():
    assert check(function_calling, "function_calling") is function_calling
    assert len(set(ERRORS)) == len(ERRORS) == 7


def test_truth_is_no_number_and_order_counts_in_arrays():
    row = {**ROW, "answers": [PLAY]}
    call = '[{"name": "play", "arguments": {"ids": %s, "loud": %s}}]'
    assert verify(call % ("[1, 2.5]", "true"), row) == RIGHT
    for ids, loud in [
        ("[1, 2.5]", "1"),
        ("[1, 2.5]", "1.0"),
        ("[true, 2.5]", "true"),
        ("[2.5, 1]", "true"),
        ('["1", 2.5]', "true"),
    ]:
        assert verify(call % (ids, loud), row).error == "wrong_argument_values"
    zero = {**ROW, "answers": [{"name": "weather", "arguments": {"days": 0}}]}
    assert verify('[{"name": "weather", "arguments": {"days": -0.0}}]', zero) == RIGHT
    assert verify('[{"name": "weather", "arguments": {"days": false}}]', zero).error == "wrong_argument_values"
    assert verify('[{"name": "weather", "arguments": {"days": null}}]', zero).error == "wrong_argument_values"


def test_a_string_is_not_a_number_nor_is_it_evaluated():
    """BFCL's checker holds '-5' equal to '5' and executes an expression in an argument."""
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"city": "5", "days": 4}}]}
    assert verify(one(city="-5", days=4), row).error == "wrong_argument_values"
    assert verify(one(city="5", days="2+2"), row).error == "wrong_argument_values"
    assert verify('[{"name": "weather", "arguments": {"city": "5", "days": 2+2}}]', row).error == "bad_json"
    assert verify('[{"name": "weather", "arguments": {"city": "5", "days": ٤}}]', row).error == "bad_json"


def test_large_numbers_are_compared_exactly():
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"days": 2**53 + 1}}]}
    assert verify(one(days=2**53 + 1), row) == RIGHT
    assert verify(one(days=2**53), row).error == "wrong_argument_values"
    assert verify(one(days=float(2**53)), row).error == "wrong_argument_values"


def test_two_tools_of_one_name():
    other = {"name": "weather", "parameters": {"place": {"type": "str"}}}
    assert calls.misfit([OSLO], [*TOOLS, other]) is None is calls.misfit([OSLO], [other, *TOOLS])
    assert calls.misfit([OSLO], [other]) == "'weather' has no parameter 'city'"
    assert calls.misfit([OSLO], []) == "'weather' is not among the tools"
    assert calls.misfit([{"name": "weather", "arguments": {}}], TOOLS) == "'weather' lacks its argument 'city'"
    schema = {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {}, "days": {}}, "required": ["city"]},
    }
    assert calls.misfit([OSLO], [schema]) is None
    assert (
        calls.misfit([{"name": "weather", "arguments": {"days": 1}}], [schema]) == "'weather' lacks its argument 'city'"
    )


def test_the_same_call_twice_is_a_multiset():
    row = {**ROW, "answers": [OSLO, OSLO, PLAY]}
    assert verify(json.dumps([OSLO, PLAY, OSLO]), row) == RIGHT
    assert verify(json.dumps([OSLO, PLAY, PLAY]), row).error == "wrong_tool"
    assert verify(json.dumps([OSLO, PLAY]), row).error == "wrong_number_of_calls"


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


# --- lenient ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"Sure, here you are: {GOLD} Anything else?",
        f"```\n{GOLD}\n```",
        f"I think this fits.\n```json\n{GOLD}\n```\nDone.",
        f"Let me see. <tool_call>{json.dumps(OSLO)}</tool_call>",
        f"<tool_call>{GOLD}</tool_call>",
        f"<|python_tag|>{json.dumps({'name': 'weather', 'parameters': OSLO['arguments']})}",
        f'First I thought [{{"name": "play", "arguments": {{}}}}], but it is {GOLD}',
        f"The tools are {json.dumps(TOOLS)} and my answer is {GOLD}",
        'He said "[" and then ' + GOLD,
    ],
)
def test_lenient_takes_text_around(text):
    verdict = verify(text, ROW)
    assert not verdict.correct and verdict.lenient and verdict.error == "bad_json"


def test_lenient_fills_defaults_on_both_sides():
    assert verify(one(city="Oslo", days=2, units="metric"), ROW) == Verdict(False, "wrong_argument_names", True)
    assert not verify(one(city="Oslo", days=2, units="imperial"), ROW).lenient
    assert not verify(one(city="Oslo"), ROW).lenient  # the default of days is 1, the query asks for 2
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"city": "Oslo", "days": 1}}]}
    assert verify(one(city="Oslo"), row) == Verdict(False, "wrong_argument_names", True)
    assert not verify(one(days=1), row).lenient  # city has no default


@pytest.mark.parametrize(
    "text", [GOLD.replace("2", "3"), "So " + GOLD.replace("2", "3"), "So " + GOLD[:-2], f"{GOLD} or {one(city='Rome')}"]
)
def test_lenient_is_not_that_lenient(text):
    assert not verify(text, ROW).lenient


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
        (f"{OTHER} {GOLD[:-1]}", ROW, []),
        ('Set city to "Oslo" and days to 2.', ROW, []),
        ("", ROW, []),
    ],
)  # fmt: skip
def test_passages_that_are_the_right_calls(text, row, passages):
    assert function_calling.answers_in(text, row) == passages
    gold = function_calling.answer_of(json.dumps(row["answers"]), row)
    assert [function_calling.answer_of(passage, row) for passage in passages] == [gold] * len(passages)
    assert function_calling.answers_in(cut(function_calling, text, row), row) == []


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
    for name in ("mask", "answers_in", "answer_of"):
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
