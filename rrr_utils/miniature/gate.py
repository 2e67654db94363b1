"""The gate that the embedded model must pass on dev before any reinforcement learning, and its model card (notebook A1)."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import Qwen2Config, Qwen2ForCausalLM

from rrr_utils import conversation, files
from rrr_utils.miniature import corpus
from rrr_utils.miniature.corpus import EMPTY, sums_of
from rrr_utils.miniature.pretraining import CHUNK
from rrr_utils.policy import load_base
from rrr_utils.report import statistics
from rrr_utils.sampling import HFSampler
from rrr_utils.settings import Settings
from rrr_utils.tasks import countdown

#: how a reflection of each kind begins; an empty one is given whole, the others the model goes on from
OPENINGS = {
    "empty": EMPTY[0],
    "value": "My result was",
    "usage": "I must use each of",
    "first_step": "I could start with",
    "search": "Aim",
}


def gate(settings: Settings, decoding: str = "greedy", items: int | None = None) -> dict:
    """What the untrained model can do on the dev split, and what each kind of reflection, forced in turn, is worth.

    `items`: so many problems instead of the whole split. Rescue rates are shares of the failed first tries whose retry is
    right. `spread` compares the best kind with an empty reflection, clustered by multiset; `passed` says which of the four
    conditions hold:
    first try 20-50%; sums in searches, as written, at least 95% right; spread at least 15 points with an interval above 5; own no more than
    2 points below blind.
    """
    temperature = 0.0 if decoding == "greedy" else settings.temperature
    sampler = HFSampler(load_base(settings), settings.sample_batch)

    def say(conversations: list, max_tokens: int, seed: int, desc: str, begin: str = "") -> list[str]:
        return [own[0].text for own in sampler.sample(conversations, 1, max_tokens, temperature, seed, desc, begin)]

    def right(texts: list[str], rows: list[dict]) -> list[int]:
        return [int(countdown.verify(text, row).correct) for text, row in zip(texts, rows, strict=True)]

    rows = countdown.load("dev", items, 0)
    attempts = say([conversation.attempt(countdown, row) for row in rows], settings.attempt_tokens, 1, "first try")
    solved = right(attempts, rows)
    told = [(row, attempt) for row, attempt, ok in zip(rows, attempts, solved, strict=True) if not ok]
    failed, clusters = [row for row, _ in told], [row["cluster"] for row, _ in told]
    asked = [conversation.reflect(countdown, row, attempt) for row, attempt in told]

    def rescued(texts: list[str], desc: str) -> list[int]:
        again = [conversation.retry(countdown, row, attempt, text) for (row, attempt), text in zip(told, texts, strict=True)]
        return right(say(again, settings.attempt_tokens, 2, f"retry, {desc}"), failed)

    written = {"own": say(asked, settings.reflection_tokens, 3, "own reflection")}
    for kind, opening in OPENINGS.items():
        written[kind] = [opening] * len(told) if kind == "empty" else say(asked, settings.reflection_tokens, 4, kind, opening)
    by_kind = {kind: rescued(texts, kind) for kind, texts in written.items()}
    blind = [conversation.blind_retry(countdown, row, attempt) for row, attempt in told]
    by_kind["blind"] = right(say(blind, settings.attempt_tokens, 5, "blind retry"), failed)

    sums, left = (
        [ok for one in both for ok in one]
        for both in zip(*(sums_of(text, row["nums"]) for text, row in zip(written["search"], failed, strict=True)), strict=True)
    )
    arithmetic, left_right = sum(sums) / max(1, len(sums)), sum(left) / max(1, len(left))
    rates = {kind: sum(values) / len(values) for kind, values in by_kind.items()}
    best = max(OPENINGS, key=rates.get)
    spread = statistics.paired_difference(by_kind[best], by_kind["empty"], clusters)
    first = sum(solved) / len(rows)
    passed = {
        "first_try": 0.20 <= first <= 0.50, "arithmetic": arithmetic >= 0.95,
        "spread": spread.difference >= 0.15 and spread.ci_low > 0.05, "own_not_below_blind": rates["own"] >= rates["blind"] - 0.02,
    }  # fmt: skip
    return {
        "decoding": decoding, "items": len(rows), "failures": len(told), "first_try": first, "arithmetic": arithmetic,
        "number_left": left_right, "rescued": rates,
        "best_kind": best, "spread": spread.difference, "spread_low": spread.ci_low, "spread_high": spread.ci_high, "passed": passed,
    }  # fmt: skip


def finish(directory: Path, gates: dict[str, dict]) -> None:
    """Write `gate.json` and the model card (`README.md`) beside the model."""
    files.write_json(directory / "gate.json", gates)
    files.write_text(directory / "README.md", card(directory, gates))


def card(directory: Path, gates: dict[str, dict]) -> str:
    """The model card: what it is, what it was trained on, at which shares, and how it fares at the gate."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    last = files.read_jsonl(directory / "pretraining.jsonl")[-1]
    size = sum(p.numel() for p in Qwen2ForCausalLM(Qwen2Config(**config)).parameters()) / 1e6
    shares = [("documents", corpus.MIXTURE), ("own reflections", corpus.KINDS), ("right answers", corpus.RIGHT)]
    lines = [
        "# The embedded model for Countdown\n",
        f"A Qwen2-architecture model of {size:.2f} million parameters ({config['num_hidden_layers']} layers of {config['hidden_size']}), "
        f"bf16, pre-trained by us from nothing on synthetic chat documents: {last['step']} steps, "
        f"{last['tokens'] / 1e6:.1f} million tokens. "
        "Made by `notebooks/A1_embedded_model.ipynb`, seed 0. Apache-2.0.\n",
        "It exists so that reflect-retry training runs, and means something, without a GPU. It can do nothing but three-number Countdown "
        "with numbers from 1 to 15 and targets to 60, in the kit's own prompts.\n",
        "## What it was trained on\n",
        *(f"- {name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in table.items()) for name, table in shares),
        f"- lessons (from which chunk of {CHUNK} documents on, the share that is practice, and of what): "
        + "; ".join(f"{begin}: {share:.0%} {sort}" for begin, share, sort in corpus.LESSONS),
        "\nThe loss is on the assistant's words; failed attempts are not learnt. Problems come from the pretrain split alone: multisets of "
        "numbers of train, dev and test occur in no document. Facts about two numbers (9 * 3 = 27) are shared by all splits. What "
        "follows an empty reflection is right as often as what follows none. A search computes in a fixed order from a random start, "
        "and may end without a hit. Mixture and lessons were fixed before this model was made.\n",
        "## The gate, on the dev split, before any reinforcement learning\n",
        "| | " + " | ".join(gates) + " |\n|---|" + "---|" * len(gates),
    ]
    rows = {
        "first try": "first_try", "sums right in searches": "arithmetic", "number that is left right in searches": "number_left",
        "best kind": "best_kind",
    }  # fmt: skip
    lines += [f"| {label} | " + " | ".join(_share(g[key]) for g in gates.values()) + " |" for label, key in rows.items()]
    kinds = next(iter(gates.values()))["rescued"]
    lines += [f"| failures rescued: {kind} | " + " | ".join(_share(g["rescued"][kind]) for g in gates.values()) + " |" for kind in kinds]
    spread = [f"{100 * g['spread']:.1f} ({100 * g['spread_low']:.1f} to {100 * g['spread_high']:.1f})" for g in gates.values()]
    lines += ["| best kind minus empty, points (95% interval, clustered) | " + " | ".join(spread) + " |"]
    lines += ["| passed | " + " | ".join("all" if all(g["passed"].values()) else _failed(g) for g in gates.values()) + " |", ""]
    return "\n".join(lines)


def _share(value: float | str) -> str:
    return value if isinstance(value, str) else f"{100 * value:.1f}%"


def _failed(gate: dict) -> str:
    return "all but " + ", ".join(name for name, passed in gate["passed"].items() if not passed)
