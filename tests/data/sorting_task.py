"""Sorting letters: put the letters of a word in alphabetical order, "dcab" -> "abcd"."""

import hashlib
import itertools
import random

from rrr_utils.tasks import DataError, Verdict

VERSION = 1  # raise it when the meaning of rows or verdicts changes: results then go to other folders
REFLECT = "That is wrong. Reflect on what went wrong and write a short explanation that helps you do better next time."
ERRORS = ("wrong_letters", "wrong_order")
DEFAULT_SOURCE = "procedural:letters=abcdefgh"  # words of four of these letters
SPLITS = ("pretrain", "train", "train", "train", "dev", "test", "test")


def load(split: str, n: int | None, seed: int, source: str | None = None) -> list[dict]:
    """Words that share their letters (a cluster) are never in two splits: a hash of the letters decides."""
    kind, _, letters = (source or DEFAULT_SOURCE).partition("letters=")
    if kind != "procedural:" or not letters or split not in SPLITS:
        raise DataError(f"no split '{split}' of source '{source}': a source is written like {DEFAULT_SOURCE}")
    words = ["".join(word) for word in itertools.product(sorted(set(letters)), repeat=4)]
    rows = [{"id": word, "cluster": "".join(sorted(word)), "word": word} for word in words]
    rows = [row for row in rows if SPLITS[hashlib.sha256(row["cluster"].encode()).digest()[0] % len(SPLITS)] == split]
    random.Random(f"{split}-{seed}").shuffle(rows)
    return rows[:n]


def prompt(row: dict) -> str:
    return f"Put the letters of this word in alphabetical order, and write nothing else: {row['word']}"


def verify(completion: str, row: dict) -> Verdict:
    """Strict: the sorted letters alone. Lenient: any case, and text before them."""
    right = "".join(sorted(row["word"]))
    error = "wrong_letters" if sorted(completion) != sorted(right) else None if completion == right else "wrong_order"
    return Verdict(error is None, error, error is None or completion.lower().split()[-1:] == [right])
