"""The sampler: order, shared prefill, seeds, memory; and the embedded model's tokenizer as it is loaded back."""

from __future__ import annotations

import pytest
import torch
from small import small
from transformers import AutoTokenizer

from rrr_utils import conversation, policy
from rrr_utils.errors import DataError, ResultsError, SettingsError
from rrr_utils.miniature.tokenizer import build_tokenizer
from rrr_utils.sampling import HFSampler
from rrr_utils.settings import DATA
from rrr_utils.tasks import countdown


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return policy.load_base(small(tmp_path_factory.mktemp("none")))


@pytest.fixture(scope="module")
def asked():
    rows = countdown.load("dev", 6, 0)
    long = [
        conversation.retry(countdown, row, "<answer> 1 + 1 </answer>", "I should be more careful .") for row in rows[:3]
    ]
    return [conversation.attempt(countdown, row) for row in rows] + long


def sampler(loaded, batch=64):
    return HFSampler(loaded, batch, progress=False)


def test_results_come_in_the_order_asked_whatever_the_batch(loaded, asked):
    whole = sampler(loaded).sample(asked, 1, 12, 0.0, 0)
    alone = [sampler(loaded).sample([one], 1, 12, 0.0, 0)[0] for one in asked]
    chunked = sampler(loaded, batch=2).sample(asked, 1, 12, 0.0, 0)
    assert whole == alone == chunked
    assert all(len(own) == 1 for own in whole)


def test_a_shared_prefill_says_what_separate_ones_say(loaded, asked):
    shared = sampler(loaded).sample(asked, 3, 12, 0.0, 0)
    single = sampler(loaded).sample(asked, 1, 12, 0.0, 0)
    assert all(own == one * 3 for own, one in zip(shared, single, strict=True))


def test_seeds_decide_and_the_callers_random_state_is_left_alone(loaded, asked):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one = sampler(loaded).sample(asked, 2, 12, 1.0, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert one == sampler(loaded).sample(asked, 2, 12, 1.0, 1)
    assert one != sampler(loaded).sample(asked, 2, 12, 1.0, 2)


def test_tokens_and_truncation_are_counted(loaded, asked):
    completions = [own[0] for own in sampler(loaded).sample(asked, 1, 3, 0.0, 0)]
    assert all(c.tokens == 3 and c.truncated for c in completions)
    completions = [own[0] for own in sampler(loaded).sample(asked, 1, 40, 0.0, 0)]
    for c in completions:
        assert c.truncated == (c.tokens == 40 and not c.text.endswith("</answer>")) or c.tokens < 40
        assert len(loaded.tokenizer(c.text, add_special_tokens=False)["input_ids"]) == c.tokens - (not c.truncated)


def test_words_put_into_its_mouth_open_the_text(loaded, asked):
    texts = [own[0].text for own in sampler(loaded).sample(asked, 1, 8, 0.0, 0, begin="Aim")]
    assert all(text.startswith("Aim ") for text in texts)


def test_running_out_of_memory_halves_the_batch(loaded, asked, monkeypatch):
    one = sampler(loaded, batch=8)
    generate, sizes = one._generate, []

    def tight(prompts, *how):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("no memory")
        return generate(prompts, *how)

    monkeypatch.setattr(one, "_generate", tight)
    assert one.sample(asked, 1, 6, 0.0, 0) == sampler(loaded).sample(asked, 1, 6, 0.0, 0)
    assert sizes[:3] == [8, 4, 2] and one.batch == 2


def test_kept_dequantised_weights_give_the_bits_of_bitsandbytes(loaded, monkeypatch):
    layers = [m for m in loaded.model.modules() if m.__class__.__name__ == "Linear4bit"]
    ids = torch.randint(3, 200, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        kept = loaded.model(ids).logits
        for layer in layers:
            assert layer.forward.keywords["weight"].shape == (layer.out_features, layer.in_features)
            monkeypatch.setattr(layer, "forward", layer.forward.keywords["plain"])
        assert torch.equal(loaded.model(ids).logits, kept)


def test_memory_that_runs_out_while_texts_are_drawn_leaves_the_texts_of_the_batch_that_fits(loaded, asked, monkeypatch):
    generate, rows = loaded.model.generate, []

    def tight(input_ids, **more):
        rows.append(len(input_ids))
        if len(input_ids) > 2:
            torch.rand(100)  # as many tokens were drawn already
            raise torch.OutOfMemoryError("no memory")
        return generate(input_ids=input_ids, **more)

    expected = [sampler(loaded, batch=2).sample(asked[:4], n, 8, 1.0, 3) for n in (1, 5)]
    monkeypatch.setattr(loaded.model, "generate", tight)
    assert [sampler(loaded, batch=8).sample(asked[:4], n, 8, 1.0, 3) for n in (1, 5)] == expected
    assert rows[:4] == [4, 4, 2, 2] and rows[4:8] == [5, 4, 2, 2]  # five samples of one: by two, two and one
    assert all(len(own) == 5 for own in expected[1])
    monkeypatch.setattr(loaded.model, "generate", lambda **_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(torch.OutOfMemoryError):
        sampler(loaded, batch=8).sample(asked[:4], 1, 8, 1.0, 3)


def test_a_prompt_read_in_parts_as_on_a_gpu_is_answered_alike(loaded, asked):
    parts = sampler(loaded)
    assert parts.prefill_tokens is None  # on a CPU whole
    expected = [parts.sample(asked, 1, 24, heat, 0) for heat in (0.0, 0.9)]
    for tokens in (7, 16):  # some parts of the short prompts are padding alone
        parts.prefill_tokens = tokens
        assert [parts.sample(asked, 1, 24, heat, 0) for heat in (0.0, 0.9)] == expected


def test_the_tokenizer_loads_back_as_it_was_built():
    built, loaded = build_tokenizer("countdown"), AutoTokenizer.from_pretrained(DATA / "embedded" / "countdown")
    assert built.get_vocab() == loaded.get_vocab()
    assert loaded.chat_template == built.chat_template and loaded.padding_side == "left"
    assert loaded.eos_token == "<|end|>" and loaded.pad_token != loaded.eos_token
    for text in ("<answer> ( 9 * 3 ) + 4 </answer>", "(9*3)+4 = 31", "Übung\n\tmacht 🙂 12345", " ", "<|end|>"):
        ids = loaded(text, add_special_tokens=False)["input_ids"]
        assert ids == built(text, add_special_tokens=False)["input_ids"] and loaded.decode(ids) == text


def test_a_missing_model_is_one_line(tmp_path):
    (tmp_path / "sorting.py").write_text("VERSION = 1")
    with pytest.raises(ResultsError, match="no embedded model for task 'sorting'"):
        policy.load_base(small(tmp_path, task=str(tmp_path / "sorting.py")))
    with pytest.raises(DataError, match="cannot reach the hub for model no/such-model") as error:
        policy.load_base(small(tmp_path, model="no/such-model"))
    assert "\n" not in str(error.value)
    (tmp_path / "config.json").write_text('{"model_type": "none such"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(SettingsError, match=f"cannot load model '{tmp_path}'") as error:
        policy.load_base(small(tmp_path, model=str(tmp_path)))
    assert "\n" not in str(error.value)
