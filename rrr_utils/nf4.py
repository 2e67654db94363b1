"""What 4-bit weights of bitsandbytes need on a CPU: to stay as they are quantised, and to be quick in a small model."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.bnb import Linear4bit as LoraLinear4bit

#: most weights that are kept dequantised
SMALL = 2**24


def exact_4bit(model: torch.nn.Module) -> int:
    """Keep bitsandbytes from repacking 4-bit weights on a CPU; returns the number of 4-bit layers.

    Source: bitsandbytes 0.50.2, `Linear4bit.forward`: the repacked layout is for inference alone.
    """
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = False
    return len(layers)


def keep_dequantised(model: torch.nn.Module) -> None:
    """On a CPU, keep a small model's dequantised weights for passes without gradients: the same bits, in less time.

    Source: bitsandbytes 0.50.2, `_gemm_4bit_default_impl`: it dequantises a weight at every call.
    """
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    if model.device.type != "cpu" or sum(m.in_features * m.out_features for m in layers) > SMALL:
        return

    def forward(x: torch.Tensor, plain: Callable, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if torch.is_grad_enabled() or x.dtype != weight.dtype:
            return plain(x)
        return torch.nn.functional.linear(x, weight, bias)

    for m in layers:
        weight = dequantize_4bit(m.weight.data, m.weight.quant_state)
        m.forward = functools.partial(forward, plain=m.forward, weight=weight, bias=m.bias)


def add_in_place(model: torch.nn.Module) -> None:
    """On a CPU, add what the adapter says in place, in passes without gradients: the same bits, without copies.

    Source: peft 0.21.2, `Linear4bit.forward` of LoRA: it clones what the base says, for the way back, and adds to it.
    """

    def forward(x: torch.Tensor, *args: Any, of: LoraLinear4bit, plain: Callable, **named: Any) -> torch.Tensor:
        name = of.active_adapters[0] if len(of.active_adapters) == 1 else None
        usual = name in of.lora_A and name not in of.lora_variant and not (of.disable_adapters or of.merged)
        if torch.is_grad_enabled() or args or named or not usual or x.dtype != of.lora_A[name].weight.dtype:
            return plain(x, *args, **named)
        said = of.base_layer(x)
        return said.add_(of.lora_B[name](of.lora_A[name](x)).mul_(of.scaling[name]))

    for m in model.modules():
        if isinstance(m, LoraLinear4bit) and m.weight.device.type == "cpu":
            m.forward = functools.partial(forward, of=m, plain=m.forward)
