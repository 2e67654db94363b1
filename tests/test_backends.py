"""Backends: which one trains and why, the adapter that both attach, Unsloth's own process, and tokens to pad with."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import time
import weakref
from pathlib import Path

import pytest
import torch
from helpers_models import byte_tokenizer
from peft import get_peft_model_state_dict
from small import small
from transformers import AutoTokenizer, set_seed
from trl import GRPOTrainer

from rrr_utils import backends, conversation, failures, files, gpus, policy, runs, tokens, training
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.reward import RetryReward
from rrr_utils.sampling import HFSampler
from rrr_utils.settings import ROOT, load
from rrr_utils.tasks import countdown

TOKENIZERS = ROOT.parent / "shared/data/tokenizers"
#: families of real tokenizers: the token that they then pad with, and the ends in their generation configs
FAMILIES = {
    "qwen2.5": ("<|vision_pad|>", [151645, 151643]),
    "llama-3.1": ("<|finetune_right_pad_id|>", [128001, 128008, 128009]),
    "phi-3.5": ("<|placeholder1|>", [32007, 32001, 32000]),
}
#: in Unsloth's place: transformers and peft, and the proof that nothing was imported before it
STAND_IN = """
import sys
assert not {"torch", "transformers", "peft", "trl"} & sys.modules.keys()

class FastLanguageModel:
    @staticmethod
    def from_pretrained(path, max_seq_length, load_in_4bit, use_exact_model_name, use_gradient_checkpointing,
                        offload_embedding, fast_inference, fix_tokenizer, random_state, **rest):
        from transformers import AutoModelForCausalLM
        assert use_exact_model_name and 100 < max_seq_length < 2048, max_seq_length
        return AutoModelForCausalLM.from_pretrained(path, **rest), "its tokenizer"

    @staticmethod
    def get_peft_model(model, use_gradient_checkpointing, random_state, **rest):
        import peft
        return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **rest))
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the failures stage done."""
    settings = small(tmp_path_factory.mktemp("runs"))
    failures.sample(settings)
    failures.finish(settings)
    return Path(settings.results_dir)


@pytest.fixture
def able(monkeypatch):
    """A machine with a GPU and Unsloth, as far as can be told without torch."""
    monkeypatch.setattr(gpus, "visible", lambda: ["0"])
    monkeypatch.setattr(backends.importlib.metadata, "version", lambda name: "2.13.0")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: name)


def real(tmp_path, family="qwen2", **overrides):
    """Settings of a saved model of a family, in 16 bits."""
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    given = {"model": str(tmp_path), "dtype": "bfloat16", "results_dir": str(tmp_path)}
    return load("tiny", given | overrides)


def test_here_transformers_trains_and_unsloth_is_refused_in_one_line(tmp_path, capsys):
    settings = real(tmp_path, backend="unsloth")
    if gpus.visible():
        pytest.skip("there is a GPU here")
    assert backends.choose(real(tmp_path), "train") == (
        "transformers",
        "not unsloth: it needs a CUDA GPU and a torch that uses it",
    )
    with pytest.raises(
        SettingsError, match="backend=unsloth cannot train here: .* GPU .* or use backend=transformers"
    ) as told:
        backends.choose(settings, "train")
    assert "\n" not in str(told.value) and str(told.value) == backends.refusal(settings)
    assert backends.refusal(real(tmp_path)) is None and backends.refusal(real(tmp_path, backend="transformers")) is None
    assert backends.choose(settings, "evaluate")[0] == "unsloth"  # only training has a choice
    assert backends.choose(real(tmp_path), "evaluate")[0] == "transformers"


def test_auto_takes_unsloth_for_the_families_of_its_fast_loader(tmp_path, able):
    for family in ("llama", "qwen2", "qwen3", "mistral"):
        assert backends.choose(real(tmp_path, family), "train")[0] == "unsloth"
        assert backends.refusal(real(tmp_path, family, backend="unsloth")) is None
    assert "this model is phi3" in backends.choose(real(tmp_path, "phi3"), "train")[1]
    assert backends.choose(real(tmp_path, "phi3"), "train")[0] == "transformers"
    (tmp_path / "config.json").unlink()
    assert "unknown" in backends._lacking(
        real_without_config := load("tiny", {"model": str(tmp_path), "dtype": "float16"})
    )
    assert backends.choose(real_without_config, "train")[0] == "transformers"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ({"lora_rank": 0, "load_in_4bit": False, "policies": ["trained"], "retry_policy": "live"}, "lora_rank is 0"),
        ({"gpus": 2}, "gpus is 2"),
        ({"dtype": "float32"}, "dtype is float32"),
    ],
)
def test_what_unsloth_cannot_do_is_left_to_transformers(tmp_path, able, overrides, why):
    assert why in backends.choose(real(tmp_path, **overrides), "train")[1]
    with pytest.raises(SettingsError, match=why):
        backends.choose(real(tmp_path, backend="unsloth", **overrides), "train")


def test_a_package_that_is_not_there_is_named_with_what_installs_it(tmp_path, able, monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SettingsError, match="pip install --no-deps -r requirements-gpu.txt; or use backend=transformers"
    ):
        backends.choose(real(tmp_path, backend="unsloth"), "train")
    assert (ROOT / "requirements-gpu.txt").read_text().count("unsloth==") == 1


def test_a_run_begun_with_unsloth_says_so_where_it_cannot_go_on(home, monkeypatch):
    monkeypatch.setattr(training, "build_trainer", lambda *a: pytest.fail("a model was loaded"))
    settings = small(home, seed=7)
    with runs.begin(settings, "train", lambda one, stage: one.model_copy(update={"backend": "unsloth"})) as (folder, _):
        pass
    with pytest.raises(SettingsError, match=f"cannot train here.*make runs DELETE={folder.name} begins the run anew"):
        training.train(settings)


@pytest.mark.parametrize("four_bit", [True, False])
def test_the_adapter_is_trl_s_to_the_bit_and_alone_trains(home, tmp_path, four_bit):
    settings = small(home, seed=3, load_in_4bit=four_bit)
    kept = files.read_jsonl(
        runs.stage_dir(settings.model_copy(update={"load_in_4bit": True}), "failures") / "failures.jsonl"
    )
    trainer, _ = training.build_trainer(settings, kept, tmp_path)

    set_seed(3)
    base, reward = policy.load_base(settings), RetryReward(settings)
    config, data = training.grpo_config(settings, tmp_path), training.dataset(settings, kept)
    other = GRPOTrainer(
        base.model, reward, config, data, processing_class=base.tokenizer, peft_config=policy.lora_config(settings)
    )  # as it was before there was a choice

    ours, theirs = (get_peft_model_state_dict(one.model) for one in (trainer, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name].float()) for name in ours)
    trained = [name for name, one in trainer.model.named_parameters() if one.requires_grad]
    assert trained == [name for name, one in other.model.named_parameters() if one.requires_grad]
    assert all(".lora_" in name and ".default." in name for name in trained) and len(trained) == len(ours)
    assert {one.dtype for one in trainer.model.parameters() if one.requires_grad} == {torch.float32}
    assert list(trainer.model.peft_config) == ["default"] and trainer.model.active_adapters == ["default"]
    hooks = [len(one.model.get_input_embeddings()._forward_hooks) for one in (trainer, other)]
    assert hooks[0] == hooks[1] == int(settings.gradient_checkpointing)


def test_unsloth_is_never_imported_too_late(home, tmp_path):
    settings = small(home, backend="unsloth")
    with pytest.raises(SettingsError, match="imported before trl"):
        backends.load(settings, [])


def test_unsloth_is_told_the_adapter_and_the_longest_text(home):
    settings = small(home, seed=5)
    prompt = conversation.attempt(countdown, {"id": "a", "nums": [1, 2, 3], "target": 6})
    tokenizer = tokens.load(*runs.model_path(settings))
    [ids] = conversation.prompt_ids(tokenizer, [prompt])
    told = backends.loader_options(settings, [prompt])
    assert told["max_seq_length"] == 4 * len(ids) + settings.reflection_tokens + settings.attempt_tokens
    assert told["random_state"] == 5 and told["use_exact_model_name"] and not told["fast_inference"]
    assert backends.loader_options(settings, [[{"role": "user", "content": "1 " * 9000}]])["max_seq_length"] == 512
    ours = policy.lora_config(settings)
    told = backends.adapter_options(settings)
    assert (told["r"], told["lora_alpha"], told["target_modules"]) == (ours.r, ours.lora_alpha, "all-linear")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package called unsloth that only a new process sees; its source can be given."""

    def put(source: str = STAND_IN) -> None:
        (tmp_path / "unsloth.py").write_text(source)

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(backends, "_lacking", lambda settings: None)
    return put


def test_a_process_that_fails_is_one_line_after_its_output(home, stand_in, capfd):
    stand_in("print('a banner')\nraise NotImplementedError('no accelerator')")
    with pytest.raises(ResultsError, match="ended with status 1 .*: NotImplementedError: no accelerator$") as told:
        training.train(small(home, seed=9, backend="unsloth"))
    assert "\n" not in str(told.value) and "a banner\n" in capfd.readouterr().out


@pytest.mark.slow
def test_a_process_of_its_own_stops_when_asked_and_goes_on_to_the_same_result(home, stand_in):
    stand_in()
    plain, apart = small(home, seed=1), small(home, seed=1, backend="unsloth")
    training.train(plain)
    training.finish(plain)
    folder = runs.stage_dir(plain, "train")
    moved = folder.rename(folder.parent / "plain")

    def interrupt():
        while not files.read_log(folder / "training.jsonl"):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt, match="run it again"):
        training.train(apart)
    assert 0 < len(files.read_log(folder / "training.jsonl")) < 4, "it was stopped too late"
    training.train(apart)
    assert training.finish(apart)["settings"]["backend"] == "unsloth"
    for name in ("training", "dev", "reflections"):
        lines = [files.read_jsonl(one / f"{name}.jsonl") for one in (moved, folder)]
        assert [{**line, "seconds": 0} for line in lines[0]] == [{**line, "seconds": 0} for line in lines[1]]
    weights = [(one / "adapter/adapter_model.safetensors").read_bytes() for one in (moved, folder)]
    assert weights[0] == weights[1] and not list(folder.rglob("*compiled*"))


def test_a_cache_that_is_a_tuple_gives_the_same_texts(home, monkeypatch):
    spoken = policy.load_base(small(home))
    rows = [{"id": str(k), "nums": [k, 2, 3], "target": k + 5} for k in range(1, 4)]
    asked = [conversation.attempt(countdown, row) for row in rows]
    say = lambda: HFSampler(spoken, 64, progress=False).sample(asked, 4, 12, 0.9, 0)  # noqa: E731
    expected, forward, seen = say(), spoken.model.forward, []

    def tupled(*args, **rest):
        out = forward(*args, **rest)
        if rest.get("logits_to_keep") == 1 and rest.get("past_key_values") is None and not seen:
            out.past_key_values = tuple((layer.keys, layer.values) for layer in out.past_key_values.layers)
            seen.append(type(out.past_key_values))
        return out

    monkeypatch.setattr(spoken.model, "forward", tupled)
    assert say() == expected and seen == [tuple]


@pytest.mark.skipif(not TOKENIZERS.is_dir(), reason="no ../shared/data/tokenizers here")
@pytest.mark.parametrize("family", FAMILIES)
def test_real_tokenizers_pad_with_what_no_prompt_and_no_end_contains(family):
    pad, ends = FAMILIES[family]
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZERS / family)
    assert tokens.safe_pad(tokenizer, ends) == pad
    asked = [
        [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
        * 2
    ]
    tokenizer.pad_token = pad
    [ids] = tokenizer.apply_chat_template(asked, tokenize=True, return_dict=False)
    assert tokenizer.pad_token_id not in {*ids, *ends, tokenizer.eos_token_id}
    assert tokens.safe_pad(tokenizer, ends) == pad  # its own now, and kept


def test_a_pad_token_that_texts_contain_is_replaced_or_refused(home):
    tokenizer = byte_tokenizer(["word"])
    assert tokens.safe_pad(tokenizer) == "<|pad|>" == policy.load_base(small(home)).tokenizer.pad_token
    for taken in ("<|end|>", "<|user|>"):  # the end of turn; a mark that the template writes
        tokenizer.pad_token = taken
        with pytest.raises(SettingsError, match=f"no token to pad with .*{taken[2:-2]}") as told:
            tokens.safe_pad(tokenizer, [tokenizer.convert_tokens_to_ids("<|pad|>")])
        assert "\n" not in str(told.value)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|reserved_1|>"]}, replace_extra_special_tokens=False)
    assert tokens.safe_pad(tokenizer, [tokenizer.convert_tokens_to_ids("<|pad|>")]) == "<|reserved_1|>"
    tokenizer.pad_token = None
    assert tokens.safe_pad(tokenizer, [tokenizer.convert_tokens_to_ids("<|pad|>")]) == "<|reserved_1|>"


def test_free_gives_a_trainer_s_memory_back(home, tmp_path):
    gc.disable()  # so that only free() collects
    try:
        kept = files.read_jsonl(runs.stage_dir(small(home), "failures") / "failures.jsonl")
        trainer, reward = training.build_trainer(small(home), kept, tmp_path)  # refer to each other
        weights = weakref.ref(trainer.model)
        del trainer, reward
        assert weights() is not None
        gpus.free()
        assert weights() is None
    finally:
        gc.enable()
