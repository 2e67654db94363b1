"""Countdown: combine the given numbers, each exactly once, into an equation that hits the target.

    numbers 3, 9, 4 and target 31   ->   <answer> ( 9 * 3 ) + 4 </answer>

The paper's set is `Jiayi-Pan/Countdown-Tasks-3to4` (TinyZero, https://github.com/Jiayi-Pan/TinyZero).
"""

import re

from rrr_utils.errors import DataError
from rrr_utils.tasks import Verdict, countdown_kinds, countdown_rows
from rrr_utils.tasks.arithmetic import SIGNS, canonical, postfix, reachable, value_of
from rrr_utils.tasks.countdown_rows import DEFAULT_SOURCE, split_of  # noqa: F401 (split_of: for callers)
from rrr_utils.tasks.procedural import SPLITS

VERSION = 1
#: in the order of the checks: no tags; not arithmetic between them; not the given numbers; another value
ERRORS = ("no_answer", "not_an_equation", "wrong_numbers", "missed_target")
REFLECT = (
    "That answer is wrong. Reflect on what went wrong and write a short explanation "
    "that will help you do better next time."
)
EXAMPLE = {"id": "3-4-9:31", "cluster": "3-4-9", "nums": [3, 9, 4], "target": 31}
KINDS = countdown_kinds.KINDS
GENERIC = "Work step by step and check the result ."  # the embedded model has read it as a reflection


def load(split: str, n: int | None, seed: int, source: str | None = None, max_bad_rows: float = 0.01) -> list[dict]:
    """`n` problems of a split (None: all), in an order that the seed decides. DataError if the source has none.

    A source is written like DEFAULT_SOURCE (parts left out are as there; `numbers` may be 3, 4 or 3-4), or it is the
    real set's hub id, or a file like it. Up to the share `max_bad_rows` of its rows may be unreadable.

    >>> load("train", 1, 0)
    [{'id': '11-12-12:35', 'cluster': '11-12-12', 'nums': [11, 12, 12], 'target': 35}]
    """
    source = DEFAULT_SOURCE if source is None else source
    if split not in SPLITS:
        raise DataError(f"unknown split '{split}': there are {', '.join(SPLITS)}")
    if source.startswith("procedural:"):
        return countdown_rows.draw(split, n, seed, source)
    return countdown_rows.read(split, n, seed, source, f"countdown-{VERSION}", max_bad_rows)


def prompt(row: dict) -> str:
    """The user's message."""
    numbers = ", ".join(map(str, row["nums"]))
    return (
        f"Using the numbers {numbers}, write one equation that equals {row['target']}. "
        "Use + - * / and parentheses, and every number exactly once. "
        "Write it between answer tags, like <answer> ( 1 + 2 ) * 3 </answer>."
    )


def flaw(row: dict) -> str | None:
    """Why a problem cannot be solved: malformed, or (checked for up to five numbers) no solution; None if all is well.

    >>> flaw({"nums": [3, 7, 12], "target": 47})
    'no equation of 3, 7, 12, each used exactly once, equals 47'
    """
    nums, target = row.get("nums"), row.get("target")
    if (why := countdown_rows.malformed(nums, target)) or len(nums) > 5:
        return why
    if reachable(nums) & {target, -target}:  # an equation may begin with a minus sign
        return None
    return f"no equation of {', '.join(map(str, nums))}, each used exactly once, equals {target}"


def kind(reflection: str, row: dict) -> str:
    """One of KINDS, by what the reflection computes."""
    return countdown_kinds.classify(reflection, row).kind


def mask(reflection: str, row: dict) -> str:
    """The reflection with every number hidden, as the embedded model has read it.

    >>> mask("Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes .", EXAMPLE)
    'Aim ? ; ? * ? = ? and ? : + ? ? yes .'
    """
    return re.sub(r"\d+", "?", reflection)


def answers_in(reflection: str, row: dict) -> list[str]:
    """The passages that state a right answer: see `countdown_kinds.answers`."""
    return [passage for passage, _ in countdown_kinds.answers(reflection, row)]


def wrong_in(reflection: str, row: dict) -> list[str]:
    """The passages with a wrong sum: see `countdown_kinds.wrong_sums`."""
    return countdown_kinds.wrong_sums(reflection, row)


def answer_of(text: str, row: dict) -> str | None:
    """The equation in a completion's answer tags, read leniently, or else the first right one that the text states.

    Equations that are equal by the commutativity of + and * give the same text. None where there is none.

    >>> answer_of("<answer> 4 + 9 * 3 </answer>", EXAMPLE) == answer_of("9 * 3 = 27 and 4 : + 31 31 yes", EXAMPLE)
    True
    """
    if (answer := last_answer(text)) is not None:
        return canonical(steps) if (steps := _steps(plain(answer, row["target"]))) else None
    return next((form for _, form in countdown_kinds.answers(text, row)), None)


#: longest answer that is read. Four numbers need some twenty characters; the limit keeps nesting and time small too
LONGEST = 1000
SPACE = " \t\r\n"
TOKEN = re.compile(r"[0-9]+|[^ \t\r\n]")  # linear, and only ASCII digits
LENIENT = {"×": "*", "\\times": "*", "÷": "/", "−": "-", "[": "(", "]": ")"}


def verify(completion: str, row: dict) -> Verdict:
    """Whether the last `<answer>...</answer>` holds an equation of exactly the given numbers that hits the target.

    Nothing is executed, and no string raises. A division by zero is `missed_target`: the numbers are right. `lenient`
    also takes `= target` at the end, other signs for the operations, square brackets, and, where there are no tags, a
    last line that is only an equation.

    >>> verify("<answer> ( 9 * 3 ) + 4 </answer>", EXAMPLE)
    Verdict(correct=True, error=None, lenient=True)
    >>> verify("<answer> 9 × 3 + 4 = 31 </answer>", EXAMPLE)
    Verdict(correct=False, error='not_an_equation', lenient=True)
    """
    answer = last_answer(completion)
    error = "no_answer" if answer is None else mistake(answer, row)
    if error in (None, "wrong_numbers", "missed_target"):
        return Verdict(error is None, error, error is None)
    if answer is None:
        answer = completion.rstrip(SPACE).rpartition("\n")[2]
    return Verdict(False, error, mistake(plain(answer, row["target"]), row) is None)


def last_answer(completion: str) -> str | None:
    """The text in the last complete pair of tags."""
    start = completion.rfind("<answer>", 0, max(0, completion.rfind("</answer>")))
    if start < 0:
        return None
    start += len("<answer>")
    return completion[start : completion.find("</answer>", start)]


def plain(answer: str, target: int) -> str:
    """The answer in the strict notation, as a lenient reader takes it; one that is too long stays as it is.

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
    """The first of ERRORS that is true of an answer, or None if it is right."""
    if (steps := _steps(answer)) is None:
        return "not_an_equation"
    # compared as text: without leading zeros equal text is an equal number, and no long one is ever converted
    if sorted(step for step in steps if step.isdigit()) != sorted(map(str, row["nums"])):
        return "wrong_numbers"
    return None if value_of(steps) == row["target"] else "missed_target"


def _steps(answer: str) -> list[str] | None:
    """The `postfix` steps of an answer in the strict notation; None if it is not arithmetic."""
    answer = answer.strip(SPACE)
    tokens = TOKEN.findall(answer) if len(answer) <= LONGEST else [""]
    return postfix(tokens) if all(t in SIGNS or t == "0" or "1" <= t[:1] <= "9" for t in tokens) else None
