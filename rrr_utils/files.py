"""Files that are whole or not there: atomic writes, and JSON Lines that survive a kill in the middle of a line.

Covered: a full disk and a kill at any moment. Not covered: two processes that append to one file (the launcher's lock
sees to that).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from rrr_utils.errors import ResultsError


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise no_space(path, error) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, _dumps(value, indent=1) + "\n")


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON Lines whole or not at all."""
    write_text(path, "".join(_dumps(row) + "\n" for row in rows))


def read_json(path: Path) -> Any | None:
    """A JSON file's value; None where there is no readable one."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def append_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows, all of them or none; a torn tail that a kill left is cut off first."""
    path = Path(path)
    block = "".join(_dumps(row) + "\n" for row in rows).encode()
    before = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        repair_jsonl(path)
        before = path.stat().st_size if path.exists() else 0
        with open(path, "ab") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if path.exists():
            os.truncate(path, before)
        raise no_space(path, error) from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows; a torn last line is dropped, a bad line anywhere else is an error that names it."""
    lines = Path(path).read_bytes().split(b"\n")  # not splitlines(): texts may hold other line separators
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ResultsError(f"{path}, line {number}: not JSON: {line[:60]!r}. Move the file aside and run the stage again") from None
    return rows


def repair_jsonl(path: Path) -> None:
    """Cut off a last line that was not written whole."""
    path = Path(path)
    if not path.exists() or not path.stat().st_size:
        return
    content = path.read_bytes() if _last_byte(path) != b"\n" else b"\n"
    if content.endswith(b"\n"):
        return
    tail = content.rsplit(b"\n", 1)[-1]
    try:
        json.loads(tail)
        with open(path, "ab") as file:  # whole but for its newline
            file.write(b"\n")
    except ValueError:
        os.truncate(path, len(content) - len(tail))


def _last_byte(path: Path) -> bytes:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def _dumps(value: Any, indent: int | None = None) -> str:
    """JSON that every reader takes: numpy's numbers as numbers, NaN and infinity as null, lone surrogates escaped."""

    def plain(other: Any) -> Any:
        if hasattr(other, "tolist"):
            return other.tolist()
        return str(other)

    def finite(other: Any) -> Any:
        if isinstance(other, dict):
            return {key: finite(item) for key, item in other.items()}
        if isinstance(other, list | tuple):
            return [finite(item) for item in other]
        return None if isinstance(other, float) and not math.isfinite(other) else other

    text = json.dumps(finite(value), ensure_ascii=False, indent=indent, default=plain)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(finite(value), indent=indent, default=plain)
    return text


def no_space(path: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"cannot write {path}: {error.strerror or error}. Free some space or set results_dir elsewhere; what was computed stays"
    )


def file_hash(path: Path) -> str:
    """sha256 of a file, remembered while its size and time stay the same."""
    stat = path.stat()
    return _file_hash(str(path), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_hash(path: str, size: int, mtime: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
