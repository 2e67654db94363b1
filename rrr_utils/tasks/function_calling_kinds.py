"""What a reflection on a function-calling failure does, by its content, and what it states of the gold calls.

    "I should be more careful."                                        -> empty   no tool, no value, no form
    "I must write a JSON array of calls."                              -> form    how an answer is written
    "Tool: day is before today; price_history fits."                   -> tool    names a tool of the row, no value
    "Values: item is stove; today is 41; 41 - 4 = 37; day is 37."      -> values  states values, names no tool
    "I called price_history with item stove and day 36."               -> call    names a tool and states values

A value is a number, a text in quotes, or the value of a gold argument; what the descriptions of the row's tools hold
(a limit of 51, say) is none. Not covered: values told in other words ("the Norwegian capital"). Linear in the text.
"""

import json
import re
from collections.abc import Iterator

from rrr_utils.tasks import calls
from rrr_utils.tasks.arithmetic import postfix, value_of

KINDS = ("empty", "form", "tool", "values", "call")

_FORM = re.compile(r"\b(?:json|array|format|brackets?|quotes?|braces?|syntax|nothing else)\b", re.IGNORECASE)
_QUOTED = re.compile(r"""(?<!\w)(["'`])((?:(?!\1)[^\\\n])++)\1(?!\w)""")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?!\w)")
_CLAUSE = re.compile(r"[^;:\n]*?(?:[;:\n]|\.(?!\d)|$)")  # up to a semicolon, colon, line's end or full stop
_SUM = re.compile(r"(?<![\w.])(\d{1,9} [-+*] \d{1,9}) = (-?\d{1,19})(?![\w.]\w|\w)")
MOST = 200  # gold values of a row that are looked for


def kind(reflection: str, row: dict) -> str:
    """One of KINDS."""
    named = any(_word(tool["name"]).search(reflection) for tool in row["tools"])
    if any(_values(reflection, row)):
        return "call" if named else "values"
    return "tool" if named else "form" if _FORM.search(reflection) else "empty"


def _values(reflection: str, row: dict) -> Iterator[str]:
    """The values that a text states."""
    described = json.dumps(row["tools"])
    names = {"name", "arguments", "parameters"}.union(*({t["name"], *calls.parameters_of(t)} for t in row["tools"]))
    yield from (m[2] for m in _QUOTED.finditer(reflection) if m[2] not in names)
    said = [m[0] for m in _NUMBER.finditer(reflection)]
    said += [value for value in gold_values(row) if _word(value).search(reflection)]
    yield from (value for value in said if not (_NUMBER.fullmatch(value) and _word(value).search(described)))


def gold_values(row: dict) -> list[str]:
    """The values of the gold calls' arguments as text, each once: of lists and objects what they hold.

    >>> gold_values({"answers": [{"name": "mail", "arguments": {"to": ["Ann", "Bo"], "copies": 2, "now": True}}]})
    ['Ann', 'Bo', '2', 'true']
    """
    found, left = {}, [call["arguments"] for call in row["answers"]]
    while left and len(found) < MOST:
        value = left.pop(0)
        if isinstance(value, dict | list):
            left = [*(value.values() if isinstance(value, dict) else value), *left]
        elif (text := value if isinstance(value, str) else json.dumps(value)).strip():
            found[text] = None
    return list(found)


def _word(text: str) -> re.Pattern:
    """The text as a word of its own; whether it is written large does not matter."""
    return re.compile(rf"(?<![\w]){re.escape(text)}(?!\w)", re.IGNORECASE)


def stated(reflection: str, row: dict) -> list[str]:
    """The clauses that hold the gold calls' values, where the text states every one of them; else nothing.

    >>> row = {"answers": [{"name": "price", "arguments": {"item": "stove", "day": 37}}]}
    >>> stated("Values: item is stove; today is 41; 41 - 4 = 37; day is 37.", row)
    [' item is stove;', ' 41 - 4 = 37;', ' day is 37.']
    >>> stated("item is stove; day is 36.", row)
    []
    """
    words = [_word(value) for value in gold_values(row)]
    if not words or not all(word.search(reflection) for word in words):
        return []
    return [clause for clause in _CLAUSE.findall(reflection) if any(word.search(clause) for word in words)]


def wrong_sums(reflection: str) -> list[str]:
    """The sums that are wrong.

    >>> wrong_sums("41 - 4 = 37; 37 + 2 = 38; 6 * 2 = 12")
    ['37 + 2 = 38']
    """
    sums = [(m[0], value_of(postfix(m[1].split())), int(m[2])) for m in _SUM.finditer(reflection)]
    return [said for said, value, told in sums if value != told]
