"""How names, numbers and foreign texts are printed: titles, safe text, intervals, Markdown tables."""

import pandas as pd

from rrr_utils.settings import CONTROLS

#: policies and tries as tables and figures call them
POLICIES = {
    "vanilla": "base model",
    "trained": "trained (adapter everywhere)",
    "reflector": "reflector (adapter only while reflecting)",
}
SECOND = {
    "own": "own reflection",
    "blind": "blind",
    "generic": "generic hint",
    "swapped": "another problem's",
    "masked": "own, masked",
    "cut": "own, answer cut out",
    "fresh": "fresh, same tokens",
    "always": "own, always retried",
    "forced": "first words forced",
    "outright": "asked for outright",
}
TRIES = {("first", ""): "first try", **{("second", name): f"second: {SECOND.get(name, name)}" for name in CONTROLS}}
#: the second tries of the headline table and its figure; the others have a table of their own
HEADLINE = ("own", "blind", "generic", "fresh")
#: what would end a generated part, a code block or a table's cell, and what is printed instead
ENDS = {"<!--": "<! --", "-->": "-- >", "```": "'''", "|": "¦"}


def safe(text: object) -> str:
    """Any text on one line that ends no Markdown part, with control characters and lone surrogates spelt out.

    >>> safe("8 | 2\\n<!-- /generated:x --> \\x1b[31m \\ud800 ```")
    "8 ¦ 2 <! -- /generated:x -- > \\\\x1b[31m \\\\ud800 '''"
    """
    line = " ".join(str(text).split())
    for end, instead in ENDS.items():
        line = line.replace(end, instead)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A share and its interval, in per cent.

    >>> interval(0.2833, 0.25, 0.32)
    '28.3 [25.0, 32.0]'
    """
    return "{:{s}.1f} [{:{s}.1f}, {:{s}.1f}]".format(100 * value, 100 * low, 100 * high, s=sign)


def markdown(frame: pd.DataFrame) -> str:
    """A data frame as a Markdown table with straight columns.

    >>> print(markdown(pd.DataFrame({"model": ["a|b"], "first": [1]})))
    | model | first |
    | ----- | ----- |
    | a¦b   | 1     |
    """
    lines = [list(frame.columns), *frame.itertuples(index=False)]
    lines = [["" if pd.isna(value) else safe(value) for value in line] for line in lines]
    widths = [max(len(line[k]) for line in lines) for k in range(len(frame.columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)
