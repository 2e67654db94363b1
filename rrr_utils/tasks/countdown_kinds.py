"""What a reflection on a Countdown failure does, by its content: RL leaves no meaning in its first words.

    "I should be more careful ."                                -> empty       no number at all
    "My result was 27 but the target is 31 : too low by 4 ."    -> value       a result compared with the target
    "I must use each of 3 , 9 , 4 exactly once ."               -> usage       the numbers that have to be used
    "I could start with 9 * 3 = 27 ."                           -> first_step  one expression evaluated, no hit claimed
    "Aim 31 ; 9 * 3 = 27 : + 31 - 23 yes ."                     -> search      several evaluated, or a hit claimed

Covered: the embedded model's notation, where `: + 31 - 23` after `9 * 3 = 27` combines 27 with the number that is left
(the larger one first), and expressions in running text: `(9*3)+4=31`, `9 × 3 = 27, 27 + 4 = 31`.
Not covered: arithmetic in words. Linear in the text, whatever the text; exact fractions; nothing is executed.
"""

import re
from collections import Counter
from fractions import Fraction
from typing import NamedTuple

from rrr_utils.tasks.arithmetic import postfix, value_of

KINDS = ("empty", "value", "usage", "first_step", "search")

#: a number, an operator, bracket, equals sign or colon, a word, or anything else (which ends an expression)
_TOKEN = re.compile(r"([0-9]+(?:\.[0-9]+)?)|(!=|[-+*/()=:])|([A-Za-z]+)|(\S)")
#: other ways to write an operator, and list marks at the start of a line, which are not operators
_SAME = str.maketrans("×·⋅÷−–[]{}", "***/--()()")
_MARK = re.compile(r"(?m)^[ \t]*(?:[-*•]|[0-9]{1,2}[.)])[ \t]+")
#: the embedded model's `9 * 3 = 27 and 4 :` names the number that is left, which `_taken_on` works out itself
_LEFT = re.compile(r" and [0-9]{1,9} :")
_OPERATORS = ("+", "-", "*", "/")
_WORDS = {"x": "*", "times": "*", "plus": "+", "minus": "-", "equals": "="}
_VALUE_WORDS = {"low", "high", "short", "off", "result", "got", "target", "instead", "gives", "gave", "aim"}
_USAGE_WORDS = {"use", "used", "using", "each", "once", "twice", "only", "every", "exactly"}
_Derived = dict[Fraction, tuple[Counter, bool]]  # the given numbers behind a result, and whether it is sound
DIGITS, LENGTH = 9, 48  # of the longest number and the longest expression that are evaluated


class Content(NamedTuple):
    """What a reflection contains: its kind, the number of its expressions, what it hits and claims (see `classify`)."""

    kind: str
    expressions: int
    hits: bool
    claims: bool


class _Step(NamedTuple):
    """One evaluated expression."""

    value: Fraction  # the stated result
    sound: bool  # whether it is right, and the steps behind the results it uses are right too
    used: Counter | None  # the given numbers in it; None if it uses others


def classify(text: str, row: dict | None = None) -> Content:
    """Kind and content of a reflection on the task's `row`. Without its numbers and target, hits cannot be told.

    `hits`: an expression is there that really makes the target from all the given numbers, each step right.
    `claims`: it says "yes", or states the target as the result of an expression over all the numbers.

    >>> row = {"nums": [3, 9, 4], "target": 31}
    >>> classify("Aim 31 ; 9 * 3 = 27 : + 31 yes .", row)
    Content(kind='search', expressions=2, hits=True, claims=True)
    """
    nums, target = ((row or {}).get(name) for name in ("nums", "target"))  # of any type, in another task's row
    nums = [n for n in nums if isinstance(n, int)] if isinstance(nums, list) else []
    target = target if isinstance(target, int) else None
    words, numbers, steps, derived = set(), Counter(), [], {}
    for run in _runs(text):
        if isinstance(run, str):
            words.add(run)
        else:
            numbers.update(t for t in run if isinstance(t, Fraction))
            steps += _steps(run, nums, derived)
    full = [s for s in steps if nums and s.used == Counter(nums)]
    claims = bool(steps) and ("yes" in words or any(s.value == target for s in full))
    kind = "search" if len(steps) > 1 or claims else "first_step" if steps else _other(words, numbers, nums, target)
    return Content(kind, len(steps), any(s.sound and s.value == target for s in full), claims)


def _other(words: set[str], numbers: Counter, nums: list[int], target: int | None) -> str:
    """The kind of a reflection that evaluates nothing."""
    if not numbers:
        return "empty"
    value, usage = target in numbers and len(numbers) > 1, bool(nums) and not Counter(nums) - numbers
    if value == usage:  # the numbers do not decide, so the words do
        score = len(words & _VALUE_WORDS) - len(words & _USAGE_WORDS)
        value = score > 0 or (score == 0 and not numbers.keys() <= set(nums))
    return "value" if value else "usage"


def _runs(text: str) -> list[str | list]:
    """The words, in lower case, and the unbroken runs of numbers and signs between them."""
    runs: list[str | list] = [[]]
    text = _MARK.sub("\n; ", _LEFT.sub(" :", text.replace("\\times", "*"))).translate(_SAME)
    for number, sign, word, _ in _TOKEN.findall(text):
        sign = sign or (_WORDS.get(word.lower(), "") if runs[-1] and isinstance(runs[-1], list) else "")
        if number:
            runs[-1].append(Fraction(number) if len(number) <= DIGITS else None)
        elif sign and sign != "!=":
            runs[-1].append(sign)
        else:
            runs += [word.lower(), []] if word else [[]]
    return [run for run in runs if run]


def _steps(run: list, nums: list[int], derived: _Derived) -> list[_Step]:
    """The evaluated expressions of a run. `derived` keeps what is behind each result for later ones."""
    steps: list[_Step] = []
    parts = _split(run, ":")
    for number, part in enumerate(parts):
        if number and steps and part and part[0] in _OPERATORS:
            if "=" not in part:
                steps += _taken_on(steps[-1], part, nums)
                continue
            part = [steps[-1].value, *part]
        sides = [_cut(side) for side in _split(part, "=")]
        for k, (_, expression) in enumerate(sides):
            stated = sides[k + 1][0] if k + 1 < len(sides) else sides[k - 1][1] if k else []
            if k + 1 == len(sides) and len(stated) != 1:  # the last side is a result, or `27 + 4` in `31 = 27 + 4`
                continue
            result = next((t for t in stated if isinstance(t, Fraction)), None)
            value = _evaluate(expression)
            if result is None or value is None or not any(t in _OPERATORS for t in expression):
                continue
            earlier = derived if number + 1 == len(parts) else {}  # a first step before a colon has given numbers only
            used, sound = _used([t for t in expression if isinstance(t, Fraction)], nums, earlier)
            rounded = 1 not in (value.denominator, result.denominator) and abs(value - result) < Fraction(1, 100)
            sound = sound and (value == result or rounded)
            steps.append(_Step(result, sound, used))
            if used:
                derived[result] = (used, sound)
    return steps


def _taken_on(fact: _Step, part: list, nums: list[int]) -> list[_Step]:
    """The steps of the embedded model's `: + 31 - 23`: the fact's result combined with the number that is left."""
    steps = []
    left = [Fraction(n) for n in (Counter(nums) - fact.used).elements()] if fact.used else []
    known = len(left) == 1  # else the fact uses other numbers, or the row is not known
    for op, value in zip(part, part[1:], strict=False):
        if op in _OPERATORS and isinstance(value, Fraction):
            right = known and _evaluate([max(fact.value, left[0]), op, min(fact.value, left[0])]) == value
            steps.append(_Step(value, right and fact.sound, Counter(nums) if known else None))
    return steps


def _split(tokens: list, mark: str) -> list[list]:
    ends = [k for k, token in enumerate(tokens) if token == mark]
    return [tokens[i + 1 : j] for i, j in zip([-1, *ends], [*ends, len(tokens)], strict=True)]


def _cut(side: list) -> tuple[list, list]:
    """First and last part of one side of an equals sign, cut where an operand follows an operand: `27 9 + 4`."""
    ends, begins = ([t == bracket or not isinstance(t, str) for t in side] for bracket in ")(")
    joins = [k for k in range(1, len(side)) if ends[k - 1] and begins[k]]
    return (side[: joins[0]], side[joins[-1] :]) if joins else (side, side)


def _used(numbers: list[Fraction], nums: list[int], derived: _Derived) -> tuple[Counter | None, bool]:
    """The given numbers behind an expression's numbers, and whether the results of earlier steps in it are sound."""
    if not nums or len(numbers) > len(nums):
        return None, True
    known = [k for k, x in enumerate(numbers) if x in derived]
    best = None
    for opened in [[], *([k] for k in known), known]:  # which of the numbers are taken as results of earlier steps
        used = sum((derived[x][0] if k in opened else Counter([x]) for k, x in enumerate(numbers)), Counter())
        sound = all(derived[numbers[k]][1] for k in opened)
        if used == Counter(nums):
            return used, sound
        if best is None and not used - Counter(nums):
            best = used, sound
    return best or (None, True)


def _evaluate(tokens: list) -> Fraction | None:
    """Exact value of an expression, or None. Brackets without a partner belong to the sentence around it."""
    steps = postfix(tokens, loose=True) if len(tokens) <= LENGTH and None not in tokens else None
    return steps and value_of(steps)
