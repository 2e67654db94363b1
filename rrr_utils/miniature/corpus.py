"""The embedded model's corpus (notebook A1; `miniature_tokenizer.py` reads it, `pretraining.py` trains on it).

A Qwen2-architecture model of about a million parameters learns, from chat documents alone, to guess equations, to
write several kinds of reflection, and to read what stands in a reflection. Nothing here knows of rewards. The corpus
mixture (`MIXTURE`, `KINDS`, `RIGHT`) was fixed before any reinforcement learning.

What a reflection computes is always the model's own work: one kind walks through equations in a fixed order and may
end without a hit. Only problems of the *pretrain* split occur, and arithmetic drills never chain two steps.
"""

from __future__ import annotations

import random
import re

from rrr_utils import conversation
from rrr_utils.tasks import countdown

#: share of documents
MIXTURE = {
    "answer": 0.25, "own": 0.33, "blind": 0.07, "generic": 0.03, "other": 0.02, "masked": 0.02, "drill": 0.12, "worked": 0.16,
}  # fmt: skip
#: share of reflections
KINDS = {"empty": 0.45, "value": 0.14, "usage": 0.12, "first_step": 0.14, "search": 0.15}
#: lessons: from a chunk of documents (`pretraining.CHUNK`) on, which share is replaced by practice, and of what. Sums by heart;
#: then what a search turns on and what is too small a share of the loss to be learnt beside everything else: is this result
#: the target, and which number is left? Then some of each, and at last direct answers.
LESSONS = ((0, 0.75, "sums"), (8, 0.9, "verdicts"), (16, 0.9, "left"), (21, 0.3, "all"), (75, 0.4, "answers"))
#: how often an answer in the corpus is right: alone, after a failed attempt, after a reflection that found an equation
RIGHT = {"answer": 0.90, "retry": 0.50, "hit": 0.98}
#: longest search: rows of equations before it gives up
MAX_ROWS = (3, 9)
#: largest result of a second step that is written down: no target is larger
LARGEST = 60
#: largest number of a document: 15 * 15
LARGEST_NUMBER = 225

EMPTY = ("I should be more careful .", "I made a mistake and will try again .", "I will check my steps next time .")
GENERIC = ("Work step by step and check the result .", "Try other numbers first .", "Think about the target .")

Row = tuple[int, str, int, int, int, list[tuple[str, int]]]


def steps(nums: list[int]) -> list[Row]:
    """Every first step `a op b = c` on two of three numbers, in a fixed order, with what a second step with the third
    number d makes of it: `(a, op, b, c, d, [(op, value), ...])`. Differences and quotients are larger by smaller.

    >>> steps([3, 9, 4])[0]
    (9, '*', 3, 27, 4, [('+', 31), ('-', 23)])
    """
    rows, seen = [], set()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b, d = max(nums[i], nums[j]), min(nums[i], nums[j]), nums[3 - i - j]
        for op, c in (("*", a * b), ("+", a + b), ("-", a - b), ("/", a // b if a % b == 0 else 0)):
            if c == 0 or (c, d) in seen:
                continue
            if second := second_steps(c, d):
                seen.add((c, d))
                rows.append((a, op, b, c, d, second))
    return rows


def equation(row: Row, op: str) -> str:
    """The answer that a first step and the operation of the second make.

    >>> equation(steps([3, 9, 4])[0], "+")
    '<answer> ( 9 * 3 ) + 4 </answer>'
    """
    a, first, b, c, d, _ = row
    inner = f"( {a} {first} {b} )"
    swap = op in "-/" and c < d
    return f"<answer> {d} {op} {inner} </answer>" if swap else f"<answer> {inner} {op} {d} </answer>"


def second_words(second: list[tuple[str, int]], target: int) -> tuple[list[str], str | None]:
    """What two numbers make, each result followed by the target (or whether it is the target is never learnt), up to a hit;
    and the operation that hit.

    >>> second_words([("-", 23), ("+", 31)], 31)
    (['-', '23', '31', '+', '31', '31', 'yes'], '+')
    """
    words: list[str] = []
    for op, value in second:
        words += [op, str(value), str(target)]
        if value == target:
            return [*words, "yes"], op
    return words, None


def search(rows: list[Row], target: int, start: int, most: int) -> tuple[str, str | None]:
    """A walk through the first steps from `start` on, and the answer it found, if any.

    >>> search(steps([3, 9, 4]), 31, 0, 3)
    ('Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes .', '<answer> ( 9 * 3 ) + 4 </answer>')
    """
    words = ["Aim", str(target)]
    for k in range(min(most, len(rows))):
        row = rows[(start + k) % len(rows)]
        a, op, b, c, d, second = row
        made, hit = second_words(second, target)
        words += [";", str(a), op, str(b), "=", str(c), "and", str(d), ":", *made]
        if hit:
            return " ".join([*words, "."]), equation(row, hit)
    return " ".join(words + ["."]), None


def wrong(rows: list[Row], target: int, rng: random.Random) -> tuple[str, int]:
    """An equation that misses the target, and its value."""
    options = [(row, o, v) for row in rows for o, v in row[5] if v != target]
    row, op, value = rng.choice(options)
    return equation(row, op), value


def right(rows: list[Row], target: int, rng: random.Random) -> str:
    """An equation that hits the target."""
    return equation(*rng.choice([(row, o) for row in rows for o, v in row[5] if v == target]))


def reflection(kind: str, row: dict, rows: list[Row], value: int, rng: random.Random) -> tuple[str, str | None]:
    """A reflection of a kind on an attempt that came to `value`, and the answer it leads to where it found one."""
    target = row["target"]
    if kind == "empty":
        return rng.choice(EMPTY), None
    if kind == "value":
        how = "low" if value < target else "high"
        return f"My result was {value} but the target is {target} : too {how} by {abs(value - target)} .", None
    if kind == "usage":
        return f"I must use each of {' , '.join(map(str, row['nums']))} exactly once .", None
    if kind == "first_step":
        good = [r for r in rows if any(v == target for _, v in r[5])]
        a, op, b, c, *_ = rng.choice(good if rng.random() < 0.5 else rows)
        return f"I could start with {a} {op} {b} = {c} .", None
    return search(rows, target, rng.randrange(len(rows)), rng.randint(*MAX_ROWS))


def sums_of(text: str, nums: list[int]) -> tuple[list[bool], list[bool]]:
    """Of a search: which of its sums, as they are written, are right; and of which rows the number that is left is right.

    >>> sums_of("Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes .", [3, 9, 4]), sums_of("Aim 5 ; 3 + 3 = 7 and 4 : - 2 5 .", [3, 9, 4])
    (([True, True], [True]), ([False, False], [False]))
    """
    sums, left = [], []
    for row in re.split(r" ; ", text)[1:]:
        if not (found := re.match(r"(\d{1,4}) ([-+*/]) (\d{1,4}) = (\d{1,4}) and (\d{1,4}) :", row)):
            continue
        a, op, b, c, d = (x if x in "+-*/" else int(x) for x in found.groups())
        sums.append({"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[op] == c)
        left.append(sorted([a, b, d]) == sorted(nums))
        true = dict(second_steps(c, d)) if c and d else {}
        sums += [true.get(o) == int(value) for o, value, _ in re.findall(r"([-+*/]) (\d{1,4}) (\d{1,4})", row[found.end() :])]
    return sums, left


def mask_numbers(text: str) -> str:
    """A search with the results of its second steps hidden, for the control that masks the answer.

    >>> mask_numbers("Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes .")
    'Aim ? ; ? * ? = ? and ? : + ? ? yes .'
    """
    return re.sub(r"\d+", "?", text)


def second_steps(c: int, d: int) -> list[tuple[str, int]]:
    """What two numbers make: sum, difference and quotient (larger by smaller) and product, up to `LARGEST`.

    >>> second_steps(27, 4)
    [('+', 31), ('-', 23)]
    """
    high, low = max(c, d), min(c, d)
    values = [("+", c + d), ("-", high - low), ("*", c * d)] + ([("/", high // low)] if high % low == 0 else [])
    return [(op, value) for op, value in values if 0 < value <= LARGEST]


def drill(rng: random.Random) -> str:
    """Two-number facts in the two forms that a search is made of, none of which goes on from the one before it, so that
    no three numbers form a problem.
    """
    facts, last = [], set()
    while len(facts) < 10:
        if rng.random() < 0.35:
            a, b = sorted((rng.randint(1, 15), rng.randint(1, 15)), reverse=True)
            op = rng.choice([o for o in "+-*/" if (o != "/" or a % b == 0) and (o != "-" or a > b)])
            made = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]
            fact, numbers, results = f"{a} {op} {b} = {made}", {a, b}, {made}
        else:
            d = rng.randint(1, 15)
            c = rng.randint(1, LARGEST + 15) if rng.random() < 0.75 else d * rng.randint(1, 15)
            values = second_steps(c, d)
            fact, numbers, results = " ".join([f"{c} and {d} :", *(f"{op} {v}" for op, v in values)]), {c, d}, {v for _, v in values}
        if results and not last & numbers:
            facts.append(fact)
            last = results
    return "Sums : " + " ; ".join(facts) + " ."


def sameness(rng: random.Random) -> str:
    """Is this result the target? A dozen times, half of them yes, in the notation of a search but without its sums."""
    parts = []
    for _ in range(12):
        value = rng.randint(1, LARGEST)
        target = value if rng.random() < 0.5 else rng.randint(1, LARGEST)
        parts.append(f"{rng.choice('+-*/')} {value} {target}{' yes' if value == target else ''}")
    return "Sums : " + " ; ".join(parts) + " ."


def leftover(nums: list[int], rng: random.Random) -> str:
    """First steps in any order, each with the number that it leaves, in the notation of a search.

    >>> leftover([3, 9, 4], random.Random(1))[:42]
    'Sums : 9 + 3 = 12 and 4 ; 9 + 4 = 13 and 3'
    """
    rows = rng.choices([row for row in steps(nums) if row[3] <= LARGEST_NUMBER], k=10)
    return "Sums : " + " ; ".join(f"{a} {op} {b} = {c} and {d}" for a, op, b, c, d, _ in rows) + " ."


#: in place of true: of a message, only the words that say whether a result is the target are learnt, or only the numbers left
VERDICTS, LEFT = "verdicts", "left"
DRILL = "Write down some sums."
WORKED = "Write down what these numbers make until one result is right."

Document = tuple[str, conversation.Messages, list[bool | str]]


def lesson(chunk: int) -> tuple[float, str]:
    """Of a chunk: the share and sort of practice.

    >>> lesson(0), lesson(10)
    ((0.75, 'sums'), (0.9, 'verdicts'))
    """
    return next((share, sort) for begin, share, sort in reversed(LESSONS) if chunk >= begin)


def asked(question: str, answer: str) -> conversation.Messages:
    """One question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def shuffled(row: dict, rng: random.Random) -> dict:
    """The problem with its numbers in any order."""
    return row | {"nums": rng.sample(row["nums"], len(row["nums"]))}


def answer(row: dict, rows: list[Row], share: float, rng: random.Random) -> dict:
    """An answer that is right with a probability of `share`."""
    text = right(rows, row["target"], rng) if rng.random() < share else wrong(rows, row["target"], rng)[0]
    return {"role": "assistant", "content": text}


def worked(row: dict, rng: random.Random) -> tuple[conversation.Messages, dict]:
    """The walk of a reflection, asked for outright: practice that says nothing of when to reflect so. And what follows it."""
    rows = steps(row["nums"])
    text, found = search(rows, row["target"], rng.randrange(len(rows)), len(rows))
    last = {"role": "assistant", "content": found} if found else answer(row, rows, RIGHT["retry"], rng)
    return asked(f"{WORKED} {conversation.question(countdown, row)}", text), last


def practice(problems: list[dict], rng: random.Random, sort: str) -> Document:
    """A document of a lesson: its kind, its messages, and what of each is learnt."""
    if sort == "all":
        sort = rng.choice(("sums", "verdicts", "left"))
    if sort == "answers":
        return from_mixture(problems, rng, rng.choice(("answer", "answer", "blind", "own")))
    if sort == "sums":
        return "drill", asked(DRILL, drill(rng)), [False, True]
    if sort == "left":  # half of them of numbers that no problem holds, so that it is not learnt by heart
        row = shuffled(rng.choice(problems), rng)
        if rng.random() < 0.5:
            row = row | {"nums": rng.sample([rng.randint(1, 15), rng.randint(1, 30), rng.randint(16, 30)], 3)}
        return "drill", asked(f"{WORKED} {conversation.question(countdown, row)}", leftover(row["nums"], rng)), [False, LEFT]
    if rng.random() < 0.5:
        return "drill", asked(DRILL, sameness(rng)), [False, VERDICTS]
    row = shuffled(rng.choice(problems), rng)
    walk, last = worked(row, rng)
    return "worked", [*walk, *conversation.attempt(countdown, row), last], [False, VERDICTS, False, True]


def document(problems: list[dict], rng: random.Random, share: float = 0.0, sort: str = "all") -> Document:
    """One document: its kind, its messages, and for each message whether it is learnt (true, false, `VERDICTS` or `LEFT`).

    With a probability of `share` it is practice of a sort (`LESSONS`), else one of `MIXTURE`.
    """
    if rng.random() < share:
        return practice(problems, rng, sort)
    return from_mixture(problems, rng, rng.choices(list(MIXTURE), list(MIXTURE.values()))[0])


def from_mixture(problems: list[dict], rng: random.Random, kind: str) -> Document:
    """A document of one of the kinds of `MIXTURE`; an own reflection's kind is named in what comes back (`own_search`)."""
    if kind == "drill":
        return kind, asked(DRILL, drill(rng)), [False, True]
    row = shuffled(rng.choice(problems), rng)
    rows = steps(row["nums"])
    if kind == "worked":
        return kind, worked(row, rng)[0], [False, True]
    if kind == "answer":
        return kind, conversation.attempt(countdown, row) + [answer(row, rows, RIGHT["answer"], rng)], [False, True]
    failed, value = wrong(rows, row["target"], rng)
    if kind == "blind":
        return kind, conversation.blind_retry(countdown, row, failed) + [answer(row, rows, RIGHT["retry"], rng)], [False] * 3 + [True]
    which = rng.choices(list(KINDS), list(KINDS.values()))[0]
    found = None
    if kind == "own":
        text, found = reflection(which, row, rows, value, rng)
        kind = f"own_{which}"
    elif kind == "generic":
        text = rng.choice(GENERIC)
    elif kind == "other":
        stranger = rng.choice(problems)
        stranger_rows = steps(stranger["nums"])
        text, _ = reflection(which, stranger, stranger_rows, wrong(stranger_rows, stranger["target"], rng)[1], rng)
    else:
        text = mask_numbers(reflection("search", row, rows, value, rng)[0])
    last = answer(row, rows, RIGHT["retry"], rng)
    if found and rng.random() < RIGHT["hit"]:
        last = {"role": "assistant", "content": found}
    messages = conversation.retry(countdown, row, failed, text) + [last]
    return kind, messages, [False, False, False, kind.startswith("own"), False, True]


def solvable(row: dict) -> bool:
    """Whether the search of the corpus can reach the target (fractions on the way are beyond it)."""
    return any(v == row["target"] for r in steps(row["nums"]) for _, v in r[5])
