"""JSON, strictly and with caps: one value for one text on every reader, or a ValueError, and never anything else.

`json.loads` alone takes NaN, turns 1e999 into infinity, keeps the last of duplicate keys and raises RecursionError on
deep nesting. Here all of that is refused, in time linear in the length of the text.
"""

from __future__ import annotations

import json
import re
from typing import Any

#: the caps, checked before or while reading. Real answers have some hundred characters, three levels and ten digits
MAX_CHARS = 1 << 20
MAX_DEPTH = 64
MAX_DIGITS = 400  # a double has at most 309 before its point; long integers take quadratic time to convert
SPACE = " \t\r\n"  # JSON's white space; `str.strip` alone would take other scripts' too

# possessive, so that a string without an end costs one pass and not one for each of its quotes
STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode


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
    for match in STRING_OR_BRACKET.finditer(text):
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
