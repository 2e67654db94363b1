"""Sizes that fit a card, by arithmetic from the model's config, the token limits and the card's total memory.

The bytes are of a decoder with gated MLPs and grouped heads, as in Qwen, Llama and Phi: weights and cache exactly, the
rest by counting what transformers, peft and trl allocate at these models' real sizes, on torch's meta device (the tests
count again). Nothing was measured on a GPU: what its allocator wastes is in RESERVE, a tenth, and CACHE_SLACK.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from rrr_utils import conversation, models, runs, tasks
from rrr_utils.errors import SettingsError
from rrr_utils.settings import Settings

#: of a card: what its driver, kernels and half-used blocks take, besides a tenth of it
RESERVE = 1.5 * 2**30
#: the growing cache is copied layer by layer, and leaves blocks that nothing else fits in
CACHE_SLACK = 1.25
#: an NF4 weight: half a byte, and a float32 scale for each 64
NF4_BYTES = 0.5 + 4 / 64
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
#: what a task's request to reflect and the marks of turns add to a prompt
REQUEST_TOKENS = 64
#: tokens of a prompt that the sampler reads at a time: all at once the MLPs would need more than the whole cache
PREFILL_TOKENS = 128
#: bytes a logit: of a sampled sequence's last token, and of each token of a reflection in training
LOGIT = 20
#: activations a token as (times hidden, times wide): of a layer while a prompt is read, mostly the adapter's copies in
#: float32; where the MLP's gate and up are one matrix; by Unsloth, which copies nothing
READ, READ_FUSED, READ_UNSLOTH = (6, 7), (6, 10), (6, 4)
#: and in training: of a layer that is made again by gradient checkpointing, of each layer without it
REMADE, KEPT = (23, 9), (20, 5)


class Shape(NamedTuple):
    """What of a model's config counts; `fused`: the MLP's gate and up are one matrix (Phi-3)."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    wide: int
    vocabulary: int
    tied: bool = False
    fused: bool = False

    @property
    def linear(self) -> int:
        """Weights of the linear layers, which 4 bits can hold: attention's four matrices and the MLP's three."""
        attention = 2 * self.hidden * self.head * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.wide)

    @property
    def embeddings(self) -> int:
        """Weights that no 4 bits hold: of the embedding, and of the output matrix where it is one of its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def adapter(self) -> int:
        """Weights of an adapter of rank 1 on every linear layer."""
        attention = 4 * self.hidden + 2 * self.head * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * (self.hidden + self.wide))

    @property
    def cache(self) -> int:
        """Numbers that the cache keeps of a token: keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head

    def activations(self, times: tuple[int, int]) -> int:
        """A token's, in numbers."""
        return times[0] * self.hidden + times[1] * self.wide


#: for the examples: Qwen2.5-1.5B
QWEN = Shape(hidden=1536, layers=28, heads=12, kv_heads=2, head=128, wide=8960, vocabulary=151936, tied=True)


def shape(config: Any) -> Shape:
    """The shape in a model's config: of transformers (of several, the text model's), or a config.json's values."""
    if isinstance(config, Shape):
        return config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    heads = text.num_attention_heads
    return Shape(
        text.hidden_size, text.num_hidden_layers, heads, getattr(text, "num_key_value_heads", None) or heads,
        getattr(text, "head_dim", None) or text.hidden_size // heads,
        getattr(text, "intermediate_size", None) or 4 * text.hidden_size, text.vocab_size,
        bool(getattr(config, "tie_word_embeddings", False)), text.model_type == "phi3",
    )  # fmt: skip


def known_shape(settings: Settings) -> Shape:
    """The shape of the settings' model, without transformers and the hub: of data/models.yaml, or of a config.json that
    is here. Raises SettingsError where there is neither.

    >>> known_shape(Settings(model="Qwen/Qwen2.5-1.5B-Instruct")) == QWEN
    True
    """
    if listed := (models.known(settings.model) or {}).get("shape"):
        return Shape(**listed)
    with runs.offline():
        path = models.cached(settings.model) or Path(runs.model_path(settings)[0]) / "config.json"
    try:
        return shape(SimpleNamespace(**json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError, AttributeError):
        text = f"the shape of model '{settings.model}' is not known here: it is not in data/models.yaml"
        raise SettingsError(f"{text}, and no config.json of it is here") from None


def fixed_bytes(settings: Settings, one: Shape, stage: str) -> float:
    """What lies on the card all the time: the weights, and in training a gradient and Adam's two moments of each that
    learns, all in float32 (without an adapter of all weights, and then those of the KL's reference once more).

    >>> round(fixed_bytes(Settings(lora_rank=0, load_in_4bit=False, policies=["trained"]), QWEN, "failures") / 1e9, 2)
    3.09
    """
    size = BYTES[settings.dtype]
    if settings.lora_rank == 0 and stage == "train":
        return (one.linear + one.embeddings) * (16 + (4 if settings.beta else 0))
    adapter = settings.lora_rank * one.adapter * {"failures": 0, "train": 16, "evaluate": 4}[stage]
    return one.linear * (NF4_BYTES if settings.load_in_4bit else size) + one.embeddings * size + adapter


def sampled_bytes(one: Shape, size: int, prompt: int, new: int, unsloth: bool = False) -> float:
    """Of a sequence that is sampled: while its prompt is read, or at its last token where that is more. `prompt`,
    `new`: tokens; `size`: bytes of the dtype; `unsloth`: it reads a prompt whole.

    >>> [round(sampled_bytes(QWEN, 2, 500, 128, unsloth) / 2**20) for unsloth in (False, True)]
    [35, 60]
    """
    cache = CACHE_SLACK * one.cache * size
    at_once, times = (min(prompt, PREFILL_TOKENS), READ_FUSED if one.fused else READ)
    if unsloth:
        at_once, times = prompt, READ_UNSLOTH
    repeated = 2 * one.heads * one.head * size  # a layer's keys and values, once for each head
    reading = prompt * cache + at_once * one.activations(times) * size
    return max(reading, (prompt + new) * (cache + repeated) + LOGIT * one.vocabulary)


def trained_bytes(one: Shape, size: int, prompt: int, new: int, checkpointing: bool) -> float:
    """Of a reflection in a forward and backward pass. With checkpointing each layer's input stays, and its activations
    are made again, a layer at a time, when the logits are gone.

    >>> [round(trained_bytes(QWEN, 2, 200, 256, checkpointing) / 2**20) for checkpointing in (True, False)]
    [779, 2581]
    """
    tokens, logits = (prompt + new) * size, new * LOGIT * one.vocabulary
    if checkpointing:
        return tokens * one.layers * one.hidden + max(tokens * one.activations(REMADE), logits)
    return tokens * one.layers * one.activations(KEPT) + logits


def steps_per_generation(accumulation: int, micro: int, group: int, most: int, processes: int = 1) -> int:
    """How many micro-batches trl generates at a time: a divisor of the accumulated ones, so that every reflection is
    of the model that learns from it; whole groups; at most `most` reflections a process, or as few as go.

    >>> [steps_per_generation(accumulation=32, micro=8, group=8, most=most) for most in (4096, 100, 8, 4)]
    [32, 8, 1, 1]
    >>> steps_per_generation(accumulation=64, micro=4, group=8, most=4)
    2
    """
    whole = [n for n in range(1, accumulation + 1) if accumulation % n == 0 and n * micro * processes % group == 0]
    return max((n for n in whole if n * micro <= most), default=whole[0])


def sizes(settings: Settings, config: Any, total_bytes: int, stage: str, question_tokens: int = 256) -> dict[str, int]:
    """`sample_batch`, `generation_batch` and `micro_batch` for a stage ("failures", "train", "evaluate"): the settings'
    values where these fit, else less. The effective batch stays as it is.

    `settings`: their backend chosen; `config`: the model's own, or its shape; `total_bytes`: all memory of the card,
    free or not, or of the machine on a CPU; `question_tokens`: the longest. SettingsError where the weights do not fit.
    """
    s, one, size = settings, shape(config), BYTES[settings.dtype]
    room = 0.9 * total_bytes - RESERVE - fixed_bytes(s, one, stage)
    if room <= 0:
        takes, there = (number / 2**30 for number in (fixed_bytes(s, one, stage), total_bytes))
        text = f"model {s.model} takes {takes:.1f} GiB before it says a word, and this machine has {there:.1f}"
        raise SettingsError(f"{text}: choose a smaller model or a larger GPU, or 4-bit weights and an adapter")
    question, asked = question_tokens, question_tokens + s.attempt_tokens + REQUEST_TOKENS
    trained = (question, s.attempt_tokens) if s.objective == "answer" else (asked, s.reflection_tokens)
    retried = (asked + s.reflection_tokens + question + REQUEST_TOKENS, s.attempt_tokens)
    unsloth = stage == "train" and s.backend != "transformers"
    found = {name: getattr(s, name) for name in ("sample_batch", "generation_batch", "micro_batch")}
    rows = int(
        room / sampled_bytes(one, size, *((question, s.attempt_tokens) if stage == "failures" else retried), unsloth)
    )
    if rows < s.sample_batch:
        found["sample_batch"] = max(1, rows // 8 * 8 or rows)
    if stage != "train":
        return found
    share = s.failures_per_step * s.reflections_per_failure // s.gpus
    micro, rows = min(s.micro_batch, share), int(room / trained_bytes(one, size, *trained, s.gradient_checkpointing))
    if rows < micro:
        micro = found["micro_batch"] = max(n for n in range(1, max(1, rows) + 1) if share % n == 0)
    rows = int(room / sampled_bytes(one, size, *trained, unsloth))
    if rows < min(s.generation_batch, share):
        steps = steps_per_generation(share // micro, micro, s.reflections_per_failure, rows, s.gpus)
        found["generation_batch"] = steps * micro
    return found


def question_tokens(settings: Settings, stage: str) -> int:
    """The longest of the first 200 questions that a stage asks, in tokens, and a quarter more for the others'."""
    from rrr_utils import tokens  # transformers

    task, split = tasks.get(settings.task), "test" if stage == "evaluate" else "train"
    rows = tasks.load(task, split, 200, runs.source_of(settings, split), settings.max_bad_rows)
    asked = [conversation.attempt(task, row, settings.chain_of_thought) for row in rows]
    found = conversation.prompt_ids(tokens.load(*runs.model_path(settings)), asked)
    return max(map(len, found)) * 5 // 4
