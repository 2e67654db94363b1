"""Countdown's real set: deduplicated and split by content, from files made here."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from rrr_utils.tasks import DataError, countdown_rows, sources
from rrr_utils.tasks import countdown as task
from rrr_utils.tasks.countdown_rows import cluster_of

HUB = f"Jiayi-Pan/Countdown-Tasks-3to4@{'a' * 40}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))


def some_rows(count: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    return [
        {"target": rng.randint(10, 100), "nums": [rng.randint(1, 30) for _ in range(rng.choice((3, 4)))]}
        for _ in range(count)
    ]


def write(path, rows: list[dict]):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif path.suffix == ".csv":
        path.write_text("target,nums\n" + "".join(f'{row["target"]},"{row["nums"]}"\n' for row in rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def content(rows: list[dict]) -> set[tuple]:
    return {(row["target"], tuple(sorted(row["nums"]))) for row in rows}


def test_real_splits(tmp_path):
    rows = some_rows(400)
    twins = [{"target": row["target"], "nums": row["nums"][::-1]} for row in rows[:100]]
    source = write(tmp_path / "a.jsonl", rows + twins + rows[:50])
    splits = {split: task.load(split, None, 0, source) for split in ("train", "dev", "test")}
    distinct = content(rows)
    assert sum(map(len, splits.values())) == len(distinct)
    assert content([row for split in splits.values() for row in split]) == distinct
    assert len(splits["test"]) == len(distinct) // 5 and len(splits["dev"]) == len(distinct) // 20
    for row in splits["test"]:
        assert (
            row["id"] == f"{cluster_of(row['nums'])}:{row['target']}"
            and type(row["target"]) is type(row["nums"][0]) is int
        )

    def digest(row: dict) -> str:
        return hashlib.sha256(row["id"].encode()).hexdigest()

    bounds = [[digest(row) for row in splits[split]] for split in ("test", "dev", "train")]
    assert max(bounds[0]) < min(bounds[1]) and max(bounds[1]) < min(bounds[2])
    # the same rows in another order and another format are the same splits, in the same order
    mixed = rows + twins
    random.Random(1).shuffle(mixed)
    for name in ("b.jsonl", "b.json", "b.csv", "b.parquet"):
        other = write(tmp_path / name, mixed)
        assert {split: task.load(split, None, 0, other) for split in splits} == splits, name
    # the seed orders train; the first rows are a beginning of all
    assert task.load("train", 30, 0, source) == splits["train"][:30]
    other_seed = task.load("train", None, 1, source)
    assert other_seed != splits["train"] and content(other_seed) == content(splits["train"])
    assert task.load("test", 7, 5, source) == splits["test"][:7]


def test_real_split_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(countdown_rows, "TEST", 15)
    monkeypatch.setattr(countdown_rows, "DEV", 3)
    source = write(tmp_path / "a.jsonl", some_rows(200))
    assert [len(task.load(split, None, 0, source)) for split in ("test", "dev", "train")] == [
        15,
        3,
        len(content(some_rows(200))) - 18,
    ]
    one = write(tmp_path / "one.jsonl", some_rows(1))
    assert len(task.load("test", None, 0, one)) == 1
    for split in ("dev", "train"):
        with pytest.raises(DataError, match="none is left"):
            task.load(split, None, 0, one)
    with pytest.raises(DataError, match="no pretrain split"):
        task.load("pretrain", None, 0, source)


BAD = [
    '{"target": 3, "nu',
    "[1, 2]",
    '{"target": "three", "nums": [1, 2]}',
    '{"target": 3}',
    '{"target": 3, "nums": [1, -2]}',
    '{"target": true, "nums": [1, 2]}',
    '{"target": 3.0, "nums": [1, 2]}',
    '{"target": NaN, "nums": [1, 2]}',
    '{"target": 3, "nums": [3]}',
    '{"target": 3, "nums": "1; 2"}',
    '{"target": 3, "nums": [1, %s]}' % ("9" * 5000),
    '{"target": 3, "nums": %s}' % ([1] * 999_999),
    "[" * 99_999,
    "\ud800\udfff",
    "null",
    "{}",
]


def test_bad_rows_are_skipped_and_counted(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    good = [json.dumps(row) for row in some_rows(2000)]
    path.write_bytes("\n".join(good[:2] + BAD + good[2:]).encode(errors="surrogatepass"))
    rows = task.load("train", None, 0, str(path))
    assert content(rows) < content(some_rows(2000))
    assert f"{len(BAD)} of {2000 + len(BAD):,} rows" in caplog.text and "line 3" in caplog.text
    with pytest.raises(DataError, match=f"{len(BAD)} of .*line 3") as caught:
        task.load("train", None, 0, str(path), max_bad_rows=0.001)
    assert "\n" not in str(caught.value)
    path.write_bytes("\n".join(BAD).encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=f"{len(BAD)} rows .*line 1") as caught:
        task.load("train", None, 0, str(path), max_bad_rows=1)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    "name, data",
    [
        ("missing.jsonl", None),
        ("empty.jsonl", b""),
        ("empty.csv", b""),
        ("empty.parquet", b""),
        ("torn.json", b'[{"target": 3, "nums": [1, 2]}, {"tar'),
        ("other.csv", b"goal,numbers\n3,1 2\n"),
        ("words.csv", b"target,nums\nthree,1 2\n"),
        ("fraction.csv", b"target,nums\n3,1.5 2\n"),
        ("script.csv", "target,nums\n3,１ 2\n".encode()),
        ("short.csv", b"target,nums\n3\n"),
        ("other.jsonl", b'{"goal": 3}\n'),
        ("rows.txt", b"target,nums\n3,1 2\n"),
        ("proceduralx", None),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, name, data):
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        task.load("test", None, 0, str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and len(str(caught.value)) < 500


def test_hub(tmp_path, monkeypatch):
    asked = []

    def read(source, *rest):
        asked.append(source)
        return honest(write(tmp_path / "a.parquet", some_rows(60)), *rest)

    honest = sources.read
    monkeypatch.setattr(sources, "read", read)
    rows = task.load("train", None, 0, HUB)
    assert asked == [HUB] and content(rows) < content(some_rows(60))
