"""Strict JSON with limits: a text has the same value for every reader, or it is a ValueError.

`json.loads` accepts NaN, turns 1e999 into infinity, keeps the last of duplicate keys and raises RecursionError on deep
nesting. All of that is refused here, in time linear in the length of the text.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

#: limits, checked before or while reading. Real answers have some hundred characters, three levels and ten digits
MAX_CHARS = 1 << 20
MAX_DEPTH = 64
MAX_DIGITS = 400  # a double has at most 309 before its point; long integers take quadratic time to convert
SPACE = " \t\r\n"  # the white space of JSON; `str.strip` alone removes more

# possessive: a string without an end costs one pass, not one for each of its quotes
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


def parse(text: str) -> Any:
    """The value of a JSON text; ValueError (and no other) where readers could disagree about it.

    Refused in addition to what `json.loads` refuses: NaN and Infinity, numbers that overflow or vanish, numbers of more
    than MAX_DIGITS characters, a repeated key, half of a surrogate pair, more than MAX_DEPTH levels.

    >>> parse("1e999")
    Traceback (most recent call last):
    ValueError: 1e999 is too large for a number
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS:,} characters")
    if text.count("[") + text.count("{") > MAX_DEPTH and any(depth > MAX_DEPTH for depth, _ in depths(text)):
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    try:
        value = _DECODER.decode(text)
        text.encode()
        if _SURROGATE_ESCAPE.search(text):
            _encode(value).encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair") from None
    except RecursionError:  # only if the caller has nearly used up the stack
        raise ValueError("nested too deeply") from None
    return value


def depths(text: str, start: int = 0) -> Iterator[tuple[int, int]]:
    """Depth and position after each string and bracket from `start` on."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text, start):
        depth += (match[0] in "[{") - (match[0] in "]}")
        yield depth, match.end()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f'the key "{key[:40]}" comes twice')
        value[key] = item
    return value


def _float(text: str) -> float:
    value = float(_short(text))
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large for a number")
    if value == 0 and any(digit in "123456789" for digit in text.lower().partition("e")[0]):
        raise ValueError(f"{text[:40]} is too small for a number")
    return value


def _short(text: str) -> str:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits")
    return text


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=lambda text: int(_short(text)), parse_float=_float, parse_constant=_constant
)


def canonical(value: Any) -> str:
    """The same text for equal values, and only for them: key order is free, 1 equals 1.0, true does not equal 1.

    >>> canonical({"b": 1.0, "a": [True, "x"]}) == canonical({"a": [True, "x"], "b": 1})
    True
    >>> canonical(2**53 + 1) == canonical(float(2**53))  # exact, not rounded to a float first
    False
    """
    return _encode(_exact(value))


def _exact(value: Any) -> Any:
    """The value with whole floats as integers."""
    if isinstance(value, dict):
        return {key: _exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
