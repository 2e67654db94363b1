"""Sizes that fit a card: the arithmetic against the models themselves, and what is chosen."""

from __future__ import annotations

import weakref

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from small import small
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, Qwen2Config
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl.trainer.utils import selective_log_softmax_and_entropy

from rrr_utils import fit, policy, runs
from rrr_utils.errors import SettingsError
from rrr_utils.settings import DATA, Settings, load

#: class, hidden, layers, heads, heads of keys and values, MLP, vocabulary, tied, and the published number of weights
MODELS = {
    "Qwen2.5-1.5B": (Qwen2Config, 1536, 28, 12, 2, 8960, 151936, True, 1_543_714_304),
    "Qwen2.5-3B": (Qwen2Config, 2048, 36, 16, 2, 11008, 151936, True, 3_085_938_688),
    "Qwen2.5-7B": (Qwen2Config, 3584, 28, 28, 4, 18944, 152064, False, 7_615_616_512),
    "Llama-3.2-3B": (LlamaConfig, 3072, 28, 24, 8, 8192, 128256, True, 3_212_749_824),
    "Llama-3.1-8B": (LlamaConfig, 4096, 32, 32, 8, 14336, 128256, False, 8_030_261_248),
    "Phi-3.5-mini": (Phi3Config, 3072, 32, 32, 32, 8192, 32064, False, 3_821_079_552),
}
GIB = 2**30
#: a card's preset and total memory, as nvidia-smi tells it
CARDS = {"t4": 15360 * 2**20, "gpu_24gb": 23034 * 2**20, "gpu_80gb": 81559 * 2**20}


def config(name: str, layers: int | None = None):
    kind, hidden, depth, heads, kv_heads, wide, vocabulary, tied, _ = MODELS[name]
    return kind(
        hidden_size=hidden, num_hidden_layers=layers or depth, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=wide, vocab_size=vocabulary, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


# --- the arithmetic


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_adapter_are_counted_as_the_models_have_them(name):
    assert fit.shape(config(name)).linear + fit.shape(config(name)).embeddings == pytest.approx(
        MODELS[name][-1], rel=1e-4
    )
    one = fit.shape(config(name, 2))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config(name, 2))
        linear = sum(
            m.weight.numel() for n, m in model.named_modules() if type(m) is torch.nn.Linear and n != "lm_head"
        )
        assert linear == one.linear
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=16))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    if name.startswith("Phi"):  # one adapter for its three matrices, and one for its two: fewer
        assert 0.8 * 16 * one.adapter < trained < 16 * one.adapter
    else:
        assert trained == 16 * one.adapter


def test_bytes_of_a_4_bit_model_and_of_its_cache_are_those_measured(tmp_path):
    settings = small(tmp_path)
    model = policy.load_base(settings).model
    one = fit.shape(model.config)
    layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    scales = sum(m.weight.quant_state.absmax.nbytes for m in layers)
    measured = sum({p.data_ptr(): p.nbytes for p in model.parameters()}.values()) + scales
    assert fit.fixed_bytes(settings, one, "failures") == pytest.approx(measured, rel=0.03)
    with torch.no_grad():
        cache = model(torch.zeros(3, 10, dtype=torch.long), use_cache=True).past_key_values
    assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == 3 * 10 * 4 * one.cache


def test_the_cache_of_the_paper_s_models_as_it_is_known():
    per_256_rows = {name: 256 * 650 * 2 * fit.shape(config(name)).cache / GIB for name in MODELS}
    assert [round(per_256_rows[name], 1) for name in ("Qwen2.5-1.5B", "Llama-3.1-8B", "Phi-3.5-mini")] == [
        4.4,
        20.3,
        60.9,
    ]


class Allocated(TorchDispatchMode):
    """Bytes of the tensors that live at a time, on torch's meta device: shapes and life times are real, nothing is computed."""

    def __init__(self):
        super().__init__()
        self.now, self.most, self.seen = 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in (t for t in tree_iter(out) if isinstance(t, torch.Tensor)):
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self.seen | given:
                self.seen.add(key)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._free, key, storage.nbytes())
        return out

    def _free(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


class _Attention(torch.autograd.Function):
    """Allocates what a fused kernel allocates."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(torch.empty_like(one) for one in ctx.saved_tensors[:3])


def _attention(module, q, k, v, mask, **_):
    k, v = (one.repeat_interleave(module.num_key_value_groups, 1) for one in (k, v))
    return _Attention.apply(q, k, v).transpose(1, 2).contiguous(), None


def allocated(name: str, rows: int, prompt: int, new: int, train: bool, checkpointing: bool = False, layers: int = 2):
    """Most bytes at a time, besides weights and their gradients: of reading prompts, or of a step as trl's loss makes it."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config(name, layers), dtype=torch.bfloat16, attn_implementation="sdpa")
        adapter = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=16)
        model = get_peft_model(model, adapter, low_cpu_mem_usage=True).train(train)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        policy.trainable_to_float32(model)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        width = prompt + new
        ids, mask = torch.zeros(rows, width, dtype=torch.long), torch.ones(1, 1, width, width, dtype=torch.bool)
        asked = {"attention_mask": mask, "position_ids": torch.arange(width)[None].expand(rows, width)}
        with Allocated() as counted, torch.set_grad_enabled(train):
            if not train:
                model(ids, **asked, use_cache=True, logits_to_keep=1)
            else:
                out = model(ids, **asked, use_cache=False, logits_to_keep=new + 1)
                out.logits = out.logits.float()  # as accelerate does
                told = {"entropy_requires_grad": False, "temperature": 0.9}
                said = selective_log_softmax_and_entropy(out.logits[:, :-1], ids[:, -new:], **told)[0].mean()
                del out  # as where trl's function returns
                said.backward()
    return counted.most


@pytest.mark.parametrize("name", ["Qwen2.5-1.5B", "Llama-3.1-8B", "Phi-3.5-mini"])
def test_activations_are_what_the_models_allocate_at_their_real_size(name, monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", _attention)
    one = fit.shape(config(name, 2))
    read = allocated(name, 4, 128, 0, train=False) - 4 * 128 * 2 * one.cache
    assert 0.98 < 4 * 128 * 2 * one.activations(fit.READ_FUSED if one.fused else fit.READ) / read < 1.25
    for checkpointing in (True, False):
        for prompt, new in ((200, 120), (320, 8)):  # the logits weigh most, and the layers
            counted = allocated(name, 2, prompt, new, True, checkpointing)
            assert 0.95 < 2 * fit.trained_bytes(one, 2, prompt, new, checkpointing) / counted < 1.25


# --- what is chosen


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", MODELS)
def test_sizes_fit_divide_and_never_exceed_the_ceilings(name, card):
    for overrides in (
        {},
        {"failures_per_step": 12, "reflections_per_failure": 10},
        {"gpus": 2},
        {"backend": "unsloth"},
    ):
        s = load("single_gpu", {"preset": card, "backend": "transformers", **overrides})
        batch, group = s.failures_per_step * s.reflections_per_failure, s.reflections_per_failure
        for stage in runs.STAGES[:3]:
            found = fit.sizes(s, config(name), CARDS[card], stage)
            assert found == fit.sizes(s, config(name), CARDS[card], stage)
            assert all(1 <= size <= getattr(s, key) for key, size in found.items())
            fitted = s.model_copy(update=found)
            Settings.model_validate(fitted.model_dump())  # micro_batch divides
            share, micro = batch // s.gpus, min(fitted.micro_batch, batch // s.gpus)
            steps = fit.steps_per_generation(share // micro, micro, group, fitted.generation_batch, s.gpus)
            assert share % (steps * micro) == 0 and steps * micro * s.gpus % group == 0
            more = fit.sizes(s, config(name), 2 * CARDS[card], stage)
            assert all(more[key] >= size for key, size in found.items())


def test_the_1_5b_model_in_4_bits_trains_in_less_than_14_gb():
    s = load("single_gpu", {"preset": "t4", "backend": "transformers"})
    one, two = fit.shape(config("Qwen2.5-1.5B")), (s.attempt_tokens + 256 + fit.REQUEST_TOKENS, s.reflection_tokens)
    found = fit.sizes(s, config("Qwen2.5-1.5B"), CARDS["t4"], "train")
    trained = found["micro_batch"] * fit.trained_bytes(one, 2, *two, True)
    written = min(found["generation_batch"], 256) * fit.sampled_bytes(one, 2, *two)
    assert fit.fixed_bytes(s, one, "train") + max(trained, written) < 14e9 - fit.RESERVE
    assert found["sample_batch"] >= 128 and found["micro_batch"] == 8 and found["generation_batch"] >= 64


def test_phi_s_wide_cache_is_generated_in_parts_and_the_ceilings_stay_where_all_fits():
    for card, name in (("gpu_24gb", "Phi-3.5-mini"), ("gpu_80gb", "Qwen2.5-1.5B")):
        s = load("single_gpu", {"preset": card, "backend": "transformers"})
        found = fit.sizes(s, config(name), CARDS[card], "train")
        assert (found["generation_batch"] < 256) == (name == "Phi-3.5-mini")
        if name != "Phi-3.5-mini":
            assert found["generation_batch"] == s.generation_batch and found["micro_batch"] == s.micro_batch


def test_a_model_that_does_not_fit_is_one_line():
    s = load("single_gpu", {"preset": "t4", "load_in_4bit": False})
    with pytest.raises(
        SettingsError, match=r"takes 1\d\.\d GiB before it says a word, and this machine has 15\.0"
    ) as error:
        fit.sizes(s, config("Llama-3.1-8B"), CARDS["t4"], "failures")
    assert "\n" not in str(error.value)
    whole = s.model_copy(update={"lora_rank": 0})
    assert fit.fixed_bytes(whole, fit.shape(config("Qwen2.5-1.5B")), "train") == pytest.approx(20 * 1.5437e9, rel=0.001)


def test_on_a_cpu_the_embedded_model_keeps_the_preset_s_ceilings(tmp_path):
    s = load("tiny", {"results_dir": str(tmp_path)})
    embedded = policy.AutoModelForCausalLM.from_pretrained(DATA / "embedded" / "countdown").config
    for stage in runs.STAGES[:3]:
        question = fit.question_tokens(s, stage)
        assert 10 <= question <= 64
        for ram in (4, 16, 256):
            found = fit.sizes(s, embedded, ram * GIB, stage, question)
            assert found == {"sample_batch": 64, "generation_batch": 4096, "micro_batch": 32}
