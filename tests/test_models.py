"""What `data/models.yaml` says of hub models: counted from their real shapes, and of the paper no more than is known."""

from __future__ import annotations

import csv
import subprocess
import sys

import huggingface_hub
import pytest
import yaml
from small import small

from rrr_utils import fit, models
from rrr_utils.errors import SettingsError
from rrr_utils.settings import DATA, Settings

#: layers, hidden, MLP, heads, key-value heads, vocabulary, tied output, head size: of the models' own config.json
SHAPES = {
    "Qwen/Qwen2.5-0.5B-Instruct": ("Qwen2", 24, 896, 4864, 14, 2, 151936, True, 64),
    "Qwen/Qwen2-1.5B-Instruct": ("Qwen2", 28, 1536, 8960, 12, 2, 151936, True, 128),
    "Qwen/Qwen2-7B-Instruct": ("Qwen2", 28, 3584, 18944, 28, 4, 152064, False, 128),
    "Qwen/Qwen2-72B-Instruct": ("Qwen2", 80, 8192, 29568, 64, 8, 152064, False, 128),
    "Qwen/Qwen2.5-1.5B-Instruct": ("Qwen2", 28, 1536, 8960, 12, 2, 151936, True, 128),
    "Qwen/Qwen2.5-3B-Instruct": ("Qwen2", 36, 2048, 11008, 16, 2, 151936, True, 128),
    "Qwen/Qwen2.5-7B-Instruct": ("Qwen2", 28, 3584, 18944, 28, 4, 152064, False, 128),
    "Qwen/Qwen2.5-32B-Instruct": ("Qwen2", 64, 5120, 27648, 40, 8, 152064, False, 128),
    "Qwen/Qwen2.5-72B-Instruct": ("Qwen2", 80, 8192, 29568, 64, 8, 152064, False, 128),
    "meta-llama/Llama-3.1-8B-Instruct": ("Llama", 32, 4096, 14336, 32, 8, 128256, False, 128),
    "meta-llama/Llama-3.1-70B-Instruct": ("Llama", 80, 8192, 28672, 64, 8, 128256, False, 128),
    "meta-llama/Llama-3.2-3B-Instruct": ("Llama", 28, 3072, 8192, 24, 8, 128256, True, 128),
    "microsoft/Phi-3.5-mini-instruct": ("Phi3", 32, 3072, 8192, 32, 32, 32064, False, 96),
    "Qwen/Qwen3-1.7B": ("Qwen3", 28, 2048, 6144, 16, 8, 151936, True, 128),
    "Qwen/Qwen3-4B": ("Qwen3", 36, 2560, 9728, 32, 8, 151936, True, 128),
    "Qwen/Qwen3-8B": ("Qwen3", 36, 4096, 12288, 32, 8, 151936, False, 128),
}


@pytest.mark.parametrize("name", SHAPES)
def test_size_and_memory_are_those_of_the_real_shapes(name):
    import torch
    import transformers

    kind, layers, hidden, mlp, heads, kv, vocabulary, tied, head = SHAPES[name]
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": mlp, "vocab_size": vocabulary}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv, "tie_word_embeddings": tied, "pad_token_id": 0}
    if kind == "Phi3":
        assert hidden // heads == head
    config = getattr(transformers, f"{kind}Config")(
        **sizes, **({} if kind in ("Phi3", "Qwen2") else {"head_dim": head})
    )
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    parameters = sum(weight.numel() for weight in model.parameters())
    linear = {k: m for k, m in model.named_modules() if isinstance(m, torch.nn.Linear) and k != "lm_head"}
    in_4bit = sum(layer.weight.numel() for layer in linear.values())
    found = models.known(name)
    assert found["parameters"] == parameters and found["download"] == 2 * parameters
    shape = fit.known_shape(Settings(model=name))
    assert (
        shape == fit.Shape(hidden, layers, heads, kv, head, mlp, vocabulary, tied, kind == "Phi3") == fit.shape(config)
    )
    norms, biases = (
        (2 * layers + 1) * hidden,
        layers * (heads + 2 * kv) * head,
    )  # of a layer; of queries, keys and values
    beyond = norms + {"Qwen2": biases, "Qwen3": 2 * layers * head}.get(kind, 0)  # Qwen3 has norms of queries and keys
    assert shape.linear + shape.embeddings + beyond == parameters
    gib = (in_4bit / 2 + in_4bit / 64 * 4 + 2 * (parameters - in_4bit)) / 2**30
    assert found["memory_4bit"] == round(gib, 2)


def test_every_line_is_whole_and_nothing_else_is_known():
    unlisted = {"Palmyra X4", "Palmyra 1.7B"}
    assert models.listed().keys() == SHAPES.keys() | unlisted
    for name, one in models.listed().items():
        assert one.keys() - {"paper", "shape"} == {"family", "parameters", "memory_4bit", "licence", "gated"}, name
        assert (one["parameters"] is None) == ("shape" not in one) == (name in unlisted)
        assert one["gated"] == name.startswith("meta-llama/")
        assert one["family"].lower() in name.lower()
    assert models.known("embedded") is models.known("/some/folder") is models.known("Qwen/Qwen9-1T") is None
    assert models.known("Palmyra X4")["download"] is None and models.known("Qwen/Qwen3-4B")["paper"] == {}


def test_of_the_paper_it_says_what_the_other_files_say():
    """`paper.csv` (scores) and `paper_recipe.yaml` (models that were trained)."""
    short = {name.split("/")[-1]: one.get("paper", {}) for name, one in models.listed().items()}
    for one in short.values():
        for role, sure in one.values():
            assert role in ("trained", "untrained", "did not learn") and sure in ("V", "S", "I")
    with (DATA / "paper.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            role = short[line["model"]][line["task"]][0]
            assert role == "trained" or (role == "untrained" and line["cell"].startswith("vanilla"))
    recipe = yaml.safe_load((DATA / "paper_recipe.yaml").read_text(encoding="utf-8"))["settings"]["model"]["paper"]
    for task, names in recipe.items():
        assert {name for name, one in short.items() if one.get(task, [""])[0] == "trained"} == set(names)


@pytest.fixture
def no_account(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def test_a_gated_model_without_a_token_is_refused_in_one_line(no_account, monkeypatch):
    gated = small(no_account, model="meta-llama/Llama-3.1-8B-Instruct")
    said = models.refusal(gated)
    assert "accept its licence at https://huggingface.co/meta-llama/Llama-3.1-8B-Instruct and set HF_TOKEN" in said
    assert "\n" not in said
    for free in ("embedded", "Qwen/Qwen2.5-1.5B-Instruct", "somebody/something"):
        assert models.refusal(small(no_account, model=free)) is None
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    assert models.refusal(gated) is None


def test_a_model_without_public_weights_is_refused_and_has_no_shape(no_account, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_something")
    assert models.refusal(small(no_account, model="Palmyra X4")) == "Palmyra X4: no public weights"
    with pytest.raises(SettingsError, match="the shape of model 'Palmyra X4' is not known here"):
        fit.known_shape(Settings(model="Palmyra X4"))


def test_a_shape_is_read_of_a_config_that_is_here(no_account):
    from transformers import AutoConfig

    embedded = DATA / "embedded" / "countdown"
    shape = fit.shape(AutoConfig.from_pretrained(embedded))
    assert fit.known_shape(small(no_account)) == fit.known_shape(small(no_account, model=str(embedded))) == shape
    with pytest.raises(SettingsError, match="not in data/models.yaml, and no config.json of it is here") as said:
        fit.known_shape(small(no_account, model="somebody/something"))
    assert "\n" not in str(said.value)
    copy = no_account / "hub" / "models--somebody--something" / "snapshots" / ("0" * 40)
    copy.mkdir(parents=True)
    (copy / "config.json").write_text((embedded / "config.json").read_text())
    assert fit.known_shape(small(no_account, model="somebody/something")) == shape


def test_a_gated_model_that_is_here_needs_no_token(no_account):
    gated = small(no_account, model="meta-llama/Llama-3.1-8B-Instruct")
    copy = no_account / "hub" / "models--meta-llama--Llama-3.1-8B-Instruct" / "snapshots" / ("0" * 40)
    copy.mkdir(parents=True)
    assert models.refusal(gated)
    (copy / "config.json").write_text("{}")
    assert models.refusal(gated) is None


def test_the_table_has_a_line_for_each():
    lines = models.table().splitlines()
    assert len(lines) == 2 + len(models.listed()) and len({line.count("|") for line in lines}) == 1
    assert (
        "| meta-llama/Llama-3.2-3B-Instruct | 3.2B | 2.2 | Llama 3.2, gated | countdown: trained (S); function calling: did not learn (S) |"
        in lines
    )
    assert "| Palmyra X4 | - | - |" in models.table()


def test_it_needs_no_torch():
    code = "import sys; from rrr_utils import models, settings; models.table(); models.refusal(settings.load('tiny', "
    code += "{'model': 'meta-llama/Llama-3.1-8B-Instruct'})); assert not {'torch', 'transformers'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
