"""Function calling: answer a query with the right calls of the tools that are offered; right is an exact match.

    query "What time is it in Oslo?", tools now(zone)   ->   [{"name": "now", "arguments": {"zone": "Europe/Oslo"}}]

The paper's set is `Salesforce/xlam-function-calling-60k` (APIGen, https://apigen-pipeline.github.io, CC BY 4.0, gated).
A local .json, .jsonl, .parquet or .csv file of the same columns (query, tools, answers; id if there is one) will do as well:

    python -m rrr_utils.tasks.function_calling --check FILE        what is in it, and what is wrong with it

How calls are read and compared is told in `rrr_utils/calls.py`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rrr_utils.errors import DataError
from rrr_utils.tasks import Verdict, calls, sources, strictjson

VERSION = 1
#: in the order of the checks
ERRORS = (
    "no_json",  # not even a bracket
    "bad_json",  # something that is not JSON, no calls, or not alone
    "unknown_tool",  # a tool that the row does not offer
    "wrong_number_of_calls",
    "wrong_tool",  # an offered one, not the gold one
    "wrong_argument_names",
    "wrong_argument_values",
)
DEFAULT_SOURCE = "Salesforce/xlam-function-calling-60k"
REFLECT = (
    "You failed to generate the correct tool call. Reflect on what went wrong and write a short explanation "
    "that will help you do better next time."
)

#: the paper's sizes of test and dev; a source of fewer rows than FULL is split in about the same shares
TEST, DEV, FULL = 12_000, 1_000, 50_000

FORM = (
    'Answer the query with a JSON array of tool calls: [{"name": "tool name", "arguments": {"argument name": value}}].\n'
    "Make every call that the query needs and no other."
)

_COLUMNS = dict.fromkeys(("id", "cluster", "query", "tools", "answers", "content", "misfit"), "string")


def prompt(row: dict) -> str:
    """The user's message: the row's tools, one a line, the form of an answer, the query.

    >>> print(prompt({"query": "Time in Oslo?", "tools": [{"name": "now", "description": "", "parameters": {}}]}))
    You can call these tools:
    {"name": "now", "description": "", "parameters": {}}
    Answer the query with a JSON array of tool calls: [{"name": "tool name", "arguments": {"argument name": value}}].
    Make every call that the query needs and no other.
    Query: Time in Oslo?
    """
    tools = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in row["tools"])
    return f"You can call these tools:\n{tools}\n{FORM}\nQuery: {row['query']}"


def verify(completion: str, row: dict) -> Verdict:
    """Whether a completion is exactly the gold calls, in whatever order.

    Strict: one of the forms that `calls.read` takes and nothing around it. Lenient: calls anywhere in the text, and
    arguments that are left out count as the tool's defaults, in the gold calls as in the completion's.
    Nothing is called or evaluated, and no text raises.

    >>> row = {"tools": [{"name": "now", "parameters": {"zone": {"type": "str", "default": "UTC"}}}],
    ...        "answers": [{"name": "now", "arguments": {"zone": "UTC"}}]}
    >>> verify('[{"name": "now", "arguments": {"zone": "UTC"}}]', row)
    Verdict(correct=True, error=None, lenient=True)
    >>> verify('I call {"name": "now", "arguments": {}}.', row)
    Verdict(correct=False, error='bad_json', lenient=True)
    >>> verify('{"name": "now", "arguments": {"zone": "CET"}}', row)
    Verdict(correct=False, error='wrong_argument_values', lenient=False)
    """
    gold, tools = row["answers"], row["tools"]
    found, error = calls.read(completion)
    if found is None:
        found = calls.find(completion)
    else:
        error = calls.mistake(found, gold, tools)
    if error is None:
        return Verdict(True, None, True)
    if found is None:
        return Verdict(False, error, False)
    full, full_gold = calls.filled(found, tools), calls.filled(gold, tools)
    if error != "bad_json" and full == found and full_gold == gold:  # nothing was left out: lenient is as strict
        return Verdict(False, error, False)
    return Verdict(False, error, calls.mistake(full, full_gold, tools) is None)


# --- rows ------------------------------------------------------------------------------------------------------------


def load(split: str, n: int | None, seed: int, source: str | None = None, max_bad_rows: float = sources.MAX_BAD_ROWS) -> list[dict]:
    """`n` rows of a split (all of them for None): test and dev by their hashes, train in an order that the seed decides.

    Rows of equal content count once, and the content's hash alone decides the split, never the position: test is the
    12,000 smallest hashes, dev the next 1,000, train the rest. A source of fewer than 50,000 rows gives a fifth to test
    and a twentieth (at most 1,000) to dev. Rows whose gold calls do not fit their own tools stay in test, where they cost
    every model alike, and are in neither dev nor train.
    """
    if split not in ("train", "dev", "test"):
        raise DataError(f"function_calling has no split '{split}': its rows are real ones, in train, dev and test")
    source = source or DEFAULT_SOURCE
    rows = read(source, max_bad_rows).rows
    misfits = rows["misfit"]
    if any(misfits):
        count = sum(map(bool, misfits))
        sources.say(f"{source}: the gold calls of {count:,} rows do not fit their own tools: training goes without these rows")
    chosen = split_indices(rows["content"], misfits)[split]
    if split == "train":
        random.Random(f"train-{seed}").shuffle(chosen)
    repeated = {name for name, count in Counter(rows["id"]).items() if count > 1}
    result = []
    for batch in rows.select(chosen[:n]).iter(batch_size=1000):
        for id_, cluster, query, tools, answers, content in zip(*(batch[name] for name in list(_COLUMNS)[:6]), strict=True):
            unique = f"{id_}#{content[:8]}" if id_ in repeated else id_  # an id names a row wherever results are joined
            result.append({"id": unique, "cluster": cluster, "query": query, "tools": json.loads(tools), "answers": json.loads(answers)})
    return result


def read(source: str, max_bad_rows: float = sources.MAX_BAD_ROWS) -> sources.Rows:
    """All usable rows of a source, prepared once: the texts of a row, its content's hash and why it is a misfit ("" if not)."""
    return sources.read(source, ("query", "tools", "answers"), _COLUMNS, convert, f"function_calling-{VERSION}", max_bad_rows)


def split_indices(contents: Iterable[str], misfits: Iterable[str]) -> dict[str, list[int]]:
    """Indices of the rows of each split, smallest content hash first; of rows with the same content the first one.

    >>> split_indices(["c", "a", "b", "a", "d", "e"], ["", "odd", "odd", "odd", "", ""])
    {'test': [1], 'dev': [], 'train': [0, 4, 5]}
    """
    first: dict[str, int] = {}
    for index, content in enumerate(contents):
        first.setdefault(content, index)
    ordered = [first[content] for content in sorted(first)]
    full = len(ordered) >= FULL
    test = TEST if full else len(ordered) // 5
    dev = DEV if full else min(DEV, len(ordered) // 20)
    misfits = list(misfits)
    fit = [index for index in ordered[test:] if not misfits[index]]
    return {"test": ordered[:test], "dev": fit[:dev], "train": fit[dev:]}


def convert(raw: dict[str, Any]) -> dict[str, str]:
    """A raw row as it is stored; ValueError with the reason where it is a bad one.

    >>> tools = '[{"name": "now", "description": "The time.", "parameters": {}}]'
    >>> row = convert({"id": 7, "query": "Time?", "tools": tools, "answers": '[{"name": "now", "arguments": {}}]'})
    >>> row["id"], row["cluster"], row["misfit"]
    ('7', 'now', '')
    """
    query = raw["query"]
    if not isinstance(query, str) or not query.strip():
        raise ValueError("query is no text")
    tools, answers = _parsed(raw, "tools"), _parsed(raw, "answers")
    if not isinstance(tools, list) or not tools:
        raise ValueError("tools is no list of tools")
    for tool in tools:
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not isinstance(tool.get("parameters") or {}, dict):
            raise ValueError('tools: each must be an object of "name", "description" and "parameters"')
    try:
        gold = calls.as_calls(answers)
    except ValueError as error:
        raise ValueError(f"answers: {error}") from None
    parts = [query, sorted(map(strictjson.canonical, tools)), sorted(map(strictjson.canonical, gold))]
    content = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return {
        "id": str(raw["id"]) if raw.get("id") is not None else content[:16],
        "cluster": "|".join(sorted({call["name"] for call in gold})),
        "query": query,
        "tools": json.dumps(tools, ensure_ascii=False),
        "answers": json.dumps(gold, ensure_ascii=False),
        "content": content,
        "misfit": calls.misfit(gold, tools) or "",
    }


def _parsed(raw: dict[str, Any], column: str) -> Any:
    """A column's value: JSON text, as APIGen has it, or what it stands for."""
    value = raw[column]
    try:
        return strictjson.parse(value if isinstance(value, str) else json.dumps(value))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{column} is no JSON: {error}") from None


if __name__ == "__main__":
    from rrr_utils.tasks.check_calls import main

    raise SystemExit(main())
