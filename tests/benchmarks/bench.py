"""What a training step costs, beside trl's own: `make bench`, or python tests/benchmarks/bench.py [--out FILE] [--gpu-rates].

Covered: seconds and tokens a second of a step on the tiny profile's model and batch, ours and three of stock trl, in one
run; what each phase takes; then the verifiers (`bench_verifiers.py`). --gpu-rates measures a random-weight Qwen2-1.5B in NF4
on a GPU instead. Not covered: how well anything is learnt; the weights stand still, so that all write texts of like length.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests' helpers

import bench_rates
import bench_verifiers
from step_clock import PHASES, measure

from rrr_utils import conversation, files, provenance, settings, tasks, training
from rrr_utils.errors import ResultsError
from rrr_utils.miniature import corpus
from rrr_utils.settings import ROOT, Settings

#: the most that a step with one retry a reflection may cost, as a multiple of a step without retries
MOST = 1.6


# ---------------------------------------------------------------- rewards, ours and what one writes without us


class NoRetry:
    """trl's step without retries: every reward is 0."""

    __name__ = "no_retry"

    def __init__(self, given: Settings):
        self.settings, self.task, self.trainer, self.generated_tokens = given, tasks.get(given.task), None, 0

    def __call__(self, completions: list, completion_ids: list, **_) -> list[float]:
        self.generated_tokens += sum(map(len, completion_ids))
        return [0.0] * len(completions)


class Stock(NoRetry):
    """A reward that retries with `model.generate`, as transformers' documentation shows it."""

    def __call__(self, completions: list, completion_ids: list, row: list[str], attempt: list[str], **_) -> list[float]:
        super().__call__(completions, completion_ids)
        rows, template = [json.loads(text) for text in row], self.trainer.processing_class.apply_chat_template
        asked = [
            template(conversation.retry(self.task, one, failed, said[0]["content"]), tokenize=False, add_generation_prompt=True)
            for one, failed, said in zip(rows, attempt, completions, strict=True)
        ]
        return [float(self.task.verify(text, one).correct) for text, one in zip(self.retries(asked), rows, strict=True)]

    def generate(self, texts: list[str]) -> list[str]:
        tokenizer, model = self.trainer.processing_class, self.trainer.model
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        out = model.generate(**inputs, max_new_tokens=self.settings.attempt_tokens, do_sample=True, temperature=self.settings.temperature)
        new = out[:, inputs["input_ids"].shape[1] :]
        self.generated_tokens += int((new != tokenizer.pad_token_id).sum())
        return tokenizer.batch_decode(new, skip_special_tokens=True)


class OneByOne(Stock):
    """The first thing one writes: a row at a time."""

    __name__ = "one_by_one"

    def retries(self, asked: list[str]) -> list[str]:
        return [self.generate([text])[0] for text in asked]


class OneBatch(Stock):
    """The next thing one writes: all rows in one padded batch."""

    __name__ = "one_batch"

    def retries(self, asked: list[str]) -> list[str]:
        return self.generate(asked)


VARIANTS: dict[str, Callable] = {
    "stock trl, no retries": NoRetry,
    "ours (RetryReward)": training.RetryReward,
    "stock trl, retries in one batch": OneBatch,
    "stock trl, retries one row at a time": OneByOne,
}


# ---------------------------------------------------------------- the tiny profile's step


def made_failures(number: int) -> list[dict]:
    """Countdown problems and an attempt at each that misses the target."""
    rng, lines = random.Random(0), []
    for row in tasks.get("countdown").load("train", 2 * number, 0):
        if corpus.solvable(row):
            lines.append({"id": row["id"], "row": row, "attempt": corpus.wrong(corpus.steps(row["nums"]), row["target"], rng)[0]})
    return lines[:number]


def tiny(steps: int, overrides: dict | None = None) -> dict[str, dict[str, float]]:
    """All variants on the tiny profile, one after the other, a row each."""
    base = {"learning_rate": 1e-12, "dev_every": 10_000, "retries_per_reflection": 1, **(overrides or {})}
    rows = {}
    for name, variant in VARIANTS.items():
        number = 2 if variant is OneByOne else steps  # it takes long and hardly varies
        given = settings.load("tiny", {**base, "steps": 1 + number})
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(given, made_failures(4 * given.failures_per_step), variant, Path(folder))
        print(f"{name}: {rows[name]['seconds']:.2f} s a step", file=sys.stderr, flush=True)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows side by side."""
    base = rows["stock trl, no retries"]["seconds"]
    head = f"{'one optimiser step':38}{'seconds':>9}{'tokens/s':>10}" + "".join(f"{phase:>{len(phase) + 2}}" for phase in (*PHASES, "rest"))
    lines = [head + "  against no retries"]
    for name, row in rows.items():
        shares = [row[phase] / row["seconds"] for phase in PHASES]
        cells = "".join(f"{100 * s:{len(p) + 1}.0f}%" for p, s in zip((*PHASES, "rest"), (*shares, 1 - sum(shares)), strict=True))
        lines.append(f"{name:38}{row['seconds']:9.2f}{row['tokens'] / row['seconds']:10.0f}{cells}  x {row['seconds'] / base:.2f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks/bench.py", description="What a training step costs, beside trl's own.")
    parser.add_argument("--steps", type=int, default=4, help="steps that are measured, after one that warms up")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON to this file")
    parser.add_argument("--gpu-rates", action="store_true", help="instead: a random-weight Qwen2-1.5B in NF4, into results/rates.csv")
    given = parser.parse_args(arguments)
    if given.gpu_rates:
        return bench_rates.write(ROOT / "results" / "rates.csv", given.steps)
    try:
        rows = tiny(given.steps)
    except (settings.SettingsError, ResultsError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    s = settings.load("tiny")
    batch = f"{s.failures_per_step} failures x {s.reflections_per_failure} reflections of at most {s.reflection_tokens} tokens"
    threads = f"{torch.get_num_threads()} CPU thread(s)"
    print(f"\n{batch}, one retry of at most {s.attempt_tokens} each; {threads}; medians of {given.steps} steps\n")
    print(table(rows))
    ratio = rows["ours (RetryReward)"]["seconds"] / rows["stock trl, no retries"]["seconds"]
    verdict = "within" if ratio <= MOST else "ABOVE"
    print(f"\nours costs {ratio:.2f} times the step without retries: {verdict} the {MOST} that it may cost\n")
    if given.out:
        files.write_json(given.out, {"rows": rows, "ratio": ratio, "provenance": provenance.provenance(time.time())})
    bench_verifiers.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
