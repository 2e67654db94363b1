"""Generation on a CPU with less work: the same tokens as transformers' own, fewer rows, and nothing elsewhere."""

from __future__ import annotations

import functools
import gc
import weakref

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from rrr_utils import decoding, policy, sampling, tasks, tokens
from rrr_utils.conversation import reflect, retry
from rrr_utils.settings import DATA, load

WRONG = "<answer> ( 1 + 2 ) * 3 </answer>"


@pytest.fixture(scope="module")
def embedded():
    """The base model as stages load it (4 bits, the quick way), and another that generates as transformers does."""
    settings, kept = load("tiny"), decoding.less_work
    quick = policy.load_base(settings)
    policy.less_work = lambda model: None
    try:
        return quick, policy.load_base(settings)
    finally:
        policy.less_work = kept


@pytest.fixture(scope="module")
def asked():
    task = tasks.get("countdown")
    rows = tasks.load(task, "dev", 40, None, 0.0)
    return [retry(task, r, WRONG, "I was wrong .") if k % 4 else reflect(task, r, WRONG) for k, r in enumerate(rows)]


@pytest.mark.parametrize(("heat", "n", "batch"), [(0.0, 1, 64), (0.9, 1, 64), (0.9, 4, 64), (1.5, 1, 24), (1.5, 2, 5)])
def test_the_texts_are_the_same(embedded, asked, heat, n, batch):
    texts = [sampling.HFSampler(one, batch, progress=False).sample(asked, n, 40, heat, 3) for one in embedded]
    assert texts[0] == texts[1]
    assert len({one.tokens for own in texts[0] for one in own}) > 1 or heat == 0  # they end at different tokens


def passes(one: policy.Policy, asked: list, limit: int) -> list[int]:
    """The rows of each forward pass while texts are sampled."""
    rows, layers = [], one.model.model.layers[0]
    hook = layers.register_forward_pre_hook(lambda module, given, named: rows.append(len(given[0])), with_kwargs=True)
    sampling.HFSampler(one, 64, progress=False).sample(asked, 1, limit, 1.2, 0)
    hook.remove()
    return rows


def test_what_has_ended_is_left_out_down_to_a_few_rows(embedded, asked):
    quick, plain = (passes(one, asked, 40) for one in embedded)
    assert set(plain) == {40} and len(plain) == len(quick)
    assert quick[0] == 40 and sorted(quick, reverse=True) == quick
    assert decoding.LEAST <= min(quick) < 20


@pytest.mark.parametrize(("prompts", "first"), [(10, 10), (decoding.LEAST - 1, 28), (40, 40)])
def test_a_group_s_prompt_is_read_once_for_the_same_texts(embedded, asked, prompts, first):
    """As trl has it: each prompt several times, side by side. Of few prompts all are read: other kernels would multiply."""
    group = [one for one in asked[:prompts] for _ in range(1 if prompts == 40 else 4)]
    assert passes(embedded[0], group, 20)[0] == first and passes(embedded[1], group, 20)[0] == len(group)
    texts = [sampling.HFSampler(one, 64, progress=False).sample(group, 1, 30, 1.2, 5) for one in embedded]
    assert texts[0] == texts[1] and len({own[0].text for own in texts[0]}) > len(group) // 4


def test_rows_are_kept_by_what_still_goes_on():
    cache = decoding.DynamicCache()
    cache.update(torch.arange(12.0).reshape(12, 1, 1, 1), torch.zeros(12, 1, 1, 1), 0)
    rows = decoding.Rows(cache, [7])
    rows.leave_out(torch.full((12,), 7))  # the prompts' last token: nothing has ended
    rows.leave_out(torch.tensor([7, 1, 7, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
    assert rows.kept is None  # ten of twelve: not worth a copy
    rows.leave_out(torch.tensor([0, 7, 0, 1, 1, 1, 1, 1, 1, 1, 1, 7]))
    assert rows.kept.tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    assert cache.layers[0].keys.flatten().tolist() == rows.kept.tolist()
    rows.leave_out(torch.full((12,), 7))
    assert len(rows.kept) == decoding.LEAST


def test_the_cache_has_room_and_is_copied_once(embedded, asked):
    one, seen = embedded[0], []
    update = decoding.RoomyLayer.update

    def watched(self, *given, **named):
        out = update(self, *given, **named)
        seen.append((id(self), self.places[0].data_ptr(), self.places[0].shape))
        return out

    decoding.RoomyLayer.update = watched
    try:
        sampling.HFSampler(one, 4, progress=False).sample(asked[:4], 1, 12, 1.2, 0)  # too few rows to leave any out
    finally:
        decoding.RoomyLayer.update = update
    assert len(seen) > 4 * 6 and len(set(seen)) == 4  # a place for each of the four layers


def test_nothing_is_kept_after_a_generation(embedded, asked):
    made, model = [], embedded[0].model
    plain = model._prepare_cache_for_generation

    def noted(config, inputs, *rest):
        plain(config, inputs, *rest)
        made.append(weakref.ref(inputs["past_key_values"]))

    model._prepare_cache_for_generation = noted
    try:
        sampling.HFSampler(embedded[0], 64, progress=False).sample(asked[:9], 1, 8, 0.9, 0)
    finally:
        model._prepare_cache_for_generation = plain
    gc.collect()
    assert made and all(one() is None for one in made)


def test_other_passes_and_other_caches_are_untouched(embedded):
    ids = torch.randint(0, 200, (3, 9))
    with torch.no_grad():
        assert torch.equal(*(one.model(ids).logits for one in embedded))
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=[5, 9], bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    models = [LlamaForCausalLM(config).eval() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    decoding.less_work(models[0])
    ids = torch.randint(10, 300, (32, 6))
    for way in (
        {"num_beams": 2},
        {"do_sample": True, "prefill_chunk_size": 3},
        {"do_sample": True},
        {"cache_implementation": "static"},
    ):
        texts = []
        for one in models:
            torch.manual_seed(1)
            made = GenerationConfig(max_new_tokens=60, eos_token_id=[5, 9], pad_token_id=0, **way)
            texts.append(one.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=made))
        assert torch.equal(*texts), way


def test_the_embedded_model_s_ends_are_those_of_its_generations(embedded):
    model = AutoModelForCausalLM.from_pretrained(DATA / "embedded" / "countdown")
    assert tokens.ends(model.generation_config, embedded[0].tokenizer) == tokens.ends(
        embedded[0].model.generation_config, embedded[0].tokenizer
    )


def test_an_adapter_says_the_same_bits_in_place():
    """Without gradients; with them peft's own pass is taken, and switched off the base model speaks."""
    base, ids = policy.load_base(load("tiny")).model, torch.arange(5, 305).reshape(10, 30)
    adapted = get_peft_model(base, policy.lora_config(load("tiny"))).eval()
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(3))
    said = {}
    for quick in (False, True):
        with torch.no_grad():
            said[quick] = [adapted(ids).logits]
            with adapted.disable_adapter():
                said[quick].append(adapted(ids).logits)
        loss = adapted(ids).logits.square().mean()
        said[quick] += torch.autograd.grad(loss, [w for w in adapted.parameters() if w.requires_grad])
        layer = adapted.base_model.model.model.layers[0].mlp.up_proj
        assert isinstance(layer.forward, functools.partial) == quick
        policy.add_in_place(adapted)
    assert not torch.equal(*said[True][:2])
    assert all(torch.equal(*pair) for pair in zip(said[True], said[False], strict=True))
