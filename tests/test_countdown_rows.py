"""Countdown's procedural problems: rows, splits, orders, malformed sources."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, permutations
from operator import add, mul, sub

import pytest

from rrr_utils.tasks import DataError
from rrr_utils.tasks import countdown as task
from rrr_utils.tasks.countdown_rows import cluster_of, solutions

#: sha256 of the default source's pretrain rows as JSON
PRETRAIN = "81490bb44530e6d2b6a5b03c3a226faa88be093e6b2aa485e220b6b1990bb236"

SMALL = "procedural:numbers=3,low=1,high=7,target_low=1,target_high=20"
FOUR = "procedural:numbers=3-4,low=1,high=9,target_low=1,target_high=40"


def solvable(nums: list[int], target: int) -> bool:
    """By brute force, and by the verifier's own notation: some equation of these numbers verifies."""
    shapes = {
        3: ["({}{}{}){}{}", "{}{}({}{}{})"],
        4: [
            "(({}{}{}){}{}){}{}",
            "({}{}({}{}{})){}{}",
            "({}{}{}){}({}{}{})",
            "{}{}(({}{}{}){}{})",
            "{}{}({}{}({}{}{}))",
        ],
    }[len(nums)]
    for order in set(permutations(nums)):
        for shape in shapes:
            for ops in range(4 ** (len(nums) - 1)):
                signs = ["+-*/"[ops // 4**k % 4] for k in range(len(nums) - 1)]
                parts = [str(order[0])] + [
                    part for sign, x in zip(signs, order[1:], strict=True) for part in (sign, str(x))
                ]
                if task.verify(f"<answer> {shape.format(*parts)} </answer>", {"nums": nums, "target": target}).correct:
                    return True
    return False


def test_procedural_rows():
    rows = task.load("train", None, 0, SMALL)
    assert len({row["id"] for row in rows}) == len(rows) > 50
    for row in rows:
        assert row["cluster"] == cluster_of(row["nums"]) and row["id"] == f"{row['cluster']}:{row['target']}"
        assert task.split_of(row["nums"]) == "train"
        assert all(1 <= x <= 7 for x in row["nums"]) and 1 <= row["target"] <= 20 and len(row["nums"]) == 3
    for row in random.Random(0).sample(rows, 25):
        assert solvable(row["nums"], row["target"]), row
        assert task.flaw(row) is None


def test_four_numbers_hold_no_held_out_triple():
    rows = {split: task.load(split, 150, 1, FOUR) for split in task.SPLITS}
    held_out = {
        row["cluster"] for split in ("dev", "test") for row in task.load(split, None, 0, FOUR.replace("3-4", "3"))
    }
    for split in ("pretrain", "train"):
        four = [row["nums"] for row in rows[split] if len(row["nums"]) == 4]
        assert four and len(four) < len(rows[split])
        assert not held_out & {cluster_of(list(triple)) for nums in four for triple in combinations(nums, 3)}
    for a, b in combinations(task.SPLITS, 2):
        assert not {row["cluster"] for row in rows[a]} & {row["cluster"] for row in rows[b]}
    hard = [row for row in rows["test"] if len(row["nums"]) == 4][:2]
    assert all(solvable(row["nums"], row["target"]) for row in hard)


def test_splits_share_no_multiset_and_make_up_the_whole():
    rows = {split: task.load(split, None, 0, SMALL) for split in task.SPLITS}
    clusters = {split: {row["cluster"] for row in rows[split]} for split in rows}
    assert all(not clusters[a] & clusters[b] for a, b in combinations(clusters, 2))
    whole = [(list(nums), target) for nums in {tuple(sorted(n)) for n in cube(7)} for target in range(1, 21)]
    reached = {row["id"] for split in rows.values() for row in split}
    missing = [(nums, target) for nums, target in whole if f"{cluster_of(nums)}:{target}" not in reached]
    # what is missing is not solvable, or only by way of a fraction, which the drawing avoids
    assert not [x for x in missing if by_whole_numbers(*x)]


def cube(high: int) -> list[tuple[int, int, int]]:
    return [(a, b, c) for a in range(1, high + 1) for b in range(1, high + 1) for c in range(1, high + 1)]


def by_whole_numbers(nums: list[int], target: int) -> bool:
    def step(a: int, b: int) -> list[int]:
        return (
            [a + b, a - b, b - a, a * b]
            + ([a // b] if b and a % b == 0 else [])
            + ([b // a] if a and b % a == 0 else [])
        )

    return any(target in step(x, c) for a, b, c in permutations(nums) for x in step(a, b))


def test_order_hangs_on_the_seed_alone():
    first = task.load("train", 40, 0)
    assert first == task.load("train", 40, 0) == task.load("train", 90, 0)[:40]
    assert first != task.load("train", 40, 1)
    assert task.load("train", 0, 0) == []


def test_default_rows_are_the_ones_that_the_embedded_model_knows():
    """The pre-training of the embedded model rests on them: a change here asks for a new model."""
    digest = hashlib.sha256(json.dumps(task.load("pretrain", None, 0)).encode()).hexdigest()
    assert digest == PRETRAIN


def test_asking_for_more_than_there_is_gives_all():
    tiny = "procedural:low=1,high=3,target_low=1,target_high=3"
    split = next(s for s in task.SPLITS if any(task.split_of([1, 1, x]) == s for x in (1, 2)))
    assert 0 < len(task.load(split, 10_000, 0, tiny)) == len(task.load(split, None, 0, tiny)) < 40


@pytest.mark.parametrize(
    "source, words",
    [
        ("procedural:numbrs=3", "unknown 'numbrs'"),
        ("procedural:numbers", "numbers must be"),
        ("procedural:numbers=5", "3, 4 or 3-4"),
        ("procedural:numbers=4-3", "3, 4 or 3-4"),
        ("procedural:low=1.5", "low must be"),
        ("procedural:low=３", "low must be"),
        ("procedural:low=1,low=2", "low must be given once"),
        ("procedural:solutions=2", "solutions must be given once, as 1"),
        ("procedural:solutions=1,solutions=1", "solutions must be given once, as 1"),
        ("procedural:low=9,high=8", "no low end above"),
        ("procedural:low=0", "low must be 1 or more"),
        ("procedural:high=99999999999999999999", "high must be"),
        ("procedural:low=1,high=1,target_low=70,target_high=90", "no problems of split"),
        ("procedural:numbers=4,high=100", "ask for a number of rows"),
    ],
)
def test_malformed_sources(source, words):
    with pytest.raises(DataError, match=words) as caught:
        for split in task.SPLITS:
            task.load(split, None, 0, source)
    assert "\n" not in str(caught.value)


# --- problems with one solution ---------------------------------------------------------------------------------------


def bracketings(parts: list[list[Fraction]]) -> Iterator[list[Fraction]]:
    """Every way to compute with these in this order; each part has one number for every assignment."""
    if len(parts) == 1:
        yield parts[0]
    for k in range(1, len(parts)):
        for a in bracketings(parts[:k]):
            for b in bracketings(parts[k:]):
                yield from ([f(x, y) for x, y in zip(a, b, strict=True)] for f in (add, sub, mul))
                if b[0]:
                    yield [x / y for x, y in zip(a, b, strict=True)]


@functools.cache
def by_brute_force(*nums: int) -> Counter:
    """How many equations make a value or its negative: written out, and told apart by what they are as functions.

    Other numbers in the places of the given ones tell functions apart; numbers that are equal may change places.
    """
    others, places = [Fraction(x) for x in (1009, 2003, 50021, 700001)], range(len(nums))
    swaps = [
        swap for swap in permutations(places) if all(nums[a] == nums[b] for a, b in zip(places, swap, strict=True))
    ]
    found = set()
    for order in permutations(places):
        assigned = [[Fraction(nums[place]), *(others[swap[place]] for swap in swaps)] for place in order]
        found |= {(abs(value), frozenset(map(abs, rest))) for value, *rest in bracketings(assigned)}
    return Counter(value for value, _ in found)


def test_equations_are_counted_as_by_brute_force():
    rng = random.Random(0)
    drawn = [[rng.randint(1, 9) for _ in range(3)] for _ in range(30)]
    for nums in [*drawn, [2, 2, 2], [3, 3, 5], [1, 2, 7, 9]]:
        assert solutions(tuple(sorted(nums))) == by_brute_force(*nums), nums
    ours, theirs = (
        solutions((2, 3, 3, 8)),
        by_brute_force(2, 3, 3, 8),
    )  # 8 + (3 - 3) * 2 and 8 - (3 - 3) * 2 are two here
    assert {value for value in ours if ours[value] == 1} == {value for value in theirs if theirs[value] == 1}


def test_rows_with_one_solution_are_the_others_without_those_of_several():
    every = task.load("test", None, 0, SMALL)
    single = [row for row in every if by_brute_force(*sorted(row["nums"]))[row["target"]] == 1]
    assert 10 < len(single) < len(every) - 10
    assert task.load("test", None, 0, f"{SMALL},solutions=1") == single
    four = task.load("test", 2, 0, "procedural:numbers=4,low=1,high=9,target_low=20,target_high=90,solutions=1")
    assert len(four) == 2 and all(by_brute_force(*row["nums"])[row["target"]] == 1 for row in four)


# --- a problem that a reader types in --------------------------------------------------------------------------------


def test_flaw_agrees_with_brute_force_by_the_verifier():
    rng, found = random.Random(0), []
    for _ in range(40):
        nums, target = [rng.randint(0, 6) for _ in range(3)], rng.randint(1, 40)
        found.append(solvable(nums, target))
        assert (task.flaw({"nums": nums, "target": target}) is None) == found[-1], (nums, target)
    assert True in found and False in found


@pytest.mark.parametrize(
    ("nums", "target", "words"),
    [
        ([3, 7, 12], 43, None),
        ([3, 7, 12], 47, "no equation of 3, 7, 12, each used exactly once, equals 47"),
        ([8, 3, 8, 3], 24, None),  # by way of a fraction
        ([3, 4], -7, None),  # -3 - 4
        ([0, 0], 1, "no equation of 0, 0"),
        ([1, 2, 3, 4, 5], 1000, "no equation of 1, 2, 3, 4, 5"),
        ([97, 89, 83, 79, 73], 97 * 89 - 83 * (79 - 73), None),
        ([1, 1, 1, 1, 1, 1], 1000, None),  # six numbers are not searched
        ([5], 5, "nums must be 2 to 8 whole numbers from 0 on, not [5]"),
        ([1] * 9, 9, "nums must be 2 to 8 whole numbers"),
        ([3, 4.5, 2], 9, "nums must be 2 to 8 whole numbers from 0 on, not [3, 4.5, 2]"),
        ([3, True], 4, "nums must be 2 to 8 whole numbers"),
        ([3, -4], 7, "nums must be 2 to 8 whole numbers"),
        ([3, 10**10], 7, "nums must be 2 to 8 whole numbers"),
        ("3 4", 7, "nums must be 2 to 8 whole numbers from 0 on, not '3 4'"),
        (None, 7, "nums must be 2 to 8 whole numbers from 0 on, not None"),
        ([3, 4], 1.5, "target must be a whole number, not 1.5"),
        ([3, 4], "seven", "target must be a whole number, not 'seven'"),
        ([3, 4], float("inf"), "target must be a whole number, not inf"),
        ([3, 4], None, "target must be a whole number, not None"),
    ],
)
def test_a_flaw_is_told_in_words(nums, target, words):
    told = task.flaw({"nums": nums, "target": target})
    assert told is None if words is None else told.startswith(words) and "\n" not in told
    assert told or task.flaw({}) == "target must be a whole number, not None"


def test_unknown_split():
    with pytest.raises(DataError, match="unknown split 'tset'"):
        task.load("tset", 1, 0)
