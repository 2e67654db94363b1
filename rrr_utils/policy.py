"""The policy: base weights (NF4 or full), tokenizer, and the adapter that is trained.

One loader serves CPU and GPU. It handles the traps of this stack, each pinned by a test:

- On a CPU with AVX512-BF16, bitsandbytes repacks 4-bit weights at the first eval-mode forward, and gradients are wrong
  from then on: `exact_4bit` switches that off.
- trl casts a 4-bit model's adapter to bf16, which loses small updates: `trainable_to_float32` undoes it.
- Merging an adapter into 4-bit weights changes what the model says: it is never merged.
"""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers import PreTrainedModel as Model
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging as transformers_logging

from rrr_utils import runs, tokens
from rrr_utils.decoding import less_work
from rrr_utils.errors import SettingsError, one_line
from rrr_utils.nf4 import add_in_place, exact_4bit, keep_dequantised
from rrr_utils.settings import Settings


@dataclass
class Policy:
    """A model and its tokenizer."""

    model: Model | PeftModel
    tokenizer: Tokenizer

    def adapter_off(self) -> contextlib.AbstractContextManager:
        """Inside, the base model speaks (nothing changes where there is no adapter)."""
        has_one = hasattr(self.model, "disable_adapter") and hasattr(self.model, "peft_config")
        return self.model.disable_adapter() if has_one else contextlib.nullcontext()


def device() -> torch.device:
    """The first visible GPU (this process's own under accelerate), else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def load_base(settings: Settings, loader: Callable[..., Model] = AutoModelForCausalLM.from_pretrained) -> Policy:
    """Base weights in NF4 (or full) at the recorded commit, without an adapter, by transformers or another loader.

    Raises SettingsError where the model cannot be loaded or this GPU lacks the dtype.
    """
    if settings.threads:  # on a busy machine one thread is faster than two, and with one results repeat to the bit
        torch.set_num_threads(settings.threads)
    transformers_logging.disable_progress_bar()  # a bar for every load hides the one that matters
    dtype = getattr(torch, settings.dtype)
    if torch.cuda.is_available() and not torch.cuda.is_bf16_supported() and settings.dtype == "bfloat16":
        raise SettingsError("this GPU has no bfloat16: use -p preset=t4 or -p dtype=float16 and begin the run anew")
    path, revision = runs.model_path(settings)
    quantization = None
    if settings.load_in_4bit:
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    try:
        model = loader(
            path, revision=revision, dtype=dtype, quantization_config=quantization, device_map={"": device()}
        )
        tokenizer = tokens.load(path, revision)
    except (OSError, ValueError) as error:
        hint = "for a gated model: is its licence accepted on the hub and HF_TOKEN set?"
        text = f"cannot load model '{settings.model}': {one_line(str(error), 200)}"
        raise SettingsError(f"{text} (is the name right, is there a network, and {hint})") from None
    exact_4bit(model)
    keep_dequantised(model)
    less_work(model)
    tokenizer.pad_token = tokens.safe_pad(tokenizer, tokens.ends(model.generation_config, tokenizer))
    return Policy(model.eval(), tokenizer)


def load_policy(settings: Settings, adapter: Path | None = None) -> Policy:
    """The base model with a trained adapter on top, unmerged; with `lora_rank` 0 the folder holds the whole model."""
    if adapter is None:
        return load_base(settings)
    if settings.lora_rank == 0:
        return load_base(settings.model_copy(update={"model": str(adapter)}))
    base = load_base(settings)
    model = PeftModel.from_pretrained(base.model, str(adapter)).eval()
    add_in_place(model)
    return Policy(model, base.tokenizer)


def lora_config(settings: Settings) -> LoraConfig:
    """An adapter on every linear layer, without dropout (GRPO compares log-probabilities of the same text)."""
    sizes = {"r": settings.lora_rank, "lora_alpha": settings.lora_alpha}
    return LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, target_modules="all-linear", **sizes)


def trainable_to_float32(model: torch.nn.Module) -> int:
    """Adapter weights to float32, in place; returns how many numbers train.

    In bf16 an update below 1/256 of a weight is rounded away, and fp16 breaks the gradient scaler.
    """
    count = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
            count += parameter.numel()
    return count
