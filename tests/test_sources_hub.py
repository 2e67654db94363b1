"""A hub set that changes, is gated, or cannot be reached."""

from __future__ import annotations

import json

import pytest
from helpers_sources import one_line, raw, read

from rrr_utils.tasks import DataError, sources

HUB = "Salesforce/xlam-function-calling-60k"
OPEN = "someone/open-set"


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RRR_ACCEPT_NEW_DATA", raising=False)
    sources.say.cache_clear()


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
