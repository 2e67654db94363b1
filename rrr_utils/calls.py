"""Tool calls: read them from what a model wrote, and compare them with others.

Covered: strict JSON with caps, the written forms of calls, comparison by value, a tool's parameters and defaults.
Not covered: whether a value is of its parameter's type; nothing here runs a call or evaluates an argument.
All of it is linear in the length of the text (but for sorting), and no text raises anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

#: the caps, checked before or while reading. Real answers have some hundred characters, three levels and ten digits
MAX_CHARS = 1 << 20
MAX_DEPTH = 64
MAX_DIGITS = 400  # a double has at most 309 before its point; long integers take quadratic time to convert
SPACE = " \t\r\n"  # JSON's white space; `str.strip` alone would take other scripts' too

# possessive, so that a string without an end costs one pass and not one for each of its quotes
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_CALL_START = re.compile(r'(?:\[[ \t\r\n]*+)?\{[ \t\r\n]*+"(?:name|arguments|parameters)"')
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


# --- JSON ------------------------------------------------------------------------------------------------------------


def parse(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, and nothing else, for all that is no interoperable JSON.

    Refused beside what `json.loads` refuses: NaN and Infinity, numbers that overflow or vanish, numbers of more than
    MAX_DIGITS characters, a key that comes twice, half of a surrogate pair, more than MAX_DEPTH levels.

    >>> parse('{"a": [1, 2.5, true]}')
    {'a': [1, 2.5, True]}
    >>> parse('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key "a" comes twice
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS:,} characters")
    if text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(text):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
        text.encode()
        if _SURROGATE_ESCAPE.search(text):
            _encode(value).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
    except RecursionError:  # only where the caller itself has nearly used up the stack
        raise ValueError("nested too deeply") from None
    return value


def _too_deep(text: str) -> bool:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif match[0] in "]}":
            depth -= 1
    return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f'the key "{twice[:40]}" comes twice')
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large for a number")
    if value == 0 and any(digit in "123456789" for digit in text.lower().partition("e")[0]):
        raise ValueError(f"{text[:40]} is too small for a number")
    return value


def _constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def canonical(value: Any) -> str:
    """The same text for equal values and for no others: key order is free, 1 equals 1.0, true does not equal 1.

    >>> canonical({"b": 1.0, "a": [True, "x"]}) == canonical({"a": [True, "x"], "b": 1})
    True
    >>> canonical([2, 1]) == canonical([1, 2]) or canonical(1) == canonical(True) or canonical("5") == canonical(5)
    False
    >>> canonical(2**53 + 1) == canonical(float(2**53))  # exact, not rounded to a float first
    False
    """
    return _encode(_exact(value))


_INEXACT = (float, dict, list)  # what may hold a number in a second notation


def _exact(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _exact(item) if isinstance(item, _INEXACT) else item for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) if isinstance(item, _INEXACT) else item for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    for match in _STRING_OR_BRACKET.finditer(text, start):
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
