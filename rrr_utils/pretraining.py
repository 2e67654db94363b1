"""Pre-training of the embedded model, and the gate that it must pass before any reinforcement learning (notebook A1).

pretrain(directory)      the model from nothing, with one seed
gate(settings)           on dev: first try, arithmetic, and how often each kind of reflection rescues a failure
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

from rrr_utils import conversation, files, miniature, stats
from rrr_utils.miniature import EMPTY, LEFT, VERDICTS, build_tokenizer, document, lesson, solvable, sums_of
from rrr_utils.policy import load_base
from rrr_utils.sampling import HFSampler
from rrr_utils.settings import Settings
from rrr_utils.tasks import countdown

# batches come in a hundred shapes, and a kernel is kept for each: without a limit memory grows for the whole hour
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "200")

#: documents that are made, and sorted by length, at a time
CHUNK = 8192


def encode(tokenizer, documents: list[tuple[conversation.Messages, list[bool]]]) -> list[tuple[list[int], list[bool]]]:
    """Token ids of whole documents and which of them are learnt (an assistant's words and their `<|end|>`, or the words
    of a lesson)."""
    pieces, owner, learnt = [], [], []
    for k, (messages, mask) in enumerate(documents):
        for message, learn in zip(messages, mask, strict=True):
            pieces += [f"<|{message['role']}|>", f"{message['content']}<|end|>"]
            owner += [k, k]
            learnt += [False, learn]
    encoded = [([], []) for _ in documents]
    yes, *others = tokenizer.convert_tokens_to_ids([" yes", " ;", " .", " +", " -", " *", " /"])
    left = tokenizer.convert_tokens_to_ids(" and")
    numbers = set(tokenizer.convert_tokens_to_ids([f" {i}" for i in range(miniature.LARGEST_NUMBER + 1)]))
    for k, ids, learn in zip(owner, tokenizer(pieces, add_special_tokens=False)["input_ids"], learnt, strict=True):
        encoded[k][0].extend(ids)
        if learn == VERDICTS:  # what follows a result and the target: yes, or whatever goes on
            after = [i >= 2 and ids[i - 1] in numbers and ids[i - 2] in numbers for i in range(len(ids))]
            encoded[k][1].extend(token in (yes, *others) and ok for token, ok in zip(ids, after, strict=True))
        elif learn == LEFT:
            encoded[k][1].extend(i >= 1 and ids[i - 1] == left for i in range(len(ids)))
        else:
            encoded[k][1].extend([learn] * len(ids))
    return encoded


def batches(tokenizer, problems: list[dict], tokens: int, seed: int) -> Iterator[list[tuple[list[int], list[bool]]]]:
    """Batches of about `tokens` tokens, of documents of like length, without end: `[(ids, learnt), ...]`."""
    for chunk in itertools.count():
        rng = random.Random(f"{seed}-{chunk}")
        documents = encode(tokenizer, [document(problems, rng, *lesson(chunk))[1:] for _ in range(CHUNK)])
        documents.sort(key=lambda d: len(d[0]))
        made, batch = [], []
        for ids, learnt in documents:
            if (len(batch) + 1) * len(ids) > tokens:
                made.append(batch)
                batch = []
            batch.append((ids, learnt))
        rng.shuffle(made)
        yield from made


#: optimiser steps of the model in `data/embedded`
STEPS = 7500
#: share of the steps over which the rate falls to zero
DECAY = 0.45


def pretrain(
    directory: Path, steps_total: int = STEPS, tokens: int = 8_000, seed: int = 0, threads: int = 1,
    hidden: int = 128, layers: int = 4, log_every: int = 25, save_every: int = 250, stop: int | None = None,
) -> Path:  # fmt: skip
    """Pre-train from nothing (or go on from `directory/state.pt`) and save model and tokenizer into `directory`.

    Muon on the matrices, AdamW on the rest; the rate falls linearly to zero over the last `DECAY` of it. Writes
    `pretraining.jsonl`, a line per `log_every` steps. `stop`: end there, as if interrupted, with the schedule unchanged.
    """
    torch.set_num_threads(threads)
    set_seed(seed)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    config = Qwen2Config(
        vocab_size=64 * math.ceil(len(tokenizer) / 64), hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True,
        max_position_embeddings=512, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    # eager attention in bf16 is twice as fast as the fused kernels' backward on a CPU at these lengths
    model = Qwen2ForCausalLM._from_config(config, attn_implementation="eager")
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [0.02, 1e-2]
    problems = [r for r in countdown.load("pretrain", None, 0) if solvable(r)]
    step, seen = 0, 0
    if (state_file := directory / "state.pt").exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, seen = state["step"], state["seen"]
        logged = [line for line in files.read_jsonl(directory / "pretraining.jsonl") if line["step"] <= step]
        files.write_jsonl(directory / "pretraining.jsonl", logged)  # what a killed run wrote after its last save comes again
    bar = tqdm(total=steps_total, initial=step, desc="pre-training", unit="step")
    log = open(directory / "pretraining.jsonl", "a")
    began, running = time.time(), None
    for batch in itertools.islice(batches(tokenizer, problems, tokens, seed), step, stop or steps_total):  # a resumed run skips what it saw
        scale = min(1.0, (step + 1) / 50) * min(1.0, (1 - step / steps_total) / DECAY)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
        width = max(len(ids) for ids, _ in batch)
        ids = torch.full((len(batch), width), tokenizer.pad_token_id)
        learnt = torch.zeros((len(batch), width), dtype=torch.bool)
        for k, (row, mask) in enumerate(batch):
            ids[k, : len(row)] = torch.tensor(row)
            learnt[k, : len(row)] = torch.tensor(mask)
        where = learnt[:, 1:]
        with torch.autocast("cpu", torch.bfloat16):
            hidden_states = model.model(ids[:, :-1]).last_hidden_state[where]  # right padding needs no mask
            logits = model.lm_head(hidden_states)
        loss = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][where])
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        seen += int(ids.numel())
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        bar.update()
        if step % log_every == 0:
            bar.set_postfix(loss=f"{running:.3f}", tokens=f"{seen / 1e6:.1f}M")
            line = {"step": step, "loss": running, "tokens": seen, "lr": peaks[0] * scale, "seconds": time.time() - began}
            log.write(json.dumps(line) + "\n")
            log.flush()
        if step % save_every == 0:
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            torch.save(state | {"step": step, "seen": seen}, str(state_file) + ".new")
            Path(str(state_file) + ".new").replace(state_file)
            save(model, tokenizer, directory)
    bar.close()
    log.close()
    save(model, tokenizer, directory)
    return directory


def save(model, tokenizer, directory: Path) -> None:
    """Save model (bf16) and tokenizer."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


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
    spread = stats.paired_difference(by_kind[best], by_kind["empty"], clusters)
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
    shares = [("documents", miniature.MIXTURE), ("own reflections", miniature.KINDS), ("right answers", miniature.RIGHT)]
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
        + "; ".join(f"{begin}: {share:.0%} {sort}" for begin, share, sort in miniature.LESSONS),
        "\nThe loss is on the assistant's words; failed attempts are not learnt. Problems come from the pretrain split alone: multisets of "
        "numbers of train, dev and test occur in no document. Facts about two numbers (9 * 3 = 27) are shared by all splits. What "
        "follows an empty reflection is right as often as what follows none. A search computes in a fixed order from a random start, "
        "and may end without a hit. Mixture and lessons were fixed before this model was made, and it was made once.\n",
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
