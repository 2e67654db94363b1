"""Countdown: combine the given numbers, each exactly once, into an equation that hits the target.

    numbers 3, 9, 4 and target 31   ->   <answer> ( 9 * 3 ) + 4 </answer>

The paper's set is `Jiayi-Pan/Countdown-Tasks-3to4` (TinyZero, https://github.com/Jiayi-Pan/TinyZero).
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations

from rrr_utils.errors import DataError
from rrr_utils.tasks import Verdict

VERSION = 1
#: in the order of the checks: no tags; what is between them is no arithmetic; other numbers than the given; another value
ERRORS = ("no_answer", "not_an_equation", "wrong_numbers", "missed_target")

#: the embedded default: three numbers from 1 to 15, targets from 1 to 60
DEFAULT_SOURCE = "procedural:numbers=3,low=1,high=15,target_low=1,target_high=60"
SPLITS = {"pretrain": 0.50, "train": 0.70, "dev": 0.80, "test": 1.00}  # upper ends, of the multiset's hash in [0, 1)


def cluster_of(nums: list[int]) -> str:
    """The multiset of numbers as text: problems that share it are not independent.

    >>> cluster_of([9, 3, 4])
    '3-4-9'
    """
    return "-".join(map(str, sorted(nums)))


def split_of(nums: list[int]) -> str | None:
    """The split that a multiset of numbers belongs to, or None where it may be in none.

    The hash of the multiset decides, so that no two splits share one. A four-number problem that would fall
    to pretrain or train is dropped when three of its numbers form a held-out (dev or test) multiset.

    >>> split_of([3, 9, 4]) == split_of([4, 3, 9])
    True
    """
    unit = int.from_bytes(hashlib.sha256(cluster_of(nums).encode()).digest()[:8], "big") / 2**64
    split = next(name for name, end in SPLITS.items() if unit < end)
    trained_on = split in ("pretrain", "train") and len(nums) > 3
    if trained_on and any(split_of(list(triple)) in ("dev", "test") for triple in combinations(nums, 3)):
        return None
    return split


def load(split: str, n: int | None, seed: int, source: str | None = None, max_bad_rows: float = 0.01) -> list[dict]:
    """`n` problems of a split (all of them for None), in an order that the seed decides.

    The source is `procedural:numbers=3,low=1,high=15,target_low=1,target_high=60` (what is not named is as here;
    `numbers` may be 3, 4 or 3-4), the real set's hub id, or a file like it (`countdown_set.py`),
    where up to `max_bad_rows` of the rows may be unreadable and are skipped.

    >>> load("train", 1, 0)
    [{'id': '11-12-12:35', 'cluster': '11-12-12', 'nums': [11, 12, 12], 'target': 35}]
    """
    source = DEFAULT_SOURCE if source is None else source
    if split not in SPLITS:
        raise DataError(f"unknown split '{split}': there are {', '.join(SPLITS)}")
    if source.startswith("procedural:"):
        return draw(split, n, seed, parse(source), source)
    from rrr_utils.tasks import countdown_set  # needs datasets

    return countdown_set.load(split, n, seed, source, max_bad_rows)


def parse(source: str) -> dict[str, tuple[int, int]]:
    """The ranges that a procedural source names: how many numbers, their size, the targets.

    >>> parse("procedural:numbers=3-4,high=99")
    {'numbers': (3, 4), 'size': (1, 99), 'target': (1, 60)}
    """
    spec = dict(pair.split("=") for pair in DEFAULT_SOURCE.removeprefix("procedural:").split(","))
    given = {}
    for pair in filter(None, source.removeprefix("procedural:").split(",")):
        name, _, value = pair.partition("=")
        if name not in spec:
            raise DataError(f"source '{source}': unknown '{name}'; known: {', '.join(spec)}")
        if name in given or not re.fullmatch(r"-?[0-9]{1,6}" if name != "numbers" else r"[34]|3-4", value):
            wanted = "3, 4 or 3-4" if name == "numbers" else "one whole number of up to six digits"
            raise DataError(f"source '{source}': {name} must be given once, as {wanted}")
        given[name] = value
    spec |= given
    numbers = spec["numbers"].split("-")
    ranges = {
        "numbers": (int(numbers[0]), int(numbers[-1])),
        "size": (int(spec["low"]), int(spec["high"])),
        "target": (int(spec["target_low"]), int(spec["target_high"])),
    }
    if ranges["size"][0] < 1 or any(low > high for low, high in ranges.values()):
        raise DataError(f"source '{source}': low must be 1 or more, and no low end above its high end")
    return ranges


def draw(split: str, n: int | None, seed: int, ranges: dict[str, tuple[int, int]], source: str) -> list[dict]:
    """Solvable problems at random, as the TinyZero set was made: numbers first, then a target by random operations.

    Drawing ends with n problems, or after 20,000 draws in a row that bring nothing new. What is easy to hit comes up
    early. Exact on purpose, down to how bits become numbers: the embedded model was pre-trained on these very rows.
    """
    (fewest, most), (low, high), (target_low, target_high) = ranges["numbers"], ranges["size"], ranges["target"]
    if n is None and (multisets := math.comb(high - low + most, most)) > 10_000:
        raise DataError(f"source '{source}' has {multisets:,} multisets of numbers: ask for a number of rows, not for all")
    bits = random.Random(f"{split}-{seed}").getrandbits

    def below(end: int) -> int:
        width = end.bit_length()
        while (value := bits(width)) >= end:
            pass
        return value

    splits: dict[tuple[int, ...], str | None] = {}
    found: dict[tuple, dict] = {}
    misses = strays = 0
    while (n is None or len(found) < n) and misses < 20_000 and strays < 20_000:
        count = most if fewest == most else fewest + below(most - fewest + 1)
        nums = [low + below(high - low + 1) for _ in range(count)]
        multiset = tuple(sorted(nums))
        if multiset not in splits:
            splits[multiset] = split_of(nums)
        if splits[multiset] != split:
            strays += 1
            continue
        strays = 0
        target = random_target(nums, below)
        if target is None or not target_low <= target <= target_high or (multiset, target) in found:
            misses += 1
            continue
        misses = 0
        cluster = cluster_of(nums)
        found[multiset, target] = {"id": f"{cluster}:{target}", "cluster": cluster, "nums": nums, "target": target}
    if not found and n != 0:
        raise DataError(f"source '{source}' has no problems of split '{split}': widen low to high, or the targets")
    return list(found.values())


def random_target(nums: list[int], below: Callable[[int], int]) -> int | None:
    """What random operations on the numbers come to, or None where a quotient is not whole."""
    values = nums[:]
    while len(values) > 1:
        a, b = values.pop(below(len(values))), values.pop(below(len(values)))
        operation = below(4)
        if operation == 3 and (b == 0 or a % b):
            return None
        values.append(a + b if operation == 0 else a - b if operation == 1 else a * b if operation == 2 else a // b)
    return values[0]


REFLECT = "That answer is wrong. Reflect on what went wrong and write a short explanation that will help you do better next time."


def prompt(row: dict) -> str:
    """The user's message.

    >>> prompt({"nums": [3, 9, 4], "target": 31})[:43]
    'Using the numbers 3, 9, 4, write one equati'
    """
    numbers = ", ".join(map(str, row["nums"]))
    return (
        f"Using the numbers {numbers}, write one equation that equals {row['target']}. "
        "Use + - * / and parentheses, and every number exactly once. "
        "Write it between answer tags, like <answer> ( 1 + 2 ) * 3 </answer>."
    )


# --- verification ----------------------------------------------------------------------------------------------------

#: longest answer that is read. Four numbers need some twenty characters; the bound keeps nesting and time bounded too
LONGEST = 1000
SPACE = " \t\r\n"
TOKEN = re.compile(r"[0-9]+|[^ \t\r\n]")  # one character of lookahead: linear, and only ASCII digits
BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}
LENIENT = {"×": "*", "\\times": "*", "÷": "/", "−": "-", "[": "(", "]": ")"}


def verify(completion: str, row: dict) -> Verdict:
    """Whether the last `<answer>...</answer>` holds an equation of exactly the given numbers that hits the target.

    Nothing is executed, no time limit is involved, and no string raises. A division by zero is `missed_target`: it is
    well formed and has the right numbers, and no value. `lenient` also takes `= target` at the end, other signs for
    the operations, square brackets, and without tags a last line that is nothing but an equation.

    >>> row = {"nums": [3, 9, 4], "target": 31}
    >>> verify("<answer> ( 9 * 3 ) + 4 </answer>", row)
    Verdict(correct=True, error=None, lenient=True)
    >>> verify("<answer> 9 × 3 + 4 = 31 </answer>", row)
    Verdict(correct=False, error='not_an_equation', lenient=True)
    >>> verify("<answer> 9 * 3 - 4 </answer>", row)
    Verdict(correct=False, error='missed_target', lenient=False)
    """
    answer = last_answer(completion)
    error = "no_answer" if answer is None else mistake(answer, row)
    if error in (None, "wrong_numbers", "missed_target"):
        return Verdict(error is None, error, error is None)
    if answer is None:
        answer = completion.rstrip(SPACE).rpartition("\n")[2]
    return Verdict(False, error, mistake(plain(answer, row["target"]), row) is None)


def last_answer(completion: str) -> str | None:
    """What stands in the last pair of tags that is complete.

    >>> last_answer("<answer> 1 </answer> or <answer> 2 </answer>, no, <answer> 3")
    ' 2 '
    """
    start = completion.rfind("<answer>", 0, max(0, completion.rfind("</answer>")))
    if start < 0:
        return None
    start += len("<answer>")
    return completion[start : completion.find("</answer>", start)]


def plain(answer: str, target: int) -> str:
    """The answer in the strict notation, as far as a lenient reader would go; what is too long stays as it is.

    >>> plain("[ 9 × 3 ] + 4 = 31", 31)
    '( 9 * 3 ) + 4 '
    """
    answer = answer.strip(SPACE)
    if len(answer) > LONGEST:
        return answer
    for sign, ours in LENIENT.items():
        answer = answer.replace(sign, ours)
    left, equals, right = answer.partition("=")
    return left if equals and right.strip(SPACE) == str(target) else answer


def mistake(answer: str, row: dict) -> str | None:
    """The first of ERRORS that is true of an answer, or None where it is right."""
    answer = answer.strip(SPACE)
    steps = None if len(answer) > LONGEST else postfix(answer)
    if steps is None:
        return "not_an_equation"
    # compared as text: without leading zeros equal text is an equal number, and no long one is ever converted
    if sorted(step for step in steps if step.isdigit()) != sorted(map(str, row["nums"])):
        return "wrong_numbers"
    return None if value_of(steps) == row["target"] else "missed_target"


def postfix(text: str) -> list[str] | None:
    """An equation's numbers and operations in the order in which they are computed, or None where it is none.

    Two stacks instead of recursion (Dijkstra's shunting yard): depth costs memory, never the interpreter's stack.

    >>> postfix("( 9 * 3 ) + -4")
    ['9', '3', '*', '4', 'negate', '+']
    >>> postfix("2 ** 3") is postfix("1.5 * 2") is postfix("3 (4)") is postfix("007") is None
    True
    """
    output: list[str] = []
    waiting: list[str] = []
    operand = True  # whether a number, a minus sign or an opening parenthesis is due, rather than an operation
    for token in TOKEN.findall(text):
        if "0" <= token[0] <= "9":
            if not operand or (token[0] == "0" and token != "0"):
                return None
            output.append(token)
            operand = False
        elif token == "(" or (token == "-" and operand):
            if not operand:
                return None
            waiting.append("(" if token == "(" else "negate")
        elif operand or token not in "+-*/)":
            return None
        elif token == ")":
            while waiting and waiting[-1] != "(":
                output.append(waiting.pop())
            if not waiting:
                return None
            waiting.pop()
        else:
            while waiting and BINDS.get(waiting[-1], 0) >= BINDS[token]:
                output.append(waiting.pop())
            waiting.append(token)
            operand = True
    if operand or "(" in waiting:
        return None
    return output + waiting[::-1]


def value_of(steps: list[str]) -> Fraction | None:
    """The exact value, or None where it divides by zero.

    >>> value_of(["1", "3", "/"])
    Fraction(1, 3)
    """
    stack: list[Fraction] = []
    for step in steps:
        if step == "negate":
            stack[-1] = -stack[-1]
        elif step in BINDS:
            b, a = stack.pop(), stack.pop()
            if step == "/" and b == 0:
                return None
            stack.append(a + b if step == "+" else a - b if step == "-" else a * b if step == "*" else a / b)
        else:
            stack.append(Fraction(int(step)))
    return stack[0]


# --- what a reflection does ------------------------------------------------------------------------------------------

KINDS = ("empty", "value", "usage", "first_step", "search")


def kind(reflection: str, row: dict) -> str:
    """One of KINDS, told from what the reflection computes (`countdown_kinds.py`)."""
    from rrr_utils.tasks import countdown_kinds

    return countdown_kinds.classify(reflection, row).kind
