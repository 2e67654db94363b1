"""Small random models of the paper's families: their architectures, ends of turn and generation configs, with the real
tokenizers (of ../shared, where it is there) or with a small one of our own that has the same markers of turns.

A random model is never right. These say texts that a test names: each token of the texts has a dimension of the
embedding to itself, and the output matrix makes of it the tokens that come after it in the texts, as often as there. All
else, the layers among it, is random, and small beside it.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from rrr_utils.conversation import prompt_ids
from rrr_utils.settings import ROOT, Settings, load

REAL = ROOT.parent / "shared" / "data" / "tokenizers"
HIDDEN, HEADS = 64, 4


class Family(NamedTuple):
    """What a family's checkpoints are like."""

    kind: str  # of transformers' classes
    real: str | None  # folder of its tokenizer in ../shared
    embeddings: int  # rows of its embedding matrix
    shape: dict[str, Any]  # the rest of config.json that is its own
    ends: dict[str, float]  # tokens of generation_config.json that end a turn; how often the small model says each
    generation: dict[str, Any]  # the rest of generation_config.json
    begins: int  # tokens at the begin of each text (BOS)
    markers: tuple[str, ...]  # special tokens of our own tokenizer: markers of turns, and idle ones
    template: str  # of our own tokenizer
    own: dict[str, Any]  # its bos, eos and pad, and what else tokenizer_config.json says on the hub
    turn: str  # begins an answer


_SMALL = {
    "hidden_size": HIDDEN, "intermediate_size": 2 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS,
    "tie_word_embeddings": False,
}  # fmt: skip
_IM = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_HEADER = "<|start_header_id|>{{ %s }}<|end_header_id|>\n\n"
FAMILIES = {
    "qwen2.5": Family(
        "Qwen2", "qwen2.5", 151936,
        {"num_key_value_heads": 2, "max_position_embeddings": 32768, "rope_theta": 1e6, "bos_token_id": 151643,
         "sliding_window": 32768, "use_sliding_window": False, "max_window_layers": 21},
        {"<|im_end|>": 0.8, "<|endoftext|>": 0.2},
        {"do_sample": True, "repetition_penalty": 1.1, "temperature": 0.7, "top_p": 0.8, "top_k": 20},
        0, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>"),
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + _IM
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "<|im_start|>assistant\n",
    ),
    "llama-3": Family(
        "Llama", "llama-3.1", 128256,
        {"num_key_value_heads": 2, "max_position_embeddings": 131072, "rope_theta": 5e5, "bos_token_id": 128000,
         "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3",
                          "original_max_position_embeddings": 8192}},
        {"<|eot_id|>": 0.8, "<|end_of_text|>": 0.1, "<|eom_id|>": 0.1},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
        1, ("<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>",
            "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        "{{ bos_token }}" + _HEADER % "'system'"  # Llama-3.2 prints today's date
        + "Date: {{ date_string if date_string is defined else strftime_now('%d %b %Y') }}<|eot_id|>{% for m in messages %}"
        + _HEADER % "m.role" + "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        + "{% if add_generation_prompt %}" + _HEADER % "'assistant'" + "{% endif %}",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "pad_token": None,
         "clean_up_tokenization_spaces": True},
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "phi-3.5": Family(
        "Phi3", "phi-3.5", 32064,
        {"num_key_value_heads": HEADS, "max_position_embeddings": 131072, "original_max_position_embeddings": 4096,
         "sliding_window": 262144, "rope_theta": 1e4, "bos_token_id": 1, "pad_token_id": 32000,
         "rope_scaling": {"type": "longrope", "short_factor": [1.0] * (HIDDEN // HEADS // 2),
                          "long_factor": [2.0] * (HIDDEN // HEADS // 2)}},
        {"<|end|>": 0.8, "<|assistant|>": 0.1, "<|endoftext|>": 0.1},
        {},
        0, ("<s>", "<|endoftext|>", "<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>"),
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}",
        {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        "<|assistant|>",
    ),
    "qwen3": Family(
        "Qwen3", None, 151936,
        {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 40960, "rope_theta": 1e6},
        {"<|im_end|>": 0.8, "<|endoftext|>": 0.2},
        {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20},
        0, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>", "<think>", "</think>"),
        _IM + "{% if add_generation_prompt %}<|im_start|>assistant\n"
        "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
        {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "<|im_start|>assistant\n",
    ),
}  # fmt: skip
#: each family with our own tokenizer, and with its real one
NAMES = [f"{name}, own" for name in FAMILIES] + [f"{name}, real" for name, one in FAMILIES.items() if one.real]

#: texts that the models say about equally often: answers, of which some are right, and reflections
SAID = {
    "countdown": [f"<answer>{d}{sign}40</answer>" for d in (1, 2, 3, 5, 6, 7) for sign in (" +", " *")]
    + 4 * ["I was wrong ."],
    "function_calling": [f'[{{"name":"ping","arguments":{{"n":{n}}}}}]' for n in (3, 5, 7)] + ["I was wrong ."],
}
_WORDS = ("answer", "</", " +", " *", "40", "name", '[{"', '":"', "ping", '","', "arguments", '":{"', '":', "}}", "I was wrong", " .")  # fmt: skip


def present(name: str) -> bool:
    """Whether the tokenizer of one of NAMES is there."""
    family, whose = name.split(", ")
    return whose == "own" or (REAL / FAMILIES[family].real / "tokenizer.json").is_file()


def own_tokenizer(family: Family) -> PreTrainedTokenizerFast:
    """A token for each byte, for each of the family's markers and for each word that the models say."""
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    built = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    built.pre_tokenizer, built.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    built.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in family.markers])
    built.add_tokens([AddedToken(word, normalized=False) for word in _WORDS])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=built, **family.own)
    tokenizer.chat_template = family.template
    return tokenizer


def save_tokenizer(folder: Path, name: str) -> Path:
    """The tokenizer of one of NAMES, in `folder/model`, as it lies beside a hub checkpoint."""
    family, folder = FAMILIES[name.split(", ")[0]], folder / "model"
    folder.mkdir(parents=True)
    if name.endswith("own"):
        own_tokenizer(family).save_pretrained(folder)
    else:
        for file in (REAL / family.real).iterdir():
            shutil.copy(file, folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        (folder / "tokenizer_config.json").write_text(json.dumps(config | family.own), encoding="utf-8")
    return folder


def save(folder: Path, name: str, task: str) -> Path:
    """The model of one of NAMES, which says the texts of a task, in `folder/model`, as a hub checkpoint lies."""
    family, folder = FAMILIES[name.split(", ")[0]], save_tokenizer(folder, name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = dict(zip(tokenizer.convert_tokens_to_ids(list(family.ends)), family.ends.values(), strict=True))
    rows = family.embeddings if name.endswith("real") else len(tokenizer)
    shape = family.shape if name.endswith("real") else {k: v for k, v in family.shape.items() if "token_id" not in k}
    other = {} if name.endswith("real") else {"bos_token_id": None, "pad_token_id": None}
    config = getattr(transformers, f"{family.kind}Config")(
        **_SMALL, **other, **shape, vocab_size=rows, eos_token_id=next(iter(ends))
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family.kind}ForCausalLM")(config)
    _teach(model, _chain(tokenizer, SAID[task], ends))
    model.save_pretrained(folder)
    GenerationConfig(eos_token_id=list(ends), **family.generation).save_pretrained(folder)
    return folder


def _chain(tokenizer: Any, texts: list[str], ends: dict[int, float]) -> dict[int, Counter]:
    """How often each token follows another one, from a prompt's last token to the ends of a turn."""
    after = defaultdict(Counter)
    start = prompt_ids(tokenizer, [[{"role": "user", "content": "x"}]])[0][-1]
    for text in texts:
        ids = [start, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        for one, following in zip(ids, ids[1:], strict=False):
            after[one][following] += 1
        for end, share in ends.items():
            after[ids[-1]][end] += share
    return after


def _teach(model: torch.nn.Module, after: dict[int, Counter]) -> None:
    """Make the model follow the chain."""
    embeddings, output = model.get_input_embeddings().weight.data, model.get_output_embeddings().weight.data
    assert len(after) <= HIDDEN and embeddings.data_ptr() != output.data_ptr()
    output.zero_()
    for dimension, (token, following) in enumerate(after.items()):
        embeddings[token] = 0.0
        embeddings[token, dimension] = 1.0
        for one, count in following.items():  # the last norm makes sqrt(HIDDEN) of the 1
            output[one, dimension] = (30 + math.log(count / following.total())) / math.sqrt(HIDDEN)


def source(folder: Path, task: str) -> Path:
    """A file of problems that the answers of SAID are right for."""
    path = folder / f"{task}.jsonl"
    if task == "countdown":
        pairs = [(d, target) for d in (1, 2, 3, 5, 6, 7) for target in (d + 40, d * 40)]
        rows = [{"target": target, "nums": [d, 40]} for d, target in pairs]
    else:
        tool = {
            "name": "ping",
            "description": "Ping.",
            "parameters": {"n": {"description": "How often.", "type": "int"}},
        }
        calls = [[{"name": "ping", "arguments": {"n": n}}] for n in (5, 7) for _ in range(30)]
        columns = {"tools": json.dumps([tool])}
        rows = [
            {
                "id": k,
                "query": f"Ping it {call[0]['arguments']['n']} times ({k})",
                "answers": json.dumps(call),
                **columns,
            }
            for k, call in enumerate(calls)
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def given(folder: Path, model: Path, task: str, **more: Any) -> Settings:
    """Two steps of three failures, each with eight reflections and four retries after each, in 4 bits."""
    few = {
        "task": task, "model": str(model), "source": str(source(folder, task)), "results_dir": str(folder / "runs"),
        "train_queries": 9, "dev_items": 2, "test_items": 2, "rounds": [1, 2], "failures_wanted": 12, "attempt_tokens": 16,
        "reflection_tokens": 12, "steps": 2, "failures_per_step": 3, "reflections_per_failure": 8,
        "retries_per_reflection": 4, "fresh_tries": 4, "dev_every": 2, "micro_batch": 24, "sample_batch": 32, "threads": 1,
    }  # fmt: skip
    return load("tiny", {**few, **more})
