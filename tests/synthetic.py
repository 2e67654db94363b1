"""Evaluations that no model made, for tests of everything after generation: lines of samples.jsonl, run folders."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

from rrr_utils import files, runs
from rrr_utils.miniature import countdown as corpus
from rrr_utils.settings import Settings, load
from rrr_utils.tasks import countdown

#: chance that a retry is right, by policy and kind of reflection; and how often a policy writes each kind
RECOVERY = {"empty": 0.15, "search": 0.55}
KINDS = {
    "vanilla": {"empty": 0.8, "search": 0.2},
    "trained": {"empty": 0.1, "search": 0.9},
    "reflector": {"empty": 0.1, "search": 0.9},
}
#: chance that a retry after a control is right; after the own reflection and blind the caller says it
CHANCES = {"generic": 0.2, "swapped": 0.2, "masked": 0.25, "cut": 0.15, "always": 0.5, "forced": 0.5, "outright": 0.45}


def problems(n: int) -> list[dict]:
    """Test problems that a first step and a second one solve."""
    return [r for r in countdown.load("test", 3 * n, 0) if corpus.solvable(r)][:n]


def answer(row: dict, right: bool, rng: random.Random) -> str:
    """An equation that hits the row's target or misses it."""
    rows = corpus.steps(row["nums"])
    return corpus.right(rows, row["target"], rng) if right else corpus.wrong(rows, row["target"], rng)[0]


def sample(
    row: dict, policy: str, seed: int | None, decoding: str, first: bool, own: bool, blind: bool, rng: random.Random
) -> dict:
    """One line, with real texts that get the verdicts asked for."""

    def judged(text: str) -> dict:
        return countdown.verify(text, row)._asdict()

    def entry(text: str, right: bool, **more) -> dict:
        retry = answer(row, right, rng)
        told = {"reflection_tokens": len(text.split()), "truncated": False} if text else {}
        return {"reflection": text, **told, "retry": retry, "retry_tokens": 9, "verdict": judged(retry), **more}

    def luck(control: str) -> bool:
        return rng.random() < CHANCES[control]

    attempt, steps = answer(row, first, rng), corpus.steps(row["nums"])
    kind = rng.choices(list(KINDS[policy]), list(KINDS[policy].values()))[0]
    text, search = (corpus.reflection(name, row, steps, 0, rng)[0] for name in (kind, "search"))
    second = {}
    if not first:
        tries = [answer(row, blind, rng), answer(row, rng.random() < 0.1, rng)]
        verdicts = [judged(t) for t in tries]
        second = {
            "own": entry(text, own),
            "blind": entry("", blind),
            "generic": entry("Check every step.", luck("generic")),
            "swapped": entry("Nothing is left of 1 and 2.", luck("swapped"), donor="another"),
            "masked": entry(re.sub(r"\d+", "_", text), luck("masked")),
            "cut": entry(" ".join(text.split()[:3]), luck("cut")),
            "fresh": {"tries": tries, "verdicts": verdicts, "tokens": 18,
                      "verdict": next((v for v in verdicts if v["correct"]), verdicts[0])},
        }  # fmt: skip
    second["always"] = entry(text, luck("always") if first else own)
    if policy == "vanilla":
        second |= {} if first else {"forced": entry(search, luck("forced"))}
        second["outright"] = entry(search, luck("outright"))
    return {
        "id": row["id"], "cluster": row["cluster"], "row": row, "policy": policy, "seed": seed, "decoding": decoding,
        "attempt": attempt, "attempt_tokens": 9, "verdict": judged(attempt), "second": second,
    }  # fmt: skip


def samples(rows: list[dict], policy: str, seed: int | None, decoding: str = "greedy") -> list[dict]:
    """Lines of a policy over rows: the first try is the same for all policies, the trained reflections recover more."""
    lines = []
    for row in rows:
        base, rng = random.Random(f"{row['id']}{decoding}"), random.Random(f"{row['id']}{policy}{seed}{decoding}")
        share = sum(RECOVERY[k] * p for k, p in KINDS[policy].items())
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
            rewards.append(float(rng.random() < RECOVERY["search" if kind == "search" else "empty"]))
            line = {
                "step": step,
                "id": row["id"],
                "row": row,
                "attempt": "",
                "reflection": text,
                "retry": "",
                "reward": rewards[-1],
            }
            logged.append(line)
        lines.append(
            {"step": step, "reward": sum(rewards) / len(rewards), "kl": 0.01 * step, "reflection_tokens": 20.0}
        )
    return lines, logged


def made(folder: Path, there: tuple[int, ...] = (0, 1), n: int = 50, **overrides) -> Settings:
    """Settings with finished runs of some seeds in a folder, of a model that cannot be loaded."""
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "m.safetensors"):
        (model / name).write_text("{}")
    settings = load("tiny", {"results_dir": str(folder / "runs"), "model": str(model), **overrides})
    write_runs(settings, there, n)
    return settings


def write_runs(settings: Settings, seeds: tuple[int, ...] = (0, 1), n: int = 120, summary: dict | None = None) -> None:
    """Finished stages of the base model and of the seeds, as they leave them. `summary`: the evaluations'."""
    rows = problems(n)
    for seed in (None, *seeds):
        one = settings.model_copy(update={"seed": seed})
        if seed is not None:
            finish(one, "failures", {})
            lines, logged = training_log(rows, seed)
            dev = [
                {"step": step, "score": score, "greedy": score + 0.1, "sampled": score - 0.1, "n": 64,
                 "completion_tokens": 20.0, "best": True} for step, score in ((0, 0.1), (30, 0.5))
            ]  # fmt: skip
            told = {"steps": 30, "best_step": 30, "dev_untrained": 0.1, "dev_best": 0.5, "dev_items": 64}
            told |= {"seconds": 60.0, "generated_tokens": 30_000}
            finish(one, "train", {"training": lines, "reflections": logged, "dev": dev}, told)
        policies = ("vanilla",) if seed is None else one.policies
        written = [samples(rows, policy, seed, decoding) for policy in policies for decoding in one.decodings]
        finish(one, "evaluate", {"samples": [line for lines in written for line in lines]}, summary)


def finish(settings: Settings, stage: str, logs: dict[str, list[dict]], summary: dict | None = None) -> Path:
    """A finished stage with these JSON Lines files, unless it is there; returns its folder."""
    if not runs.done(settings, stage):
        with runs.begin(settings, stage) as (folder, settings):
            for name, lines in logs.items():
                files.append_jsonl(folder / f"{name}.jsonl", lines)
            runs.finish(settings, stage, [folder / f"{name}.jsonl" for name in logs], summary or {}, time.time())
    return runs.stage_dir(settings, stage)
