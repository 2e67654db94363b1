"""Pre-training of the embedded model from nothing, with one seed (notebook A1)."""

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

from rrr_utils import conversation, files
from rrr_utils.miniature import corpus
from rrr_utils.miniature.corpus import LEFT, VERDICTS, document, lesson, solvable
from rrr_utils.miniature.tokenizer import build_tokenizer
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
    numbers = set(tokenizer.convert_tokens_to_ids([f" {i}" for i in range(corpus.LARGEST_NUMBER + 1)]))
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
