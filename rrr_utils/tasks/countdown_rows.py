"""Countdown's problems: drawn at random from a procedural source, or read from the real set or a file like it.

The real set has 490,364 rows like {"target": 98, "nums": [44, 19, 35]}. The content of a row is the target and the
multiset of numbers, and its hash decides the split: in its order, the first 15,000 are test, the next 1,000 dev, the
rest train. Of fewer than 75,000 rows, test takes a fifth, of fewer than 20,000, dev takes a twentieth. Unlike
procedural splits these share multisets of numbers.
"""

import functools
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations, product
from typing import Any

from rrr_utils.errors import DataError, one_line
from rrr_utils.tasks import procedural, sources

#: what the embedded model is made for: three numbers from 1 to 15, targets from 1 to 60
DEFAULT_SOURCE = "procedural:numbers=3,low=1,high=15,target_low=1,target_high=60"
#: how what is not one whole number is written in a source
NUMBER = (r"-?[0-9]{1,6}", "one whole number of up to six digits")
FORMS = {"numbers": (r"[34]|3-4", "3, 4 or 3-4"), "solutions": ("1", "1")}
TEST, DEV = 15_000, 1_000  # rows of the real set
FEWEST, MOST = 2, 8  # numbers of a problem
LARGEST = 10**9  # larger numbers are taken for mistakes
#: what is kept of a row; `key` is the hash of its content and, to choose between rows of one content, its numbers
SCHEMA = {"key": "string", "target": "int64", "nums": "list<int64>"}


def cluster_of(nums: Sequence[int]) -> str:
    """The multiset of numbers as text: problems that share it are not independent of each other."""
    return "-".join(map(str, sorted(nums)))


def row_of(nums: list[int], target: int) -> dict:
    """The task's row for a problem."""
    cluster = cluster_of(nums)
    return {"id": f"{cluster}:{target}", "cluster": cluster, "nums": nums, "target": target}


def split_of(nums: Sequence[int]) -> str | None:
    """The split of a multiset of numbers, by its hash; None if it is left out.

    Four numbers for pretrain or train are left out if three of them form a held-out (dev or test) multiset.
    """
    split = procedural.split_of(cluster_of(nums))
    trained_on = split in ("pretrain", "train") and len(nums) > 3
    if trained_on and any(split_of(triple) in procedural.HELD_OUT for triple in combinations(nums, 3)):
        return None
    return split


def parse(source: str) -> dict[str, Any]:
    """The ranges in a procedural source: how many numbers, their size, the targets; and whether one solution is asked.

    >>> parse("procedural:numbers=3-4,high=99")
    {'numbers': (3, 4), 'size': (1, 99), 'target': (1, 60), 'single': False}
    """
    spec = dict(pair.split("=") for pair in f"{DEFAULT_SOURCE.removeprefix('procedural:')},solutions=".split(","))
    spec |= procedural.given(source, {name: FORMS.get(name, NUMBER) for name in spec})
    fewest, _, most = spec.pop("numbers").partition("-")
    single = spec.pop("solutions") == "1"
    low, high, target_low, target_high = map(int, spec.values())
    if low < 1 or low > high or target_low > target_high:
        raise DataError(f"source '{source}': low must be 1 or more, and no low end above its high end")
    numbers = int(fewest), int(most or fewest)
    return {"numbers": numbers, "size": (low, high), "target": (target_low, target_high), "single": single}


def draw(split: str, n: int | None, seed: int, source: str) -> list[dict]:
    """Solvable problems at random, as the TinyZero set was made: numbers first, then a target by random operations.

    Drawing ends with n problems, or after 20,000 draws in a row without a new one. Targets that are easy to hit come
    early. Keep it exact, down to how bits become numbers: the embedded model was pre-trained on these rows.
    """
    (fewest, most), (low, high), (target_low, target_high), single = parse(source).values()
    if n is None and (multisets := math.comb(high - low + most, most)) > 10_000:
        raise DataError(f"source '{source}' has {multisets:,} multisets of numbers: ask for a number of rows")
    bits = random.Random(f"{split}-{seed}").getrandbits

    def below(end: int) -> int:
        width = end.bit_length()
        while (value := bits(width)) >= end:
            pass
        return value

    cached_split_of = functools.cache(split_of)
    found: dict[tuple, dict] = {}
    misses = strays = 0
    while (n is None or len(found) < n) and misses < 20_000 and strays < 20_000:
        count = most if fewest == most else fewest + below(most - fewest + 1)
        nums = [low + below(high - low + 1) for _ in range(count)]
        multiset = tuple(sorted(nums))
        if cached_split_of(multiset) != split:
            strays += 1
            continue
        strays = 0
        target = random_target(nums, below)
        if target is None or not target_low <= target <= target_high or (multiset, target) in found:
            misses += 1
        elif single and solutions(multiset)[abs(target)] != 1:
            misses += 1
        else:
            misses = 0
            found[multiset, target] = row_of(nums, target)
    if not found and n != 0:
        raise DataError(f"source '{source}' has no problems of split '{split}': widen low to high, or the targets")
    return list(found.values())


def random_target(nums: list[int], below: Callable[[int], int]) -> int | None:
    """The result of random operations on the numbers, or None if a quotient is not whole."""
    values = nums[:]
    while len(values) > 1:
        a, b = values.pop(below(len(values))), values.pop(below(len(values)))
        operation = below(4)
        if operation == 3 and (b == 0 or a % b):
            return None
        values.append(a + b if operation == 0 else a - b if operation == 1 else a * b if operation == 2 else a // b)
    return values[0]


@functools.lru_cache(maxsize=100_000)
def solutions(nums: tuple[int, ...]) -> Counter[Fraction]:
    """How many equations of the numbers, each used once, make a value or its negative.

    Equations that differ only in order, in brackets, or in signs that cancel out are one, such as 3 + (9 - 4) and
    9 + 3 - 4 and 3 - (4 - 9). But 9 * 1 and 9 / 1 are two.

    >>> solutions((3, 4, 9))[31], solutions((3, 4, 9))[8], solutions((1, 2, 9))[18], solutions((1, 2, 9))[30]
    (1, 1, 2, 0)
    """
    return Counter(equations(nums).values())


def equations(nums: tuple[int, ...]) -> dict[tuple, Fraction]:
    """Every equation (of it and its negative, the one whose value is not negative) with its value: `("+", terms)` for
    a sum, `("*", terms)` for a product. Terms are in order, each with 1, or -1 where it is subtracted or divides."""
    if len(nums) == 1:
        return {("", nums[0]): Fraction(nums[0])}
    found = {}
    for side in range(1, 2 ** (len(nums) - 1)):  # every way to divide the numbers into two parts
        parts = [tuple(x for k, x in enumerate(nums) if side >> k & 1 == part) for part in (0, 1)]
        for (a, x), (b, y) in product(*(equations(part).items() for part in parts)):
            found[_joined("+", a, b, 1)] = x + y
            found[min((x < y, _joined("+", a, b, -1)), (y < x, _joined("+", b, a, -1)))[1]] = abs(x - y)
            found[_joined("*", a, b, 1)] = x * y
            found |= {_joined("*", p, q, -1): v / w for p, v, q, w in ((a, x, b, y), (b, y, a, x)) if w}
    return found


def _joined(kind: str, a: tuple, b: tuple, sign: int) -> tuple:
    parts = [(outer, part[1] if part[0] == kind else [(1, part)]) for outer, part in ((1, a), (sign, b))]
    return kind, tuple(sorted((outer * inner, term) for outer, terms in parts for inner, term in terms))


def read(split: str, n: int | None, seed: int, source: str, version: str, max_bad: float) -> list[dict]:
    """`n` rows of a split. Test and dev are in the order of their hashes, train in one that the seed decides."""
    if split == "pretrain":
        raise DataError(f"{source} has no pretrain split: only procedural problems are pre-trained on")
    rows = sources.read(source, ("target", "nums"), SCHEMA, convert, version, max_bad).rows
    chosen = distinct(rows)
    test, dev = min(TEST, max(1, len(chosen) // 5)), min(DEV, max(1, len(chosen) // 20))
    indices = {"test": chosen[:test], "dev": chosen[test : test + dev], "train": chosen[test + dev :]}[split]
    if not indices:
        raise DataError(f"{source} has only {len(chosen)} distinct rows: none is left for {split}")
    if split == "train":
        random.Random(f"train-{seed}").shuffle(indices)
    batches = rows.select(indices[:n]).iter(10_000)
    return [row_of(nums, target) for b in batches for nums, target in zip(b["nums"], b["target"], strict=True)]


def distinct(rows) -> list[int]:
    """Indices of the rows by the hash of their content, one per content. The keys stay in Arrow: there are 490,000."""
    import pyarrow.compute as pc

    keys = rows.data.column("key")
    order = pc.sort_indices(keys)
    content = pc.utf8_slice_codeunits(keys.take(order), 0, 64).combine_chunks()
    repeated = pc.equal(content.slice(1), content.slice(0, len(content) - 1)).to_pylist()
    return [index for index, again in zip(order.to_pylist(), [False, *repeated], strict=True) if not again]


def convert(raw: dict[str, Any]) -> dict[str, Any]:
    """A raw row as it is stored; ValueError with the reason for a bad one. In CSV the numbers are text: "[3 9 4]"."""
    target, nums = raw["target"], raw["nums"]
    if isinstance(nums, str):
        nums = [_number(cell) for cell in nums.strip().strip("[]").replace(",", " ").split()]
    if isinstance(target, str):
        target = _number(target.strip())
    if why := malformed(nums, target):
        raise ValueError(why)
    content = hashlib.sha256(row_of(nums, target)["id"].encode()).hexdigest()
    return {"key": f"{content} {','.join(map(str, nums))}", "target": target, "nums": nums}


def _number(cell: str) -> int | str:
    return int(cell) if re.fullmatch(r"-?[0-9]{1,10}", cell) else cell


def malformed(nums: object, target: object) -> str | None:
    """Why these are not the numbers and the target of a problem, or None if they are."""
    if type(target) is not int or abs(target) > LARGEST:
        return f"target must be a whole number, not {one_line(repr(target), 60)}"
    if type(nums) is list and FEWEST <= len(nums) <= MOST and all(type(x) is int and 0 <= x <= LARGEST for x in nums):
        return None
    return f"nums must be {FEWEST} to {MOST} whole numbers from 0 on, not {one_line(repr(nums), 60)}"
