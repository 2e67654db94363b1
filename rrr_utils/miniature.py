"""The embedded model: a synthetic corpus, its tokenizer, and the pre-training (notebook A1).

A Qwen2-architecture model of about a million parameters learns, from chat documents alone, to guess equations, to
write several kinds of reflection, and to read what stands in a reflection. Nothing here knows of rewards. The corpus
mixture (`MIXTURE`, `KINDS`, `RIGHT`) was fixed before any reinforcement learning.

What a reflection computes is always the model's own work: one kind walks through equations in a fixed order and may
end without a hit. Only problems of the *pretrain* split occur, and arithmetic drills never chain two steps.
"""

from __future__ import annotations

import json
import math
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

from rrr_utils import conversation
from rrr_utils.tasks import countdown

#: share of documents
MIXTURE = {
    "answer": 0.15, "own": 0.33, "blind": 0.07, "generic": 0.03, "other": 0.03, "masked": 0.03, "drill": 0.18, "worked": 0.18,
}  # fmt: skip
#: share of reflections
KINDS = {"empty": 0.45, "value": 0.14, "usage": 0.12, "first_step": 0.14, "search": 0.15}
#: the first chunks (of 8,192 documents) are drills to this share: arithmetic is learnt first, and by heart
WARM_UP = {"chunks": 8, "drill": 0.7}
#: how often an answer in the corpus is right: alone, after a failed attempt, after a reflection that found an equation
RIGHT = {"answer": 0.60, "retry": 0.50, "hit": 0.98}
#: longest search: rows of equations before it gives up
MAX_ROWS = (3, 9)
#: largest result of a second step that is written down: no target is larger
LARGEST = 60

EMPTY = ("I should be more careful .", "I made a mistake and will try again .", "I will check my steps next time .")
GENERIC = ("Work step by step and check the result .", "Try other numbers first .", "Think about the target .")

Row = tuple[int, str, int, int, int, list[tuple[str, int]]]


def steps(nums: list[int]) -> list[Row]:
    """Every first step `a op b = c` on two of three numbers, in a fixed order, with what a second step with the third
    number d makes of it: `(a, op, b, c, d, [(op, value), ...])`. Differences and quotients are larger by smaller.

    >>> steps([3, 9, 4])[0]
    (9, '*', 3, 27, 4, [('+', 31), ('-', 23)])
    """
    rows, seen = [], set()
    for i, j in ((0, 1), (0, 2), (1, 2)):
        a, b, d = max(nums[i], nums[j]), min(nums[i], nums[j]), nums[3 - i - j]
        for op, c in (("*", a * b), ("+", a + b), ("-", a - b), ("/", a // b if a % b == 0 else 0)):
            if c == 0 or (c, d) in seen:
                continue
            high, low = max(c, d), min(c, d)
            second = [("+", c + d), ("-", high - low), ("*", c * d)] + ([("/", high // low)] if high % low == 0 else [])
            second = [(o, v) for o, v in second if 0 < v <= LARGEST]
            if second:
                seen.add((c, d))
                rows.append((a, op, b, c, d, second))
    return rows


def equation(row: Row, op: str) -> str:
    """The answer that a first step and the operation of the second make.

    >>> equation(steps([3, 9, 4])[0], "+")
    '<answer> ( 9 * 3 ) + 4 </answer>'
    """
    a, first, b, c, d, _ = row
    inner = f"( {a} {first} {b} )"
    swap = op in "-/" and c < d
    return f"<answer> {d} {op} {inner} </answer>" if swap else f"<answer> {inner} {op} {d} </answer>"


def search(rows: list[Row], target: int, start: int, most: int) -> tuple[str, str | None]:
    """A walk through the first steps from `start` on, and the answer it found, if any.

    >>> search(steps([3, 9, 4]), 31, 0, 3)
    ('Aim 31 ; 9 * 3 = 27 : + 31 yes .', '<answer> ( 9 * 3 ) + 4 </answer>')
    """
    words = ["Aim", str(target)]
    for k in range(min(most, len(rows))):
        row = rows[(start + k) % len(rows)]
        a, op, b, c, _, second = row
        words += [";", str(a), op, str(b), "=", str(c), ":"]
        for o, value in second:
            words += [o, str(value)]
            if value == target:
                return " ".join(words + ["yes", "."]), equation(row, o)
    return " ".join(words + ["."]), None


def wrong(rows: list[Row], target: int, rng: random.Random) -> tuple[str, int]:
    """An equation that misses the target, and its value."""
    options = [(row, o, v) for row in rows for o, v in row[5] if v != target]
    row, op, value = rng.choice(options)
    return equation(row, op), value


def right(rows: list[Row], target: int, rng: random.Random) -> str:
    """An equation that hits the target."""
    return equation(*rng.choice([(row, o) for row in rows for o, v in row[5] if v == target]))


def reflection(kind: str, row: dict, rows: list[Row], value: int, rng: random.Random) -> tuple[str, str | None]:
    """A reflection of a kind on an attempt that came to `value`, and the answer it leads to where it found one."""
    target = row["target"]
    if kind == "empty":
        return rng.choice(EMPTY), None
    if kind == "value":
        how = "low" if value < target else "high"
        return f"My result was {value} but the target is {target} : too {how} by {abs(value - target)} .", None
    if kind == "usage":
        return f"I must use each of {' , '.join(map(str, row['nums']))} exactly once .", None
    if kind == "first_step":
        good = [r for r in rows if any(v == target for _, v in r[5])]
        a, op, b, c, *_ = rng.choice(good if rng.random() < 0.5 else rows)
        return f"I could start with {a} {op} {b} = {c} .", None
    return search(rows, target, rng.randrange(len(rows)), rng.randint(*MAX_ROWS))


def mask_numbers(text: str) -> str:
    """A search with the results of its second steps hidden, for the control that masks the answer.

    >>> mask_numbers("Aim 31 ; 9 * 3 = 27 : + 31 yes .")
    'Aim ? ; ? * ? = ? : + ? yes .'
    """
    return re.sub(r"\d+", "?", text)


def drill(rng: random.Random) -> str:
    """Two-number facts, none of which goes on from the one before, so that no three numbers form a problem."""
    facts, last = [], None
    while len(facts) < 12:
        b = rng.randint(1, 15)
        a = rng.randint(1, 15) if rng.random() < 0.4 else rng.randint(1, LARGEST + 15)
        a, b = max(a, b), min(a, b)
        op = rng.choice("+-*/")
        if op == "/":
            a = a * b if a * b <= 225 else b * rng.randint(1, 15)
        c = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[op]
        if 0 < c <= 225 and last not in (a, b):
            facts.append(f"{a} {op} {b} = {c}")
            last = c
    return "Sums : " + " ; ".join(facts) + " ."


DRILL = "Write down some sums."
WORKED = "Write down what these numbers make until one result is right."


def document(problems: list[dict], rng: random.Random, drills: float = 0.0) -> tuple[str, conversation.Messages, list[bool]]:
    """One document: its kind, its messages, and for each message whether it is learnt from.

    `drills`: the share that is replaced by drills (in the warm-up).
    """
    kind = "drill" if rng.random() < drills else rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]
    if kind == "drill":
        return kind, [{"role": "user", "content": DRILL}, {"role": "assistant", "content": drill(rng)}], [False, True]
    row = dict(rng.choice(problems))
    row["nums"] = rng.sample(row["nums"], len(row["nums"]))
    rows = steps(row["nums"])
    if kind == "worked":  # the same walk as in a reflection, asked for outright: practice that says nothing of when to reflect so
        asked = f"{WORKED} {conversation.question(countdown, row)}"
        text, _ = search(rows, row["target"], rng.randrange(len(rows)), len(rows))
        return kind, [{"role": "user", "content": asked}, {"role": "assistant", "content": text}], [False, True]

    def answer(share: float) -> dict:
        text = right(rows, row["target"], rng) if rng.random() < share else wrong(rows, row["target"], rng)[0]
        return {"role": "assistant", "content": text}

    if kind == "answer":
        return kind, conversation.attempt(countdown, row) + [answer(RIGHT["answer"])], [False, True]
    failed, value = wrong(rows, row["target"], rng)
    if kind == "blind":
        return kind, conversation.blind_retry(countdown, row, failed) + [answer(RIGHT["retry"])], [False] * 3 + [True]
    which = rng.choices(list(KINDS), list(KINDS.values()))[0]
    found = None
    if kind == "own":
        text, found = reflection(which, row, rows, value, rng)
        kind = f"own_{which}"
    elif kind == "generic":
        text = rng.choice(GENERIC)
    elif kind == "other":
        stranger = rng.choice(problems)
        stranger_rows = steps(stranger["nums"])
        text, _ = reflection(which, stranger, stranger_rows, wrong(stranger_rows, stranger["target"], rng)[1], rng)
    else:
        text = mask_numbers(reflection("search", row, rows, value, rng)[0])
    last = answer(RIGHT["retry"])
    if found and rng.random() < RIGHT["hit"]:
        last = {"role": "assistant", "content": found}
    messages = conversation.retry(countdown, row, failed, text) + [last]
    return kind, messages, [False, False, False, kind.startswith("own"), False, True]


# --- tokenizer and model: from here on torch is needed, and imported where it is used ---------------------------------

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
LARGEST_NUMBER = 225


def fixed_sentences() -> list[str]:
    """The parts of the prompts that never change: each becomes one token, so that a task costs a dozen."""
    row = {"nums": [7777, 7777, 7777], "target": 7777}
    messages = conversation.retry(countdown, row, "", "") + conversation.blind_retry(countdown, row, "")
    messages += conversation.attempt(countdown, row, chain_of_thought=True)
    texts = [m["content"] for m in messages if m["role"] == "user"] + [f"{WORKED} {conversation.question(countdown, row)}", DRILL]
    parts = {part for text in texts for part in text.split(" 7777")}
    return sorted(parts - {"", ","}, key=len, reverse=True)


def words() -> list[str]:
    """Every word that the corpus can hold, with the space before it, and without where it can open a text."""
    sentences = (
        *EMPTY, *GENERIC, "My result was 1 but the target is 1 : too low by high", "I must use each of 1 , 1 exactly once .",
        "I could start with 1 * 1 = 1 .", "Aim 1 ; 1 * 1 = 1 : + 1 yes . ? - * / ( )", "Sums :", "<answer> ( 1 + 1 ) </answer>",
    )  # fmt: skip
    first = {text.split()[0] for text in sentences} | {","}
    rest = {f" {word}" for text in sentences for word in text.split()[1:]}
    numbers = [f" {i}" for i in range(LARGEST_NUMBER + 1)]
    return sorted(first) + sorted(rest - set(numbers)) + numbers


def build_tokenizer():
    """A lossless tokenizer with a chat template: one token for every number, word and fixed sentence, bytes for the rest.

    It is a `Qwen2Tokenizer`, since that is what `AutoTokenizer` makes of any folder that holds a Qwen2 model: a byte
    alphabet without merges, and every word an added token that carries the space before it.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(
        vocab=alphabet, merges=[], unk_token="<|pad|>", pad_token="<|pad|>", eos_token="<|end|>", padding_side="left", model_max_length=512,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(f"<|{role}|>", special=True, normalized=False) for role in ("user", "assistant", "system")])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in [*fixed_sentences(), *words()]])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def encode(tokenizer, documents: list[tuple[conversation.Messages, list[bool]]]) -> list[tuple[list[int], list[bool]]]:
    """Token ids of whole documents and which of them are learnt (an assistant's words and their `<|end|>`)."""
    pieces, owner, learnt = [], [], []
    for k, (messages, mask) in enumerate(documents):
        for message, learn in zip(messages, mask, strict=True):
            pieces += [f"<|{message['role']}|>", f"{message['content']}<|end|>"]
            owner += [k, k]
            learnt += [False, learn]
    encoded = [([], []) for _ in documents]
    for k, ids, learn in zip(owner, tokenizer(pieces, add_special_tokens=False)["input_ids"], learnt, strict=True):
        encoded[k][0].extend(ids)
        encoded[k][1].extend([learn] * len(ids))
    return encoded


def batches(tokenizer, problems: list[dict], tokens: int, seed: int, start: int = 0) -> Iterator[tuple[int, list]]:
    """Batches of about `tokens` tokens, of documents of like length, without end: `(chunk, [(ids, learnt), ...])`.

    A chunk of 8,192 documents comes from its own random stream, so that a resumed run sees what it would have seen.
    """
    chunk = start
    while True:
        rng = random.Random(f"{seed}-{chunk}")
        drills = WARM_UP["drill"] if chunk < WARM_UP["chunks"] else 0.0
        documents = encode(tokenizer, [document(problems, rng, drills)[1:] for _ in range(8192)])
        documents.sort(key=lambda d: len(d[0]))
        made, batch = [], []
        for ids, learnt in documents:
            if (len(batch) + 1) * len(ids) > tokens:
                made.append(batch)
                batch = []
            batch.append((ids, learnt))
        rng.shuffle(made)
        for batch in made:
            yield chunk, batch
        chunk += 1


def pretrain(
    directory: Path, steps_total: int = 5000, tokens: int = 8_000, seed: int = 0, threads: int = 1,
    hidden: int = 128, layers: int = 4, log_every: int = 25, save_every: int = 250,
) -> Path:  # fmt: skip
    """Pre-train from nothing (or go on from `directory/state.pt`) and save model and tokenizer into `directory`.

    Muon on the matrices, AdamW on the rest; the rate falls linearly to zero over the last half. Writes
    `pretraining.jsonl`, a line per `log_every` steps.
    """
    import torch
    from tqdm.auto import tqdm
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

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
    step, chunk, seen = 0, 0, 0
    if (state_file := directory / "state.pt").exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        step, chunk, seen = state["step"], state["chunk"] + 1, state["seen"]
    bar = tqdm(total=steps_total, initial=step, desc="pre-training", unit="step")
    log = open(directory / "pretraining.jsonl", "a")
    began, running = time.time(), None
    for chunk, batch in batches(tokenizer, problems, tokens, seed, chunk):
        if step >= steps_total:
            break
        scale = min(1.0, (step + 1) / 50) * min(1.0, 2 * (1 - step / steps_total))
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
            torch.save(state | {"step": step, "chunk": chunk, "seen": seen}, str(state_file) + ".new")
            Path(str(state_file) + ".new").replace(state_file)
            save(model, tokenizer, directory)
    bar.close()
    save(model, tokenizer, directory)
    return directory


def solvable(row: dict) -> bool:
    """Whether the search of the corpus can reach the target (fractions on the way are beyond it)."""
    return any(v == row["target"] for r in steps(row["nums"]) for _, v in r[5])


def save(model, tokenizer, directory: Path) -> None:
    """Save model (bf16) and tokenizer."""
    import copy

    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
