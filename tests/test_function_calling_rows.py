"""The function-calling task: its prompt, its rows, and the report on a file of them."""

from __future__ import annotations

import json
import os
import random
import statistics
from pathlib import Path

import pytest
from helpers_calls import RIGHT, ROW, TOOLS, written

from rrr_utils import conversation
from rrr_utils.tasks import DataError, Verdict, function_calling
from rrr_utils.tasks.function_calling import load, prompt, split_indices, verify

BFCL = Path(os.environ.get("RRR_BFCL") or Path(__file__).parents[2] / "shared" / "data" / "bfcl_as_apigen.jsonl")
needs_bfcl = pytest.mark.skipif(not BFCL.is_file(), reason="the Berkeley rows are not here (RRR_BFCL)")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))


# --- prompt and rows -------------------------------------------------------------------------------------------------


def test_the_prompt_holds_tools_and_query():
    text = conversation.question(function_calling, ROW)
    assert [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')] == TOOLS
    assert "\nQuery: Weather in Oslo for 2 days?" in text and text.endswith(conversation.DIRECT)
    assert prompt(ROW) in text and "{{" not in text


def raw(number: int, **changes) -> dict:
    gold = [{"name": "weather", "arguments": {"city": f"City {number}", "days": number}}]
    row = {"id": number, "query": f"Weather in city {number}?", "tools": json.dumps(TOOLS), "answers": json.dumps(gold)}
    return {**row, **changes}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows(tmp_path):
    source = write(tmp_path / "rows.jsonl", [raw(k) for k in range(200)])
    splits = {split: load(split, None, 0, source) for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 150, "dev": 10, "test": 40}
    ids = [row["id"] for rows in splits.values() for row in rows]
    assert len(set(ids)) == 200
    row = splits["train"][0]
    assert (
        list(row) == ["id", "cluster", "query", "tools", "answers"]
        and row["tools"] == TOOLS
        and row["cluster"] == "weather"
    )
    assert all(verify(json.dumps(row["answers"]), row).correct for rows in splits.values() for row in rows)
    assert load("train", 5, 0, source) == splits["train"][:5] != load("train", 5, 1, source)
    assert load("test", 5, 1, source) == splits["test"][:5]
    assert load("test", 10_000, 0, source) == splits["test"]


def test_neither_position_nor_spelling_decides_the_split(tmp_path):
    rows = [raw(k) for k in range(100)]
    again = [
        {**row, "id": f"other {row['id']}", "answers": row["answers"].replace(": ", ":  ")} for row in reversed(rows)
    ]
    first, second = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", again)
    assert [row["query"] for row in load("test", None, 0, first)] == [
        row["query"] for row in load("test", None, 0, second)
    ]


def test_equal_content_counts_once_and_equal_ids_do_not_collide(tmp_path):
    rows = [raw(k, id=k % 50) for k in range(100)]
    source = write(tmp_path / "rows.jsonl", rows + rows[:30])
    loaded = [row for split in ("train", "dev", "test") for row in load(split, None, 0, source)]
    assert len(loaded) == len({row["id"] for row in loaded}) == len({row["query"] for row in loaded}) == 100


def test_full_sizes():
    splits = split_indices((f"{k:06d}" for k in range(60_000)), [""] * 60_000)
    assert {split: len(indices) for split, indices in splits.items()} == {"test": 12_000, "dev": 1_000, "train": 47_000}
    assert splits["test"] == list(range(12_000)) and splits["dev"][0] == 12_000


def test_gold_that_does_not_fit_its_tools_is_in_test_only(tmp_path, caplog):
    wrong = json.dumps([{"name": "weather", "arguments": {"town": "Oslo"}}])
    source = write(tmp_path / "rows.jsonl", [raw(k, **({"answers": wrong} if k % 4 == 0 else {})) for k in range(200)])
    splits = {split: load(split, None, 0, source) for split in ("train", "dev", "test")}
    odd = {split: sum("town" in str(row["answers"]) for row in rows) for split, rows in splits.items()}
    assert odd["train"] == odd["dev"] == 0 < odd["test"] and len(splits["test"]) == 40 and len(splits["dev"]) == 10
    assert "the gold calls of 50 rows do not fit their own tools" in caplog.text
    odd_row = next(row for row in splits["test"] if "town" in str(row["answers"]))
    assert verify(json.dumps(odd_row["answers"]), odd_row) == RIGHT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": "[{'name': 'weather'}]"}, "answers is not JSON"),
        ({"answers": "[5]"}, 'answers: a call must be an object with "name" and "arguments"'),
        (
            {"answers": '[{"name": "weather", "arguments": []}]'},
            'answers: the arguments of "weather" are not an object',
        ),
        ({"answers": '[{"name": "weather", "arguments": {"days": NaN}}]'}, "answers is not JSON: NaN is not JSON"),
        ({"answers": None}, "answers: a call must be"),
        ({"tools": "{}"}, "tools is not a list"),
        ({"tools": '[{"name": "weather", "parameters": [1]}]'}, "tools: each must be"),
        ({"query": " "}, "query is not text"),
        ({"query": "\ud800"}, "text that is not UTF-8"),
        ({"id": "\ud800"}, "text that is not UTF-8"),
    ],
)
def test_bad_rows_are_named(tmp_path, caplog, change, reason):
    source = write(tmp_path / "rows.jsonl", [raw(k, **(change if k == 41 else {})) for k in range(100)])
    assert sum(len(load(split, None, 0, source)) for split in ("train", "dev", "test")) == 99
    assert f"1 of 100 rows cannot be used and are skipped: line 42: {reason}" in caplog.text
    with pytest.raises(DataError, match="1 of 100 rows cannot be used, more than the 0.5% of max_bad_rows: line 42"):
        load("train", 1, 0, source, max_bad_rows=0.005)


def test_there_is_no_pretrain_split():
    with pytest.raises(DataError, match="no split 'pretrain'"):
        load("pretrain", 1, 0, "any.jsonl")


# --- the report ------------------------------------------------------------------------------------------------------


def test_report(tmp_path, capsys):
    rows = [raw(k) for k in range(150)] + [raw(3)]
    rows[7] = raw(7, answers="oops")
    lengths = [len(prompt({"query": row["query"], "tools": TOOLS})) for k, row in enumerate(rows) if k != 7]
    source = write(tmp_path / "rows.jsonl", rows)
    assert function_calling.main(["--check", source]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rows                151: 150 usable, 1 bad",
        "    line 8: answers is not JSON: Expecting value: line 1 column 1 (char 0)",
        "duplicates          1 rows repeat the content of another one",
        "splits              test 29, dev 7, train 113",
        "tools a query       mean 2.0, median 2, at most 2",
        "calls an answer     mean 1.0, median 1, at most 1",
        f"prompt, characters  mean {sum(lengths) / 150:,.1f}, median {statistics.median(lengths):g}, at most {max(lengths)}",
        "misfits             0 rows, in test only: calls do not fit the tools",
        "gold answers        150 of 150 verify",
    ]
    assert function_calling.main(["--check", source, "--max-bad-rows", "0"]) == 1
    assert capsys.readouterr().out.endswith("\nToo many bad rows: the stages refuse this source (max_bad_rows)\n")
    assert function_calling.main(["--check", str(tmp_path / "none.jsonl")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("no file ") and said.err.count("\n") == 1


def test_the_report_names_bad_rows_and_misfits(tmp_path, capsys):
    wrong = json.dumps([{"name": "weather", "arguments": {"town": "Oslo"}}])
    rows = [raw(k, answers="oops" if k < 12 else wrong if k == 12 else json.dumps([])) for k in range(30)]
    assert function_calling.main(["--check", write(tmp_path / "rows.jsonl", rows)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed[1:12]] == [
        *(f"    line {k}" for k in range(1, 11)),
        "    and 2 more",
    ]
    at = next(k for k, line in enumerate(printed) if line.startswith("misfits"))
    assert printed[at].split()[1] == "1" and printed[at + 1] == "    12: 'weather' has no parameter 'town'"


@needs_bfcl
def test_berkeley_rows(capsys):
    assert function_calling.main(["--check", str(BFCL)]) == 0
    printed = capsys.readouterr().out
    assert "1,000 usable, 0 bad" in printed and "1,000 of 1,000 verify" in printed
    assert "misfits             2 rows" in printed
    rows = [row for split in ("train", "dev", "test") for row in load(split, None, 0, str(BFCL))]
    assert len(rows) == 998
    rng = random.Random(0)
    for row in rows:
        assert verify(written(row["answers"], rng), row) == RIGHT
        assert verify(f"Certainly! {json.dumps(row['answers'])}", row) == Verdict(False, "bad_json", True)
