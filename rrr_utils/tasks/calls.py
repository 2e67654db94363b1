"""Tool calls: read them from a model's text, and compare them with others.

Covered: the written forms of calls, comparison by value, a tool's parameters and defaults.
Not covered: whether a value has its parameter's type. Nothing here runs a call or evaluates an argument.
Everything except sorting is linear in the length of the text, and no text raises.
"""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

from rrr_utils.tasks.strictjson import MAX_CHARS, MAX_DEPTH, SPACE, canonical, depths, parse

_CALL_START = re.compile(r'(?:\[[ \t\r\n]*+)?\{[ \t\r\n]*+"(?:name|arguments|parameters)"')


def read(text: str) -> tuple[list[dict] | None, str | None]:
    """The calls that a completion consists of, or the kind of error that keeps it from being read.

    Accepted are a JSON array of `{"name", "arguments"}`, one such object, both also fenced in ```json, and one or more
    `<tool_call>` blocks with an object each; `parameters` may replace `arguments`. No other text may be around.

    >>> read('<tool_call> {"name": "now", "parameters": {"zone": "UTC"}} </tool_call>')
    ([{'name': 'now', 'arguments': {'zone': 'UTC'}}], None)
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
            text = text[len("```json") : -len("```")]
        return as_calls(parse(text)), None
    except ValueError:
        return None, "bad_json"


def _blocks(text: str) -> list[str]:
    """The content of each `<tool_call>` block of a text that consists of them."""
    *blocks, after = [part.strip(SPACE) for part in text.split("</tool_call>")]
    if after or not all(block.startswith("<tool_call>") for block in blocks):
        raise ValueError("something other than <tool_call> blocks")
    return [block.removeprefix("<tool_call>") for block in blocks]


def find(text: str) -> list[dict] | None:
    """The calls somewhere in a text: its last array of calls, else all single calls together, else None.

    >>> find('First [{"name": "a", "arguments": {}}]; no: ```[{"name": "b", "arguments": {}}]``` it is.')
    [{'name': 'b', 'arguments': {}}]
    """
    array, singles = None, []
    for begin, _, found in places(text):
        if text[begin] == "[":
            array = found
        else:
            singles += found
    return array or singles or None


def places(text: str) -> Iterator[tuple[int, int, list[dict]]]:
    """Begin, end and calls of each array of calls, and of each single call, in a text."""
    position = 0
    while isinstance(text, str) and len(text) <= MAX_CHARS and (start := _CALL_START.search(text, position)):
        walk = itertools.takewhile(lambda at: at[0] <= MAX_DEPTH, depths(text, start.start()))
        position = next((end for depth, end in walk if depth == 0), None)
        if position is None:  # never closed, or too deep: all that follows is inside it
            return
        try:
            yield start.start(), position, as_calls(parse(text[start.start() : position]))
        except ValueError:
            continue


def as_calls(value: Any) -> list[dict]:
    """The calls in a parsed array or a single object; ValueError if it holds anything else."""
    return [_call(item) for item in (value if isinstance(value, list) else [value])]


def _call(value: Any) -> dict:
    if not isinstance(value, dict) or len(value) != 2 or not isinstance(value.get("name"), str):
        raise ValueError('a call must be an object with "name" and "arguments"')
    arguments = value["arguments"] if "arguments" in value else value.get("parameters")
    if not isinstance(arguments, dict):
        raise ValueError(f'the arguments of "{value["name"][:40]}" are not an object')
    return {"name": value["name"], "arguments": arguments}


def cluster_of(calls: list[dict]) -> str:
    """The tools that are called, as text: rows that share it are not independent of each other."""
    return "|".join(sorted({call["name"] for call in calls}))


def mistake(calls: list[dict], gold: list[dict], tools: list[dict]) -> str | None:
    """What is wrong with the calls, or None if they are the gold calls, in any order.

    >>> gold = [{"name": "now", "arguments": {"zone": "UTC"}}]
    >>> mistake([{"name": "now", "arguments": {"zone": "CET"}}], gold, [{"name": "now"}, {"name": "today"}])
    'wrong_argument_values'
    """
    known = {tool["name"] for tool in tools}
    if any(call["name"] not in known for call in calls):
        # a gold answer may call a tool that its own row lacks: what is equal is right
        return None if _same(calls, gold, canonical) else "unknown_tool"
    if len(calls) != len(gold):
        return "wrong_number_of_calls"
    if not _same(calls, gold, lambda call: call["name"]):
        return "wrong_tool"
    if not _same(calls, gold, lambda call: (call["name"], sorted(call["arguments"]))):
        return "wrong_argument_names"
    return None if _same(calls, gold, canonical) else "wrong_argument_values"


def _same(a: list[dict], b: list[dict], key: Callable[[dict], Any]) -> bool:
    """Whether both are the same multiset. Sorted, so that many parallel calls do not take quadratic time."""
    return len(a) == len(b) and sorted(map(key, a)) == sorted(map(key, b))


def parameters_of(tool: dict) -> dict[str, dict]:
    """A tool's parameters by name, written as APIGen does or as JSON Schema."""
    schema = tool.get("parameters") or {}
    properties = schema.get("properties", {})
    return properties if schema.get("type") == "object" and isinstance(properties, dict) else schema


def filled(calls: list[dict], tools: list[dict]) -> list[dict]:
    """The calls with arguments that were left out set to the tool's defaults.

    >>> filled([{"name": "now", "arguments": {}}], [{"name": "now", "parameters": {"zone": {"default": "UTC"}}}])
    [{'name': 'now', 'arguments': {'zone': 'UTC'}}]
    """
    defaults: dict[str, dict] = {}
    for tool in tools:
        items = parameters_of(tool).items()
        defaults[tool["name"]] = {k: v["default"] for k, v in items if isinstance(v, dict) and "default" in v}
    return [{**call, "arguments": {**defaults.get(call["name"], {}), **call["arguments"]}} for call in calls]


def misfit(calls: list[dict], tools: list[dict]) -> str | None:
    """Why calls do not fit the tools that are offered, or None if they do. Types are not checked."""
    for call in calls:  # a row may offer two tools with one name
        reasons = [_misfit(call, tool) for tool in tools if tool["name"] == call["name"]]
        if None not in reasons:
            return reasons[0] if reasons else f"'{call['name']}' is not among the tools"
    return None


def _misfit(call: dict, tool: dict) -> str | None:
    parameters, arguments = parameters_of(tool), call["arguments"]
    if unknown := [name for name in arguments if name not in parameters]:
        return f"'{call['name']}' has no parameter '{unknown[0]}'"
    if lacking := [name for name in _required(tool) if name not in arguments]:
        return f"'{call['name']}' lacks its argument '{lacking[0]}'"
    return None


def _required(tool: dict) -> list[str]:
    """Parameters that a call must have: APIGen marks the others as "optional" or gives them a default."""
    schema = tool.get("parameters") or {}
    if schema.get("type") == "object":
        required = schema.get("required")
        return [name for name in required if name in parameters_of(tool)] if isinstance(required, list) else []
    items = [(name, item) for name, item in schema.items() if isinstance(item, dict)]
    return [name for name, item in items if "optional" not in str(item.get("type")) and item.get("default", "") == ""]
