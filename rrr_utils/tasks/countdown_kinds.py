"""What a reflection on a Countdown failure does, told from its content: its first words mean nothing once RL has been at it.

    "I should be more careful ."                                    -> empty       no number at all
    "My result was 27 but the target is 31 : too low by 4 ."        -> value       a result held against the target
    "I must use each of 3 , 9 , 4 exactly once ."                   -> usage       the numbers that are to be used
    "I could start with 9 * 3 = 27 ."                               -> first_step  one expression evaluated, no hit claimed
    "Aim 31 ; 9 * 3 = 27 : + 31 - 23 yes ."                         -> search      several evaluated, or a hit claimed

Covered: the embedded model's notation, where `: + 31 - 23` after `9 * 3 = 27` takes 27 on with the number that is left
(smaller from larger, larger by smaller), and expressions in running text: `(9*3)+4=31`, `9 × 3 = 27, 27 + 4 = 31`.
Not covered: arithmetic in words. Linear in the text, whatever the text; exact fractions; nothing is executed.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

KINDS = ("empty", "value", "usage", "first_step", "search")

#: a number, an operator, a bracket, an equals sign, a mark that matters, a word, or anything else (which ends an expression)
_TOKEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)|(!=|[-+*/()=:])|([A-Za-z]+)|(\S)")
#: other ways to write an operator, and list marks at the start of a line, which are none
_SAME = str.maketrans("×·⋅÷−–[]{}", "***/--()()")
#: the embedded model's `9 * 3 = 27 and 4 :` names the number that is left, which `_taken_on` knows by itself
_LEFT = re.compile(r" and [0-9]{1,9} :")
_MARK = re.compile(r"(?m)^[ \t]*(?:[-*•]|[0-9]{1,2}[.)])[ \t]+")
_WORDS = {"x": "*", "times": "*", "plus": "+", "minus": "-", "equals": "="}
_VALUE_WORDS = {"low", "high", "short", "off", "result", "got", "target", "instead", "gives", "gave", "aim"}
_USAGE_WORDS = {"use", "used", "using", "each", "once", "twice", "only", "every", "exactly"}
#: longest number and longest expression that are evaluated: beyond these is no Countdown
DIGITS, LENGTH = 9, 48


class Content(NamedTuple):
    """What stands in a reflection. `right` is the share of evaluated expressions with the right result, none without any."""

    kind: str
    expressions: int
    right: float | None
    hits: bool
    claims: bool
    repeats: bool


class _Step(NamedTuple):
    """One evaluated expression."""

    key: tuple  # what was computed, to tell repeats
    right: bool | None  # whether the stated result is right; none where that cannot be told
    sound: bool  # right, and so are the steps whose results it takes on
    value: Fraction  # the stated result
    used: Counter | None  # the given numbers that went into it; none where it took others


def classify(text: str, row: dict | None = None) -> Content:
    """Kind and content of a reflection. `row` is the task's row; without its numbers and target no hit can be told.

    `hits`: an expression that really comes to the target from all the given numbers is there, each step right.
    `claims`: it says "yes", or states the target as the result of an expression over all the numbers. `repeats`: an
    expression is evaluated twice.

    >>> row = {"nums": [3, 9, 4], "target": 31}
    >>> classify("Aim 31 ; 9 * 3 = 27 : + 31 yes .", row)
    Content(kind='search', expressions=2, right=1.0, hits=True, claims=True, repeats=False)
    >>> classify("I got 27 instead of 31.", row).kind
    'value'
    """
    nums, target = ((row or {}).get(name) for name in ("nums", "target"))  # another task's row may call something else so
    nums = [n for n in nums if isinstance(n, int)] if isinstance(nums, list) else []
    target = target if isinstance(target, int) else None
    words, numbers, steps, derived = set(), Counter(), [], {}
    for run in _runs(text):
        if isinstance(run, str):
            words.add(run)
            continue
        numbers.update(t for t in run if isinstance(t, Fraction))
        steps += _steps(run, nums, derived)
    full = [s for s in steps if nums and s.used == Counter(nums)]
    claims = bool(steps) and ("yes" in words or any(s.value == target for s in full))
    if steps:
        kind = "search" if len(steps) > 1 or claims else "first_step"
    else:
        kind = _without_steps(words, numbers, nums, target)
    judged = [s.right for s in steps if s.right is not None]
    return Content(
        kind=kind,
        expressions=len(steps),
        right=sum(judged) / len(judged) if judged else None,
        hits=any(s.sound and s.value == target for s in full),
        claims=claims,
        repeats=len({s.key for s in steps}) < len(steps),
    )


def _without_steps(words: set[str], numbers: Counter, nums: list[int], target: int | None) -> str:
    if not numbers:
        return "empty"
    value, usage = target in numbers and len(numbers) > 1, bool(nums) and not Counter(nums) - numbers
    if value == usage:  # the numbers do not tell: the words have to
        score = len(words & _VALUE_WORDS) - len(words & _USAGE_WORDS)
        value = score > 0 or (score == 0 and not numbers.keys() <= set(nums))
    return "value" if value else "usage"


def _runs(text: str) -> list[str | list]:
    """The words, in lower case, and the unbroken runs of numbers and signs between them."""
    runs: list[str | list] = [[]]
    for number, sign, word, _other in _TOKEN.findall(_MARK.sub("\n; ", _LEFT.sub(" :", text.replace("\\times", "*"))).translate(_SAME)):
        sign = sign or (_WORDS.get(word.lower(), "") if runs[-1] and isinstance(runs[-1], list) else "")
        if number:
            runs[-1].append(Fraction(number) if len(number) <= DIGITS else None)
        elif sign and sign != "!=":
            runs[-1].append(sign)
        else:
            runs += [word.lower(), []] if word else [[]]
    return [run for run in runs if run]


def _steps(run: list, nums: list[int], derived: dict[Fraction, tuple[Counter, bool]]) -> list[_Step]:
    """The evaluated expressions of a run. `derived` keeps, for later ones, which given numbers a result is made of."""
    steps: list[_Step] = []
    parts = _split(run, ":")
    for number, part in enumerate(parts):
        if number and steps and part and part[0] in ("+", "-", "*", "/"):
            if "=" not in part:
                steps += _taken_on(steps[-1], part, nums)
                continue
            part = [steps[-1].value, *part]
        sides = [_cut(side) for side in _split(part, "=")]
        for k, (_, expression) in enumerate(sides):
            stated = sides[k + 1][0] if k + 1 < len(sides) else sides[k - 1][1] if k else []
            if k + 1 == len(sides) and len(stated) != 1:  # the last side is a result, or the expression in `31 = 27 + 4`
                continue
            result = next((t for t in stated if isinstance(t, Fraction)), None)
            value = _evaluate(expression)
            if result is None or value is None or not any(t in ("+", "-", "*", "/") for t in expression):
                continue
            earlier = derived if number + 1 == len(parts) else {}  # before a colon: a first step, of given numbers alone
            used, sound = _used([t for t in expression if isinstance(t, Fraction)], nums, earlier)
            right = value == result or (1 not in (value.denominator, result.denominator) and abs(value - result) < Fraction(1, 100))
            steps.append(_Step(_key(expression), right, right and sound, result, used))
            if used:
                derived[result] = (used, right and sound)
    return steps


def _taken_on(fact: _Step, part: list, nums: list[int]) -> list[_Step]:
    """The embedded model's `: + 31 - 23`: what the fact's result and the number that is left come to."""
    steps = []
    left = [Fraction(n) for n in (Counter(nums) - fact.used).elements()] if fact.used else []
    for op, value in zip(part, part[1:], strict=False):
        if not (op in ("+", "-", "*", "/") and isinstance(value, Fraction)):
            continue
        if len(left) != 1:  # without the row nothing can be told; with it, the fact took numbers that were not given
            steps.append(_Step((fact.key, op), False if nums else None, False, value, None))
            continue
        high, low = max(fact.value, left[0]), min(fact.value, left[0])
        right = _evaluate([high, op, low]) == value
        steps.append(_Step(_key([high, op, low]), right, right and fact.sound, value, Counter(nums)))
    return steps


def _split(tokens: list, mark: str) -> list[list]:
    parts: list[list] = [[]]
    for token in tokens:
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _cut(side: list) -> tuple[list, list]:
    """First and last part of one side of an equals sign, where an operand follows an operand: `27 9 + 4`."""
    joins = [
        k for k in range(1, len(side))
        if (side[k - 1] == ")" or not isinstance(side[k - 1], str)) and (side[k] == "(" or not isinstance(side[k], str))
    ]  # fmt: skip
    return (side[: joins[0]], side[joins[-1] :]) if joins else (side, side)


def _used(numbers: list[Fraction], nums: list[int], derived: dict[Fraction, tuple[Counter, bool]]) -> tuple[Counter | None, bool]:
    """The given numbers behind an expression's numbers: as they stand, or with results of earlier steps opened up."""
    if not nums or len(numbers) > len(nums):
        return None, True
    choices: list[list[int]] = [[], *([k] for k, x in enumerate(numbers) if x in derived)]
    choices.append([k for k, x in enumerate(numbers) if x in derived])
    best = None
    for opened in choices:
        used, sound = Counter(), True
        for k, x in enumerate(numbers):
            used += derived[x][0] if k in opened else Counter([x])
            sound = sound and (k not in opened or derived[x][1])
        if used == Counter(nums):
            return used, sound
        if best is None and not used - Counter(nums):
            best = used, sound
    return best or (None, True)


def _key(expression: list) -> tuple:
    """What tells one expression from another; 3 * 9 is 9 * 3."""
    bare = [t for t in expression if t not in ("(", ")")] if len(expression) <= 5 else expression
    if len(bare) == 3 and bare[1] in ("+", "*"):
        return (bare[1], *sorted((bare[0], bare[2])))
    return tuple(bare)


def _evaluate(tokens: list) -> Fraction | None:
    """Exact value of an expression, or none. Brackets without a partner are ignored: they belong to the sentence."""
    if not tokens or len(tokens) > LENGTH or None in tokens:
        return None
    rank = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "neg": 3}
    values: list[Fraction] = []
    waiting: list[str] = []

    def reduce(lowest: int) -> bool:
        while waiting and rank[waiting[-1]] >= lowest:
            op = waiting.pop()
            if op == "neg":
                values.append(-values.pop())
                continue
            b, a = values.pop(), values.pop()
            if op == "/" and b == 0:
                return False
            values.append(a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a / b)
        return True

    operand = True  # whether one is due
    for token in tokens:
        if isinstance(token, Fraction):
            if not operand:
                return None
            values.append(token)
            operand = False
        elif token == "(":
            if not operand:
                return None
            waiting.append(token)
        elif token == ")":
            if operand or not reduce(1):
                return None
            if waiting:
                waiting.pop()
        elif operand:
            if token != "-":
                return None
            waiting.append("neg")
        else:
            if not reduce(rank[token]):
                return None
            waiting.append(token)
            operand = True
    waiting_ok = not operand and reduce(1)
    while waiting_ok and waiting:  # brackets that were never closed
        waiting.pop()
        waiting_ok = reduce(1)
    return values[0] if waiting_ok and len(values) == 1 else None
