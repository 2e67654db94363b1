"""Pre-training of an embedded model from nothing (notebook A1)."""

import copy
import itertools
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import torch
from tqdm.auto import tqdm
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer, set_seed

from rrr_utils import decoding, files, miniature
from rrr_utils.miniature.documents import Document
from rrr_utils.miniature.tokenizer import build_tokenizer

# batches come in a hundred shapes and oneDNN keeps a kernel for each: without a limit memory grows for the whole hour
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "200")

CHUNK = 8192  # documents that are made, and sorted by length, at a time
DECAY = 0.45  # share of the steps over which the learning rate falls to zero
PEAKS = (0.02, 1e-2)  # highest learning rates: Muon's for matrices, AdamW's for the rest
Encoded = tuple[list[int], list[bool]]  # token ids, and which of them are learnt


def encode(corpus: ModuleType, tokenizer: Qwen2Tokenizer, documents: list[Document]) -> list[Encoded]:
    """Token ids of each document, and which are learnt: those messages with their `<|end|>`, or a part."""
    pieces = []  # document, text, what is learnt of it
    for k, (_, messages, learnt) in enumerate(documents):
        for message, learn in zip(messages, learnt, strict=True):
            pieces += [(k, f"<|{message['role']}|>", False), (k, f"{message['content']}<|end|>", learn)]
    encoded = [([], []) for _ in documents]
    partly = corpus.lessons(tokenizer)
    all_ids = tokenizer([text for _, text, _ in pieces], add_special_tokens=False)["input_ids"]
    for (k, _, learn), ids in zip(pieces, all_ids, strict=True):
        here = partly[learn](ids) if isinstance(learn, str) else [learn] * len(ids)
        encoded[k][0].extend(ids)
        encoded[k][1].extend(here)
    return encoded


def batches(corpus: ModuleType, tokenizer: Qwen2Tokenizer, tokens: int, seed: int) -> Iterator[list[Encoded]]:
    """Endless batches of at most `tokens` tokens with padding, each of documents of similar length."""
    problems = corpus.problems()
    for chunk in itertools.count():
        rng = random.Random(f"{seed}-{chunk}")
        documents = encode(corpus, tokenizer, [corpus.document(problems, rng, chunk) for _ in range(CHUNK)])
        documents.sort(key=lambda d: len(d[0]))
        made = [[]]
        for one in documents:
            if (len(made[-1]) + 1) * len(one[0]) > tokens:
                made.append([])
            made[-1].append(one)
        made.pop()  # it may not be full
        rng.shuffle(made)
        yield from made


class Muon(torch.optim.Muon):
    """torch's Muon with its Newton-Schulz steps in fp32, for CPUs without instructions for bf16."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])
                wide = update if update.shape[0] <= update.shape[1] else update.T
                wide = wide / wide.norm().clamp(min=group["eps"])
                a, b, c = group["ns_coefficients"]
                for _ in range(group["ns_steps"]):
                    gram = wide @ wide.T
                    wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                update = wide if update.shape[0] <= update.shape[1] else wide.T
                p.add_(update, alpha=-group["lr"] * math.sqrt(max(1, p.shape[0] / p.shape[1])))


def bf16_is_fast() -> bool:
    """Whether this CPU has instructions for bf16; without them the pre-training is in fp32."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16") or has.get("amx_bf16"))


def new_model(tokenizer: Qwen2Tokenizer, hidden: int, layers: int) -> tuple[Qwen2ForCausalLM, list]:
    """A model with random weights, and its optimizers: Muon for the matrices, AdamW for embeddings and norms."""
    config = Qwen2Config(
        vocab_size=64 * math.ceil(len(tokenizer) / 64), hidden_size=hidden, intermediate_size=4 * hidden,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True,
        max_position_embeddings=512, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    # on a CPU at these lengths, eager attention is twice as fast as the fused kernels' backward in bf16, not in fp32
    model = Qwen2ForCausalLM._from_config(config, attn_implementation="eager" if bf16_is_fast() else "sdpa")
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n}
    rest = [p for n, p in model.named_parameters() if n not in matrices]
    muon = (torch.optim.Muon if bf16_is_fast() else Muon)(
        matrices.values(), lr=PEAKS[0], momentum=0.95, weight_decay=0.01
    )
    return model, [muon, torch.optim.AdamW(rest, lr=PEAKS[1], betas=(0.9, 0.95), weight_decay=0.0)]


def batch_loss(model: Qwen2ForCausalLM, batch: list[Encoded], pad: int) -> tuple[torch.Tensor, int]:
    """Mean cross-entropy of the learnt tokens, and how many tokens the batch has with its padding."""
    width = max(len(row) for row, _ in batch)
    ids = torch.tensor([row + [pad] * (width - len(row)) for row, _ in batch])
    learnt = torch.tensor([mask + [False] * (width - len(mask)) for _, mask in batch])[:, 1:]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16_is_fast()):
        logits = model.lm_head(model.model(ids[:, :-1]).last_hidden_state[learnt])  # padding is right: no mask needed
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learnt]), ids.numel()


def pretrain(
    task: str, directory: Path, steps_total: int | None = None, tokens: int = 8_000, seed: int = 0, threads: int = 1,
    hidden: int = 128, layers: int = 4, log_every: int = 25, save_every: int = 250, stop: int | None = None,
) -> None:  # fmt: skip
    """Pre-train a task's model from nothing, or go on from `directory/state.pt`; save model (bf16) and tokenizer there.

    `steps_total`: optimiser steps of at most `tokens` tokens; None: the corpus's own.
    Writes `pretraining.jsonl`, a line for every `log_every` steps. `stop`: end after this step as if interrupted.
    """
    torch.set_num_threads(threads)
    decoding.keep_memory()
    set_seed(seed)
    corpus = miniature.module(task)
    steps_total = steps_total or corpus.STEPS
    tokenizer = build_tokenizer(task)
    model, optimizers = new_model(tokenizer, hidden, layers)
    step, seen = resume(directory, model, optimizers)
    bar = tqdm(total=steps_total, initial=step, desc="pre-training", unit="step")
    began, running = time.time(), None
    stream = itertools.islice(batches(corpus, tokenizer, tokens, seed), step, stop or steps_total)
    for batch in stream:  # a resumed run skips those that it has seen
        scale = min(1.0, (step + 1) / 50) * min(1.0, (1 - step / steps_total) / DECAY)
        loss, size = batch_loss(model, batch, tokenizer.pad_token_id)
        loss.backward()
        for optimizer, peak in zip(optimizers, PEAKS, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad()
        step, seen = step + 1, seen + size
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        bar.update()
        if step % log_every == 0:
            bar.set_postfix(loss=f"{running:.3f}", tokens=f"{seen / 1e6:.1f}M")
            line = {"step": step, "loss": running, "tokens": seen, "lr": PEAKS[0] * scale}
            files.append_jsonl(directory / "pretraining.jsonl", [line | {"seconds": time.time() - began}])
        if step % save_every == 0 or step == steps_total:
            copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
            tokenizer.save_pretrained(directory)
            state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
            torch.save(state | {"step": step, "seen": seen}, directory / "state.pt.new")
            (directory / "state.pt.new").replace(directory / "state.pt")
    bar.close()


def resume(directory: Path, model: Qwen2ForCausalLM, optimizers: list[torch.optim.Optimizer]) -> tuple[int, int]:
    """Load `directory/state.pt` if there is one; returns the steps done and the tokens seen."""
    state, log = {"step": 0, "seen": 0}, directory / "pretraining.jsonl"
    if (directory / "state.pt").exists():
        state = torch.load(directory / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    # the lines after the last save are written again
    files.write_jsonl(log, [line for line in files.read_log(log) if line["step"] <= state["step"]])
    return state["step"], state["seen"]
