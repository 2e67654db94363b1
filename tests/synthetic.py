"""Evaluations that no model made, for tests of everything after generation: lines of samples.jsonl and whole run folders."""

from __future__ import annotations

import random
from pathlib import Path

from rrr_utils import files, runs
from rrr_utils.miniature import corpus
from rrr_utils.settings import Settings
from rrr_utils.tasks import countdown

#: chance that a retry is right, by policy and kind of reflection; and how often a policy writes each kind
RESCUE = {"empty": 0.15, "search": 0.55}
KINDS = {"vanilla": {"empty": 0.8, "search": 0.2}, "trained": {"empty": 0.1, "search": 0.9}, "reflector": {"empty": 0.1, "search": 0.9}}


def problems(n: int) -> list[dict]:
    """Test problems that a first step and a second one solve."""
    return [r for r in countdown.load("test", 3 * n, 0) if corpus.solvable(r)][:n]


def answer(row: dict, right: bool, rng: random.Random) -> str:
    """An equation that hits the row's target or misses it."""
    rows = corpus.steps(row["nums"])
    return corpus.right(rows, row["target"], rng) if right else corpus.wrong(rows, row["target"], rng)[0]


def sample(row: dict, policy: str, seed: int | None, decoding: str, first: bool, own: bool, blind: bool, rng: random.Random) -> dict:
    """One line, with real texts whose verdicts are as asked."""

    def judged(text: str) -> dict:
        return countdown.verify(text, row)._asdict()

    attempt, second = answer(row, first, rng), {}
    if not first:
        kind = rng.choices(list(KINDS[policy]), list(KINDS[policy].values()))[0]
        steps = corpus.steps(row["nums"])
        text, _ = corpus.reflection(kind, row, steps, 0, rng)
        retry, other = answer(row, own, rng), answer(row, blind, rng)
        more = [other, answer(row, rng.random() < 0.1, rng)]
        verdicts = [judged(t) for t in more]
        top = next((v for v in verdicts if v["correct"]), verdicts[0])
        tokens = len(text.split())
        second = {
            "own": {"reflection": text, "retry": retry, "verdict": judged(retry), "reflection_tokens": tokens, "retry_tokens": 9},
            "blind": {"reflection": "", "retry": other, "verdict": judged(other), "retry_tokens": 9},
            "blind_budget": {"retries": more, "verdicts": verdicts, "verdict": top, "tokens": 18},
        }  # fmt: skip
    return {
        "id": row["id"], "cluster": row["cluster"], "row": row, "policy": policy, "seed": seed, "decoding": decoding, "attempt": attempt,
        "attempt_tokens": 9, "verdict": judged(attempt), "second": second,
    }  # fmt: skip


def samples(rows: list[dict], policy: str, seed: int | None, decoding: str = "greedy") -> list[dict]:
    """Lines of a policy over rows: the first try is the same for all policies, the trained reflections rescue more."""
    lines = []
    for row in rows:
        base, rng = random.Random(f"{row['id']}{decoding}"), random.Random(f"{row['id']}{policy}{seed}{decoding}")
        share = sum(RESCUE[k] * p for k, p in KINDS[policy].items())
        first, blind = base.random() < 0.35, base.random() < 0.2
        lines.append(sample(row, policy, seed, decoding, first, rng.random() < share, blind, rng))
    return lines


def training_log(rows: list[dict], seed: int, steps: int = 30) -> tuple[list[dict], list[dict]]:
    """Lines of training.jsonl and reflections.jsonl in which searches grow more frequent."""
    rng, lines, logged = random.Random(seed), [], []
    for step in range(1, steps + 1):
        rewards = []
        for row in rng.sample(rows, 16):
            kind = rng.choices(list(corpus.KINDS), [0.4, 0.2, 0.1, 0.1, 0.2 + 2 * step / steps])[0]
            text, _ = corpus.reflection(kind, row, corpus.steps(row["nums"]), 5, rng)
            rewards.append(float(rng.random() < RESCUE["search" if kind == "search" else "empty"]))
            line = {"step": step, "id": row["id"], "row": row, "attempt": "", "reflection": text, "retry": "", "reward": rewards[-1]}
            logged.append(line)
        lines.append({"step": step, "reward": sum(rewards) / len(rewards), "kl": 0.01 * step, "reflection_tokens": 20.0})
    return lines, logged


def write_runs(settings: Settings, seeds: tuple[int, ...] = (0, 1), n: int = 120) -> None:
    """Finished evaluations (and training logs) of vanilla and of the seeds, as the stages leave them."""
    rows = problems(n)
    for seed in (None, *seeds):
        one = settings.model_copy(update={"seed": seed})
        if seed is not None:
            folder = runs.open_stage(one, "train")
            lines, logged = training_log(rows, seed)
            for name, content in (("training", lines), ("reflections", logged)):
                files.append_jsonl(folder / f"{name}.jsonl", content)
            runs.finish(one, "train", [folder / "training.jsonl", folder / "reflections.jsonl"], {}, 0.0)
        folder: Path = runs.open_stage(one, "evaluate")
        for policy in ("vanilla",) if seed is None else ("trained", "reflector"):
            for decoding in settings.decodings:
                files.append_jsonl(folder / "samples.jsonl", samples(rows, policy, seed, decoding))
        runs.finish(one, "evaluate", [folder / "samples.jsonl"], {}, 0.0)
