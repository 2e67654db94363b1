"""What a step costs on a GPU for a model with a real one's shape: python tests/benchmarks/bench.py --gpu-rates.

A random-weight Qwen2-1.5B in NF4 with LoRA rank 16: 8 reflections per failure, prompts of 800 tokens, reflections of
256, retries of 128. Random weights hardly ever end a turn, so every text has its full length. What forecasts and plans
take of it goes to results/rates.csv, under the names of the real models of that shape; other lines there stay.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import helpers_models
import torch
from step_clock import measure, now
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from rrr_utils import conversation, engines, files, gpus, models, provenance, settings, tasks
from rrr_utils.settings import Settings

QWEN2_15B = {
    "vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True, "max_position_embeddings": 32_768,
}  # fmt: skip
TOKENS = {"prompt": 800, "reflection": 256, "retry": 128}
#: conversations in a decoding step, and the columns of what is kept
ROWS = (32, 256, 1024)
COLUMNS = ("hardware", "model", "engine", "backend", "what", "rate", "versions")


def random_model(folder: Path, shape: dict) -> None:
    """Save a model of that shape with random weights, and a tokenizer with a word for each of its tokens."""
    tokenizer = helpers_models.byte_tokenizer()
    tokenizer.add_tokens([f" w{k}" for k in range(shape["vocab_size"] - len(tokenizer))])
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2Config(**shape, bos_token_id=None, **ends)
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def long_failures(given: Settings, number: int, tokens: dict[str, int]) -> list[dict]:
    """Failures with conversations of exactly `tokens["prompt"]` tokens, up to and with the request to reflect."""
    task, tokenizer = tasks.get(given.task), AutoTokenizer.from_pretrained(given.model)
    words = len(tokenizer) - 300

    def conversations(length: int) -> Iterator[dict]:
        for row, failed in zip(task.load("train", number, 0, f"{length} of {words}"), attempts, strict=True):
            yield {"id": row["id"], "row": row, "attempt": failed["text"]}

    attempts = task.load("dev", number, 0, f"{min(tokens['retry'], tokens['prompt'] // 4)} of {words}")
    first = next(conversations(1))
    messages = conversation.reflect(task, first["row"], first["attempt"])
    rest = len(
        tokenizer(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))["input_ids"]
    )
    return list(conversations(tokens["prompt"] - rest + 1))


def rates(shape: dict, tokens: dict[str, int], steps: int, overrides: dict | None = None) -> list[dict]:
    """GRPO with retries on a random model: a row for each phase with seconds a step, tokens a second, peak GiB."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        random_model(home / "model", shape)
        given = settings.load("single_gpu", {
            "task": str(Path(__file__).with_name("words_task.py")), "model": str(home / "model"), "source": None,
            "steps": 1 + steps, "lora_rank": 16, "lora_alpha": 32, "failures_per_step": 4, "reflections_per_failure": 8,
            "dev_every": 10_000, "attempt_tokens": tokens["retry"], "reflection_tokens": tokens["reflection"],
            **(overrides or {}),
        })  # fmt: skip
        row = measure(given, long_failures(given, 4 * given.failures_per_step, tokens), None, home)
    batch = given.failures_per_step * given.reflections_per_failure
    whole = batch * (tokens["prompt"] + tokens["reflection"])
    counts = {
        "step": batch * (tokens["reflection"] + tokens["retry"]), "generation": batch * tokens["reflection"],
        "retries": batch * tokens["retry"], "log-probabilities": whole * (2 if given.beta else 1), "backward": whole,
    }  # fmt: skip
    made = provenance.provenance(time.time())
    layers, hidden, vocabulary = (shape[name] for name in ("num_hidden_layers", "hidden_size", "vocab_size"))
    common = {
        "model": f"random Qwen2, {layers} layers of {hidden}, vocabulary {vocabulary}",
        "weights": "NF4" if given.load_in_4bit else given.dtype, "lora_rank": given.lora_rank, "dtype": given.dtype,
        "reflections": batch, "micro_batch": given.micro_batch,
        **{f"{name}_tokens": count for name, count in tokens.items()},
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else "",
        "hardware": json.dumps(made["hardware"]), "versions": json.dumps(made["packages"]),
    }  # fmt: skip
    seconds = {name: row["seconds" if name == "step" else name] for name in counts}
    return [
        {"phase": name, "seconds": round(seconds[name], 4), "tokens": count,
         "tokens_per_second": round(count / seconds[name], 1), **common}
        for name, count in counts.items()
    ]  # fmt: skip


def decoding(
    shape: dict, tokens: dict[str, int], rows: tuple[int, ...], overrides: dict | None = None
) -> dict[int, float]:
    """Seconds of a decoding step by transformers, by the conversations in it: of two lengths, what the longer takes more."""
    found, few = {}, tokens["retry"] // 4
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder), shape)
        task = str(Path(__file__).with_name("words_task.py"))
        given = settings.load(
            "single_gpu", {"task": task, "model": folder, "source": None, "engine": "hf", **(overrides or {})}
        )
        sampler = engines.make_sampler(given)
        sampler.progress = False
        for number in rows:
            sampler.batch, took = number, {}
            asked = [
                conversation.attempt(tasks.get(given.task), line["row"])
                for line in long_failures(given, number, tokens)
            ]
            for most in (few, few, tokens["retry"]):  # the first one warms up
                began = now()
                sampler.sample(asked, 1, most, 0.9, 0)
                took[most] = now() - began
            if sampler.batch == number:  # else memory ran out, and it was done in parts
                found[number] = (took[tokens["retry"]] - took[few]) / (tokens["retry"] - few)
    return found


def lines(shape: dict, phases: list[dict], decoded: dict[int, float]) -> list[dict]:
    """What forecasts read, for each listed model of that shape: seconds of a decoding step, tokens trained on a second."""
    ours = {"hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads", "wide": "intermediate_size",
            "kv_heads": "num_key_value_heads", "vocabulary": "vocab_size", "tied": "tie_word_embeddings"}  # fmt: skip
    known = {name: one.get("shape", {}) for name, one in models.listed().items()}
    same = [name for name, one in known.items() if all(one.get(key) == shape[theirs] for key, theirs in ours.items())]
    by = {row["phase"]: row for row in phases}
    learnt = by["backward"]["tokens"] / (by["log-probabilities"]["seconds"] + by["backward"]["seconds"])
    measured = [("", f"decode_{number}", seconds) for number, seconds in decoded.items()]
    measured.append(("transformers", "train_tokens", learnt))
    hardware, versions = gpus.card().name, f"random weights; {phases[0]['versions']}"
    return [
        dict(zip(COLUMNS, (hardware, name, "hf", backend, what, f"{rate:.5g}", versions), strict=True))
        for name in same
        for backend, what, rate in measured
    ]


def keep(path: Path, new: list[dict]) -> None:
    """Put lines into the CSV in the place of those of the same hardware, model, engine and backend."""
    which, there = COLUMNS[:4], []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            there = list(csv.DictReader(file))
    again = {tuple(line[name] for name in which) for line in new}
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows([line for line in there if tuple(line[name] for name in which) not in again] + new)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, text.getvalue())


def write(path: Path, steps: int) -> int:
    """Measure on the GPU and write the CSV; returns the exit status: 2 where there is no GPU."""
    if not torch.cuda.is_available() or gpus.card() is None:
        print("bench: --gpu-rates needs a CUDA GPU, and torch finds none here", file=sys.stderr)
        return 2
    phases = rates(QWEN2_15B, TOKENS, steps)
    for row in phases:
        print(", ".join(f"{name} {row[name]}" for name in ("phase", "seconds", "tokens_per_second", "peak_gib")))
    keep(path, new := lines(QWEN2_15B, phases, decoding(QWEN2_15B, TOKENS, ROWS)))
    print("\n".join(f"{line['model']}: {line['what']} {line['rate']}" for line in new) + f"\nwritten to {path}")
    return 0
