"""Tool calls: read them from what a model wrote, and compare them with others.

Covered: the written forms of calls, comparison by value, a tool's parameters and defaults.
Not covered: whether a value is of its parameter's type; nothing here runs a call or evaluates an argument.
All of it is linear in the length of the text (but for sorting), and no text raises anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rrr_utils.tasks.strictjson import MAX_CHARS, MAX_DEPTH, SPACE, STRING_OR_BRACKET, canonical, parse

_CALL_START = re.compile(r'(?:\[[ \t\r\n]*+)?\{[ \t\r\n]*+"(?:name|arguments|parameters)"')


# --- what a model wrote ----------------------------------------------------------------------------------------------


def read(text: str) -> tuple[list[dict] | None, str | None]:
    """The calls that a completion consists of, or the kind of error that keeps it from being read.

    Taken are a JSON array of `{"name", "arguments"}`, one such object, either of them fenced in ```json, and one or
    several `<tool_call>` blocks with an object each; `parameters` may stand for `arguments`. Nothing else may be around.

    >>> read('[{"name": "now", "arguments": {"zone": "UTC"}}]')
    ([{'name': 'now', 'arguments': {'zone': 'UTC'}}], None)
    >>> read('<tool_call> {"name": "a", "arguments": {}} </tool_call> <tool_call> {"name": "b", "parameters": {}} </tool_call>')
    ([{'name': 'a', 'arguments': {}}, {'name': 'b', 'arguments': {}}], None)
    >>> read("I do not know."), read('Sure: [{"name": "now", "arguments": {}}]')
    ((None, 'no_json'), (None, 'bad_json'))
    """
    if not isinstance(text, str) or ("{" not in text and "[" not in text):
        return None, "no_json"
    if len(text) > MAX_CHARS:
        return None, "bad_json"
    text = text.strip(SPACE)
    try:
        if text.startswith("<tool_call>"):
            return [_call(parse(block)) for block in _blocks(text)], None
        if text.startswith("```json") and text.endswith("```"):
            text = text[len("```json") : -len("```")].strip(SPACE)
        return as_calls(parse(text)), None
    except ValueError:
        return None, "bad_json"


def _blocks(text: str) -> list[str]:
    """What stands in each `<tool_call>` block of a text that consists of them.

    >>> _blocks("<tool_call>1</tool_call> <tool_call>2</tool_call>")
    ['1', '2']
    """
    *blocks, after = text.split("</tool_call>")
    blocks = [block.strip(SPACE) for block in blocks]
    if after.strip(SPACE) or not all(block.startswith("<tool_call>") for block in blocks):
        raise ValueError("something other than <tool_call> blocks")
    return [block.removeprefix("<tool_call>").strip(SPACE) for block in blocks]


def find(text: str) -> list[dict] | None:
    """The calls somewhere in a text: its last array of calls, else all single calls together; None where there are none.

    >>> find('First [{"name": "a", "arguments": {}}]; no: ```[{"name": "b", "arguments": {}}]``` it is.')
    [{'name': 'b', 'arguments': {}}]
    """
    if not isinstance(text, str) or len(text) > MAX_CHARS:
        return None
    array, singles, position = None, [], 0
    while start := _CALL_START.search(text, position):
        end = _end(text, start.start())
        if end is None:  # never closed, or too deep: whatever follows is inside of it
            break
        position = end
        try:
            value = parse(text[start.start() : end])
            if isinstance(value, list):
                array = as_calls(value)
            else:
                singles.append(_call(value))
        except ValueError:
            continue
    return array or singles or None


def _end(text: str, start: int) -> int | None:
    """Where the bracket that opens at `start` is closed."""
    depth = 0
    for match in STRING_OR_BRACKET.finditer(text, start):
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth -= 1
        if depth == 0:
            return match.end()
        if depth > MAX_DEPTH:
            return None
    return None


def as_calls(value: Any) -> list[dict]:
    """Calls out of a parsed array or a single object; ValueError where it holds anything else.

    >>> as_calls({"name": "now", "parameters": {}})
    [{'name': 'now', 'arguments': {}}]
    """
    return [_call(item) for item in (value if isinstance(value, list) else [value])]


def _call(value: Any) -> dict:
    if not isinstance(value, dict) or len(value) != 2 or not isinstance(value.get("name"), str):
        raise ValueError('a call must be an object of "name" and "arguments"')
    arguments = value["arguments"] if "arguments" in value else value.get("parameters")
    if not isinstance(arguments, dict):
        raise ValueError(f'the arguments of "{value["name"][:40]}" are no object')
    return {"name": value["name"], "arguments": arguments}


# --- comparison ------------------------------------------------------------------------------------------------------


def mistake(calls: list[dict], gold: list[dict], tools: list[dict]) -> str | None:
    """What is wrong with the calls, or None where they are the gold calls, in whatever order.

    >>> gold, tools = [{"name": "now", "arguments": {"zone": "UTC"}}], [{"name": "now"}, {"name": "today"}]
    >>> mistake(gold, gold, tools) is None
    True
    >>> mistake([{"name": "now", "arguments": {"zone": "CET"}}], gold, tools)
    'wrong_argument_values'
    """
    known = {tool["name"] for tool in tools}
    if any(call["name"] not in known for call in calls):
        # a gold answer may itself call a tool that its row lacks: equal is equal
        return None if _same(calls, gold, canonical) else "unknown_tool"
    if len(calls) != len(gold):
        return "wrong_number_of_calls"
    if not _same(calls, gold, lambda call: call["name"]):
        return "wrong_tool"
    if not _same(calls, gold, lambda call: (call["name"], sorted(call["arguments"]))):
        return "wrong_argument_names"
    return None if _same(calls, gold, canonical) else "wrong_argument_values"


def _same(a: list[dict], b: list[dict], key: Callable[[dict], Any]) -> bool:
    """Whether both are the same multiset. Sorted, so that many parallel calls take no quadratic time."""
    return len(a) == len(b) and sorted(map(key, a)) == sorted(map(key, b))


def parameters_of(tool: dict) -> dict[str, dict]:
    """A tool's parameters by name, written as APIGen does or as JSON Schema.

    >>> parameters_of({"name": "now", "parameters": {"zone": {"type": "str", "default": "UTC"}}})
    {'zone': {'type': 'str', 'default': 'UTC'}}
    >>> list(parameters_of({"name": "now", "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}))
    ['zone']
    """
    parameters = tool.get("parameters") or {}
    if parameters.get("type") == "object" and isinstance(parameters.get("properties", {}), dict):
        parameters = parameters.get("properties", {})
    return parameters


def filled(calls: list[dict], tools: list[dict]) -> list[dict]:
    """The calls with their omitted arguments set to the tool's defaults, where it has any.

    >>> filled([{"name": "now", "arguments": {}}], [{"name": "now", "parameters": {"zone": {"default": "UTC"}}}])
    [{'name': 'now', 'arguments': {'zone': 'UTC'}}]
    """
    called = {call["name"] for call in calls}
    defaults = {
        tool["name"]: {name: item["default"] for name, item in parameters_of(tool).items() if isinstance(item, dict) and "default" in item}
        for tool in tools
        if tool["name"] in called
    }
    return [{"name": call["name"], "arguments": {**defaults.get(call["name"], {}), **call["arguments"]}} for call in calls]


def misfit(calls: list[dict], tools: list[dict]) -> str | None:
    """Why calls do not fit the tools that they are offered, or None where they do. Types are not looked at.

    >>> misfit([{"name": "now", "arguments": {"place": "Oslo"}}], [{"name": "now", "parameters": {"zone": {"type": "str"}}}])
    "'now' has no parameter 'place'"
    """
    for call in calls:
        named = [tool for tool in tools if tool["name"] == call["name"]]  # a row may offer two tools of one name
        if not named:
            return f"'{call['name']}' is not among the tools"
        reasons = [_misfit(call, tool) for tool in named]
        if None not in reasons:
            return reasons[0]
    return None


def _misfit(call: dict, tool: dict) -> str | None:
    parameters = parameters_of(tool)
    for name in call["arguments"]:
        if name not in parameters:
            return f"'{call['name']}' has no parameter '{name}'"
    for name in _required(tool):
        if name not in call["arguments"]:
            return f"'{call['name']}' lacks its argument '{name}'"
    return None


def _required(tool: dict) -> list[str]:
    """Parameters without which a call makes no sense: APIGen marks the others "optional" or gives a default for them."""
    schema = tool.get("parameters") or {}
    if schema.get("type") == "object":
        required = schema.get("required")
        return [name for name in required if name in parameters_of(tool)] if isinstance(required, list) else []
    return [
        name
        for name, item in schema.items()
        if isinstance(item, dict) and "optional" not in str(item.get("type")) and item.get("default", "") == ""
    ]
