"""Reading real data: every kind of file, every kind of damage, prepared once."""

from __future__ import annotations

import csv
import json
import resource
from pathlib import Path

import pytest
from helpers_sources import NEEDS, SCHEMA, convert, lines, one_line, raw, read

from rrr_utils.tasks import rowfiles, sources


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))
    sources.say.cache_clear()


# --- files -----------------------------------------------------------------------------------------------------------


def written(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text(lines(rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", rowfiles.SUFFIXES)
def test_every_kind_of_file(tmp_path, suffix):
    data = read(written(tmp_path / f"rows{suffix}", raw(2500)))
    assert (data.total, data.bad, len(data.rows)) == (2500, [], 2500)
    assert data.rows[2499] == {"query": "query é 2499", "size": 12, "parts": [12, 13]}


def test_json_lines_called_json_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b"\xef\xbb\xbf" + lines(raw(3)).encode())
    assert read(path).rows["query"][:] == [row["query"] for row in raw(3)]
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(raw(3)).encode())
    assert len(read(path).rows) == 3


def test_prepared_once_and_mapped(tmp_path, monkeypatch):
    path = written(tmp_path / "rows.jsonl", raw(5))
    first = read(path)
    assert first.rows.cache_files and Path(first.rows.cache_files[0]["filename"]).is_relative_to(tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(sources, "_prepare", None)
        assert read(path).rows[:] == first.rows[:]
    written(path, raw(6))
    assert len(read(path).rows) == 6  # other content, though under the same name
    assert len(read(path, version="test-2").rows) == 6
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == 3


def test_what_was_begun_and_not_finished_is_not_used(tmp_path):
    path = written(tmp_path / "rows.jsonl", raw(5))

    def interrupted(row: dict) -> dict:
        if row["id"] == 3:
            raise KeyboardInterrupt
        return convert(row)

    with pytest.raises(KeyboardInterrupt):
        sources.read(str(path), NEEDS, SCHEMA, interrupted, "test-1", 0.01)
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []
    assert len(read(path).rows) == 5


def test_another_process_may_be_faster(tmp_path):
    path = written(tmp_path / "rows.jsonl", raw(5))
    expected = read(path).rows[:]
    [home] = (tmp_path / "cache" / "prepared").iterdir()
    home.rename(tmp_path / "ready")

    def slow(row: dict) -> dict:
        if row["id"] == 3:
            (tmp_path / "ready").rename(home)
        return convert(row)

    data = sources.read(str(path), NEEDS, SCHEMA, slow, "test-1", 0.01)
    assert data.rows[:] == expected and [home] == list((tmp_path / "cache" / "prepared").iterdir())


def change(**values):
    def damage(home: Path) -> None:
        report = json.loads((home / "report.json").read_text())
        (home / "report.json").write_text(json.dumps({**report, **values}))

    return damage


def replace_rows(home: Path) -> None:
    """Change one byte of the rows."""
    content = (home / "rows.arrow").read_bytes()
    assert content.count(b"query \xc3\xa9 1") == 1
    (home / "rows.arrow").write_bytes(content.replace(b"query \xc3\xa9 1", b"query \xc3\xa9 7"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda home: (home / "report.json").unlink(),
        lambda home: (home / "report.json").write_bytes((home / "report.json").read_bytes()[:-9]),
        lambda home: (home / "report.json").write_bytes(b""),
        lambda home: (home / "report.json").write_bytes(b"\xff"),
        lambda home: (home / "report.json").write_text("null"),
        lambda home: (home / "report.json").write_text("[1]"),
        lambda home: (home / "report.json").write_text("{}"),
        change(total="many"),
        change(total=4),
        change(good=None),
        change(bad=5),
        change(bad=[["line 1"]], total=6),
        change(sha256=None),
        change(size=None),
        lambda home: (home / "rows.arrow").unlink(),
        lambda home: (home / "rows.arrow").write_bytes((home / "rows.arrow").read_bytes()[:-9]),
        lambda home: (home / "rows.arrow").write_bytes(b""),
        replace_rows,
    ],
    ids=range(18),
)
def test_damaged_prepared_rows_are_prepared_again(tmp_path, damage, caplog):
    path = written(tmp_path / "rows.jsonl", raw(5))
    expected = read(path).rows[:]
    [home] = (tmp_path / "cache" / "prepared").iterdir()
    kept = {file.name: file.read_bytes() for file in home.iterdir()}
    assert kept.keys() == {"report.json", "rows.arrow"} and not caplog.records
    damage(home)
    assert {file.name: file.read_bytes() for file in home.iterdir()} != kept
    data = read(path)
    assert (data.rows[:], data.total, data.bad) == (expected, 5, [])
    assert [f"{home} is damaged: its rows are prepared again"] == [record.getMessage() for record in caplog.records]
    assert {file.name: file.read_bytes() for file in home.iterdir()} == kept
    assert [home] == list((tmp_path / "cache" / "prepared").iterdir())


# --- damage ----------------------------------------------------------------------------------------------------------

GOOD = lines(raw(300)).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"query": "cut off", "ans', "not JSON (Unterminated string starting at character 22)"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"query": "q"}', "no column answers (it has: query)"),
        (b'{"query": 5, "answers": ""}', "query is not text"),
        ('{"query": "é", "answers": ""}'.encode("latin-1"), "not UTF-8 (byte 0xe9 at 12): write the file in UTF-8"),
        (b'{"query": "\\ud800", "answers": ""}', "text that is not UTF-8"),
        (b'{"id": "\\ud800", "query": "q", "answers": ""}', "text that is not UTF-8"),
        (
            b'{"query": "' + b"x" * 10_000_000 + b'", "answers": ""}',
            "10.0 MB in one row, more than the 1.0 MB that are read",
        ),
        (b"[" * 100_000, "not JSON (RecursionError)"),
        (b'{"query": "q", "answers": ' + b"9" * 5000 + b"}", "not JSON (ValueError)"),
    ],
    ids=["cut off", "array", "column", "type", "latin-1", "surrogate", "surrogate in an id", "10 MB", "deep", "digits"],
)
def test_a_bad_row_is_skipped_counted_and_named(tmp_path, caplog, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + line + b"\n" + lines(raw(99, 300)).encode())
    data = read(path)
    assert len(data.rows) == 399 and data.total == 400
    [(where, why)] = data.bad
    assert where == "line 301" and why.startswith(reason)
    assert f"{path}: 1 of 400 rows cannot be used and are skipped: line 301: {reason}" in caplog.text
    assert len(caplog.records) == 1 and "\n" not in caplog.records[0].getMessage()
    path.write_bytes(line + b"\n" + lines(raw(20)).encode())
    assert "1 of 21 rows cannot be used, more than the 1.0% of max_bad_rows: line 1: " in one_line(path)
    assert len(read(path, max_bad_rows=0.1).rows) == 20
    path.write_bytes(line)
    assert "none of its 1 rows can be used: line 1: " in one_line(path, max_bad_rows=1.0)


def test_many_bad_rows_are_one_line(tmp_path, caplog):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"oops\n" * 3 + b"{}\n" * 4)
    assert len(read(path, max_bad_rows=0.1).rows) == 300
    assert caplog.records[0].getMessage().endswith("line 303: not JSON (Expecting value at character 1); and 4 more")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("empty.json", b"", "is empty"),
        ("empty.parquet", b"", "is empty"),
        ("blank.jsonl", b"\n\n", "holds no rows"),
        ("none.json", b"[]", "holds no rows"),
        ("header.csv", b"query,answers\n", "holds no rows"),
        (
            "cut.json",
            json.dumps(raw(30)).encode()[:-20],
            "is not JSON, perhaps cut off or damaged (JSONDecodeError: Expecting",
        ),
        (
            "damaged.json",
            json.dumps(raw(30)).encode().replace(b'"query"', b'"query', 1),
            "is not JSON, perhaps cut off or damaged (JSONDecodeError: ",
        ),
        ("more.json", b"[] and more", "is not JSON, perhaps cut off or damaged (JSONDecodeError: Extra data"),
        ("deep.json", b"[" * 100_000, "is not JSON, perhaps cut off or damaged (RecursionError"),
        (
            "wrong.json",
            b'[{"q": 1}, {"q": 2}]',
            "none of its 2 rows can be used: row 1: no column query, answers (it has: q)",
        ),
        ("wrong.csv", b"q,a\n1,2\n", "no column query, answers (it has: q, a)"),
        ("cut.csv", b'query,answers\nhow,"[1', "cannot be read as CSV after line 1 (unexpected end of data)"),
        ("cut.parquet", b"PAR1" + b"x" * 50, "cannot be read as Parquet after row 0"),
        ("other.txt", b"query", "cannot read '.txt' files"),
        ("utf16.jsonl", "".join(json.dumps(row) + "\n" for row in raw(3)).encode("utf-16"), "none of its"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    text = one_line(path)
    assert reason in text and str(path) in text


def test_rows_of_other_encodings_and_sizes_in_every_kind_of_file(tmp_path):
    array = json.dumps([*raw(200), {"query": "x" * 2_000_000, "answers": ""}], ensure_ascii=False).encode()
    (tmp_path / "rows.json").write_bytes(array[:-1] + ', {"query": "é", "answers": ""}]'.encode("latin-1"))
    table = written(tmp_path / "rows.csv", [*raw(200), {"id": 0, "query": "x" * 2_000_000, "answers": ""}])
    table.write_bytes(table.read_bytes() + "1,é,[]\n1,2\n".encode("latin-1"))
    assert [where for where, _ in read(tmp_path / "rows.json").bad] == ["row 201", "row 202"]
    assert [where for where, _ in read(table, max_bad_rows=0.02).bad] == ["line 202", "line 203", "line 204"]
    big = written(tmp_path / "rows.parquet", [*raw(200), {"id": 0, "query": "x" * 2_000_000, "answers": ""}])
    assert read(big).bad == [("row 201", "2.0 MB in one row, more than the 1.0 MB that are read")]


@pytest.mark.parametrize("source", ["missing.jsonl", "owner/missing.parquet", "nothing", "a/b/c"])
def test_no_such_file(source):
    text = one_line(source)
    assert f"no file {source}" in text and "owner/name" in text


@pytest.mark.parametrize("limit", [0, 1000, 100_000])
def test_a_full_disk_while_preparing_is_one_line(tmp_path, limit):
    path = written(tmp_path / "rows.jsonl", raw(5000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        text = one_line(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert text.startswith(f"cannot write {tmp_path / 'cache' / 'prepared'}") and "File too large" in text
    assert "free some space, or set RRR_CACHE" in text
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []
    assert len(read(path).rows) == 5000


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "taken" / "cache"))
    assert "set RRR_CACHE to another folder" in one_line(written(tmp_path / "rows.jsonl", raw(2)))
