"""Countdown's real set, from the hub or from a file of the same two columns, `target` and `nums`.

`Jiayi-Pan/Countdown-Tasks-3to4` (https://huggingface.co/datasets/Jiayi-Pan/Countdown-Tasks-3to4, 490,364 rows):

    {"target": 98, "nums": [44, 19, 35]}

Rows are told apart by content, the multiset of numbers and the target; of rows that differ in order only, one stays.
Content hashes decide the split, never a row's position: sorted by them, the first 15,000 are test, the next 1,000 dev,
the rest train. Of a set with fewer than 75,000 rows test takes a fifth, of one with fewer than 20,000 dev a twentieth.
Unlike the procedural splits these share multisets, so intervals are clustered by them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import random
import re
import warnings
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from rrr_utils.tasks import DataError
from rrr_utils.tasks.countdown import cluster_of

COLUMNS = ("target", "nums")
SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")
TEST, DEV = 15_000, 1_000
FEWEST, MOST = 2, 8  # numbers of a problem
BOUND = 10**9  # larger numbers are taken for mistakes; fits 32 bits
INTEGER = re.compile(r"-?[0-9]{1,10}")


def load(split: str, n: int | None, seed: int, source: str, max_bad: float) -> list[dict]:
    """`n` rows of a split. Test and dev stand in the order of their hashes, train in one that the seed decides."""
    rows = _read(source)
    if split == "pretrain":
        raise DataError(f"{source} has no pretrain split: only procedural problems are pre-trained on")
    targets, numbers = distinct(rows, source, max_bad)
    total = len(targets)
    test = min(TEST, max(1, total // 5))
    dev = min(DEV, max(1, total // 20))
    order = {"test": range(test), "dev": range(test, min(test + dev, total)), "train": range(test + dev, total)}[split]
    if not order:
        raise DataError(f"{source} has only {total} distinct rows: none is left for {split}")
    if split == "train":
        order = list(order)
        random.Random(f"train-{seed}").shuffle(order)
    problems = []
    for k in order[:n]:
        nums, target = [int(x) for x in numbers[k] if x >= 0], int(targets[k])
        problems.append({"id": f"{cluster_of(nums)}:{target}", "cluster": cluster_of(nums), "nums": nums, "target": target})
    return problems


def distinct(rows: Iterable[tuple[object, object]], source: str, max_bad: float) -> tuple[np.ndarray, np.ndarray]:
    """Targets and numbers (padded with -1) of the distinct rows, sorted by the hash of their content.

    Flat arrays rather than dicts: half a million rows take 40 MB. Bad rows are skipped and counted.
    """
    targets, numbers, hashes = array("i"), array("i"), bytearray()
    bad, first_bad = 0, ""
    for position, (target, nums) in enumerate(rows, start=1):
        if complaint := fault(target, nums):
            bad += 1
            first_bad = first_bad or f"row {position}: {complaint}"
            continue
        targets.append(target)
        numbers.extend(nums + [-1] * (MOST - len(nums)))
        hashes += hashlib.sha256(f"{cluster_of(nums)}:{target}".encode()).digest()
    total = len(targets) + bad
    if not targets:
        raise DataError(f"{source} holds no rows" if not bad else f"{source}: none of {total} rows is valid; {first_bad}")
    if bad > max_bad * total:
        raise DataError(f"{source}: {bad} of {total} rows are bad, more than {max_bad:.2%}; {first_bad}")
    if bad:
        warnings.warn(f"{source}: {bad} of {total} rows are bad and skipped; {first_bad}", stacklevel=4)
    keys = np.frombuffer(bytes(hashes), dtype=">u8").reshape(-1, 4)
    table = np.frombuffer(numbers, dtype=np.intc).reshape(-1, MOST)
    # by hash; rows of one hash by the order of their numbers, so that which of them stays does not hang on the file's order
    order = np.lexsort((*table.T[::-1], *keys.T[::-1]))
    keys = keys[order]
    keep = order[np.append(True, (keys[1:] != keys[:-1]).any(axis=1))]
    return np.frombuffer(targets, dtype=np.intc)[keep], table[keep]


def fault(target: object, nums: object) -> str | None:
    """What is wrong with a row, or None.

    >>> fault(31, [3, 9, 4]) is None
    True
    >>> fault(31, [3, 9, 4.5])
    'nums must be 2 to 8 whole numbers from 0 on, not [3, 9, 4.5]'
    """
    if type(target) is not int or abs(target) > BOUND:
        return f"target must be a whole number, not {_short(target)}"
    if type(nums) is not list or not FEWEST <= len(nums) <= MOST or any(type(x) is not int or not 0 <= x <= BOUND for x in nums):
        return f"nums must be {FEWEST} to {MOST} whole numbers from 0 on, not {_short(nums)}"
    return None


def _read(source: str) -> Iterator[tuple[object, object]]:
    """Target and numbers of every row, as they are: wrong ones too, and None for what is missing."""
    suffix = Path(source).suffix.lower()
    if suffix not in SUFFIXES:
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not Path(source).exists():
            return _dataset(source, source)
        raise DataError(f"source '{source}' is neither procedural:..., a hub id (owner/name) nor a file ({', '.join(SUFFIXES)})")
    if not Path(source).is_file():
        raise DataError(f"no file {source} (looked in {Path(source).parent.absolute()})")
    if suffix == ".parquet":
        return _dataset(source, "parquet", data_files=source)
    return _text(source, _csv if suffix == ".csv" else _json)


def _dataset(source: str, *where: str, **options: str) -> Iterator[tuple[object, object]]:
    import datasets

    try:
        data = datasets.load_dataset(*where, split="train", **options)
    except Exception as error:  # every layer below (http, hub, arrow) has errors of its own
        text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        hint = "" if options else "; without a network give a file as source"
        raise DataError(f"{source} cannot be read: {text}{hint}") from error
    if missing := [name for name in COLUMNS if name not in data.column_names]:
        raise DataError(f"{source} has no column '{missing[0]}': it has {', '.join(data.column_names)}; needed: {', '.join(COLUMNS)}")
    for batch in data.select_columns(list(COLUMNS)).iter(10_000):
        yield from zip(batch["target"], batch["nums"], strict=True)


def _text(source: str, reader) -> Iterator[tuple[object, object]]:
    try:
        yield from reader(source)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{source} cannot be read: {' '.join(str(error).split())}") from None


def _json(source: str) -> Iterator[tuple[object, object]]:
    """JSON Lines, or one JSON array. Line by line, so that a broken line costs one row and not the file."""
    with open(source, "rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        file.seek(0)
        rows = json.load(file) if head.startswith(b"[") else (_json_line(line) for line in file if line.strip())
        for row in rows:
            yield (row.get("target"), row.get("nums")) if isinstance(row, dict) else (None, row)


def _json_line(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


def _csv(source: str) -> Iterator[tuple[object, object]]:
    """Numbers stand in one cell: `3 9 4`, `3,9,4` or `[3, 9, 4]`."""
    with open(source, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        if missing := [name for name in COLUMNS if name not in header]:
            raise DataError(f"{source} has no column '{missing[0]}': it has {', '.join(header) or 'none'}; needed: {', '.join(COLUMNS)}")
        for row in reader:
            cells = (row["nums"] or "").strip().strip("[]").replace(",", " ").split()
            yield _number((row["target"] or "").strip()), [_number(cell) for cell in cells]


def _number(cell: str) -> object:
    return int(cell) if INTEGER.fullmatch(cell) else cell


def _short(value: object) -> str:
    text = repr(value if not isinstance(value, bytes) else value[:80])
    return text if len(text) <= 60 else f"{text[:57]}..."
