"""Rows of no data set, and how tests read them."""

from __future__ import annotations

import json

import pytest

from rrr_utils.tasks import DataError, sources

NEEDS = ("query", "answers")
SCHEMA = {"query": "string", "size": "int64", "parts": "list<int64>"}


def convert(raw: dict) -> dict:
    if not isinstance(raw["query"], str):
        raise ValueError("query is not text")
    size = len(raw["query"])
    return {"query": raw["query"], "size": size, "parts": [size, size + 1]}


def read(source, max_bad_rows: float = 0.01, version: str = "test-1") -> sources.Rows:
    return sources.read(str(source), NEEDS, SCHEMA, convert, version, max_bad_rows)


def raw(count: int, start: int = 0) -> list[dict]:
    return [{"id": k, "query": f"query é {k}", "answers": f"[{k}]"} for k in range(start, start + count)]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def one_line(source, **options) -> str:
    with pytest.raises(DataError) as caught:
        read(source, **options)
    text = str(caught.value)
    assert text and len(text.splitlines()) == 1 and len(text) < 700
    return text
