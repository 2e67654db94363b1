"""Function calling: answer a query with the right calls of the tools that are offered. Right means an exact match.

    query "What time is it in Oslo?", tools now(zone)   ->   [{"name": "now", "arguments": {"zone": "Europe/Oslo"}}]

The paper's set is `Salesforce/xlam-function-calling-60k` (APIGen, https://apigen-pipeline.github.io, CC BY 4.0, gated).
A local .json, .jsonl, .parquet or .csv file with the same columns (query, tools, answers, perhaps id) works too:

    python -m rrr_utils.tasks.function_calling --check FILE        what is in it, and what is wrong with it
"""

import argparse
import hashlib
import json
import random
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

from rrr_utils.errors import DataError
from rrr_utils.tasks import Verdict, calls, function_calling_kinds, procedural, sources, strictjson

VERSION = 2  # 2: what states an answer in words is an answer too, for `cut`
#: in the order of the checks: no bracket at all; not JSON, not calls, or not alone; a tool that the row does not offer;
#: too few or too many calls; a tool that is offered, but not the gold one; other arguments than the gold ones
ERRORS = (
    "no_json", "bad_json", "unknown_tool", "wrong_number_of_calls", "wrong_tool",
    "wrong_argument_names", "wrong_argument_values",
)  # fmt: skip
DEFAULT_SOURCE = "Salesforce/xlam-function-calling-60k"
REFLECT = (
    "You failed to generate the correct tool call. Reflect on what went wrong and write a short explanation "
    "that will help you do better next time."
)
GENERIC = "Check the name of each tool and the value of each of its parameters against the request."
EXAMPLE = {
    "id": "example", "cluster": "now", "query": "Time in Oslo?",
    "tools": [{"name": "now", "parameters": {"zone": {"type": "str", "default": "UTC"}}}],
    "answers": [{"name": "now", "arguments": {"zone": "Europe/Oslo"}}],
}  # fmt: skip
KINDS = function_calling_kinds.KINDS
#: the paper's sizes of test and dev; a source of fewer rows than FULL is split in about the same shares
TEST, DEV, FULL = 12_000, 1_000, 50_000
_COLUMNS = dict.fromkeys(("id", "cluster", "query", "tools", "answers", "content", "misfit"), "string")


def prompt(row: dict) -> str:
    """The user's message: the row's tools, one per line, the form of an answer, the query.

    >>> print(prompt(EXAMPLE))
    You can call these tools:
    {"name": "now", "parameters": {"zone": {"type": "str", "default": "UTC"}}}
    Answer the query with a JSON array of tool calls: [{"name": "tool name", "arguments": {"argument name": value}}].
    Make every call that the query needs and no other.
    Query: Time in Oslo?
    """
    tools = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in row["tools"])
    form = '[{"name": "tool name", "arguments": {"argument name": value}}]'
    return (
        f"You can call these tools:\n{tools}\nAnswer the query with a JSON array of tool calls: {form}.\n"
        f"Make every call that the query needs and no other.\nQuery: {row['query']}"
    )


def verify(completion: str, row: dict) -> Verdict:
    """Whether a completion is exactly the gold calls, in any order. Nothing is called or evaluated, and no text raises.

    Strict: one of the forms that `calls.read` accepts, with nothing around it. Lenient: calls anywhere in the text, and
    arguments that are left out count as the tool's defaults, in the gold calls as in the completion.

    >>> verify('[{"name": "now", "arguments": {"zone": "Europe/Oslo"}}]', EXAMPLE)
    Verdict(correct=True, error=None, lenient=True)
    >>> verify('I call {"name": "now", "arguments": {"zone": "Europe/Oslo"}}.', EXAMPLE)
    Verdict(correct=False, error='bad_json', lenient=True)
    """
    gold, tools = row["answers"], row["tools"]
    found, error = calls.read(completion)
    if found is None:
        found = calls.find(completion)
    else:
        error = calls.mistake(found, gold, tools)
    if error is None or found is None:
        return Verdict(error is None, error, error is None)
    return Verdict(False, error, _is_right(found, row))


def _is_right(found: list[dict], row: dict) -> bool:
    """Whether calls are the gold ones when the tools' defaults are filled in."""
    tools = row["tools"]
    return calls.mistake(calls.filled(found, tools), calls.filled(row["answers"], tools), tools) is None


#: an escaped character; text in quotes (an apostrophe is none); a number that is no part of a name
_VALUE = re.compile(r"""\\.|(?<!\w)(["'`])((?:\\.|(?!\1)[^\\\n])*+)\1(?!\w)|(?<!\w)-?\d+(?:\.\d+)?""")


def mask(reflection: str, row: dict) -> str:
    """The reflection with quoted text and numbers hidden, except names of the row's tools and their parameters.

    >>> mask("The `zone` of 'now' isn't 'UTC' but 12.", EXAMPLE)
    "The `zone` of 'now' isn't '?' but ?."
    """
    known = {"name", "arguments", "parameters"}.union(*({t["name"], *calls.parameters_of(t)} for t in row["tools"]))
    kept = lambda match: match[0].startswith("\\") or match[2] in known  # noqa: E731
    return _VALUE.sub(lambda match: match[0] if kept(match) else "?".join([match[1] or ""] * 2), reflection)


def answers_in(reflection: str, row: dict) -> list[str]:
    """The passages of JSON that are the gold calls, leniently: each by itself, or else all single calls together.

    Without any, the clauses that state the gold values, where the text states all of them, the tool or not.

    >>> answers_in("The zone is Europe/Oslo. I will call it.", EXAMPLE)
    ['The zone is Europe/Oslo.']
    >>> answers_in('It is {"name": "now", "arguments": {"zone": "Europe/Oslo"}}, not UTC.', EXAMPLE)
    ['{"name": "now", "arguments": {"zone": "Europe/Oslo"}}']
    """
    found = list(calls.places(reflection))
    alone = [reflection[begin:end] for begin, end, some in found if _is_right(some, row)]
    if alone:
        return alone
    single = found and all(reflection[begin] != "[" for begin, _, _ in found)
    if single and _is_right([call for _, _, some in found for call in some], row):
        return [reflection[found[0][0] : found[-1][1]]]
    return function_calling_kinds.stated(reflection, row)


def wrong_in(reflection: str, row: dict) -> list[str]:
    """The sums that are wrong."""
    return function_calling_kinds.wrong_sums(reflection)


def kind(reflection: str, row: dict) -> str:
    """One of KINDS, by what the reflection names and states."""
    return function_calling_kinds.kind(reflection, row)


def answer_of(text: str, row: dict) -> str | None:
    """The calls of a completion or of a passage, in any order, with the tools' defaults; None where there are none.

    >>> answer_of('[{"name": "now", "arguments": {}}]', EXAMPLE)
    '{"arguments":{"zone":"UTC"},"name":"now"}'
    """
    found = calls.read(text)[0] or calls.find(text)
    return "\n".join(sorted(map(strictjson.canonical, calls.filled(found, row["tools"])))) if found else None


def load(split: str, n: int | None, seed: int, source: str | None = None, max_bad_rows: float = 0.01) -> list[dict]:
    """`n` rows of a split (None: all): test and dev by their hashes, train in an order that the seed decides. Made-up
    rows come from a procedural source (see `function_calling_rows`), which has a split to pre-train on as well.

    Rows of equal content count once, and the hash of the content alone decides the split: test is the 12,000 smallest
    hashes, dev the next 1,000, train the rest. A source of fewer than 50,000 rows gives a fifth to test and a twentieth
    (at most 1,000) to dev. Rows with gold calls that do not fit their own tools stay in test, where they cost every
    model the same, and are in neither dev nor train.
    """
    source = source or DEFAULT_SOURCE
    made_up = source.startswith("procedural:")
    splits = list(procedural.SPLITS)[0 if made_up else 1 :]
    if split not in splits:
        raise DataError(f"function_calling has no split '{split}' of {source}: it has {', '.join(splits)}")
    if made_up:
        from rrr_utils.tasks import function_calling_rows  # reads the toolbox, which real rows have no use for

        return function_calling_rows.draw(split, n, seed, source)
    rows = read(source, max_bad_rows).rows
    misfits = rows["misfit"][:]
    if count := sum(map(bool, misfits)):
        sources.say(f"{source}: the gold calls of {count:,} rows do not fit their own tools: these are in test only")
    chosen = split_indices(rows["content"], misfits)[split]
    if split == "train":
        random.Random(f"train-{seed}").shuffle(chosen)
    repeated = {name for name, count in Counter(rows["id"]).items() if count > 1}
    result = []
    for row in rows.select(chosen[:n]):  # results are joined by id, so it has to name one row
        id_ = f"{row['id']}#{row['content'][:8]}" if row["id"] in repeated else row["id"]
        parsed = {name: json.loads(row[name]) for name in ("tools", "answers")}
        result.append({"id": id_, "cluster": row["cluster"], "query": row["query"], **parsed})
    return result


def read(source: str, max_bad_rows: float) -> sources.Rows:
    """All usable rows of a source, with the hash of their content, and why they are a misfit ("" if they are not)."""
    needs = ("query", "tools", "answers")
    return sources.read(source, needs, _COLUMNS, convert, f"function_calling-{VERSION}", max_bad_rows)


def split_indices(contents: Iterable[str], misfits: list[str]) -> dict[str, list[int]]:
    """Indices of the rows of each split, smallest content hash first; from rows with the same content, the first.

    >>> split_indices(["c", "a", "b", "a", "d", "e"], ["", "odd", "odd", "odd", "", ""])
    {'test': [1], 'dev': [], 'train': [0, 4, 5]}
    """
    first: dict[str, int] = {}
    for index, content in enumerate(contents):
        first.setdefault(content, index)
    ordered = [first[content] for content in sorted(first)]
    test = TEST if len(ordered) >= FULL else len(ordered) // 5
    dev = min(DEV, len(ordered) // 20)
    fit = [index for index in ordered[test:] if not misfits[index]]
    return {"test": ordered[:test], "dev": fit[:dev], "train": fit[dev:]}


def convert(raw: dict[str, Any]) -> dict[str, str]:
    """A raw row as it is stored; ValueError with the reason for a bad one."""
    query = raw["query"]
    if not isinstance(query, str) or not query.strip():
        raise ValueError("query is not text")
    tools, answers = _parsed(raw, "tools"), _parsed(raw, "answers")
    if not isinstance(tools, list) or not tools:
        raise ValueError("tools is not a list of tools")
    for tool in tools:
        named = isinstance(tool, dict) and isinstance(tool.get("name"), str)
        if not named or not isinstance(tool.get("parameters") or {}, dict):
            raise ValueError('tools: each must be an object with "name", "description" and "parameters"')
    try:
        gold = calls.as_calls(answers)
    except ValueError as error:
        raise ValueError(f"answers: {error}") from None
    parts = [query, sorted(map(strictjson.canonical, tools)), sorted(map(strictjson.canonical, gold))]
    content = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return {
        "id": str(raw["id"]) if raw.get("id") is not None else content[:16],
        "cluster": calls.cluster_of(gold),
        "query": query,
        "tools": json.dumps(tools, ensure_ascii=False),
        "answers": json.dumps(gold, ensure_ascii=False),
        "content": content,
        "misfit": calls.misfit(gold, tools) or "",
    }


def _parsed(raw: dict[str, Any], column: str) -> Any:
    """A column's value, which is JSON text, as in APIGen, or already parsed."""
    value = raw[column]
    try:
        return strictjson.parse(value if isinstance(value, str) else json.dumps(value))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{column} is not JSON: {error}") from None


def main(arguments: list[str] | None = None) -> int:
    """Print what is in a data set; 0 if the stages would accept it and every gold answer verifies, else 1."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", metavar="FILE", required=True, help="a file like the paper's set, or a hub id")
    parser.add_argument("--max-bad-rows", type=float, default=0.01, help="share of bad rows that the stages tolerate")
    options = parser.parse_args(arguments)
    try:
        rows, total, bad = read(options.check, max_bad_rows=1.0)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    splits = split_indices(rows["content"], rows["misfit"][:])
    tools, answers, lengths, failing = [], [], [], []
    for stored in rows:
        row = {**stored, "tools": json.loads(stored["tools"]), "answers": json.loads(stored["answers"])}
        tools.append(len(row["tools"]))
        answers.append(len(row["answers"]))
        lengths.append(len(prompt(row)))
        if not verify(stored["answers"], row).correct:
            failing.append((row["id"], "its gold answer does not verify"))
    misfits = [(id_, reason) for id_, reason in zip(rows["id"], rows["misfit"], strict=True) if reason]
    too_bad = len(bad) > options.max_bad_rows * total
    print(
        f"rows                {total:,}: {len(rows):,} usable, {len(bad):,} bad{_examples(bad)}",
        f"duplicates          {len(rows) - len(set(rows['content'])):,} rows repeat the content of another one",
        f"splits              {', '.join(f'{name} {len(indices):,}' for name, indices in splits.items())}",
        f"tools a query       {_spread(tools)}",
        f"calls an answer     {_spread(answers)}",
        f"prompt, characters  {_spread(lengths)}",
        f"misfits             {len(misfits):,} rows, in test only: calls do not fit the tools{_examples(misfits)}",
        f"gold answers        {len(rows) - len(failing):,} of {len(rows):,} verify{_examples(failing)}",
        *(["Too many bad rows: the stages refuse this source (max_bad_rows)"] if too_bad else []),
        sep="\n",
    )
    return 1 if too_bad or failing else 0


def _examples(items: list[tuple[str, str]]) -> str:
    more = [f"and {len(items) - 10:,} more"] if len(items) > 10 else []
    return "".join(f"\n    {line}" for line in [*(f"{where}: {reason}" for where, reason in items[:10]), *more])


def _spread(values: list[int]) -> str:
    return f"mean {statistics.fmean(values):,.1f}, median {statistics.median(values):,g}, at most {max(values):,}"


if __name__ == "__main__":
    raise SystemExit(main())
