"""The data set of failures: attempts of the base model, verified, the failed ones kept.

Rounds of 1, 3, 12 and 48 samples a query; a query with enough distinct failures drops out. Every finished block of
queries is one append to `attempts.jsonl`, so a killed run goes on where it was; `failures.jsonl` (train) and
`dev_failures.jsonl` (one greedy attempt a query) are made from it at the end.
"""

import collections
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from rrr_utils import conversation, engines, forecast, machine, runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.files import append_jsonl, read_log, write_jsonl
from rrr_utils.settings import Settings


def load_rows(settings: Settings, split: str, n: int | None) -> list[dict]:
    """`n` checked rows of a split from the settings' source; of test, from `test_source` if set. Raises DataError."""
    task, source = tasks.get(settings.task), runs.source_of(settings, split)
    return tasks.load(task, split, n, source, settings.max_bad_rows)


def queries(settings: Settings) -> tuple[list[dict], list[dict]]:
    """Rows of train, and of dev (four times as many as failures are wanted, since many may be solved)."""
    train = load_rows(settings, "train", settings.train_queries)
    dev = load_rows(settings, "dev", 4 * settings.dev_items)
    tasks.disjoint(tasks.get(settings.task), {"train": train, "dev": dev})
    return train, dev


def sample(settings: Settings) -> None:
    """Sample attempts round by round into `attempts.jsonl` and `dev_attempts.jsonl`; nothing is sampled twice."""
    if runs.already(settings, "failures"):
        return
    train, dev = queries(settings)  # before the folder is begun: bad data leaves none
    with runs.begin(settings, "failures", machine.resolve) as (folder, settings):
        sampler = None
        for number, rows in _left(settings, train, dev, folder):
            sampler = sampler or engines.make_sampler(settings)
            if number is None:
                _sample_round(settings, sampler, rows, 0, 1, 0.0, folder / "dev_attempts.jsonl")
            else:
                heat, samples = settings.temperature, settings.rounds[number]
                _sample_round(settings, sampler, rows, number, samples, heat, folder / "attempts.jsonl")


def _left(settings: Settings, train: list[dict], dev: list[dict], folder: Path) -> Iterator[tuple]:
    """What is still to be sampled, read from the logs as they grow: (round, its rows), at last (None, dev's rows).

    A round's rows follow from the rounds before it, never from how far this one is: their order seeds the sampling.
    """
    for number in range(len(settings.rounds)):
        records = read_log(folder / "attempts.jsonl")
        had = tally([r for r in records if r["round"] < number])
        enough = settings.failures_per_query
        if sum(min(len(query["failures"]), enough) for query in had.values()) >= settings.failures_wanted:
            break
        rows = [row for row in train if len(had[row["id"]]["failures"]) < enough]
        if {row["id"] for row in rows} - {r["id"] for r in records if r["round"] == number}:
            yield number, rows
    if {row["id"] for row in dev} - {r["id"] for r in read_log(folder / "dev_attempts.jsonl")}:
        yield None, dev


def finish(settings: Settings) -> dict:
    """Write the failures and the stage's result; returns it. ResultsError if sampling is unfinished or none failed."""
    if (result := runs.done(settings, "failures")) is not None:
        return result
    train, dev = queries(settings)
    with runs.begin(settings, "failures", machine.resolve) as (folder, settings):
        if left := next(iter(_left(settings, train, dev, folder)), None):
            what = "the dev queries" if left[0] is None else f"round {left[0] + 1} of the train queries"
            raise ResultsError(f"collecting in {folder} is not finished ({what}): run failures.sample again")
        records, dev_records = read_log(folder / "attempts.jsonl"), read_log(folder / "dev_attempts.jsonl")
        kept = failures(train, records, settings.failures_per_query)[: settings.failures_wanted]
        kept_dev = failures(dev, dev_records, 1)[: settings.dev_items]
        for split, rows, found in (("train", train, kept), ("dev", dev, kept_dev)):
            if not found:
                why = "the model answers all of them right; choose a harder task"
                raise ResultsError(f"no failures of {len(rows)} {split} queries to reflect on: {why}")
        outputs = [folder / f"{name}.jsonl" for name in ("failures", "dev_failures", "attempts", "dev_attempts")]
        write_jsonl(outputs[0], kept)
        write_jsonl(outputs[1], kept_dev)
        if (cut := sum(failure["truncated"] for failure in kept)) > len(kept) / 2:
            print(f"{cut} of {len(kept)} failures were cut off at attempt_tokens {settings.attempt_tokens}: raise it?")
        return runs.finish(settings, "failures", outputs, statistics(records, kept, kept_dev))


def _sample_round(
    settings: Settings, sampler: engines.Sampler, rows: list[dict], number: int, samples: int, heat: float, log: Path
) -> None:
    """One round: `samples` attempts of each row, verified; a line a query in `log`, appended block by block. A block is
    seeded by its place in the round, so that a killed run samples what an unbroken one samples."""
    task = tasks.get(settings.task)
    finished = {record["id"] for record in read_log(log) if record["round"] == number}
    size = 4 * settings.sample_batch
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        if all(row["id"] in finished for row in block):
            continue
        asked = [conversation.attempt(task, row, settings.chain_of_thought) for row in block]
        desc = f"attempts, round {number + 1}, {start + len(block)}/{len(rows)}"
        share = len(block) / len(rows) if heat and not (number or start or finished) else 0
        with forecast.timed(settings, "failures", share):
            said = sampler.sample(asked, samples, settings.attempt_tokens, heat, 1000 * number + start, desc)
        lines = [_record(settings, task, row, own, number) for row, own in zip(block, said, strict=True)]
        append_jsonl(log, [line for line in lines if line["id"] not in finished])


def _record(settings: Settings, task: ModuleType, row: dict, completions: list, number: int) -> dict:
    """A query's line of the log."""
    verdicts = [tasks.verify(task, completion.text, row) for completion in completions]
    solved = [tasks.is_right(verdict, settings.verdict) for verdict in verdicts]
    failed = [
        {"attempt": c.text, "error": v.error, "sample": k, "truncated": c.truncated}
        for k, (c, v, ok) in enumerate(zip(completions, verdicts, solved, strict=True))
        if not ok
    ]
    counts = {"sampled": len(completions), "solved": sum(solved)}
    return {"id": row["id"], "round": number, **counts, "failures": failed}


def tally(records: list[dict]) -> dict[str, dict]:
    """Of each query: samples, how many were right, and its distinct failures in the order they were sampled."""
    found: dict[str, dict] = collections.defaultdict(lambda: {"sampled": 0, "solved": 0, "failures": {}})
    for record in records:
        query = found[record["id"]]
        for failure in record["failures"]:
            sample = query["sampled"] + failure["sample"]
            query["failures"].setdefault(failure["attempt"], {**failure, "sample": sample})
        query["sampled"] += record["sampled"]
        query["solved"] += record["solved"]
    return found


def failures(rows: list[dict], records: list[dict], most: int) -> list[dict]:
    """Lines of `failures.jsonl`: at most `most` distinct failures a query, the queries in their order."""
    found, lines = tally(records), []
    for row in rows:
        query = found[row["id"]]
        counts = {"sampled": query["sampled"], "solved": query["solved"]}
        for failure in list(query["failures"].values())[:most]:
            lines.append({"id": row["id"], "cluster": row["cluster"], "row": row, **failure, **counts})
    return lines


def statistics(records: list[dict], kept: list[dict], kept_dev: list[dict]) -> dict:
    """What notebook 01 shows: how many attempts were sampled, how many were right, how the others failed."""
    found = tally(records).values()
    sampled, solved = sum(q["sampled"] for q in found), sum(q["solved"] for q in found)
    return {
        "queries": len(found), "attempts": sampled, "solved": solved, "accuracy": solved / max(1, sampled),
        "never_solved": sum(q["solved"] == 0 for q in found),
        "always_solved": sum(q["solved"] == q["sampled"] for q in found),
        "cut_off": sum(failure["truncated"] for r in records for failure in r["failures"]), "failures": len(kept),
        "dev_failures": len(kept_dev),
        "errors": dict(collections.Counter(f["error"] for f in kept).most_common()),
    }  # fmt: skip
