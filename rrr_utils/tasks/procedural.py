"""What made-up rows of every task share: splits by a hash of the content, and how a procedural source is written."""

import hashlib
import re

from rrr_utils.errors import DataError

SPLITS = {"pretrain": 0.50, "train": 0.70, "dev": 0.80, "test": 1.00}  # upper ends, for a hash in [0, 1)
HELD_OUT = ("dev", "test")


def split_of(content: str) -> str:
    """The split of a content, by its hash alone.

    >>> split_of("3-4-9")
    'train'
    """
    unit = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64
    return next(name for name, end in SPLITS.items() if unit < end)


def given(source: str, forms: dict[str, tuple[str, str]]) -> dict[str, str]:
    """The values that a source gives, by name. `forms`: how each is written, as a pattern and in words. DataError if
    it is not.

    >>> given("procedural:sums=2-3", {"calls": ("[12]", "1 or 2"), "sums": ("[0-3](-[0-3])?", "0 to 3")})
    {'sums': '2-3'}
    """
    values: dict[str, str] = {}
    for pair in filter(None, source.removeprefix("procedural:").split(",")):
        name, _, value = pair.partition("=")
        if name not in forms:
            raise DataError(f"source '{source}': unknown '{name}'; known: {', '.join(forms)}")
        form, wanted = forms[name]
        if name in values or not re.fullmatch(form, value):
            raise DataError(f"source '{source}': {name} must be given once, as {wanted}")
        values[name] = value
    return values
