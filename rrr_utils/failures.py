"""The data set of failures: attempts of the untrained model, verified, the failed ones kept.

Rounds of 1, 3, 12 and 48 samples a query; a query with enough distinct failures drops out. Every finished block of
queries is one append to `attempts.jsonl`, so that a killed run goes on where it was; `failures.jsonl` (train) and
`dev_failures.jsonl` (one greedy attempt a query) are made from it at the end.
"""

from __future__ import annotations

import collections
import inspect
from pathlib import Path
from types import ModuleType

from rrr_utils import conversation, files, runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.sampling import HFSampler, make_sampler
from rrr_utils.settings import Settings


def load_rows(task: ModuleType, settings: Settings, split: str, n: int | None) -> list[dict]:
    """Rows of a split from the settings' source; a task that counts bad rows is told how many are tolerated."""
    tolerant = {"max_bad_rows": settings.max_bad_rows} if "max_bad_rows" in inspect.signature(task.load).parameters else {}
    return tasks.check_rows(task, split, task.load(split, n, 0, settings.source, **tolerant))


def sample(settings: Settings) -> None:
    """Sample attempts round by round into `attempts.jsonl` and `dev_attempts.jsonl`; what is there already is not sampled again."""
    if runs.done(settings, "failures"):
        return
    task, (train, dev) = tasks.get(settings.task), queries(settings)  # rows first: a hub set's identity is known once it was read
    directory = runs.open_stage(settings, "failures")
    log, dev_log = directory / "attempts.jsonl", directory / "dev_attempts.jsonl"
    sampler = None
    for number, samples in enumerate(settings.rounds):
        records = read_log(log)
        had, enough = tally(records), settings.failures_per_query
        if sum(min(len(q["failures"]), enough) for q in had.values()) >= settings.failures_wanted:
            break
        finished = {r["id"] for r in records if r["round"] == number}
        todo = [row for row in train if row["id"] not in finished and len(had[row["id"]]["failures"]) < enough]
        sampler = sampler or (make_sampler(settings) if todo else None)
        sample_round(task, settings, sampler, todo, number, samples, settings.temperature, log)
    finished = {r["id"] for r in read_log(dev_log)}
    if todo := [row for row in dev if row["id"] not in finished]:
        sample_round(task, settings, sampler or make_sampler(settings), todo, 0, 1, 0.0, dev_log)


def finish(settings: Settings) -> dict:
    """Write `failures.jsonl`, `dev_failures.jsonl` and the stage's result; returns it."""
    if (result := runs.done(settings, "failures")) is not None:
        return result
    directory, (train, dev) = runs.stage_dir(settings, "failures"), queries(settings)
    records = read_log(directory / "attempts.jsonl")
    kept = failures(train, records, settings.failures_per_query)[: settings.failures_wanted]
    dev_records = read_log(directory / "dev_attempts.jsonl")
    kept_dev = failures(dev, dev_records, 1)[: settings.dev_items]
    for split, rows, log, found in (("train", train, records, kept), ("dev", dev, dev_records, kept_dev)):
        if not found:
            why = why_none(log, settings.attempt_tokens)
            raise ResultsError(f"no failures of {len(rows)} {split} queries to reflect on: {why}")
    outputs = [directory / "failures.jsonl", directory / "dev_failures.jsonl"]
    for path, rows in zip(outputs, (kept, kept_dev), strict=True):
        files.write_jsonl(path, rows)
    return runs.finish(settings, "failures", outputs, statistics(records, kept, kept_dev), runs.began(directory))


def queries(settings: Settings) -> tuple[list[dict], list[dict]]:
    """Rows of train, and of dev (four times as many as failures are wanted, since most may be solved)."""
    task = tasks.get(settings.task)
    return load_rows(task, settings, "train", settings.train_queries), load_rows(task, settings, "dev", 4 * settings.dev_items)


def sample_round(
    task: ModuleType, settings: Settings, sampler: HFSampler, rows: list[dict], number: int, samples: int, temperature: float, log: Path
) -> None:
    """One round: `samples` attempts of each row, verified; a line a query in `log`, appended block by block."""
    block = 4 * settings.sample_batch
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        conversations = [conversation.attempt(task, row, settings.chain_of_thought) for row in part]
        desc = f"attempts, round {number + 1}, {start + len(part)}/{len(rows)}"
        completions = sampler.sample(conversations, samples, settings.attempt_tokens, temperature, 1000 * number + start, desc)
        lines = []
        for row, own in zip(part, completions, strict=True):
            verdicts = [task.verify(c.text, row) for c in own]
            solved = [getattr(v, "correct" if settings.verdict == "strict" else "lenient") for v in verdicts]
            failed = [
                {"attempt": c.text, "error": v.error, "sample": k}
                for k, (c, v, ok) in enumerate(zip(own, verdicts, solved, strict=True))
                if not ok and not c.truncated
            ]
            lines.append({"id": row["id"], "round": number, "sampled": samples, "solved": sum(solved), "failures": failed})
        files.append_jsonl(log, lines)


def read_log(path: Path) -> list[dict]:
    """The lines of a log; none where it was not begun."""
    return files.read_jsonl(path) if path.exists() else []


def tally(records: list[dict]) -> dict[str, dict]:
    """Of each query: samples, how many were right, and its distinct failures in the order they were sampled."""
    queries: dict[str, dict] = collections.defaultdict(lambda: {"sampled": 0, "solved": 0, "failures": {}})
    for record in records:
        query = queries[record["id"]]
        for failure in record["failures"]:
            query["failures"].setdefault(failure["attempt"], {**failure, "sample": query["sampled"] + failure["sample"]})
        query["sampled"] += record["sampled"]
        query["solved"] += record["solved"]
    return queries


def failures(rows: list[dict], records: list[dict], most: int) -> list[dict]:
    """Lines of `failures.jsonl`: at most `most` distinct failures a query, the queries in their order."""
    queries, lines = tally(records), []
    for row in rows:
        query = queries[row["id"]]
        for failure in list(query["failures"].values())[:most]:
            counts = {"sampled": query["sampled"], "solved": query["solved"]}
            lines.append({"id": row["id"], "cluster": row["cluster"], "row": row, **failure, **counts})
    return lines


def cut_off(records: list[dict]) -> int:
    """How many wrong attempts the token limit cut off: they are no answers, so nothing is to be learnt from reflecting on them."""
    return sum(r["sampled"] - r["solved"] - len(r["failures"]) for r in records)


def why_none(records: list[dict], limit: int) -> str:
    """Why there are no failures, and what to do.

    >>> why_none([{"sampled": 4, "solved": 1, "failures": []}], 16)
    '3 of 4 attempts were cut off at attempt_tokens 16 and none of the others is wrong; raise attempt_tokens'
    """
    if cut := cut_off(records):
        sampled = sum(r["sampled"] for r in records)
        return f"{cut} of {sampled} attempts were cut off at attempt_tokens {limit} and none of the others is wrong; raise attempt_tokens"
    return "the model answers all of them right; choose a harder task"


def statistics(records: list[dict], kept: list[dict], kept_dev: list[dict]) -> dict:
    """What notebook 01 shows: how many attempts were sampled, how many were right, how the rest failed."""
    queries = tally(records).values()
    sampled, solved = sum(q["sampled"] for q in queries), sum(q["solved"] for q in queries)
    return {
        "queries": len(queries), "attempts": sampled, "solved": solved, "accuracy": solved / max(1, sampled),
        "never_solved": sum(q["solved"] == 0 for q in queries), "always_solved": sum(q["solved"] == q["sampled"] for q in queries),
        "cut_off": cut_off(records), "failures": len(kept), "dev_failures": len(kept_dev),
        "errors": dict(collections.Counter(f["error"] for f in kept).most_common()),
    }  # fmt: skip
