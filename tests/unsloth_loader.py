"""Unsloth's own loader on a CPU, for test_unsloth.py: python unsloth_loader.py FOLDER

What it loads is held against what transformers loads, tensor by tensor; and of a plain base what both say.
"""

# ruff: noqa: I001 - unsloth is imported first of all

from __future__ import annotations

import json
import sys
from pathlib import Path

import helpers_unsloth  # noqa: F401
import torch
from small import small
from unsloth.models import loader

from rrr_utils import backends, conversation
from rrr_utils.sampling import HFSampler
from rrr_utils.tasks import countdown

folder, found = Path(sys.argv[1]), {}
ROWS = [{"id": str(k), "nums": [k, 2, 3][: 2 + k % 2], "target": k + 5} for k in range(1, 6)]
ASKED = [conversation.attempt(countdown, row) for row in ROWS]  # of two lengths, so that some are padded


def prepared(settings):
    """The backend's model, as a training begins with it."""
    torch.manual_seed(3)
    return backends.load(settings, ASKED)


def said(policy) -> list:
    """Greedy with and without an adapter that matters, and several samples of a prompt."""
    torch.manual_seed(4)
    for name, weight in sorted(policy.model.named_parameters()):
        if "lora_B" in name:
            weight.data.normal_(0, 0.1)
    policy.model.eval()
    sampler, limits = HFSampler(policy, 64, progress=False), {"max_tokens": 12, "seed": 0}
    greedy = [sampler.sample(ASKED, 1, temperature=0.0, adapter=on, **limits) for on in (True, False)]
    return [*greedy, sampler.sample(ASKED, 3, temperature=0.9, **limits)]


def differing(ours: dict, theirs: dict) -> list[str]:
    """Names of tensors that are not the same in both."""
    kinds = [{name: (one.dtype, one.shape) for name, one in each.items()} for each in (ours, theirs)]
    same = {name for name in kinds[0].keys() & kinds[1].keys() if kinds[0][name] == kinds[1][name]}
    return [name for name in ours.keys() | theirs.keys() if name not in same or not ours[name].equal(theirs[name])]


options = {"4 bit": {"dtype": "bfloat16"}, "plain": {"dtype": "float16", "load_in_4bit": False}}
settings = {kind: small(folder, seed=3, **one) for kind, one in options.items()}
# by transformers first: Unsloth changes the classes of a process for good
plain = {kind: prepared(one) for kind, one in settings.items()}
tensors = {
    kind: {name: tensor.clone() for name, tensor in one.model.state_dict().items()} for kind, one in plain.items()
}
texts = said(plain["plain"])
for kind, one in settings.items():
    fast = one.model_copy(update={"backend": "unsloth"})
    policy = prepared(fast)
    found[kind] = {
        "trained": {name: str(p.dtype) for name, p in policy.model.named_parameters() if p.requires_grad},
        "tensors": len(tensors[kind]),
        "different": differing(tensors[kind], policy.model.state_dict()),
        "quantization": getattr(policy.model.config, "quantization_config", None),
        "max_seq_length": policy.model.max_seq_length,
        "asked": backends.loader_options(fast, ASKED)["max_seq_length"],
    }
    if kind == "plain":
        found[kind]["texts"] = [texts, said(policy)]
loader.ALLOW_BITSANDBYTES = False  # where bitsandbytes cannot be used it goes on in 16 bits
try:
    prepared(settings["4 bit"].model_copy(update={"backend": "unsloth"}))
except ValueError as error:
    found["4 bit"]["without bitsandbytes"] = str(error)
(folder / "loader.json").write_text(json.dumps(found, default=str))
