"""What 4-bit weights of bitsandbytes need on a CPU: to stay as they are quantised, and to be quick in a small model."""

import functools
from collections.abc import Callable

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit

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
