"""How long the verifiers take: `python tests/benchmarks/bench_verifiers.py`.

First ordinary answers, in microseconds (the limit is 50). Then hostile and plain texts of 10 KB, 100 KB and 1 MB: time
must not grow faster than length, so the nanoseconds per character stay about the same from left to right.
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable

from rrr_utils.tasks import countdown, function_calling

SIZES = (10_000, 100_000, 1_000_000)

COUNTDOWN = {"nums": [44, 19, 35, 7], "target": 98}
TOOLS = [
    {"name": name, "description": "As its name says.", "parameters": {
        "city": {"description": "Where.", "type": "str"},
        "days": {"description": "How long.", "type": "int, optional", "default": 1}}}
    for name in ("weather", "traffic", "news")
]  # fmt: skip
CALLS = [
    {"name": "weather", "arguments": {"city": "Oslo", "days": 3}},
    {"name": "traffic", "arguments": {"city": "Oslo", "days": 1}},
]
FUNCTION = {"query": "", "tools": TOOLS, "answers": CALLS}
GOLD = json.dumps(CALLS)

ORDINARY = {
    "countdown, right": (countdown, "<answer> ( 44 + 19 + 35 ) * 7 </answer>", {**COUNTDOWN, "target": 686}),
    "countdown, missed target": (countdown, "<answer> ( 44 + 19 + 35 ) - 7 </answer>", COUNTDOWN),
    "countdown, no tags": (countdown, "I would add 44 and 19 first, and then see what is left to do.", COUNTDOWN),
    "function calling, right": (function_calling, GOLD, FUNCTION),
    "function calling, wrong value": (function_calling, GOLD.replace("3", "4"), FUNCTION),
    "function calling, text around": (function_calling, f"Here are the calls: {GOLD} I hope they help.", FUNCTION),
}


def repeated(piece: str, before: str = "", after: str = "") -> Callable[[int], str]:
    return lambda size: before + piece * ((size - len(before) - len(after)) // len(piece)) + after


LONG = {
    "countdown, plain text": (countdown, repeated("some words of prose, 12 + 3. "), COUNTDOWN),
    "countdown, parentheses": (countdown, repeated("(", "<answer>", "</answer>"), COUNTDOWN),
    "countdown, many answers": (countdown, repeated("<answer>1</answer>"), COUNTDOWN),
    "countdown, open tags": (countdown, repeated("<answer>"), COUNTDOWN),
    "function calling, plain text": (function_calling, repeated("some words of prose, [12] {a: 3}. "), FUNCTION),
    "function calling, many calls": (function_calling, repeated(GOLD[1:-1] + ",", "[", GOLD[1:]), FUNCTION),
    "function calling, calls in text": (function_calling, repeated(GOLD + " or "), FUNCTION),
    "function calling, broken calls": (function_calling, repeated('{"name": {"name": '), FUNCTION),
    "function calling, open brackets": (function_calling, repeated("["), FUNCTION),
    "function calling, brackets": (function_calling, repeated("[]", "[", "]"), FUNCTION),
    "function calling, escaped quotes": (function_calling, repeated('\\"', '[{"name": "'), FUNCTION),
    "function calling, quotes": (function_calling, repeated('"{"name"'), FUNCTION),
    "function calling, spaces": (function_calling, repeated(" ", "[{", '"name"'), FUNCTION),
    "function calling, bracket, spaces": (function_calling, repeated("[" + " " * 99), FUNCTION),
    "function calling, digits": (
        function_calling,
        repeated("9", '[{"name": "weather", "arguments": {"days": ', "}}]"),
        FUNCTION,
    ),
    "function calling, blocks": (function_calling, repeated("<tool_call>{}</tool_call>"), FUNCTION),
    "function calling, many keys": (
        function_calling,
        lambda size: json.dumps([{"name": "weather", "arguments": {f"k{k:09d}": k % 7 for k in range(size // 17)}}]),
        FUNCTION,
    ),
}


def seconds(task, text: str, row: dict) -> float:
    """The best of some repetitions, which the rest of the machine disturbs least."""
    timer = timeit.Timer(lambda: task.verify(text, row))
    number = max(1, int(0.02 / max(timer.timeit(1), 1e-7)))
    return min(timer.repeat(5 if number > 1 else 2, number)) / number


def main() -> None:
    print(f"{'an ordinary answer':36} microseconds")
    for name, (task, text, row) in ORDINARY.items():
        print(f"{name:36} {1e6 * seconds(task, text, row):8.1f}")
    print(f"\n{'milliseconds (nanoseconds a character)':36} " + " ".join(f"{size // 1000:>14,} KB" for size in SIZES))
    for name, (task, make, row) in LONG.items():
        cells = []
        for size in SIZES:
            text = make(size)
            taken = seconds(task, text, row)
            cells.append(f"{1e3 * taken:9.2f} ({1e9 * taken / len(text):5.1f})")
        print(f"{name:38} " + " ".join(cells))


if __name__ == "__main__":
    main()
