"""What a training step costs, compared with trl's own: `make bench`.

Measures seconds and tokens a second of a step on the tiny profile's model and batch, for our reward and three others in
the same trainer, and the share of each phase; then the engines (`bench_engines.py`) and the verifiers
(`bench_verifiers.py`). `--gpu-rates` measures a random-weight Qwen2-1.5B in NF4 on a GPU instead. The weights hardly
change, so all variants write texts of like length.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch
from trl import GRPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # helpers of the tests

import bench_engines
import bench_rates
import bench_verifiers
from step_clock import PHASES, measure

from rrr_utils import conversation, files, provenance, settings, tasks
from rrr_utils.errors import PLAIN
from rrr_utils.miniature import countdown as corpus
from rrr_utils.settings import ROOT, Settings

#: how much longer than a step without retries a step with one retry per reflection may take, as a factor
MOST = 1.6


# ---------------------------------------------------------------- rewards that one would write without the kit


class NoRetry:
    """A step without retries: every reward is 0."""

    __name__ = "no_retry"

    def __init__(self, given: Settings, trainer: GRPOTrainer):
        self.settings, self.task, self.trainer, self.generated_tokens = given, tasks.get(given.task), trainer, 0

    def __call__(self, completions: list, completion_ids: list, **_) -> list[float]:
        self.generated_tokens += sum(map(len, completion_ids))
        return [0.0] * len(completions)


class Stock(NoRetry):
    """A reward that retries with `model.generate`, as transformers' documentation shows it."""

    def __call__(self, completions: list, completion_ids: list, row: list[str], attempt: list[str], **_) -> list[float]:
        super().__call__(completions, completion_ids)
        rows, tokenizer = [json.loads(text) for text in row], self.trainer.processing_class
        chats = [
            conversation.retry(self.task, one, failed, reflection[0]["content"])
            for one, failed, reflection in zip(rows, attempt, completions, strict=True)
        ]
        asked = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        return [float(self.task.verify(text, one).correct) for text, one in zip(self.retries(asked), rows, strict=True)]

    def generate(self, texts: list[str]) -> list[str]:
        tokenizer, model = self.trainer.processing_class, self.trainer.model
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
        sampled = {"do_sample": True, "temperature": self.settings.temperature}
        out = model.generate(**inputs, max_new_tokens=self.settings.attempt_tokens, **sampled)
        new = out[:, inputs["input_ids"].shape[1] :]
        self.generated_tokens += int((new != tokenizer.pad_token_id).sum())
        return tokenizer.batch_decode(new, skip_special_tokens=True)


class OneByOne(Stock):
    """The simplest way: one row at a time."""

    __name__ = "one_by_one"

    def retries(self, asked: list[str]) -> list[str]:
        return [self.generate([text])[0] for text in asked]


class OneBatch(Stock):
    """The next simplest way: all rows in one padded batch."""

    __name__ = "one_batch"

    def retries(self, asked: list[str]) -> list[str]:
        return self.generate(asked)


#: rewards by name; None: the kit's own
VARIANTS: dict[str, type[NoRetry] | None] = {
    "stock trl, no retries": NoRetry,
    "ours (RetryReward)": None,
    "stock trl, retries in one batch": OneBatch,
    "stock trl, retries one row at a time": OneByOne,
}


# ---------------------------------------------------------------- the tiny profile's step


def made_failures(number: int) -> list[dict]:
    """Countdown problems, each with an attempt that misses the target."""
    rng, lines = random.Random(0), []
    for row in tasks.get("countdown").load("train", 2 * number, 0):
        if corpus.solvable(row):
            attempt, _ = corpus.wrong(corpus.steps(row["nums"]), row["target"], rng)
            lines.append({"id": row["id"], "row": row, "attempt": attempt})
    return lines[:number]


def tiny(steps: int, overrides: dict | None = None) -> dict[str, dict[str, float]]:
    """Seconds and tokens of a step on the tiny profile, by variant."""
    base = {"learning_rate": 1e-12, "dev_every": 10_000, "retries_per_reflection": 1, **(overrides or {})}
    rows = {}
    for name, variant in VARIANTS.items():
        number = 2 if variant is OneByOne else steps  # slow, and its times hardly vary
        given = settings.load("tiny", {**base, "steps": 1 + number})
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = measure(given, made_failures(4 * given.failures_per_step), variant, Path(folder))
        print(f"{name}: {rows[name]['seconds']:.2f} s a step", file=sys.stderr, flush=True)
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The variants as a table: seconds, tokens a second, share of each phase, times the seconds without retries."""
    base, phases = rows["stock trl, no retries"]["seconds"], (*PHASES, "rest")
    head = "".join(f"{phase:>{len(phase) + 2}}" for phase in phases)
    lines = [f"{'one optimiser step':38}{'seconds':>9}{'tokens/s':>10}{head}  against no retries"]
    for name, row in rows.items():
        seconds = row["seconds"]
        shares = [row[phase] / seconds for phase in PHASES]
        shares = dict(zip(phases, (*shares, 1 - sum(shares)), strict=True))
        cells = "".join(f"{100 * share:{len(phase) + 1}.0f}%" for phase, share in shares.items())
        lines.append(f"{name:38}{seconds:9.2f}{row['tokens'] / seconds:10.0f}{cells}  x {seconds / base:.2f}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python tests/benchmarks/bench.py", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4, help="steps to measure, after one that warms up")
    parser.add_argument("--out", type=Path, help="also write the rows as JSON to this file")
    gpu = "instead: a random-weight Qwen2-1.5B in NF4, into results/rates.csv"
    parser.add_argument("--gpu-rates", action="store_true", help=gpu)
    given = parser.parse_args(arguments)
    if given.gpu_rates:
        return bench_rates.write(ROOT / "results" / "rates.csv", given.steps)
    try:
        rows = tiny(given.steps)
    except PLAIN as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    s = settings.load("tiny")
    batch = f"{s.failures_per_step} failures x {s.reflections_per_failure} reflections"
    print(f"\n{batch} of at most {s.reflection_tokens} tokens, one retry of at most {s.attempt_tokens} each")
    print(f"{torch.get_num_threads()} CPU thread(s); medians of {given.steps} steps\n\n{table(rows)}")
    ratio = rows["ours (RetryReward)"]["seconds"] / rows["stock trl, no retries"]["seconds"]
    verdict = "within" if ratio <= MOST else "ABOVE"
    print(f"\nours takes {ratio:.2f} times as long as a step without retries: {verdict} the limit of {MOST}\n")
    if given.out:
        files.write_json(given.out, {"rows": rows, "ratio": ratio, "provenance": provenance.provenance(time.time())})
    bench_engines.main()
    bench_verifiers.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
