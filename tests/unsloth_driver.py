"""One training with one backend, for test_unsloth.py: python unsloth_driver.py KIND FOLDER OVERRIDES [STOP_AFTER]

KIND is `transformers`; `trainer`, Unsloth's rewritten trainer on a model of transformers and peft in its loader's
place; or `unsloth`, all of it. The rest is the kit as it is.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

kind, folder, overrides = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
if kind != "transformers":
    import helpers_unsloth  # noqa: F401 - before trl, transformers and peft
    import unsloth
    from unsloth.models.llama import FastLlamaModel

import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
from small import small  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

from rrr_utils import backends, runs, settings, training  # noqa: E402

TRANSFORMERS = ("revision", "dtype", "quantization_config", "device_map")


def loaded(path, **options):
    model = AutoModelForCausalLM.from_pretrained(path, **{name: options.pop(name) for name in TRANSFORMERS})
    report["loader"] = options
    model.max_seq_length, model._unsloth_user_float32 = options["max_seq_length"], model.dtype == torch.float32
    return model, None


def adapted(model, r, lora_alpha, lora_dropout, target_modules, bias, use_gradient_checkpointing, random_state):
    config = peft.LoraConfig(
        r=r, lora_alpha=lora_alpha, lora_dropout=lora_dropout, target_modules=target_modules, bias=bias, task_type="CAUSAL_LM"
    )  # fmt: skip
    model = peft.get_peft_model(model, config)
    model.for_training = functools.partial(FastLlamaModel.for_training, model)
    model.for_inference = functools.partial(FastLlamaModel.for_inference, model)
    return model


def note(record, args, state, control, model, **rest):
    """Before each update: what trains, its gradients; and the configuration."""
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    if state.global_step == 0:
        report["trained"] = {name: [str(one.dtype), one.numel()] for name, one in trained.items()}
        report["adapters"] = sorted(model.peft_config)
        report["config"] = {name: str(value) for name, value in sorted(args.to_dict().items())}
        report["trainer"] = type(record.reward.trainer).__name__
        report["pad"] = record.reward.trainer.processing_class.pad_token
    gradients = {name: one.grad.float().numpy() for name, one in trained.items()}
    np.savez(folder / f"{kind}-gradients-{state.global_step}.npz", **gradients)
    record.interrupted |= state.global_step + 1 == stop


def read(directory):
    return settings.build(json.loads((directory / "settings.json").read_text()))


stop = int(sys.argv[4]) if len(sys.argv) > 4 else 0
report: dict = {}
training.Record.on_pre_optimizer_step = note
if kind == "trainer":
    unsloth.FastLanguageModel.from_pretrained, unsloth.FastLanguageModel.get_peft_model = loaded, adapted
if kind != "transformers":
    backends.refusal = lambda settings: None  # it would say that there is no GPU
    backends.train_apart = lambda directory: training._train(read(directory), directory)
asked = small(folder, backend="transformers" if kind == "transformers" else "unsloth", **overrides)
try:
    training.train(asked)
except KeyboardInterrupt as stopped:
    report["stopped"] = str(stopped)
directory = runs.stage_dir(asked, "train")
if not stop:
    report["result"] = training.finish(asked)["settings"]["backend"]
(folder / f"{kind}.json").write_text(json.dumps({**report, "directory": str(directory)}, default=str))
