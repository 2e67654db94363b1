"""Reading real data: every kind of file, every kind of damage in one line, and a hub set that changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from rrr_utils import rowfiles, sources
from rrr_utils.tasks import DataError

NEEDS = ("query", "answers")
SCHEMA = {"query": "string", "size": "int64", "parts": "list<int64>", "long": "bool"}
HUB = "Salesforce/xlam-function-calling-60k"
OPEN = "someone/open-set"


def convert(raw: dict) -> dict:
    if not isinstance(raw["query"], str):
        raise ValueError("query is no text")
    size = len(raw["query"])
    return {"query": raw["query"], "size": size, "parts": [size, size + 1], "long": size > 8}


def read(source, max_bad_rows: float = 0.01, version: str = "test-1") -> sources.Rows:
    return sources.read(str(source), NEEDS, SCHEMA, convert, version, max_bad_rows)


def raw(count: int, start: int = 0) -> list[dict]:
    return [{"id": k, "query": f"query é {k}", "answers": f"[{k}]"} for k in range(start, start + count)]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RRR_ACCEPT_NEW_DATA", raising=False)
    sources.say.cache_clear()


def one_line(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **options)
    text = str(caught.value)
    assert text and "\n" not in text and len(text) < 700
    return text


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
    assert data.rows[2499] == {"query": "query é 2499", "size": 12, "parts": [12, 13], "long": True}


def test_json_lines_called_json_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b"\xef\xbb\xbf" + lines(raw(3)).encode())
    assert read(path).rows["query"][:] == [row["query"] for row in raw(3)]
    path.write_bytes(b"\xef\xbb\xbf\n" + json.dumps(raw(3)).encode())
    assert len(read(path).rows) == 3


def test_a_json_array_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(rowfiles, "_CHUNK", 7)
    assert len(read(written(tmp_path / "rows.json", raw(50))).rows) == 50


def test_prepared_once_and_mapped(tmp_path, monkeypatch):
    path = written(tmp_path / "rows.jsonl", raw(5))
    first = read(path)
    assert first.rows.cache_files and Path(first.rows.cache_files[0]["filename"]).is_relative_to(tmp_path / "cache")
    monkeypatch.setattr(sources, "_prepare", None)
    assert read(path).rows[:] == first.rows[:]
    monkeypatch.undo()
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))
    written(path, raw(6))
    assert len(read(path).rows) == 6  # other content, though under the same name
    assert len(read(path, version="test-2").rows) == 6
    assert len(list((tmp_path / "cache" / "prepared").iterdir())) == 3


def test_what_was_begun_and_not_finished_is_not_used(tmp_path, monkeypatch):
    path = written(tmp_path / "rows.jsonl", raw(5))
    monkeypatch.setattr(sources, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read(path)
    monkeypatch.undo()
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []
    assert len(read(path).rows) == 5


# --- damage ----------------------------------------------------------------------------------------------------------

GOOD = lines(raw(300)).encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"query": "cut off", "ans', "not JSON (Unterminated string starting at character 22)"),
        (b"[1, 2]", "no JSON object"),
        (b'{"query": "q"}', "no column answers (it has: query)"),
        (b'{"query": 5, "answers": ""}', "query is no text"),
        ('{"query": "é", "answers": ""}'.encode("latin-1"), "not UTF-8 (byte 0xe9 at 12): write the file in UTF-8"),
        (b'{"query": "\\ud800", "answers": ""}', "text that is not UTF-8"),
        (b'{"query": "' + b"x" * 10_000_000 + b'", "answers": ""}', "10.0 MB in one row, more than the 1.0 MB that are read"),
        (b"[" * 100_000, "not JSON (RecursionError)"),
        (b'{"query": "q", "answers": ' + b"9" * 5000 + b"}", "not JSON (ValueError)"),
    ],
    ids=["cut off", "array", "column", "type", "latin-1", "surrogate", "10 MB", "deep", "digits"],
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
    assert "1 of 21 rows cannot be used, more than the 1.0% that max_bad_rows allows: line 1: " in one_line(path)
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
        ("cut.json", json.dumps(raw(30)).encode()[:-20], "row 30: not JSON"),
        ("damaged.json", json.dumps(raw(30)).encode().replace(b'"query"', b'"query', 1), "row 1: not JSON"),
        ("deep.json", b"[" * 100_000, "row 1: nested too deeply"),
        ("wrong.json", b'[{"q": 1}, {"q": 2}]', "none of its 2 rows can be used: row 1: no column query, answers (it has: q)"),
        ("wrong.csv", b"q,a\n1,2\n", "no column query, answers (it has: q, a)"),
        ("cut.csv", b'query,answers\nhow,"[1', "not CSV after line 1 (unexpected end of data)"),
        ("cut.parquet", b"PAR1" + b"x" * 50, "no readable Parquet after row 0"),
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


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "taken" / "cache"))
    assert "set RRR_CACHE to another folder" in one_line(written(tmp_path / "rows.jsonl", raw(2)))


# --- the hub ---------------------------------------------------------------------------------------------------------


class Hub:
    """A hub that is not there: its present revision, its data files and its rows by revision."""

    def __init__(self, monkeypatch):
        self.revision, self.files, self.rows = "a" * 40, {"data.parquet": "1"}, {"a" * 40: raw(60)}
        self.fetched: list[str] = []
        self.down: str | None = None
        monkeypatch.setattr(sources, "_hub_state", self.state)
        monkeypatch.setattr(sources, "_hub_rows", self.fetch)
        monkeypatch.setattr(sources, "_token", lambda: "hf_x")
        monkeypatch.setattr(sources, "known", lambda: {HUB: {"rows": 60, "gated": True, "page": f"https://huggingface.co/datasets/{HUB}"}})

    def state(self, source):
        if self.down:
            raise DataError(self.down)
        return {"revision": self.revision, "files": self.files}

    def fetch(self, source, revision):
        self.fetched.append(revision)
        for number, row in enumerate(self.rows[revision], start=1):
            yield f"row {number}", row, None


@pytest.fixture
def hub(monkeypatch):
    return Hub(monkeypatch)


def test_the_first_use_is_recorded(hub, tmp_path):
    assert sources.recorded(HUB) is None
    assert len(read(HUB).rows) == 60
    assert sources.recorded(HUB) == "a" * 40
    record = json.loads((tmp_path / "cache" / "sources" / "Salesforce--xlam-function-calling-60k.json").read_text())
    assert record["rows"] == 60 and record["files"] == {"data.parquet": "1"} and len(record["sha256"]["query+answers"]) == 64
    assert len(read(HUB).rows) == 60 and hub.fetched == ["a" * 40]
    assert len(read(HUB, version="test-2").rows) == 60 and hub.fetched == ["a" * 40] * 2  # another task, the same content


def test_a_changed_set_is_refused_until_it_is_accepted(hub, monkeypatch):
    read(HUB)
    hub.revision, hub.files = "b" * 40, {"data.parquet": "2", "more.parquet": "3"}
    hub.rows["b" * 40] = raw(61)
    text = one_line(HUB)
    assert (
        "changed on the hub" in text and "aaaaaaaaaa and in bbbbbbbbbb: data.parquet, more.parquet" in text and "--accept-new-data" in text
    )
    assert sources.recorded(HUB) == "a" * 40
    monkeypatch.setenv("RRR_ACCEPT_NEW_DATA", "1")
    assert len(read(HUB).rows) == 61 and sources.recorded(HUB) == "b" * 40
    monkeypatch.delenv("RRR_ACCEPT_NEW_DATA")
    assert len(read(HUB).rows) == 61


def test_a_new_commit_with_the_same_data_is_no_change(hub):
    read(HUB)
    hub.revision = "b" * 40
    assert len(read(HUB).rows) == 60 and sources.recorded(HUB) == "a" * 40
    read(HUB, version="test-2")
    assert hub.fetched == ["a" * 40] * 2


def test_other_content_at_the_recorded_revision_is_refused(hub, tmp_path):
    read(HUB)
    for folder in (tmp_path / "cache" / "prepared").iterdir():
        folder.rename(tmp_path / folder.name)
    hub.rows["a" * 40] = raw(59)
    text = one_line(HUB)
    assert "its content has changed since 20" in text and "60 rows then, 59 now" in text
    assert list((tmp_path / "cache" / "prepared").iterdir()) == []


def test_a_set_of_quite_another_size_is_refused(hub, monkeypatch):
    hub.rows["a" * 40] = raw(40)
    assert "it has 40 rows where about 60 are expected" in one_line(HUB)
    assert sources.recorded(HUB) is None
    monkeypatch.setenv("RRR_ACCEPT_NEW_DATA", "1")
    assert len(read(HUB).rows) == 40


def test_gated_without_a_token_is_one_line_and_asks_nobody(hub, monkeypatch):
    monkeypatch.setattr(sources, "_token", lambda: None)
    hub.down = "asked"
    text = one_line(HUB)
    assert "is gated: accept its terms at https://huggingface.co/datasets/Salesforce/xlam-function-calling-60k" in text
    assert "HF_TOKEN" in text


def test_what_is_here_needs_no_network_and_no_token(hub, monkeypatch):
    read(HUB)
    hub.down = "cannot reach the hub"
    monkeypatch.setattr(sources, "_token", lambda: None)
    assert len(read(HUB).rows) == 60
    with pytest.raises(DataError, match="cannot reach the hub"):
        read(OPEN)


def answer(status: int, headers: dict | None = None):
    import httpx

    return httpx.Response(status, headers=headers, json={"error": "no"}, request=httpx.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("connect", "cannot reach the hub for someone/open-set ([Errno -2] Name or service not known): connect to a network"),
        ("timeout", "cannot reach the hub"),
        ("gated", "is gated and HF_TOKEN is not let in: accept its terms at https://huggingface.co/datasets/someone/open-set"),
        ("missing", "no data set someone/open-set on the hub, or HF_TOKEN is not valid"),
        ("server", "the hub refuses someone/open-set"),
        ("offline", "HF_HUB_OFFLINE is set"),
    ],
)
def test_the_hub_s_own_errors_are_one_line(monkeypatch, error, reason):
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    errors = {
        "connect": httpx.ConnectError("[Errno -2] Name or service not known"),
        "timeout": httpx.ReadTimeout("timed out"),
        "gated": GatedRepoError("403\nask", response=answer(403)),
        "missing": RepositoryNotFoundError("404\nno", response=answer(404)),
        "server": HfHubHTTPError("500\nno", response=answer(500)),
        "offline": None,
    }

    def info(*_, **__):
        raise errors[error]

    monkeypatch.setattr(HfApi, "dataset_info", info)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", error == "offline")
    sources._hub_state.cache_clear()
    assert reason in one_line(OPEN)


def test_what_the_hub_says_of_a_set(monkeypatch):
    from huggingface_hub import HfApi, constants
    from huggingface_hub.hf_api import DatasetInfo

    lfs = {"sha256": "9" * 64, "size": 3, "pointerSize": 100}
    siblings = [
        {"rfilename": "x.parquet", "blobId": "1", "lfs": lfs},
        {"rfilename": "y.json", "blobId": "2"},
        {"rfilename": "README.md", "blobId": "3"},
    ]
    info = DatasetInfo(id=OPEN, sha="c" * 40, siblings=siblings, gated="auto", private=False, downloads=1, likes=1, tags=[])
    checked = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(HfApi, "dataset_info", lambda *_, **__: info)
    monkeypatch.setattr(HfApi, "auth_check", lambda _, name, **options: checked.append((name, options)))
    sources._hub_state.cache_clear()
    assert sources._hub_state(OPEN) == {"revision": "c" * 40, "files": {"x.parquet": "9" * 64, "y.json": "2"}}
    assert checked == [(OPEN, {"repo_type": "dataset"})]
    sources._hub_state.cache_clear()


def test_rows_of_the_hub_come_through_datasets(monkeypatch):
    import datasets

    with pytest.raises(DataError, match="someone/open-set@aaaaaaaaaa cannot be loaded"):
        next(sources._hub_rows(OPEN, "a" * 40))
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *where, **options: asked.append((where, options)) or datasets.Dataset.from_list(raw(2))
    )
    assert list(sources._hub_rows(OPEN, "a" * 40)) == [("row 1", raw(2)[0], None), ("row 2", raw(2)[1], None)]
    assert asked == [((OPEN,), {"split": "train", "revision": "a" * 40})]


def test_sources_yaml_tells_of_both_sets():
    known = sources.known()
    assert known[HUB]["license"] == "CC-BY-4.0" and known[HUB]["rows"] == 60_000 and known[HUB]["gated"]
    assert all(about["page"].endswith(name) for name, about in known.items()) and "Jiayi-Pan/Countdown-Tasks-3to4" in known
