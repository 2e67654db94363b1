"""Models for tests of the stages: a small Qwen2 with random weights that says what a test needs it to say, in seconds.

A random model never ends its turn and is never right. This one has a constant in two of its embedding's dimensions, which
the output matrix turns into rates: of each text that it says, and of the end after each. All else in it is random.
"""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from rrr_utils import evaluation, failures, needs, runs, training
from rrr_utils.miniature.tokenizer import TEMPLATE
from rrr_utils.settings import ROOT, Settings

#: three steps of two failures, each with four reflections; a dozen test items
FEW = {
    "train_queries": 12, "dev_items": 3, "test_items": 10, "rounds": [1, 2], "failures_wanted": 12, "attempt_tokens": 6,
    "reflection_tokens": 8, "steps": 3, "failures_per_step": 2, "reflections_per_failure": 4, "dev_every": 2, "micro_batch": 4,
    "sample_batch": 16, "threads": 1,
}  # fmt: skip


def byte_tokenizer(words: Iterable[str] = ()) -> Qwen2Tokenizer:
    """A token for every byte, and one for each of the words."""
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    return _dressed(Qwen2Tokenizer(vocab=alphabet, merges=[], **_ENDS), words)


def bpe_tokenizer(texts: list[str], size: int = 2000) -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer of about `size` tokens that is trained on the texts, as the class that `AutoTokenizer` picks."""
    blank = Qwen2Tokenizer(vocab={}, merges=[], **_ENDS).backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer, trained.decoder = (
        blank.normalizer,
        blank.pre_tokenizer,
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    learnt = json.loads(trained.to_str())["model"]
    return _dressed(Qwen2Tokenizer(vocab=learnt["vocab"], merges=[tuple(pair) for pair in learnt["merges"]], **_ENDS))


_ENDS = {"unk_token": "<|pad|>", "pad_token": "<|pad|>", "eos_token": "<|end|>", "padding_side": "left"}


def _dressed(tokenizer: Qwen2Tokenizer, words: Iterable[str] = ()) -> Qwen2Tokenizer:
    tokenizer.add_tokens(
        [AddedToken(f"<|{role}|>", special=True, normalized=False) for role in ("user", "assistant", "system")]
    )
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save_model(
    folder: Path, tokenizer: Qwen2Tokenizer, says: Iterable[str] | None = None, ends: float = 0.2, hidden: int = 64
) -> Path:
    """A model of two layers in `folder` that says the texts (a token each; none: any ordinary token) about equally often.

    `ends`: the chance that its turn ends after a token; never before the first one, so that no text is empty.
    """
    torch.manual_seed(0)
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    said = (
        [i for i in range(len(tokenizer)) if i not in special]
        if says is None
        else tokenizer.convert_tokens_to_ids(list(says))
    )
    assert not special & set(said), "each text that the model says must be a token"
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    embeddings, output = model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data
    embeddings.normal_(0, 0.05)
    output.normal_(0, 0.1)
    embeddings[:, 0], embeddings[:, 1], output[:, :2] = (
        1.0,
        0.0,
        0.0,
    )  # dimension 0: always there; 1: after a said token
    embeddings[said, 1] = 1.0
    quiet = torch.ones(len(tokenizer), dtype=torch.bool)
    quiet[said] = False
    output[quiet, 0] = -30 / math.sqrt(hidden)
    after = math.log(len(said) * ends / (1 - ends)) if 0 < ends < 1 else 30 * (1 if ends else -1)
    output[tokenizer.eos_token_id, 1] = 30 / math.sqrt(hidden) + after / math.sqrt(
        hidden / 2
    )  # what the norm makes of two ones
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def same_tokenizer(tokenizer: Qwen2Tokenizer, folder: Path, texts: list[str]) -> None:
    """Assert that `AutoTokenizer` makes of the folder what was saved, and that texts come back as they were."""
    loaded = AutoTokenizer.from_pretrained(folder)
    assert type(loaded) is type(tokenizer) and loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.eos_token_id == tokenizer.eos_token_id and loaded.chat_template == tokenizer.chat_template
    ids = tokenizer(texts)["input_ids"]
    assert loaded(texts)["input_ids"] == ids
    for own, text in zip(ids, texts, strict=True):
        assert loaded.decode(own) == text


def all_stages(settings: Settings) -> dict[str, dict]:
    """The four stages one after the other in this process, as the notebooks call them; their results by name."""
    vanilla, done = settings.model_copy(update={"seed": None}), {}
    failures.sample(settings)
    done["failures"] = failures.finish(settings)
    training.train(settings)
    done["train"] = training.finish(settings)
    for name, one in (("vanilla", vanilla), ("evaluate", settings)):
        evaluation.generate(one)
        done[name] = evaluation.finish(one)
    variables = run_notebook_04(settings)
    return {**done, "tables": variables["result"]}


def run_notebook_04(settings: Settings) -> dict:
    """The code of notebook 04 in this process with the settings as its parameters; returns its variables."""
    from IPython.core.inputtransformer2 import TransformerManager

    notebook = json.loads((ROOT / "notebooks" / "04_paper_tables.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    variables = {"__name__": "notebook"}
    for number, source in enumerate(code):
        exec(compile(TransformerManager().transform_cell(source), f"<code cell {number}>", "exec"), variables)
        if number == 0:
            variables |= {name: getattr(settings, name) for name in ("task", "model", "results_dir")} | {
                "overrides": overrides(settings)
            }
    return variables


def overrides(settings: Settings) -> dict:
    """What a notebook's `overrides` would hold to make these settings."""
    rest = settings.model_dump(mode="json")
    for name in ("profile", "task", "model", "seed", "results_dir"):
        rest.pop(name)
    return rest


def launch_all(settings: Settings) -> list[str]:
    """The four notebooks by the launcher, each in a process of its own; returns the last line of each."""
    vanilla, said = settings.model_copy(update={"seed": None}), []
    for stage, one in (
        ("failures", settings),
        ("train", settings),
        ("evaluate", vanilla),
        ("evaluate", settings),
        ("tables", settings),
    ):
        line = needs.command(one, stage)
        words = [sys.executable, *shlex.split(line)[1:]]
        made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert made.returncode == 0, f"{line}\n{made.stdout[-2000:]}\n{made.stderr[-2000:]}"
        assert (runs.stage_dir(one, stage) / "run.ipynb").is_file() and runs.done(one, stage)
        said.append(made.stdout.strip().splitlines()[-1])
    return said
