"""Rows of a local JSON, JSON Lines, Parquet or CSV file, each with its place in the file or why it is bad.

Rows in another encoding or cut off are named and skipped. A JSON array is read whole, the other kinds row by row.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rrr_utils.errors import DataError, one_line

SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")

#: the row's place in the file, the row, and the reason why there is none
Row = tuple[str, Any, str | None]


def rows(path: Path) -> Iterator[Row]:
    """All rows of a file, with a reason instead of a row where it is bad. DataError if the file cannot be read."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: cannot read '{path.suffix}' files; give one of {', '.join(SUFFIXES)}")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    read = {".json": _json, ".jsonl": _jsonl, ".parquet": _parquet, ".csv": _csv}[path.suffix]
    try:
        yield from read(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"line {number}", *_parsed(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _parsed(line: bytes) -> tuple[Any, str | None]:
    try:
        return json.loads(line.rstrip(b"\r\n").decode()), None
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}): write the file in UTF-8"
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg.removesuffix(' at')} at character {error.pos + 1})"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON ({type(error).__name__})"


def _json(path: Path) -> Iterator[Row]:
    """Rows of a JSON array; files of JSON Lines are often named .json too."""
    # bytes in another encoding become lone surrogates, so that only their own row is bad
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if not text.lstrip().startswith("["):
        yield from _jsonl(path)
        return
    try:
        array = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON, perhaps cut off or damaged ({one_line(error, 200)})") from None
    for number, value in enumerate(array, start=1):
        yield f"row {number}", value, None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000)
        for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), start=1):
            yield f"row {number}", row, None
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet after row {number} ({one_line(str(error), 100)})") from None


def _csv(path: Path) -> Iterator[Row]:
    before = csv.field_size_limit(1 << 30)  # the caller checks the length of rows
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                odd = None in row or None in row.values()
                yield f"line {reader.line_num}", row, "more or fewer cells than the header has" if odd else None
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV after line {reader.line_num} ({error})") from None
    finally:
        csv.field_size_limit(before)
