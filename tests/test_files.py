"""Files: atomic writes, torn tails, full disks, and logs that an error never empties."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from rrr_utils import files
from rrr_utils.errors import ResultsError


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path, monkeypatch, broken):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    monkeypatch.setattr(files.os, broken, no_space)
    with pytest.raises(ResultsError, match="cannot write .*result.json: No space left on device") as caught:
        files.write_json(path, {"a": 2})
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert files.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_in_an_append_leaves_the_rows_before(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, [{"a": 1}])
    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(ResultsError, match="No space left"):
        files.append_jsonl(path, [{"a": 2}, {"a": 3}])
    monkeypatch.undo()
    files.append_jsonl(path, [{"a": 4}])
    assert files.read_jsonl(path) == [{"a": 1}, {"a": 4}]


def test_a_torn_tail_is_dropped_at_every_byte(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": 1, "text": "a\u2028b"}, {"id": 2, "text": "é{}"}]
    files.append_jsonl(path, rows)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        expected = rows[: (cut >= first - 1) + (cut >= len(whole) - 1)]  # whole but for the newline is whole
        assert files.read_jsonl(path) == expected, cut
        files.append_jsonl(path, [{"id": 3}])
        assert files.read_jsonl(path) == [*expected, {"id": 3}], cut


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ResultsError, match=r"rows.jsonl, line 2: not JSON"):
        files.read_jsonl(path)


def test_what_models_say_survives_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ["\ud800", "\x00\x85\u2028\r\n", "٣", '"\\']
    files.append_jsonl(path, [{"text": text} for text in texts])
    assert [row["text"] for row in files.read_jsonl(path)] == texts
    files.append_jsonl(path, [{"loss": float("nan"), "kl": [float("inf"), 1.0]}])
    assert files.read_jsonl(path)[-1] == {"loss": None, "kl": [None, 1.0]}


def test_an_append_that_cannot_open_its_file_leaves_the_log_as_it_was(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, [{"a": 1}, {"a": 2}])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, hard))  # not one more file
        with pytest.raises(ResultsError, match="Too many open files"):
            files.append_jsonl(path, [{"a": 3}])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken[0])
    assert files.read_jsonl(path) == [{"a": 1}, {"a": 2}]


def test_an_append_beyond_the_largest_file_leaves_the_rows_before(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, [{"a": 1}])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
        with pytest.raises(ResultsError, match="File too large"):
            files.append_jsonl(path, [{"text": "x" * 100}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files.read_jsonl(path) == [{"a": 1}]


def test_a_large_file_s_hash_is_remembered_on_disk_and_made_again_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "LARGE", 4)
    path = tmp_path / "large"
    path.write_bytes(b"12345")
    first = files.file_hash(path)
    [note] = (tmp_path / "cache" / "hashes").iterdir()
    files._file_hash.cache_clear()  # as another process would find it
    files.write_json(note, {**files.read_json(note), "sha256": "remembered"})
    assert files.file_hash(path) == "remembered"
    path.write_bytes(b"123456")
    assert files.file_hash(path) not in ("remembered", first)
