"""Countdown: what the gate gives and forces, what it checks, and what the model card says."""

import re

from rrr_utils.miniature.countdown import EMPTY, result, second_steps

#: what the gate gives whole, the first words that the model goes on from, what is checked (and in words), the least
#: share that passes, and how many problems of dev there are (None: all)
GIVEN = {"empty": EMPTY[0]}
BEGIN = {"value": "My result was", "usage": "I must use each of", "first_step": "I could start with", "search": "Aim"}
CHECKS = {"arithmetic": "sums right in searches", "number_left": "number that is left right in searches"}
LEAST = {"arithmetic": 0.95}
DEV = None
NAME = "Countdown"
CAN = "three-number Countdown with numbers from 1 to 15 and targets to 60, in the kit's own prompts"
HELD_OUT = (
    "Problems come from the pretrain split alone: multisets of numbers of train, dev and test occur in no document. "
    "Facts about two numbers (9 * 3 = 27) are shared by all splits. What follows an empty reflection is right as often "
    "as what follows none. A search computes in a fixed order from a random start, and may end without a hit."
)


def checked(rows: list[dict], attempts: list[str], failed: list[dict], reflections: dict[str, list[str]]) -> dict:
    """The shares of CHECKS: of the searches on the failed rows."""
    judged = [sums_of(text, row["nums"]) for text, row in zip(reflections["search"], failed, strict=True)]
    sums, left = ([ok for one in both for ok in one] for both in zip(*judged, strict=True))
    return {"arithmetic": sum(sums) / max(1, len(sums)), "number_left": sum(left) / max(1, len(left))}


def sums_of(search: str, nums: list[int]) -> tuple[list[bool], list[bool]]:
    """Which sums of a search are right, and in which of its steps the number that is left is right.

    >>> sums_of("Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes .", [3, 9, 4])
    ([True, True], [True])
    >>> sums_of("Aim 5 ; 3 + 3 = 7 and 4 : - 2 5 .", [3, 9, 4])
    ([False, False], [False])
    """
    sums, left = [], []
    for step in search.split(" ; ")[1:]:
        if found := re.match(r"(\d{1,4}) ([-+*/]) (\d{1,4}) = (\d{1,4}) and (\d{1,4}) :", step):
            a, b, c, d = (int(found[k]) for k in (1, 3, 4, 5))
            sums.append(result(a, found[2], b) == c)
            left.append(sorted([a, b, d]) == sorted(nums))
            true = dict(second_steps(c, d)) if c and d else {}
            stated = re.findall(r"([-+*/]) (\d{1,4}) (\d{1,4})", step[found.end() :])
            sums += [true.get(op) == int(value) for op, value, _ in stated]
    return sums, left
