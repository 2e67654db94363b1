"""Rows of a local JSON, JSON Lines, Parquet or CSV file, one at a time, each with its place or why it is bad.

Files may be of any size (none is read whole). Rows in another encoding, cut off or far too long are named and skipped.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rrr_utils.errors import DataError, one_line

MAX_ROW = 1 << 20  # bytes; the longest real row has about 20,000
SUFFIXES = (".json", ".jsonl", ".parquet", ".csv")

_CHUNK = 1 << 20
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_NOT_AN_OBJECT = (None, "not a JSON object")

#: the row's place in the file, the row, and the reason why there is none
Row = tuple[str, dict[str, Any] | None, str | None]


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


def too_long(size: int) -> str:
    """The reason to skip a row of that many bytes."""
    return f"{size / 1e6:.1f} MB in one row, more than the {MAX_ROW / 1e6:.1f} MB that are read"


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_ROW + 1):
            number += 1
            size, rest = len(line), line
            while not rest.endswith(b"\n") and (rest := file.readline(MAX_ROW)):
                size += len(rest)  # a line that is too long is counted, not kept
            if size > MAX_ROW:
                yield f"line {number}", None, too_long(size)
            elif line.strip():
                yield f"line {number}", *_object(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)


def _object(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    try:
        value = json.loads(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        return None, f"not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}): write the file in UTF-8"
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg.removesuffix(' at')} at character {error.pos + 1})"
    except (ValueError, RecursionError) as error:
        return None, f"not JSON ({type(error).__name__})"
    return (value, None) if isinstance(value, dict) else _NOT_AN_OBJECT


def _json(path: Path) -> Iterator[Row]:
    """Rows of a JSON array; files of JSON Lines are often named .json too."""
    # bytes in another encoding become lone surrogates, so that only their own row is bad
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        start = file.read(_CHUNK)
        if start.lstrip()[:1] == "[":
            yield from _array(file, start, path)
            return
    yield from _jsonl(path)


def _array(file: TextIO, buffer: str, path: Path) -> Iterator[Row]:
    decode = json.JSONDecoder().raw_decode
    position, number = buffer.index("[") + 1, 0
    while True:
        position = _BETWEEN.match(buffer, position).end()
        if buffer[position : position + 1] == "]":
            return
        try:
            value, end = decode(buffer, position)
        except RecursionError:
            raise DataError(f"{path}, row {number + 1}: nested too deeply to be read") from None
        except ValueError as error:
            # perhaps only the end of the buffer: reading twice as much each time keeps the whole linear
            more = file.read(max(_CHUNK, len(buffer) - position))
            if not more:
                where, why = f"{path}, row {number + 1}", getattr(error, "msg", str(error))
                raise DataError(f"{where}: not JSON ({why}): the file is cut off or damaged there") from None
            buffer, position = buffer[position:] + more, 0
            continue
        number, size, position = number + 1, end - position, end
        good = (value, None) if isinstance(value, dict) else _NOT_AN_OBJECT
        yield f"row {number}", *((None, too_long(size)) if size > MAX_ROW else good)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                number += 1
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
                row = (None, "more or fewer cells than the header has") if odd else (row, None)
                yield f"line {reader.line_num}", *row
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as CSV after line {reader.line_num} ({error})") from None
    finally:
        csv.field_size_limit(before)
