"""The gate that the embedded model must pass on dev before any reinforcement learning, and its model card (A1)."""

import re
from pathlib import Path

from transformers import Qwen2Config, Qwen2ForCausalLM

from rrr_utils import conversation, files
from rrr_utils.miniature import corpus
from rrr_utils.miniature.pretraining import CHUNK
from rrr_utils.policy import load_base
from rrr_utils.report import statistics
from rrr_utils.sampling import HFSampler
from rrr_utils.settings import Settings
from rrr_utils.tasks import countdown

#: first words of each kind of reflection, which the model goes on from; an empty reflection is given whole
BEGIN = {"value": "My result was", "usage": "I must use each of", "first_step": "I could start with", "search": "Aim"}


def gate(settings: Settings, decoding: str = "greedy", items: int | None = None) -> dict:
    """How the base model does on dev (`items` problems; None: all), and after each kind of reflection, forced in turn.

    `rescued` holds the recovery rates, in 0..1: by kind, after the model's own reflections, and without one (`blind`).
    `spread` is the best kind's rate minus that of the empty one, with a 95% interval clustered by multiset.
    """
    sampler = HFSampler(load_base(settings), settings.sample_batch)
    temperature = 0.0 if decoding == "greedy" else settings.temperature

    def say(asked: list, max_tokens: int, seed: int, desc: str, begin: str = "") -> list[str]:
        return [own[0].text for own in sampler.sample(asked, 1, max_tokens, temperature, seed, desc, begin)]

    def recovered(asked: list, seed: int, desc: str) -> list[int]:
        texts = say(asked, settings.attempt_tokens, seed, desc)
        return [int(countdown.verify(text, row).correct) for text, (row, _) in zip(texts, failed, strict=True)]

    rows = countdown.load("dev", items, 0)
    attempts = say([conversation.attempt(countdown, row) for row in rows], settings.attempt_tokens, 1, "first try")
    failed = [pair for pair in zip(rows, attempts, strict=True) if not countdown.verify(pair[1], pair[0]).correct]
    asked, most = [conversation.reflect(countdown, *pair) for pair in failed], settings.reflection_tokens
    reflections = {"own": say(asked, most, 3, "own reflection"), "empty": [corpus.EMPTY[0]] * len(failed)}
    reflections |= {kind: say(asked, most, 4, kind, begin) for kind, begin in BEGIN.items()}
    retries = {}
    for kind, texts in reflections.items():
        again = [conversation.retry(countdown, *pair, text) for pair, text in zip(failed, texts, strict=True)]
        retries[kind] = recovered(again, 2, f"retry, {kind}")
    retries["blind"] = recovered([conversation.blind_retry(countdown, *pair) for pair in failed], 5, "blind retry")
    figures = judge(len(rows), [row for row, _ in failed], reflections["search"], retries)
    return {"decoding": decoding, "items": len(rows), **figures}


def judge(items: int, failed: list[dict], searches: list[str], retries: dict[str, list[int]]) -> dict:
    """The gate's figures on `items` problems and which conditions hold; `retries`: by kind, 1 where it was right."""
    judged = [sums_of(text, row["nums"]) for text, row in zip(searches, failed, strict=True)]
    sums, left = ([ok for one in both for ok in one] for both in zip(*judged, strict=True))
    first, arithmetic = (items - len(failed)) / items, sum(sums) / max(1, len(sums))
    rates = {kind: sum(values) / len(values) for kind, values in retries.items()}
    best = max(corpus.KINDS, key=rates.get)
    spread = statistics.paired_difference(retries[best], retries["empty"], [row["cluster"] for row in failed])
    passed = {
        "first_try": 0.20 <= first <= 0.50, "arithmetic": arithmetic >= 0.95,
        "spread": spread.difference >= 0.15 and spread.ci_low > 0.05,
        "own_not_below_blind": rates["own"] >= rates["blind"] - 0.02,
    }  # fmt: skip
    return {
        "failures": len(failed), "first_try": first, "arithmetic": arithmetic,
        "number_left": sum(left) / max(1, len(left)), "rescued": rates, "best_kind": best, "spread": spread.difference,
        "spread_low": spread.ci_low, "spread_high": spread.ci_high, "passed": passed,
    }  # fmt: skip


def sums_of(search: str, nums: list[int]) -> tuple[list[bool], list[bool]]:
    """Which sums of a search are right, and in which of its steps the number that is left is right.

    >>> sums_of("Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes .", [3, 9, 4])
    ([True, True], [True])
    >>> sums_of("Aim 5 ; 3 + 3 = 7 and 4 : - 2 5 .", [3, 9, 4])
    ([False, False], [False])
    """
    sums, left = [], []
    for step in search.split(" ; ")[1:]:
        if found := re.match(r"(\d{1,4}) ([-+*/]) (\d{1,4}) = (\d{1,4}) and (\d{1,4}) :", step):
            a, b, c, d = (int(found[k]) for k in (1, 3, 4, 5))
            sums.append(corpus.result(a, found[2], b) == c)
            left.append(sorted([a, b, d]) == sorted(nums))
            true = dict(corpus.second_steps(c, d)) if c and d else {}
            stated = re.findall(r"([-+*/]) (\d{1,4}) (\d{1,4})", step[found.end() :])
            sums += [true.get(op) == int(value) for op, value, _ in stated]
    return sums, left


def card(directory: Path, gates: dict[str, dict], seed: int) -> str:
    """The model card: what the model is, what it was trained on, and its gates by decoding."""
    config = files.read_json(directory / "config.json")
    last = files.read_jsonl(directory / "pretraining.jsonl")[-1]
    size = sum(p.numel() for p in Qwen2ForCausalLM(Qwen2Config(**config)).parameters()) / 1e6
    tables = {"documents": corpus.MIXTURE, "own reflections": corpus.KINDS, "right answers": corpus.RIGHT}
    shares = {name: ", ".join(f"{kind} {share:.0%}" for kind, share in table.items()) for name, table in tables.items()}
    mixture = "\n".join(f"- {name}: {text}" for name, text in shares.items())
    lessons = "; ".join(f"{begin}: {share:.0%} {sort}" for begin, share, sort in corpus.LESSONS)
    columns = [column(figures) for figures in gates.values()]
    rows = "\n".join(f"| {label} | {' | '.join(c[label] for c in columns)} |" for label in columns[0])
    return f"""# The embedded model for Countdown

A Qwen2-architecture model of {size:.2f} million parameters ({config["num_hidden_layers"]} layers of \
{config["hidden_size"]}), bf16, pre-trained by us from nothing on synthetic chat documents: {last["step"]} steps, \
{last["tokens"] / 1e6:.1f} million tokens. Made by `notebooks/A1_embedded_model.ipynb`, seed {seed}. Apache-2.0.

It exists so that reflect-retry training runs, and means something, without a GPU. It can do nothing but three-number \
Countdown with numbers from 1 to 15 and targets to 60, in the kit's own prompts.

## What it was trained on

{mixture}
- lessons (from which chunk of {CHUNK} documents on, the share that is practice, and of what): {lessons}

The loss is on the assistant's words; failed attempts are not learnt. Problems come from the pretrain split alone: \
multisets of numbers of train, dev and test occur in no document. Facts about two numbers (9 * 3 = 27) are shared by \
all splits. What follows an empty reflection is right as often as what follows none. A search computes in a fixed \
order from a random start, and may end without a hit. Mixture and lessons were fixed before this model was made.

## The gate, on the dev split, before any reinforcement learning

| | {" | ".join(gates)} |
|---|{"---|" * len(gates)}
{rows}
"""


def column(figures: dict) -> dict[str, str]:
    """The rows of the card's table for one decoding."""
    spread, low, high = (f"{100 * figures[key]:.1f}" for key in ("spread", "spread_low", "spread_high"))
    failing = ", ".join(name for name, passed in figures["passed"].items() if not passed)
    return {
        "first try": f"{figures['first_try']:.1%}",
        "sums right in searches": f"{figures['arithmetic']:.1%}",
        "number that is left right in searches": f"{figures['number_left']:.1%}",
        "best kind": figures["best_kind"],
        **{f"failures rescued: {kind}": f"{rate:.1%}" for kind, rate in figures["rescued"].items()},
        "best kind minus empty, points (95% interval, clustered)": f"{spread} ({low} to {high})",
        "passed": f"all but {failing}" if failing else "all",
    }
