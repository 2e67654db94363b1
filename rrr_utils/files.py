"""Files that are whole or not there: atomic writes, and JSON Lines that survive a kill in the middle of a line.

Covered: a full disk and a kill at any moment. Not covered: two processes that append to one file (`runs.begin` locks).
"""

import functools
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from rrr_utils.errors import ResultsError

#: bytes from which on a file's hash is remembered on disk: a large model is not hashed again by every process
LARGE = 1 << 23


def cache() -> Path:
    """Where prepared data and the hashes of large files lie: $RRR_CACHE, else ~/.cache/rrr."""
    return Path(os.environ.get("RRR_CACHE") or Path.home() / ".cache" / "rrr")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises ResultsError where the disk does not take it."""
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
    except (OSError, ValueError, RecursionError):
        return None


def append_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows, all of them or none; a torn tail that a kill left is cut off first."""
    path = Path(path)
    block = "".join(_dumps(row) + "\n" for row in rows).encode()
    before = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        repair_jsonl(path)
        with open(path, "ab") as file:
            before = file.tell()
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if before is not None:  # the file was open, so its length is known; else nothing was written
            os.truncate(path, before)
        raise no_space(path, error) from None


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows; a torn last line is dropped. Raises ResultsError, with its number, for a bad line anywhere else."""
    lines = Path(path).read_bytes().split(b"\n")  # not splitlines(): texts may hold other line separators
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                text = f"{path}, line {number}: not JSON: {line[:60]!r}"
                raise ResultsError(f"{text}. Move the file aside and run the stage again") from None
    return rows


def read_log(path: Path) -> list[dict[str, Any]]:
    """All rows of a log; none where it was not begun."""
    return read_jsonl(path) if Path(path).exists() else []


def last_line(path: Path, most: int = 2**16) -> dict[str, Any] | None:
    """The last whole row of a log that may be growing, of at most so many bytes; None where there is none."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - most))
        lines = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
    try:
        return json.loads(lines)
    except ValueError:
        return None


def repair_jsonl(path: Path) -> None:
    """Cut off a last line that was not written whole."""
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return
    content = path.read_bytes()
    tail = content.rsplit(b"\n", 1)[-1]
    try:
        json.loads(tail)
    except ValueError:
        os.truncate(path, len(content) - len(tail))
        return
    with open(path, "ab") as file:  # whole but for its newline
        file.write(b"\n")


def _dumps(value: Any, indent: int | None = None) -> str:
    """JSON for every reader: numpy's numbers as numbers, NaN and infinity as null, lone surrogates escaped."""

    def plain(other: Any) -> Any:
        return other.tolist() if hasattr(other, "tolist") else str(other)

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
    """The one line for a disk that does not take a file."""
    text = f"cannot write {path}: {error.strerror or error}"
    return ResultsError(f"{text}. Free some space or set results_dir elsewhere; what was computed stays")


def is_disk_error(error: BaseException | str) -> bool:
    """Whether an error, or its text, says that the disk did not take a file (torch and safetensors raise own kinds)."""
    text = f"{getattr(error, 'strerror', '') or ''} {error}"
    words = ("No space left on device", "File too large", "quota exceeded", "PytorchStreamWriter failed writing")
    return any(word in text for word in words)


def file_hash(path: Path) -> str:
    """sha256 of a file, remembered while its size and time stay the same; of a large file also on disk."""
    stat = Path(path).stat()
    return _file_hash(str(Path(path).absolute()), stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _file_hash(path: str, size: int, changed: int) -> str:
    note = cache() / "hashes" / f"{hashlib.sha256(path.encode()).hexdigest()[:24]}.json"
    known = read_json(note) if size >= LARGE else None
    if isinstance(known, dict) and (known.get("size"), known.get("changed")) == (size, changed):
        return str(known.get("sha256"))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if size >= LARGE:
        try:
            write_json(note, {"path": path, "size": size, "changed": changed, "sha256": digest})
        except ResultsError:
            pass  # a full home folder costs time, not the result
    return digest
