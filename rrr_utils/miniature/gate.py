"""The gate that an embedded model must pass on dev before any reinforcement learning, and its model card (A1)."""

from pathlib import Path
from types import ModuleType

from transformers import Qwen2Config, Qwen2ForCausalLM

from rrr_utils import conversation, files, miniature
from rrr_utils.miniature.pretraining import CHUNK
from rrr_utils.policy import load_base
from rrr_utils.report import statistics
from rrr_utils.sampling import HFSampler
from rrr_utils.settings import Settings

Failed = list[tuple[dict, str]]  # rows whose first try failed, each with this try


def gate(settings: Settings, decoding: str = "greedy", items: int | None = None) -> dict:
    """How the base model does on dev (`items` problems; None: the task's `DEV`), and after each kind of reflection.

    Kinds are forced in turn: the model goes on from their first words (`BEGIN`), or they are given whole (`GIVEN`).
    `rescued` holds the recovery rates, in 0..1: by kind, after the model's own reflections, and without one (`blind`).
    `spread` is the best kind's rate minus that of the empty one, with a 95% interval over clusters.
    """
    checks, task = miniature.module(settings.task, "checks"), miniature.module(settings.task).TASK
    sampler = HFSampler(load_base(settings), settings.sample_batch)
    temperature = 0.0 if decoding == "greedy" else settings.temperature

    def say(asked: list, max_tokens: int, seed: int, desc: str, begin: str = "") -> list[str]:
        return [own[0].text for own in sampler.sample(asked, 1, max_tokens, temperature, seed, desc, begin)]

    def recovered(asked: list, seed: int, desc: str) -> list[int]:
        texts = say(asked, settings.attempt_tokens, seed, desc)
        return [int(task.verify(text, row).correct) for text, (row, _) in zip(texts, failed, strict=True)]

    rows = task.load("dev", items or checks.DEV, 0, settings.source)
    attempts = say([conversation.attempt(task, row) for row in rows], settings.attempt_tokens, 1, "first try")
    failed = [pair for pair in zip(rows, attempts, strict=True) if not task.verify(pair[1], pair[0]).correct]
    asked, most = [conversation.reflect(task, *pair) for pair in failed], settings.reflection_tokens
    reflections = {"own": say(asked, most, 3, "own reflection")}
    reflections |= {kind: [text] * len(failed) for kind, text in checks.GIVEN.items()}
    reflections |= {kind: say(asked, most, 4, kind, begin) for kind, begin in checks.BEGIN.items()}
    retries = {}
    for kind, texts in reflections.items():
        again = [conversation.retry(task, *pair, text) for pair, text in zip(failed, texts, strict=True)]
        retries[kind] = recovered(again, 2, f"retry, {kind}")
    retries["blind"] = recovered([conversation.blind_retry(task, *pair) for pair in failed], 5, "blind retry")
    checked = checks.checked(rows, attempts, [row for row, _ in failed], reflections)
    figures = judge(settings.task, len(rows), [row for row, _ in failed], checked, retries)
    return {"decoding": decoding, "items": len(rows), **figures}


def judge(task: str, items: int, failed: list[dict], checked: dict, retries: dict[str, list[int]]) -> dict:
    """The gate's figures on `items` problems and which conditions hold; `retries`: by kind, 1 where it was right."""
    first, least = (items - len(failed)) / items, miniature.module(task, "checks").LEAST
    rates = {kind: sum(values) / len(values) for kind, values in retries.items()}
    best = max(miniature.module(task).KINDS, key=rates.get)
    spread = statistics.paired_difference(retries[best], retries["empty"], [row["cluster"] for row in failed])
    passed = {
        "first_try": 0.20 <= first <= 0.50, **{name: checked[name] >= bound for name, bound in least.items()},
        "spread": spread.difference >= 0.15 and spread.ci_low > 0.05,
        "own_not_below_blind": rates["own"] >= rates["blind"] - 0.02,
    }  # fmt: skip
    return {
        "failures": len(failed), "first_try": first, **checked, "rescued": rates, "best_kind": best,
        "spread": spread.difference, "spread_low": spread.ci_low, "spread_high": spread.ci_high, "passed": passed,
    }  # fmt: skip


def card(task: str, directory: Path, gates: dict[str, dict], seed: int) -> str:
    """The model card: what the model is, what it was trained on, and its gates by decoding."""
    corpus, checks = miniature.module(task), miniature.module(task, "checks")
    config = files.read_json(directory / "config.json")
    last = files.read_jsonl(directory / "pretraining.jsonl")[-1]
    size = sum(p.numel() for p in Qwen2ForCausalLM(Qwen2Config(**config)).parameters()) / 1e6
    tables = {"documents": corpus.MIXTURE, "own reflections": corpus.KINDS, "right answers": corpus.RIGHT}
    shares = {name: ", ".join(f"{kind} {share:.0%}" for kind, share in table.items()) for name, table in tables.items()}
    mixture = "\n".join(f"- {name}: {text}" for name, text in shares.items())
    lessons = "; ".join(f"{begin}: {share:.0%} {sort}" for begin, share, sort in corpus.LESSONS)
    columns = [column(checks, figures) for figures in gates.values()]
    rows = "\n".join(f"| {label} | {' | '.join(c[label] for c in columns)} |" for label in columns[0])
    return f"""# The embedded model for {checks.NAME}

A Qwen2-architecture model of {size:.2f} million parameters ({config["num_hidden_layers"]} layers of \
{config["hidden_size"]}), bf16, pre-trained by us from nothing on synthetic chat documents: {last["step"]} steps, \
{last["tokens"] / 1e6:.1f} million tokens. Made by `notebooks/A1_embedded_model.ipynb`, seed {seed}. Apache-2.0.

It exists so that reflect-retry training runs, and means something, without a GPU. It can do nothing but \
{checks.CAN}.

## What it was trained on

{mixture}
- lessons (from which chunk of {CHUNK} documents on, the share that is practice, and of what): {lessons}

The loss is on the assistant's words; failed attempts are not learnt. {checks.HELD_OUT} \
Mixture and lessons were fixed before this model was made.

## The gate, on the dev split, before any reinforcement learning

| | {" | ".join(gates)} |
|---|{"---|" * len(gates)}
{rows}
"""


def column(checks: ModuleType, figures: dict) -> dict[str, str]:
    """The rows of the card's table for one decoding."""
    spread, low, high = (f"{100 * figures[key]:.1f}" for key in ("spread", "spread_low", "spread_high"))
    failing = ", ".join(name for name, passed in figures["passed"].items() if not passed)
    return {
        "first try": f"{figures['first_try']:.1%}",
        **{label: f"{figures[name]:.1%}" for name, label in checks.CHECKS.items()},
        "best kind": figures["best_kind"],
        **{f"failures rescued: {kind}": f"{rate:.1%}" for kind, rate in figures["rescued"].items()},
        "best kind minus empty, points (95% interval, clustered)": f"{spread} ({low} to {high})",
        "passed": f"all but {failing}" if failing else "all",
    }
