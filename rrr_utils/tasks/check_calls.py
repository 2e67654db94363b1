"""What is in a function-calling data set, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from rrr_utils.errors import DataError, one_line
from rrr_utils.tasks import calls, function_calling, sources, strictjson


def main(arguments: list[str] | None = None) -> int:
    """0 if all is well, 1 if the data cannot be used as it is."""
    parser = argparse.ArgumentParser("python -m rrr_utils.tasks.function_calling", description=__doc__)
    add = parser.add_argument
    add("--check", metavar="FILE", required=True, help="a .json, .jsonl, .parquet or .csv file, or a hub id")
    add("--tokenizer", metavar="DIR", help="a folder or hub id: gives prompt lengths in its tokens as well")
    add("--max-bad-rows", type=float, default=0.01, help="share of bad rows that the stages tolerate")
    options = parser.parse_args(arguments)
    try:
        lines, well = report(options.check, options.tokenizer, options.max_bad_rows)
    except DataError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0 if well else 1


def report(source: str, tokenizer: str | None = None, max_bad_rows: float = 0.01) -> tuple[list[str], bool]:
    """The lines of the report, and whether the stages would accept the source and every gold answer verifies."""
    length = _token_length(tokenizer) if tokenizer else None
    source = sources.pinned(source)
    rows, total, bad = function_calling.read(source, max_bad_rows=1.0)
    contents, misfits = rows["content"], rows["misfit"]
    splits = function_calling.split_indices(contents, misfits)
    counts: dict[str, list[int]] = {name: [] for name in ("tools", "calls", "parameters", "characters", "tokens")}
    definitions: dict[str, str] = {}
    failing: list[tuple[str, str]] = []
    for item in rows:
        row = {"query": item["query"], "tools": json.loads(item["tools"]), "answers": json.loads(item["answers"])}
        counts["tools"].append(len(row["tools"]))
        counts["calls"].append(len(row["answers"]))
        for tool in row["tools"]:
            if (definition := strictjson.canonical(tool)) not in definitions:
                definitions[definition] = tool["name"]
                counts["parameters"].append(len(calls.parameters_of(tool)))
        prompt = function_calling.prompt(row)
        counts["characters"].append(len(prompt))
        if length:
            counts["tokens"].append(length(prompt))
        if not function_calling.verify(item["answers"], row).correct:
            failing.append((item["id"], "does not"))
    unfit = [(id_, reason) for id_, reason in zip(rows["id"], misfits, strict=True) if reason]
    sizes = ", ".join(f"{name} {len(indices):,}" for name, indices in splits.items())
    many = sorted(Counter(min(count, 4) for count in counts["calls"]).items())
    shares = ", ".join(f"{'4 or more' if k == 4 else k}: {number / len(contents):.0%}" for k, number in many)
    about = sources.known().get(source.partition("@")[0])
    lines = [
        source,
        *([f"licence             {about['license'] or 'see its page'} ({about['page']})"] if about else []),
        f"rows                {total:,}: {len(contents):,} usable, {len(bad):,} bad",
        *_examples(bad, 20),
        f"duplicates          {len(contents) - len(set(contents)):,} rows repeat the content of another one",
        f"splits              {sizes}",
        f"tools               {len(definitions):,} distinct, with {len(set(definitions.values())):,} names",
        f"parameters a tool   {_spread(counts['parameters'])}",
        f"tools a query       {_spread(counts['tools'])}",
        f"calls an answer     {_spread(counts['calls'])}; {shares}",
        f"prompt, characters  {_spread(counts['characters'])}",
        *([f"prompt, tokens      {_spread(counts['tokens'])} ({tokenizer})"] if length else []),
        f"misfits             {len(unfit):,} rows with gold calls that do not fit their own tools: in test only",
        *_examples(unfit, 5),
        f"gold answers        {len(contents) - len(failing):,} of {len(contents):,} verify against themselves",
        *_examples(failing, 5),
    ]
    too_bad = len(bad) > max_bad_rows * total
    if too_bad:
        lines.append(f"More than {max_bad_rows:.1%} of the rows are bad: the stages refuse this source (max_bad_rows).")
    return lines, not too_bad and not failing


def _examples(items: list[tuple[str, str]], most: int) -> list[str]:
    lines = [f"    {where}: {reason}" for where, reason in items[:most]]
    return lines + ([f"    and {len(items) - most:,} more"] if len(items) > most else [])


def _spread(values: list[int]) -> str:
    """Mean, median, 95th percentile and range."""
    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    middle = f"mean {statistics.fmean(values):,.1f}, median {statistics.median(values):,g}"
    return f"{middle}, 95% up to {high:,}, range {ordered[0]:,} to {ordered[-1]:,}"


def _token_length(name: str) -> Callable[[str], int]:
    try:
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # the loader raises many kinds
        why = one_line(error, 150)
        raise DataError(f"no tokenizer can be loaded from '{name}' ({why}): give a folder or a hub id") from None

    def length(prompt: str) -> int:
        if not getattr(tokenizer, "chat_template", None):
            return len(tokenizer(prompt)["input_ids"])
        messages = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    return length
