"""Unsloth's rewritten trainer on a CPU, in an environment of its own: what trains, and that it trains as plain trl does."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from small import small

from rrr_utils import backends, failures, files
from rrr_utils.settings import ROOT

PYTHON = Path(os.environ.get("RRR_UNSLOTH_PYTHON", ROOT / ".venv-unsloth/bin/python"))
HOW = """no .venv-unsloth (or RRR_UNSLOTH_PYTHON). To make it: python3.11 -m venv .venv-unsloth; \
echo $PWD/.venv/lib/python3.11/site-packages > .venv-unsloth/lib/python3.11/site-packages/lock.pth; \
.venv-unsloth/bin/pip install --no-deps -r requirements-gpu.txt triton==3.9.0"""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason=HOW)]

#: two steps whose rewards are mixed, at rates that let differences show
MIXED = {
    "steps": 2,
    "dev_every": 1,
    "warmup": 0.0,
    "failures_per_step": 4,
    "reflections_per_failure": 4,
    "sample_batch": 32,
}
#: fields of GRPOConfig that it changes, and why they do not matter here
DIFFERENT = {
    "eval_accumulation_steps": "trl's own evaluation, which is off",
    "logging_nan_inf_filter": "what is logged of a loss that is no number",
    "per_device_eval_batch_size": "trl's own evaluation, which is off",
    "router_aux_loss_coef": "of mixtures of experts",
    "torch_empty_cache_steps": "unused memory is given back now and then",
    "vllm_importance_sampling_correction": "vLLM is off in training",
    "warmup_steps": "the schedule is ours (training._schedule)",
}
#: fields that it adds
ADDED = {
    "push_to_hub_token", "unsloth_grpo_mini_batch", "unsloth_logit_chunk_multiplier", "unsloth_num_chunks", "vllm_sampling_params",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the failures stage done for both kinds of base weights, by this Python."""
    folder = tmp_path_factory.mktemp("runs")
    for four_bit in (True, False):
        settings = small(folder, load_in_4bit=four_bit)
        failures.sample(settings)
        failures.finish(settings)
    return folder


def python(script: str, folder: Path, *given) -> None:
    """Run a script of this folder in the other environment."""
    quiet = {"UNSLOTH_ALLOW_CPU": "1", "UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"), "TORCHDYNAMO_DISABLE": "1"}
    quiet |= {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1"}
    here = {**os.environ, **quiet, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "UNSLOTH_DISABLE_STATISTICS": "1"}
    words = [PYTHON, ROOT / "tests" / script, *given]
    made = subprocess.run(words, env=here, cwd=folder, capture_output=True, text=True, timeout=900)
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]


def run(home, folder, kind, *stop, **overrides) -> dict:
    """One training in the other environment; what the driver noted, with the logs."""
    shutil.copytree(home / "countdown", folder / "countdown", dirs_exist_ok=True)  # the failures
    given = [kind, folder, json.dumps(MIXED | overrides), *map(str, stop)]
    python("unsloth_driver.py", folder, *given)
    noted = json.loads((folder / f"{kind}.json").read_text())
    logs = {
        name: files.read_jsonl(Path(noted["directory"]) / f"{name}.jsonl")
        for name in ("training", "dev", "reflections")
    }
    return noted | logs


def gradients(folder, kind, step):
    return dict(np.load(folder / f"{kind}-gradients-{step}.npz"))


def cosine(folder, kinds=("transformers", "trainer")):
    """The cosine between the gradients of the first step by both."""
    ours, theirs = (gradients(folder / name, name, 0) for name in kinds)
    assert ours.keys() == theirs.keys()
    flat = [np.concatenate([one[name].ravel() for name in ours]) for one in (ours, theirs)]
    return float(flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1]))


@pytest.fixture(scope="module", params=[True, False], ids=["4 bit", "plain base"])
def both(request, home, tmp_path_factory):
    """The same two steps by plain trl and by Unsloth's trainer; their notes, and where they are."""
    folder, four_bit = tmp_path_factory.mktemp("both"), {"load_in_4bit": request.param}
    return [run(home, folder / name, name, **four_bit) for name in ("transformers", "trainer")], folder


def test_only_the_adapter_trains_and_it_trains_as_by_plain_trl(both):
    (plain, fast), folder = both
    assert (plain["trainer"], fast["trainer"]) == ("GRPOTrainer", "UnslothGRPOTrainer")
    assert fast["result"] == "unsloth" and fast["pad"] == "<|pad|>"
    for noted in (plain, fast):
        assert all(".lora_" in name and kind == "torch.float32" for name, (kind, _) in noted["trained"].items())
        assert noted["adapters"] == ["default"]
    assert plain["trained"] == fast["trained"] and sum(size for _, size in fast["trained"].values()) < 200_000
    first = [noted["training"][0] for noted in (plain, fast)]
    assert first[0]["reward_std"] > 0 and first[0]["zero_variance"] < 1, "the rewards are not mixed"
    assert first[0]["loss"] == pytest.approx(first[1]["loss"], abs=1e-5)
    assert first[0]["grad_norm"] == pytest.approx(first[1]["grad_norm"], rel=1e-2)
    steps = [[line["reflection"] for line in noted["reflections"] if line["step"] == 1] for noted in (plain, fast)]
    assert steps[0] == steps[1] and len(steps[0]) == 16
    assert cosine(folder) > 0.999
    assert [line["score"] for line in plain["dev"]][0] == [line["score"] for line in fast["dev"]][0]


def test_the_differing_fields_of_its_configuration_are_known(both):
    plain, fast = [{**noted["config"], "output_dir": ""} for noted in both[0]]
    assert fast.keys() - plain.keys() == ADDED and not plain.keys() - fast.keys()
    apart = {name: (plain[name], fast[name]) for name in plain if plain[name] != fast[name]}
    assert apart.keys() == DIFFERENT.keys(), apart


def test_base_retries_and_a_stop_between_checkpoints_go_on_to_the_same_result(home, tmp_path):
    more = {"steps": 3, "dev_every": 2, "retry_policy": "base"}
    whole = run(home, tmp_path / "whole", "trainer", **more)
    stopped = run(home, tmp_path / "parts", "trainer", 1, **more)
    assert "step 1" in stopped["stopped"] and len(stopped["training"]) == 1
    parts = run(home, tmp_path / "parts", "trainer", **more)
    for name in ("training", "dev", "reflections"):
        lines = [[{**line, "seconds": 0} for line in one[name]] for one in (whole, parts)]
        assert lines[0] == lines[1], name
    weights = [(Path(one["directory"]) / "adapter/adapter_model.safetensors").read_bytes() for one in (whole, parts)]
    assert weights[0] == weights[1]
    live = run(home, tmp_path / "live", "trainer", **{**more, "retry_policy": "live", "steps": 2})
    first = [one["reflections"][:16] for one in (whole, live)]  # until there is a trained adapter they retry alike
    assert [line["retry"] for line in first[0]] == [line["retry"] for line in first[1]]


def test_its_own_loader_makes_the_model_that_transformers_makes_and_it_says_the_same(tmp_path):
    python("unsloth_loader.py", tmp_path, tmp_path)
    for kind, found in json.loads((tmp_path / "loader.json").read_text()).items():
        assert found["tensors"] > 100 and found["different"] == [], kind  # weights, quantisation, adapter: to the bit
        assert all(".lora_" in name and dtype == "torch.float32" for name, dtype in found["trained"].items())
        assert len(found["trained"]) == 56 and found["max_seq_length"] == found["asked"]
        if kind == "4 bit":
            assert found["quantization"]["bnb_4bit_quant_type"] == "nf4"
            assert not found["quantization"]["bnb_4bit_use_double_quant"]
            assert "not as asked for: use backend=transformers" in found["without bitsandbytes"]
        else:
            assert found["quantization"] is None and "without bitsandbytes" not in found
            (greedy, base, sampled), theirs = found["texts"]  # its forward, kernels and cache in our sampler
            assert greedy != base and [len(own) for own in sampled] == [3] * 5
            assert [greedy, base, sampled] == theirs


def source(name: str) -> ast.Module:
    """A file of the installed package, not imported."""
    found = next(PYTHON.parent.parent.glob(f"lib/python*/site-packages/{name}"))
    return ast.parse(found.read_text(encoding="utf-8"))


def function(tree: ast.Module, owner: str, name: str) -> ast.FunctionDef:
    [kind] = [one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == owner]
    return [one for one in kind.body if isinstance(one, ast.FunctionDef) and one.name == name][-1]


def test_what_its_loader_is_told_it_understands():
    loader = function(source("unsloth/models/loader.py"), "FastLanguageModel", "from_pretrained")
    adapter = function(source("unsloth/models/llama.py"), "FastLlamaModel", "get_peft_model")
    settings = small(Path("unused"))
    prompt = [{"role": "user", "content": "x"}]
    told = {**backends.loader_options(settings, [prompt]), "revision": None, "dtype": None, "device_map": None}
    named = {one.arg for one in (*loader.args.args, *loader.args.kwonlyargs)}
    assert told.keys() <= named and loader.args.args[0].arg == "model_name"
    assert 'kwargs.get("quantization_config", None)' in ast.unparse(loader).replace("'", '"')
    assert backends.adapter_options(settings).keys() <= {one.arg for one in adapter.args.args}
    # it goes on with a family by comparing model_type, and with any other to its slower loader
    equals = [one for one in ast.walk(loader) if isinstance(one, ast.Compare) and ast.unparse(one.left) == "model_type"]
    assert set(backends.FAST) <= {ast.literal_eval(one.comparators[0]) for one in equals}
    assert "phi3" not in {ast.literal_eval(one.comparators[0]) for one in equals}
    # why `use_exact_model_name` and our quantisation are given
    assert "get_model_name(" in ast.unparse(loader) and "bnb_4bit_use_double_quant" in ast.unparse(loader)
