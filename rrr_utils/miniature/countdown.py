"""The corpus of the embedded model for Countdown (notebook A1).

From these alone the model learns to guess equations, to write several kinds of reflection, and to use what a reflection
says. One kind, the search, tries equations in a fixed order and may end without a hit. The shares were fixed before any
reinforcement learning. All problems come from the *pretrain* split, and drills never chain two steps.
"""

import functools
import random
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from rrr_utils import conversation
from rrr_utils.miniature.documents import Document, asked, said
from rrr_utils.tasks import countdown

TASK = countdown
STEPS = 7500  # of the pre-training of the model in `data/embedded`
#: share of documents by kind
MIXTURE = {
    "answer": 0.25, "own": 0.33, "blind": 0.07, "generic": 0.03,
    "other": 0.02, "masked": 0.02, "drill": 0.12, "worked": 0.16,
}  # fmt: skip
KINDS = {"empty": 0.45, "value": 0.14, "usage": 0.12, "first_step": 0.14, "search": 0.15}  # share of reflections
#: lessons: first chunk (of `pretraining.CHUNK` documents), share of practice, its sort. Arithmetic comes first; then
#: what is too small a part of the loss to be learnt among the rest: whether a result is the target, and which number is
#: left; then some of everything; direct answers last
LESSONS = ((0, 0.75, "sums"), (8, 0.9, "verdicts"), (16, 0.9, "left"), (21, 0.3, "all"), (75, 0.4, "answers"))
RIGHT = {"answer": 0.90, "retry": 0.50, "hit": 0.98}  # right answers: direct, on a retry, after a search with a hit
MAX_ROWS = (3, 9)  # a search gives up after this many first steps, drawn for each search: fewest, most
LARGEST, LARGEST_NUMBER = 60, 225  # largest result of a second step (no target is larger), and number (15 * 15)
VERDICTS, LEFT = "verdicts", "left"  # what is learnt of a message: "is it the target" alone, or the number left alone
EMPTY = ("I should be more careful .", "I made a mistake and will try again .", "I will check my steps next time .")
GENERIC = ("Work step by step and check the result .", "Try other numbers first .", "Think about the target .")
DRILL = "Write down some sums."
WORKED = "Write down what these numbers make until one result is right."


class Step(NamedTuple):
    """A first step `a op b = made`, the number that it leaves, and what these two make: (operation, value)."""

    a: int
    op: str
    b: int
    made: int
    left: int
    second: list[tuple[str, int]]


def result(a: int, op: str, b: int) -> int | None:
    """The value of `a op b`; None where it is not a whole number."""
    if op == "/":
        return a // b if b and a % b == 0 else None
    return {"+": a + b, "-": a - b, "*": a * b}[op]


def second_steps(one: int, other: int) -> list[tuple[str, int]]:
    """What two numbers make, the larger one first: values from 1 to `LARGEST`.

    >>> second_steps(4, 27)
    [('+', 31), ('-', 23)]
    """
    values = [(op, result(max(one, other), op, min(one, other))) for op in "+-*/"]
    return [(op, value) for op, value in values if value and value <= LARGEST]


def steps(nums: list[int]) -> list[Step]:
    """Every first step on two of three numbers, the larger one first, in a fixed order.

    >>> steps([3, 9, 4])[0]
    Step(a=9, op='*', b=3, made=27, left=4, second=[('+', 31), ('-', 23)])
    """
    found, seen = [], set()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b, left = max(nums[i], nums[j]), min(nums[i], nums[j]), nums[3 - i - j]
        for op in "*+-/":
            made = result(a, op, b)
            if made and (made, left) not in seen and (second := second_steps(made, left)):
                seen.add((made, left))
                found.append(Step(a, op, b, made, left, second))
    return found


def solvable(row: dict) -> bool:
    """Whether a search can reach the target: without fractions on the way."""
    return any(value == row["target"] for step in steps(row["nums"]) for _, value in step.second)


@functools.cache
def problems() -> list[dict]:
    """The problems of the corpus: those of the pretrain split that a search can solve."""
    return [row for row in countdown.load("pretrain", None, 0) if solvable(row)]


def equation(step: Step, op: str) -> str:
    """The answer that a first step and the operation of the second one make.

    >>> equation(steps([3, 9, 4])[0], "+")
    '<answer> ( 9 * 3 ) + 4 </answer>'
    """
    inner = f"( {step.a} {step.op} {step.b} )"
    swap = op in "-/" and step.made < step.left
    return f"<answer> {step.left} {op} {inner} </answer>" if swap else f"<answer> {inner} {op} {step.left} </answer>"


def wrong(possible: list[Step], target: int, rng: random.Random) -> tuple[str, int]:
    """An equation that misses the target, and its value."""
    step, op, value = rng.choice([(s, op, value) for s in possible for op, value in s.second if value != target])
    return equation(step, op), value


def right(possible: list[Step], target: int, rng: random.Random) -> str:
    """An equation that hits the target."""
    return equation(*rng.choice([(s, op) for s in possible for op, value in s.second if value == target]))


def answer(possible: list[Step], target: int, after: str, rng: random.Random) -> dict[str, str]:
    """An answer that is right with the probability `RIGHT[after]`."""
    return said(right(possible, target, rng) if rng.random() < RIGHT[after] else wrong(possible, target, rng)[0])


def search(possible: list[Step], target: int, start: int, most: int) -> tuple[str, str | None]:
    """A search of `most` first steps from `start` on, and the answer that it found, if any.

    >>> search(steps([3, 9, 4]), 31, 0, 3)
    ('Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes .', '<answer> ( 9 * 3 ) + 4 </answer>')
    """
    text = f"Aim {target}"
    for k in range(min(most, len(possible))):
        step = possible[(start + k) % len(possible)]
        text += f" ; {step.a} {step.op} {step.b} = {step.made} and {step.left} :"
        for op, value in step.second:
            text += f" {op} {value} {target}"  # without the target there, whether this is a hit is never learnt
            if value == target:
                return f"{text} yes .", equation(step, op)
    return f"{text} .", None


def reflection(kind: str, row: dict, possible: list[Step], value: int, rng: random.Random) -> tuple[str, str | None]:
    """A reflection of a kind on an attempt that came to `value`, and the answer that it found, if any."""
    target = row["target"]
    if kind == "empty":
        return rng.choice(EMPTY), None
    if kind == "value":
        how = "low" if value < target else "high"
        return f"My result was {value} but the target is {target} : too {how} by {abs(value - target)} .", None
    if kind == "usage":
        return f"I must use each of {' , '.join(map(str, row['nums']))} exactly once .", None
    if kind == "first_step":
        good = [step for step in possible if any(value == target for _, value in step.second)]
        step = rng.choice(good if rng.random() < 0.5 else possible)
        return f"I could start with {step.a} {step.op} {step.b} = {step.made} .", None
    return search(possible, target, rng.randrange(len(possible)), rng.randint(*MAX_ROWS))


def drill(rng: random.Random) -> str:
    """Ten facts about two numbers, written as in a search; none goes on with a result of the one before it."""
    facts, last = [], set()
    while len(facts) < 10:
        if rng.random() < 0.35:
            a, b = sorted((rng.randint(1, 15), rng.randint(1, 15)), reverse=True)
            op = rng.choice([op for op in "+-*/" if result(a, op, b)])
            fact, results = f"{a} {op} {b} = {result(a, op, b)}", {result(a, op, b)}
        else:
            b = rng.randint(1, 15)
            a = rng.randint(1, LARGEST + 15) if rng.random() < 0.75 else b * rng.randint(1, 15)
            values = second_steps(a, b)
            results = {value for _, value in values}
            fact = " ".join([f"{a} and {b} :", *(f"{op} {value}" for op, value in values)])
        if results and not last & {a, b}:
            facts.append(fact)
            last = results
    return f"Sums : {' ; '.join(facts)} ."


def sameness(rng: random.Random) -> str:
    """Is this result the target? Twelve times, half of them yes, written as in a search but without its sums."""
    parts = []
    for _ in range(12):
        value = rng.randint(1, LARGEST)
        target = value if rng.random() < 0.5 else rng.randint(1, LARGEST)
        parts.append(f"{rng.choice('+-*/')} {value} {target}{' yes' if value == target else ''}")
    return f"Sums : {' ; '.join(parts)} ."


def leftover(nums: list[int], rng: random.Random) -> str:
    """First steps in any order, each with the number that it leaves, written as in a search."""
    some = rng.choices([step for step in steps(nums) if step.made <= LARGEST_NUMBER], k=10)
    return f"Sums : {' ; '.join(f'{s.a} {s.op} {s.b} = {s.made} and {s.left}' for s in some)} ."


def worked_question(row: dict) -> str:
    """The request to work through a problem's numbers."""
    return f"{WORKED} {conversation.question(countdown, row)}"


def worked(row: dict, rng: random.Random) -> tuple[conversation.Messages, dict[str, str]]:
    """A search as the answer to a question instead of a reflection; and the answer that may follow it."""
    possible, target = steps(row["nums"]), row["target"]
    text, found = search(possible, target, rng.randrange(len(possible)), len(possible))
    return asked(worked_question(row), text), said(found) if found else answer(possible, target, "retry", rng)


def draw(problems: list[dict], rng: random.Random) -> dict:
    """A problem with its numbers in any order."""
    row = rng.choice(problems)
    return row | {"nums": rng.sample(row["nums"], len(row["nums"]))}


def document(problems: list[dict], rng: random.Random, chunk: int | None = None) -> Document:
    """A document of a chunk of the training (`LESSONS`); None: of `MIXTURE` alone."""
    begun = [lesson for lesson in LESSONS if chunk is not None and lesson[0] <= chunk]
    _, share, sort = begun[-1] if begun else (0, 0.0, "")
    if rng.random() < share:
        return practice(problems, rng, sort)
    return from_mixture(problems, rng, rng.choices(list(MIXTURE), list(MIXTURE.values()))[0])


def practice(problems: list[dict], rng: random.Random, sort: str) -> Document:
    """A document of a lesson."""
    if sort == "all":
        sort = rng.choice(("sums", "verdicts", "left"))
    if sort in ("sums", "answers"):
        kind = "drill" if sort == "sums" else rng.choice(("answer", "answer", "blind", "own"))
        return from_mixture(problems, rng, kind)
    if sort == "left":
        row = draw(problems, rng)
        if rng.random() < 0.5:  # numbers of no problem, so that the answers cannot be learnt by heart
            row |= {"nums": rng.sample([rng.randint(1, 15), rng.randint(1, 30), rng.randint(16, 30)], 3)}
        return "drill", asked(worked_question(row), leftover(row["nums"], rng)), [False, LEFT]
    if rng.random() < 0.5:
        return "drill", asked(DRILL, sameness(rng)), [False, VERDICTS]
    messages, last = worked(row := draw(problems, rng), rng)
    return "worked", [*messages, *conversation.attempt(countdown, row), last], [False, VERDICTS, False, True]


def from_mixture(problems: list[dict], rng: random.Random, kind: str) -> Document:
    """A document of a kind of `MIXTURE`; an own reflection is returned under its kind (`own_search`)."""
    if kind == "drill":
        return kind, asked(DRILL, drill(rng)), [False, True]
    row = draw(problems, rng)
    possible, target = steps(row["nums"]), row["target"]
    if kind == "worked":
        return kind, worked(row, rng)[0], [False, True]
    if kind == "answer":
        return kind, [*conversation.attempt(countdown, row), answer(possible, target, kind, rng)], [False, True]
    failed, value = wrong(possible, target, rng)
    if kind == "blind":
        messages = [*conversation.blind_retry(countdown, row, failed), answer(possible, target, "retry", rng)]
        return kind, messages, [False, False, False, True]
    which, found = rng.choices(list(KINDS), list(KINDS.values()))[0], None
    if kind == "own":
        text, found = reflection(which, row, possible, value, rng)
        kind = f"own_{which}"
    elif kind == "generic":
        text = rng.choice(GENERIC)
    elif kind == "other":  # a reflection on another problem
        other = rng.choice(problems)
        their = steps(other["nums"])
        text = reflection(which, other, their, wrong(their, other["target"], rng)[1], rng)[0]
    else:  # a search without its numbers
        text = re.sub(r"\d+", "?", reflection("search", row, possible, value, rng)[0])
    last = answer(possible, target, "retry", rng)
    if found and rng.random() < RIGHT["hit"]:
        last = said(found)
    learnt = [False, False, False, kind.startswith("own"), False, True]
    return kind, [*conversation.retry(countdown, row, failed, text), last], learnt


def lessons(tokenizer: Any) -> dict[str, Callable[[list[int]], list[bool]]]:
    """Which of a message's token ids are learnt in a lesson that learns a part of it."""
    after_target = set(tokenizer.convert_tokens_to_ids([" yes", " ;", " .", " +", " -", " *", " /"]))
    before_left = tokenizer.convert_tokens_to_ids(" and")
    numbers = set(tokenizer.convert_tokens_to_ids([f" {i}" for i in range(LARGEST_NUMBER + 1)]))

    def verdicts(ids: list[int]) -> list[bool]:
        """What follows a result and the target: "yes", or whatever comes next."""
        return [token in after_target and i > 1 and {*ids[i - 2 : i]} <= numbers for i, token in enumerate(ids)]

    def left(ids: list[int]) -> list[bool]:
        return [i > 0 and ids[i - 1] == before_left for i in range(len(ids))]

    return {VERDICTS: verdicts, LEFT: left}
