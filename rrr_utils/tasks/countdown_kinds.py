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

import functools
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from fractions import Fraction
from operator import itemgetter
from typing import NamedTuple

from rrr_utils.tasks.arithmetic import canonical, postfix, value_of

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
#: where a clause begins: a row of a search, an entry of a list, a line, a sentence
_CLAUSE = re.compile(r"\n;?|;|[.!?](?!\S)")
DIGITS, LENGTH = 9, 48  # of the longest number and the longest expression that are evaluated


class Content(NamedTuple):
    """What a reflection contains: its kind, the number of its expressions, what it hits and claims (see `classify`)."""

    kind: str
    expressions: int
    hits: bool
    claims: bool


class _Step(NamedTuple):
    """One evaluated expression."""

    value: int | Fraction  # the stated result
    right: bool  # whether the sum is right, as far as can be told
    sound: bool  # whether it is right, and the steps behind the results it uses are right too
    used: Counter | None  # the given numbers in it; None if it uses others
    form: str | None  # the expression of given numbers that it is, in `canonical` form
    begin: int  # where in the text the first step behind it is


_Derived = dict[int | Fraction, _Step]  # what is behind a result


def classify(text: str, row: dict | None = None) -> Content:
    """Kind and content of a reflection on the task's `row`. Without its numbers and target, hits cannot be told.

    `hits`: an expression is there that really makes the target from all the given numbers, each step right.
    `claims`: it says "yes", or states the target as the result of an expression over all the numbers.

    >>> row = {"nums": [3, 9, 4], "target": 31}
    >>> classify("Aim 31 ; 9 * 3 = 27 : + 31 yes .", row)
    Content(kind='search', expressions=2, hits=True, claims=True)
    """
    nums, target = _problem(row)
    words, numbers, steps = set(), Counter(), []
    for run, _, _, some in _read(text, tuple(nums)):
        words.update([run] if isinstance(run, str) else [])
        numbers.update(t for t in run if isinstance(t, int | Fraction))
        steps += some
    full = [s for s in steps if nums and s.used == Counter(nums)]
    claims = bool(steps) and ("yes" in words or any(s.value == target for s in full))
    kind = "search" if len(steps) > 1 or claims else "first_step" if steps else _other(words, numbers, nums, target)
    return Content(kind, len(steps), any(s.sound and s.value == target for s in full), claims)


def answers(text: str, row: dict) -> list[tuple[str, str]]:
    """Passages that state a right answer, in their order, each with its (first) equation in canonical form.

    A hit as in `classify`, or an expression of exactly the given numbers that makes the target, without its value. The
    passage is the row of the search, line or sentence with the hit, and all from the first step that it builds on, if
    that is in an earlier one; with the mark before it, so that what is left when it is cut reads on.

    >>> answers("Aim 31 ; 9 - 3 = 6 and 4 : + 10 ; 9 * 3 = 27 and 4 : + 31 yes .", {"nums": [3, 9, 4], "target": 31})
    [('; 9 * 3 = 27 and 4 : + 31 yes', '((3*9)+4)')]
    """
    (nums, target), found = _problem(row), []
    for run, begin, end, steps in _read(text, tuple(nums)):
        hits = [s for s in steps if s.sound and s.value == target and s.used == Counter(nums)]
        if hits:
            found.append((hits[0].begin, end, hits[0].form))
        elif form := _unevaluated(run, nums, target):
            found.append((begin, end, form))
    return _passages(text, found)


def wrong_sums(text: str, row: dict) -> list[str]:
    """The rows of a search, lines or sentences with a wrong sum, as far as can be told, in their order.

    >>> wrong_sums("Aim 31 ; 9 - 3 = 5 and 4 : + 9 ; 9 * 3 = 27 and 4 : + 32 .", {"nums": [3, 9, 4], "target": 31})
    ['; 9 - 3 = 5 and 4 : + 9', '; 9 * 3 = 27 and 4 : + 32']
    """
    read = _read(text, tuple(_problem(row)[0]))
    wrong = [(begin, end, "") for _, begin, end, steps in read if not all(step.right for step in steps)]
    return [passage for passage, _ in _passages(text, wrong)]


@functools.lru_cache(maxsize=2**14)  # kinds, leaks and wrong sums are told of the same texts, one after the other
def _read(text: str, nums: tuple[int, ...]) -> list[tuple[str | list, int, int, list[_Step]]]:
    """Each of `_runs` and the expressions that it evaluates. Nobody changes what it returns."""
    derived: _Derived = {}
    return [(run, b, e, [] if isinstance(run, str) else _steps(run, nums, derived, b)) for run, b, e in _runs(text)]


def _passages(text: str, found: list[tuple[int, int, str]]) -> list[tuple[str, str]]:
    """Whole clauses around places (begin, end, form) of a text, in their order; those that overlap are one."""
    marks = [match.span() for match in _CLAUSE.finditer(_plain(text))]
    marks, places = [(0, 0), *marks, (len(text), len(text) + 1)], []
    for begin, end, form in found:
        begin = marks[bisect_right(marks, begin, key=itemgetter(1)) - 1][0]
        end = marks[bisect_left(marks, end, key=itemgetter(0))][0]
        while places and begin < places[-1][1]:
            first, last, form = places.pop()
            begin, end = min(begin, first), max(end, last)
        places.append((begin, end, form))
    return [(text[begin:end].rstrip(), form) for begin, end, form in places]


def _problem(row: dict | None) -> tuple[list[int], int | None]:
    """Numbers and target of a row, which are of any type, or not there, in another task's row."""
    nums, target = ((row or {}).get(name) for name in ("nums", "target"))
    nums = [n for n in nums if isinstance(n, int)] if isinstance(nums, list) else []
    return nums, target if isinstance(target, int) else None


def _other(words: set[str], numbers: Counter, nums: list[int], target: int | None) -> str:
    """The kind of a reflection that evaluates nothing."""
    if not numbers:
        return "empty"
    value, usage = target in numbers and len(numbers) > 1, bool(nums) and not Counter(nums) - numbers
    if value == usage:  # the numbers do not decide, so the words do
        score = len(words & _VALUE_WORDS) - len(words & _USAGE_WORDS)
        value = score > 0 or (score == 0 and not numbers.keys() <= set(nums))
    return "value" if value else "usage"


def _plain(text: str) -> str:
    """The text in one notation, with every character in its place."""
    text = _LEFT.sub(lambda match: ":".rjust(len(match[0])), text.replace("\\times", "*".ljust(len("\\times"))))
    return _MARK.sub(lambda match: ";".ljust(len(match[0])), text).translate(_SAME)


def _runs(text: str) -> list[tuple[str | list, int, int]]:
    """The words, in lower case, and the unbroken runs of numbers and signs between them, each with begin and end."""
    runs: list[tuple[str | list, int, int]] = []
    run, begin, end = [], 0, 0
    for match in _TOKEN.finditer(_plain(text)):
        number, sign, word, _ = match.groups("")
        sign = sign or (_WORDS.get(word.lower(), "") if run else "")
        if number or sign not in ("", "!="):
            begin, end = begin if run else match.start(), match.end()
            run.append(sign or (_number(number) if len(number) <= DIGITS else None))
            continue
        runs += [(run, begin, end)] if run else []
        runs += [(word.lower(), *match.span())] if word else []
        run = []
    return [*runs, (run, begin, end)] if run else runs


def _number(text: str) -> int | Fraction:
    return int(text) if "." not in text else int(exact) if (exact := Fraction(text)).denominator == 1 else exact


def _steps(run: list, nums: tuple[int, ...], derived: _Derived, begin: int) -> list[_Step]:
    """The evaluated expressions of a run from `begin` on. `derived` keeps what is behind each result for later ones."""
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
            result = next((t for t in stated if isinstance(t, int | Fraction)), None)
            parsed = _parsed(expression)
            value = parsed and value_of(parsed)
            if result is None or value is None or not any(t in _OPERATORS for t in expression):
                continue
            earlier = derived if number + 1 == len(parts) else {}  # a first step before a colon has given numbers only
            numbers = [t for t in expression if isinstance(t, int | Fraction)]
            used, opened = _used(numbers, nums, earlier)
            behind = {k: earlier[numbers[k]] for k in opened}
            rounded = 1 not in (value.denominator, result.denominator) and abs(value - result) < Fraction(1, 100)
            right = value == result or rounded
            sound = right and all(step.sound for step in behind.values())
            form = None
            if used:
                leaves = iter([behind[k].form if k in behind else t for k, t in enumerate(numbers)])
                form = canonical([next(leaves) if isinstance(t, int | Fraction) else t for t in parsed])
            first = min([begin, *(step.begin for step in behind.values())])
            steps.append(_Step(result, right, sound, used, form, first))
            if used:
                derived[result] = steps[-1]
    return steps


def _taken_on(fact: _Step, part: list, nums: tuple[int, ...]) -> list[_Step]:
    """The steps of the embedded model's `: + 31 - 23`: the fact's result combined with the number that is left."""
    steps = []
    left = list((Counter(nums) - fact.used).elements()) if fact.used else []
    known = len(left) == 1  # else the fact uses other numbers, or the row is not known
    pair = sorted([(fact.value, fact.form), *((n, str(n)) for n in left)], key=lambda one: -one[0])
    values, forms = zip(*pair, strict=True)
    for op, value in zip(part, part[1:], strict=False):
        if op in _OPERATORS and isinstance(value, int | Fraction):
            if known:
                right, used, form = value_of([*values, op]) == value, Counter(nums), canonical([*forms, op])
                steps.append(_Step(value, right, right and fact.sound, used, form, fact.begin))
            else:
                steps.append(_Step(value, True, False, None, None, fact.begin))
    return steps


def _unevaluated(run: str | list, nums: list[int], target: int | None) -> str | None:
    """The canonical form of an expression of exactly the given numbers that makes the target, in a run without "="."""
    parts = [] if isinstance(run, str) or "=" in run else _split(run, ":")
    for tokens in [tokens for part in parts for tokens in _cut(part) if not set(_OPERATORS).isdisjoint(tokens)]:
        if sorted(t for t in tokens if isinstance(t, int | Fraction)) == sorted(nums):
            if (parsed := _parsed(tokens)) and value_of(parsed) == target:
                return canonical(parsed)
    return None


def _split(tokens: list, mark: str) -> list[list]:
    ends = [k for k, token in enumerate(tokens) if token == mark]
    return [tokens[i + 1 : j] for i, j in zip([-1, *ends], [*ends, len(tokens)], strict=True)]


def _cut(side: list) -> tuple[list, list]:
    """First and last part of one side of an equals sign, cut where an operand follows an operand: `27 9 + 4`."""
    ends, begins = ([t == bracket or not isinstance(t, str) for t in side] for bracket in ")(")
    joins = [k for k in range(1, len(side)) if ends[k - 1] and begins[k]]
    return (side[: joins[0]], side[joins[-1] :]) if joins else (side, side)


def _used(numbers: list[int | Fraction], nums: tuple[int, ...], derived: _Derived) -> tuple[Counter | None, list[int]]:
    """The given numbers behind an expression's numbers, and which of these are results of earlier steps."""
    if not nums or len(numbers) > len(nums):
        return None, []
    known = [k for k, x in enumerate(numbers) if x in derived]
    best = None
    for opened in [[], *([k] for k in known), known]:
        used = sum((derived[x].used if k in opened else Counter([x]) for k, x in enumerate(numbers)), Counter())
        if used == Counter(nums):
            return used, opened
        if best is None and not used - Counter(nums):
            best = used, opened
    return best or (None, [])


def _parsed(tokens: list) -> list | None:
    """An expression's `postfix` steps, or None. Brackets without a partner belong to the sentence around it."""
    return postfix(tokens, loose=True) if len(tokens) <= LENGTH and None not in tokens else None
