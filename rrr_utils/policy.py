"""The policy: base weights (NF4 or full), tokenizer, and the adapter that is trained.

One loader serves a CPU and a GPU. The traps of this stack are handled here, once, each pinned by a test:

- bitsandbytes on a CPU with AVX512-BF16 repacks 4-bit weights at the first eval-mode forward, after which gradients
  are wrong: `exact_4bit` switches that off.
- trl casts a 4-bit model's adapter to bf16, where small updates vanish: `trainable_to_float32` undoes it.
- Merging an adapter into 4-bit weights changes what the model says: it is never merged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rrr_utils import tasks
from rrr_utils.errors import SettingsError
from rrr_utils.settings import DATA, Settings


@dataclass
class Policy:
    """A model that speaks, and its tokenizer."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase

    @contextlib.contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Inside, the untrained base model speaks (nothing changes where there is no adapter)."""
        with without_adapter(self.model):
            yield


def without_adapter(model: torch.nn.Module) -> contextlib.AbstractContextManager:
    """peft's `disable_adapter`, or nothing for a model that has none."""
    return model.disable_adapter() if hasattr(model, "disable_adapter") and hasattr(model, "peft_config") else contextlib.nullcontext()


def model_path(settings: Settings) -> str:
    """Where the base model is: a folder of the repository for `embedded`, else the hub id or folder itself."""
    if settings.model != "embedded":
        return settings.model
    folder = DATA / "embedded" / Path(tasks.get(settings.task).__name__).name.split(".")[-1]
    if not (folder / "config.json").is_file():
        raise SettingsError(
            f"no embedded model for task '{settings.task}' ({folder}): set model to a hub id or a folder with a saved model"
        )
    return str(folder)


def choose_threads(settings: Settings) -> None:
    """CPU threads: on a busy machine one is faster than two, and with one thread results repeat to the bit."""
    if settings.threads:
        torch.set_num_threads(settings.threads)


def device() -> torch.device:
    """The first GPU that is visible, else the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer as saved, padding on the left, as generation needs it."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise SettingsError(f"the tokenizer of {path} has no chat template: choose an instruct model")
    return tokenizer


def load_base(settings: Settings) -> Policy:
    """Base weights in NF4 (or as they are), without an adapter."""
    choose_threads(settings)
    transformers_logging.disable_progress_bar()  # a bar per model load drowns the one that matters
    path, dtype = model_path(settings), getattr(torch, settings.dtype)
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported() and settings.dtype == "bfloat16":
        raise SettingsError("this GPU has no bfloat16: use -p preset=t4 or -p dtype=float16")
    quantization = None
    if settings.load_in_4bit:
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, quantization_config=quantization, device_map={"": device()})
        tokenizer = load_tokenizer(path)
    except OSError as error:
        raise SettingsError(
            f"cannot load model '{settings.model}': {first_line(error)} (is the name right, is the network there, and for a gated model: "
            "is its licence accepted on the hub and HF_TOKEN set?)"
        ) from None
    exact_4bit(model)
    return Policy(model.eval(), tokenizer)


def load_policy(settings: Settings, adapter: Path | None = None) -> Policy:
    """Base weights with a trained adapter on top, unmerged; with `lora_rank` 0 the folder holds the whole model."""
    if adapter is None:
        return load_base(settings)
    if settings.lora_rank == 0:
        return load_base(settings.model_copy(update={"model": str(adapter)}))
    base = load_base(settings)
    return Policy(PeftModel.from_pretrained(base.model, str(adapter)).eval(), base.tokenizer)


def lora_config(settings: Settings) -> LoraConfig | None:
    """An adapter on every linear layer, without dropout (GRPO compares log-probabilities of the same text)."""
    if settings.lora_rank == 0:
        return None
    return LoraConfig(
        task_type="CAUSAL_LM", r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0, target_modules="all-linear"
    )


def exact_4bit(model: torch.nn.Module) -> int:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU; returns how many 4-bit layers there are.

    Source: bitsandbytes 0.50.2, `Linear4bit.forward`: the repacked layout is for inference alone.
    """
    from bitsandbytes.nn import Linear4bit

    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def trainable_to_float32(model: torch.nn.Module) -> int:
    """Adapter weights to float32, in place; returns how many numbers train.

    In bf16 an update of less than 1/256 of a weight is rounded away, and fp16 breaks the gradient scaler.
    """
    count = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            count += parameter.numel()
    return count


def end_tokens(policy: Policy) -> list[int]:
    """Every token that ends a turn, the model's and the tokenizer's."""
    ids = policy.model.generation_config.eos_token_id
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    if policy.tokenizer.eos_token_id is not None and policy.tokenizer.eos_token_id not in ids:
        ids.append(policy.tokenizer.eos_token_id)
    return ids


def first_line(error: BaseException) -> str:
    """The first line of an error's text, for one-line messages."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
