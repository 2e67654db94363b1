"""A task for measuring only: prompts of a given number of words, and verdicts that a checksum decides."""

from __future__ import annotations

import random
import zlib

from rrr_utils.tasks import Verdict

VERSION = 1
REFLECT = "Reflect."
ERRORS = ("odd",)


def load(split: str, n: int | None, seed: int, source: str | None = None) -> list[dict]:
    """Rows of random words. `source` gives the words of a row and the size of the vocabulary: "600 of 151000"."""
    length, size = map(int, (source or "600 of 151000").split(" of "))
    rng = random.Random(f"{split}-{seed}")
    texts = ["".join(f" w{rng.randrange(size)}" for _ in range(length)) for _ in range(n or 100)]
    return [{"id": str(k), "cluster": str(k), "text": text} for k, text in enumerate(texts)]


def prompt(row: dict) -> str:
    """The words."""
    return row["text"]


def verify(completion: str, row: dict) -> Verdict:
    """Right for every other text."""
    right = zlib.crc32(completion.encode("utf-8", "replace")) % 2 == 0
    return Verdict(right, None if right else "odd", right)
