"""Countdown's real set, from the hub or from a file of the same two columns, `target` and `nums`.

`Jiayi-Pan/Countdown-Tasks-3to4` (https://huggingface.co/datasets/Jiayi-Pan/Countdown-Tasks-3to4, 490,364 rows):

    {"target": 98, "nums": [44, 19, 35]}

Rows are told apart by content, the multiset of numbers and the target; of rows that differ in order only, one stays.
Content hashes decide the split, never a row's position: sorted by them, the first 15,000 are test, the next 1,000 dev,
the rest train. Of a set with fewer than 75,000 rows test takes a fifth, of one with fewer than 20,000 dev a twentieth.
Unlike the procedural splits these share multisets, so intervals are clustered by them.
"""

from __future__ import annotations

import hashlib
import random
import re
from typing import Any

from rrr_utils.errors import DataError
from rrr_utils.tasks import sources
from rrr_utils.tasks.countdown import VERSION, cluster_of

TEST, DEV = 15_000, 1_000
FEWEST, MOST = 2, 8  # numbers of a problem
BOUND = 10**9  # larger numbers are taken for mistakes
INTEGER = re.compile(r"-?[0-9]{1,10}")
#: what is kept of a row; `key` is its content's hash and, to choose among rows of one content, the numbers in their order
SCHEMA = {"key": "string", "target": "int64", "nums": "list<int64>"}


def load(split: str, n: int | None, seed: int, source: str, max_bad: float) -> list[dict]:
    """`n` rows of a split. Test and dev stand in the order of their hashes, train in one that the seed decides."""
    if split == "pretrain":
        raise DataError(f"{source} has no pretrain split: only procedural problems are pre-trained on")
    rows = sources.read(source, ("target", "nums"), SCHEMA, convert, f"countdown-{VERSION}", max_bad).rows
    chosen = distinct(rows)
    test = min(TEST, max(1, len(chosen) // 5))
    dev = min(DEV, max(1, len(chosen) // 20))
    indices = {"test": chosen[:test], "dev": chosen[test : test + dev], "train": chosen[test + dev :]}[split]
    if not indices:
        raise DataError(f"{source} has only {len(chosen)} distinct rows: none is left for {split}")
    if split == "train":
        random.Random(f"train-{seed}").shuffle(indices)
    problems = []
    for batch in rows.select(indices[:n]).iter(10_000):
        for nums, target in zip(batch["nums"], batch["target"], strict=True):
            cluster = cluster_of(nums)
            problems.append({"id": f"{cluster}:{target}", "cluster": cluster, "nums": nums, "target": target})
    return problems


def distinct(rows) -> list[int]:
    """Indices of the rows by their content's hash, one of each content. The keys stay in Arrow: half a million are no load."""
    import pyarrow.compute as pc

    keys = rows.data.column("key")
    order = pc.sort_indices(keys)
    content = pc.utf8_slice_codeunits(keys.take(order), 0, 64).combine_chunks()
    repeated = pc.equal(content.slice(1), content.slice(0, len(content) - 1)).to_pylist()
    return [index for index, again in zip(order.to_pylist(), [False, *repeated], strict=True) if not again]


def convert(raw: dict[str, Any]) -> dict[str, Any]:
    """A raw row as it is stored; ValueError with the reason where it is a bad one. CSV has the numbers as text.

    >>> convert({"target": 31, "nums": [3, 9, 4]})["key"][60:]
    '51a1 3,9,4'
    >>> convert({"target": "31", "nums": "[3 9 4]"}) == convert({"target": 31, "nums": [3, 9, 4]})
    True
    """
    target, nums = raw["target"], raw["nums"]
    if isinstance(nums, str):
        nums = [_number(cell) for cell in nums.strip().strip("[]").replace(",", " ").split()]
    if isinstance(target, str):
        target = _number(target.strip())
    if type(target) is not int or abs(target) > BOUND:
        raise ValueError(f"target must be a whole number, not {_short(target)}")
    if type(nums) is not list or not FEWEST <= len(nums) <= MOST or any(type(x) is not int or not 0 <= x <= BOUND for x in nums):
        raise ValueError(f"nums must be {FEWEST} to {MOST} whole numbers from 0 on, not {_short(nums)}")
    content = hashlib.sha256(f"{cluster_of(nums)}:{target}".encode()).hexdigest()
    return {"key": f"{content} {','.join(map(str, nums))}", "target": target, "nums": nums}


def _number(cell: str) -> int | str:
    return int(cell) if INTEGER.fullmatch(cell) else cell


def _short(value: object) -> str:
    text = repr(value[:80] if isinstance(value, str | list) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
