"""What is in a function-calling data set, and what is wrong with it: behind `--check` of the task."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from rrr_utils import conversation
from rrr_utils.errors import DataError
from rrr_utils.tasks import calls, function_calling, sources, strictjson


def main(arguments: list[str] | None = None) -> int:
    """0 where all is well, 1 where the data cannot be used as it is."""
    parser = argparse.ArgumentParser("python -m rrr_utils.tasks.function_calling", description=__doc__)
    parser.add_argument("--check", metavar="FILE", required=True, help="a .json, .jsonl, .parquet or .csv file, or a hub id")
    parser.add_argument("--tokenizer", metavar="DIR", help="a folder or hub id; prompt lengths are given in its tokens as well")
    parser.add_argument("--max-bad-rows", type=float, default=sources.MAX_BAD_ROWS, help="share of bad rows that stages tolerate")
    parser.add_argument("--accept-new-data", action="store_true", help="take a hub set that differs from the one recorded")
    options = parser.parse_args(arguments)
    if options.accept_new_data:
        os.environ["RRR_ACCEPT_NEW_DATA"] = "1"
    try:
        lines, well = report(options.check, options.tokenizer, options.max_bad_rows)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0 if well else 1


def report(source: str, tokenizer: str | None = None, max_bad_rows: float = sources.MAX_BAD_ROWS) -> tuple[list[str], bool]:
    """The lines of the report, and whether the stages would take the source and every gold answer verifies."""
    length = _token_length(tokenizer) if tokenizer else None
    rows, total, bad = function_calling.read(source, max_bad_rows=1.0)
    contents, misfits = rows["content"], rows["misfit"]
    splits = function_calling.split_indices(contents, misfits)
    counts: dict[str, list[int]] = {name: [] for name in ("tools", "calls", "parameters", "characters", "tokens")}
    definitions: set[str] = set()
    names: set[str] = set()
    failing: list[str] = []
    for item in rows:
        row = {"query": item["query"], "tools": json.loads(item["tools"]), "answers": json.loads(item["answers"])}
        counts["tools"].append(len(row["tools"]))
        counts["calls"].append(len(row["answers"]))
        for tool in row["tools"]:
            if (definition := strictjson.canonical(tool)) not in definitions:
                definitions.add(definition)
                names.add(tool["name"])
                counts["parameters"].append(len(calls.parameters_of(tool)))
        messages = conversation.attempt(function_calling, row)
        counts["characters"].append(len(messages[0]["content"]))
        if length:
            counts["tokens"].append(length(messages))
        if not function_calling.verify(item["answers"], row).correct:
            failing.append(item["id"])
    duplicates = len(contents) - len(set(contents))
    unfit = [(id_, reason) for id_, reason in zip(rows["id"], misfits, strict=True) if reason]
    lines = [
        source,
        *_about(source),
        f"rows                {total:,}: {len(contents):,} usable, {len(bad):,} bad",
        *_examples(bad, 20),
        f"duplicates          {duplicates:,} rows repeat the content of another one",
        f"splits              {', '.join(f'{name} {len(indices):,}' for name, indices in splits.items())}",
        f"tools               {len(definitions):,} distinct, of {len(names):,} names",
        f"parameters a tool   {_spread(counts['parameters'])}",
        f"tools a query       {_spread(counts['tools'])}",
        f"calls an answer     {_spread(counts['calls'])}; {_shares(counts['calls'])}",
        f"prompt, characters  {_spread(counts['characters'])}",
        *([f"prompt, tokens      {_spread(counts['tokens'])} ({tokenizer})"] if length else []),
        f"misfits             {len(unfit):,} rows whose gold calls do not fit their own tools: in no split but test",
        *_examples(unfit, 5),
        f"gold answers        {len(contents) - len(failing):,} of {len(contents):,} verify against themselves",
        *_examples([(id_, "does not") for id_ in failing], 5),
    ]
    too_bad = len(bad) > max_bad_rows * total
    if too_bad:
        lines.append(f"More than {max_bad_rows:.1%} of the rows are bad: the stages refuse this source (max_bad_rows).")
    return lines, not too_bad and not failing


def _about(source: str) -> list[str]:
    about, revision = sources.known().get(source), sources.recorded(source)
    lines = [f"licence             {about['license'] or 'see its page'} ({about['page']})"] if about else []
    return [*lines, f"revision            {revision}"] if revision else lines


def _examples(items: list[tuple[str, str]], most: int) -> list[str]:
    lines = [f"    {where}: {reason}" for where, reason in items[:most]]
    return lines + ([f"    and {len(items) - most:,} more"] if len(items) > most else [])


def _spread(values: list[int]) -> str:
    """Mean, median, 95th percentile and range.

    >>> _spread([1, 2, 3, 4])
    'mean 2.5, median 2.5, 95% up to 4, range 1 to 4'
    """
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    middle = f"mean {statistics.fmean(values):,.1f}, median {statistics.median(values):,g}"
    return f"{middle}, 95% up to {high:,}, range {ordered[0]:,} to {ordered[-1]:,}"


def _shares(values: list[int]) -> str:
    counted = Counter(min(value, 4) for value in values)
    return ", ".join(f"{'4 or more' if k == 4 else k}: {counted[k] / len(values):.0%}" for k in sorted(counted))


def _token_length(name: str) -> Callable[[list[dict[str, str]]], int]:
    try:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever the loader's parts raise
        text = " ".join(str(error).split())[:150]
        raise DataError(f"no tokenizer can be loaded from '{name}' ({type(error).__name__}: {text}): give a folder or a hub id") from None

    def length(messages: list[dict[str, str]]) -> int:
        if getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return len(tokenizer(text, add_special_tokens=False)["input_ids"])
        return len(tokenizer(messages[0]["content"])["input_ids"])

    return length
