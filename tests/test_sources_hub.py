"""A hub set: which commit, gated, out of reach, of another size, and no network once its rows are prepared."""

from __future__ import annotations

import http.server
import json
import threading

import pytest
from helpers_sources import one_line, raw, read

from rrr_utils.tasks import DataError, function_calling, sources

HUB = "Salesforce/xlam-function-calling-60k"
OPEN = "someone/open-set"
FIRST, SECOND = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def _fresh(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    sources.say.cache_clear()


# --- which commit ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """A server that answers the hub's requests from a dict of path -> (status, headers, JSON); 404 for the rest."""
    from huggingface_hub import close_session, constants

    answers: dict[str, tuple[int, dict, dict]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            missing = (404, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"})
            status, headers, value = answers.get(self.path.partition("?")[0], missing)
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(json.dumps(value).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    close_session()
    yield answers
    close_session()
    server.shutdown()
    server.server_close()


def told(hub_id: str, sha: str, gated: str | bool = False) -> tuple[int, dict, dict]:
    return 200, {}, {"id": hub_id, "sha": sha, "gated": gated, "private": False, "tags": [], "downloads": 1, "likes": 1}


@pytest.mark.parametrize(("repo_type", "path"), [("dataset", "/api/datasets/"), ("model", "/api/models/")])
def test_the_hub_s_present_commit(hub, repo_type, path):
    hub[f"{path}{OPEN}"] = told(OPEN, FIRST)
    assert sources.commit_of(OPEN, repo_type) == FIRST
    hub[f"{path}{OPEN}"] = told(OPEN, SECOND, gated="auto")
    hub[f"{path}{OPEN}/auth-check"] = (200, {}, {})
    assert sources.commit_of(OPEN, repo_type) == SECOND


GATED = (403, {"X-Error-Code": "GatedRepo"}, {"error": "ask for access"})


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({}, f"no data set {OPEN} on the hub, or HF_TOKEN is not valid: see https://huggingface.co/datasets/{OPEN}"),
        ({"": GATED}, f"{OPEN} is gated: accept its terms at https://huggingface.co/datasets/{OPEN} and set HF_TOKEN"),
        ({"": told(OPEN, FIRST, gated="manual"), "/auth-check": GATED}, f"{OPEN} is gated: accept its terms at"),
        ({"": (500, {}, {"error": "out of\norder"})}, "cannot reach the hub for data set someone/open-set"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, answers, reason):
    hub.update({f"/api/datasets/{OPEN}{path}": answer for path, answer in answers.items()})
    for call in (lambda: sources.commit_of(OPEN), lambda: read(OPEN)):
        with pytest.raises(DataError) as caught:
            call()
        assert reason in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_id_at_all_is_one_line(hub):
    for wrong in ("a--b/c", "x" * 200 + "/y", "./models/mine"):
        with pytest.raises(DataError, match="no model .* on the hub"):
            sources.commit_of(wrong, "model")


@pytest.mark.parametrize("why", ["offline", "nobody answers"])
@pytest.mark.parametrize("repo_type", ["dataset", "model"])
def test_out_of_reach_the_copy_in_the_hub_cache_tells_the_commit(hub, tmp_path, monkeypatch, why, repo_type):
    from huggingface_hub import constants

    if why == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    words = {"dataset": "a local file as the source", "model": "a local folder as the model"}[repo_type]
    ref = tmp_path / "hub" / f"{repo_type}s--someone--open-set" / "refs" / "main"
    for content in (None, "cut"):
        if content:
            ref.parent.mkdir(parents=True)
            ref.write_text(content)
        with pytest.raises(DataError, match=f"cannot reach the hub for .*someone/open-set.*connect.*{words}") as caught:
            sources.commit_of(OPEN, repo_type)
        assert "\n" not in str(caught.value)
        assert "HF_HUB_OFFLINE" in str(caught.value) or why != "offline"
    ref.write_text(FIRST)
    assert sources.commit_of(OPEN, repo_type) == FIRST


# --- its rows --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rows(monkeypatch):
    """What `datasets` would download, by commit; and the commits that were asked for."""
    import datasets

    content, asked = {FIRST: raw(60), SECOND: raw(61)}, []

    def load_dataset(name, split, revision):
        asked.append(revision)
        return datasets.Dataset.from_list(content[revision])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return content, asked


def test_a_commit_is_prepared_once_and_then_needs_nobody(rows):
    _, asked = rows
    assert len(read(f"{OPEN}@{FIRST}").rows) == 60 and asked == [FIRST]
    assert len(read(f"{OPEN}@{FIRST}").rows) == 60 and asked == [
        FIRST
    ]  # and commit_of would have failed: it is offline
    assert len(read(f"{OPEN}@{SECOND}").rows) == 61 and asked == [FIRST, SECOND]  # the commits stand side by side
    assert len(read(f"{OPEN}@{FIRST}", version="test-2").rows) == 60 and asked == [FIRST, SECOND, FIRST]
    assert "cannot reach the hub" in one_line(OPEN)


def test_without_a_commit_the_present_one_is_read(rows, hub):
    hub[f"/api/datasets/{OPEN}"] = told(OPEN, FIRST)
    assert len(read(OPEN).rows) == 60
    hub[f"/api/datasets/{OPEN}"] = told(OPEN, SECOND)
    assert len(read(OPEN).rows) == 61 and rows[1] == [FIRST, SECOND]


def test_the_check_reads_a_hub_set(rows, hub, capsys):
    hub[f"/api/datasets/{HUB}"] = told(HUB, FIRST)
    tools, answers = '[{"name": "now"}]', '[{"name": "now", "arguments": {}}]'
    rows[0][FIRST] = [{"id": k, "query": f"Time {k}?", "tools": tools, "answers": answers} for k in range(30)]
    assert function_calling.main(["--check", HUB]) == 0 and rows[1] == [FIRST]
    assert capsys.readouterr().out.startswith("rows                30: 30 usable, 0 bad\n")


def test_a_set_of_another_size_is_told_once_and_used(rows, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sources, "KNOWN", tmp_path / "sources.yaml")
    sources.KNOWN.write_text(f"{OPEN}:\n  rows: 63\n")
    assert len(read(f"{OPEN}@{FIRST}").rows) == 60 and not caplog.records  # 5% off is no news
    sources.KNOWN.write_text(f"{OPEN}:\n  rows: 64\n")
    for _ in range(2):
        assert len(read(f"{OPEN}@{FIRST}").rows) == 60
    [record] = caplog.records
    assert record.getMessage() == f"{OPEN}@{FIRST} has 60 rows where data/sources.yaml expects about 64"


def test_a_gated_set_without_a_token_is_one_line(monkeypatch):
    text = one_line(f"{HUB}@{FIRST}")  # offline: `datasets` itself fails
    page = f"https://huggingface.co/datasets/{HUB}"
    assert f"{HUB} is gated: accept its terms at {page} and set HF_TOKEN to a token of that account" in text
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    assert f"{HUB}@{FIRST} cannot be loaded" in one_line(f"{HUB}@{FIRST}")


def test_a_set_that_cannot_be_loaded_is_one_line():
    assert f"{OPEN}@{FIRST} cannot be loaded" in one_line(f"{OPEN}@{FIRST}")


def test_a_bad_row_is_named_by_its_number(rows):
    rows[0][FIRST][41]["query"] = None
    assert read(f"{OPEN}@{FIRST}", max_bad_rows=0.1).bad == [("row 42", "query is not text")]


def test_sources_yaml_tells_of_both_sets():
    known = sources.known()
    assert known[HUB]["license"] == "CC-BY-4.0" and known[HUB]["rows"] == 60_000 and known[HUB]["gated"]
    assert (
        all(about["page"].endswith(name) for name, about in known.items()) and "Jiayi-Pan/Countdown-Tasks-3to4" in known
    )
