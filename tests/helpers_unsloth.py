"""Unsloth on a CPU, for scripts of test_unsloth.py that run in its own environment. Import it first of all.

With UNSLOTH_ALLOW_CPU=1 it can be imported. Its loader then runs once what it asks of a GPU is answered, and its Triton
kernels run under TRITON_INTERPRET=1; those that read 4-bit weights are CUDA libraries and do not.
"""

# ruff: noqa: I001 - unsloth is imported first of all

from __future__ import annotations

import importlib

import unsloth  # noqa: F401
import torch
from unsloth.models import llama, loader
from unsloth.models.rl import _patch_trl_rl_trainers

ropes = llama._PerDeviceRopeCache
ensure = ropes._ensure_rope_cache


def build(self, index: int) -> None:
    """As its own, on the CPU."""
    size, device = self.current_rope_size, torch.device("cpu", 0)
    self._set_cos_sin_cache(seq_len=self._rope_cache_rows(), device=device, dtype=self._rope_cache_dtype)
    self.current_rope_size = size
    self._rope_cache_versions[index] = self._rope_cache_version


ropes._build_rope_cache, ropes._ensure_rope_cache = build, lambda self, index: ensure(self, 0)
llama.get_device_stats = lambda: ("a CPU. ", "", 8)
llama.get_current_device = lambda *given: "cpu"
llama.is_bfloat16_supported = lambda *given: True
llama.DEVICE_COUNT, llama.DEVICE_TYPE_TORCH, loader.ALLOW_BITSANDBYTES = 1, "cpu", True
torch.cuda.get_device_capability = lambda *given: (8, 0)
importlib.import_module("unsloth.kernels.rope_embedding")._eviction_hints_ok = lambda device: False
_patch_trl_rl_trainers("grpo_trainer")  # which it leaves out on a CPU
