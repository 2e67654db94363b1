"""The function-calling task: which answers are right, strictly and leniently, and what is wrong with the others."""

from __future__ import annotations

import json

import pytest
from helpers_calls import GOLD, OSLO, PAIR, PLAY, RIGHT, ROW, TOOLS

from rrr_utils.tasks import Verdict, calls, check, function_calling
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
