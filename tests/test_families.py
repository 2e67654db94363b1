"""Every family of the paper, and Qwen3: what goes into the model and comes out, its own ends of turn, nothing of its
checkpoint's sampling defaults, and the four stages. The models are small and say texts that `helpers_families.SAID` names.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter

import helpers_families as families
import helpers_models
import pandas as pd
import pytest
import torch
from helpers_families_prompts import TASK, WARMTH, asked, own_cache, wants  # noqa: F401
from transformers import GenerationConfig, GenerationMixin, set_seed

from rrr_utils import conversation, engines, files, policy, runs, tasks, tokens, training
from rrr_utils.sampling import HFSampler

# ---------------------------------------------------------------- what goes into the model, and what comes out


class Made:
    """A family's model, the settings of a run with it, and failures to train on."""

    def __init__(self, name, folder):
        self.family = families.FAMILIES[name.split(", ")[0]]
        self.settings = families.given(folder, families.save(folder, name, TASK), TASK, retries_per_reflection=2)
        self.task = tasks.get(TASK)
        rows = tasks.load(self.task, "train", 6, self.settings.source)
        self.failed = [{"id": row["id"], "row": row, "attempt": f"wrong {k}"} for k, row in enumerate(rows)]
        self.base = policy.load_base(self.settings)
        self.tokenizer = self.base.tokenizer
        self.ends = self.tokenizer.convert_tokens_to_ids(list(self.family.ends))

    def trainer(self, folder):
        """A trainer before its first step."""
        folder.mkdir(parents=True, exist_ok=True)
        return training.build_trainer(self.settings, self.failed, folder)[0]

    def sample(self, *how):
        return HFSampler(self.base, 32, progress=False).sample(*how)


@pytest.fixture(scope="module", params=[wants(name, slow=name.endswith("real")) for name in families.NAMES])
def made(request, tmp_path_factory):
    return Made(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def first(made, tmp_path_factory):
    """The family's trainer, what every `generate` of its first batch was given, that batch as it is trained on, and
    what is logged of it."""
    folder = tmp_path_factory.mktemp("trainer")
    trainer = made.trainer(folder)
    with heard() as calls:
        batch = batch_of(trainer)
    return trainer, calls, batch, files.read_jsonl(folder / "reflections.jsonl")


def batch_of(trainer):
    trainer.model.train()
    set_seed(0)
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


@contextlib.contextmanager
def heard():
    """A list of every `generate`: the prompts without their padding, and what was said after each."""
    generate, calls = GenerationMixin.generate, []

    def listen(self, *args, **kwargs):
        ids, mask = kwargs["input_ids"], kwargs["attention_mask"].bool()
        out = generate(self, *args, **kwargs)
        given = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        calls.append((given, out[:, ids.shape[1] :].tolist()))
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GenerationMixin, "generate", listen)
        yield calls


def until_the_end(ids: list[int], ends: list[int]) -> list[int]:
    """The ids up to the first end of turn, it included."""
    return ids[: next((k + 1 for k, token in enumerate(ids) if token in ends), len(ids))]


@pytest.mark.parametrize("n", [1, 3])  # 3 share a prefill
def test_the_sampler_gives_the_model_these_ids_and_no_others(made, n):
    prompts = asked()[:6]
    with heard() as calls:
        made.sample(prompts, n, 2, WARMTH, 0)
    wanted = Counter(tuple(ids) for ids in conversation.prompt_ids(made.tokenizer, prompts) for _ in range(n))
    assert Counter(tuple(ids) for given, _ in calls for ids in given) == wanted


def test_so_does_training_by_trl_and_by_us(made, first):
    _, calls, _, logged = first
    s, ids = made.settings, lambda asked: set(map(tuple, conversation.prompt_ids(made.tokenizer, asked)))
    reflections, retries = calls[0][0], [ids for given, _ in calls[1:] for ids in given]
    assert len(reflections) == s.failures_per_step * s.reflections_per_failure == len(logged)
    assert len(retries) == len(reflections) * s.retries_per_reflection
    told = [(line["row"], line["attempt"]) for line in logged]
    assert set(map(tuple, reflections)) == ids([conversation.reflect(made.task, *one) for one in told])
    again = [conversation.retry(made.task, *one, line["reflection"]) for one, line in zip(told, logged, strict=True)]
    assert set(map(tuple, retries)) == ids(again)


def test_so_does_the_worker_of_vllm(made, monkeypatch):
    """What is sent to it, without it: the ids, the family's ends, and no default of the checkpoint's."""
    prompts, sent = asked()[:6], []
    monkeypatch.setattr(engines.VLLMSampler, "_start", lambda self, length: None)
    sampler = engines.VLLMSampler(made.settings.model_copy(update={"load_in_4bit": False}), progress=False)
    answers = [{"prompt": k, "ids": [[made.ends[0]]]} for k in range(len(prompts))]
    monkeypatch.setattr(sampler, "_answers", lambda asked: sent.append(asked) or iter(answers))
    assert sampler.sample(prompts, 1, 7, WARMTH, 0) == [[("", False, 1)]] * len(prompts)
    assert sent[0]["prompts"] == conversation.prompt_ids(made.tokenizer, prompts)
    how = sent[0]["how"]
    assert (
        set(how["stop_token_ids"])
        == set(made.ends)
        == set(tokens.ends(made.base.model.generation_config, made.base.tokenizer))
    )
    assert (how["temperature"], how["top_p"], how["top_k"], how["max_tokens"]) == (WARMTH, 1.0, 0, 7)
    assert not {"repetition_penalty", "min_p"} & how.keys()


@pytest.mark.parametrize("limit", [5, 14])
def test_a_turn_ends_at_each_of_the_family_s_ends(made, limit):
    """The sampler's texts and counts, beside what the model said token by token."""
    with heard() as calls:
        [got] = made.sample(asked()[:1], 64, limit, WARMTH, 0)
    said, last = [ids for _, out in calls for ids in out], Counter()
    assert len(said) == len(got) == 64
    for ids, made_of in zip(said, got, strict=True):
        kept = until_the_end(ids, made.ends)
        ended = kept[-1] in made.ends
        assert made_of.tokens == len(kept) and made_of.truncated == (not ended)
        assert set(ids[len(kept) :]) <= {made.tokenizer.pad_token_id}
        assert any(made_of.text == text if ended else text.startswith(made_of.text) for text in families.SAID[TASK])
        last[kept[-1]] += ended
    assert any(c.truncated for c in got) == (limit == 5)
    assert limit == 5 or all(last[end] for end in made.ends), last  # each of them was said


def test_the_loss_covers_exactly_the_reflection_and_its_end(made, first):
    _, calls, batch, logged = first
    masks = batch["completion_mask"].bool()
    assert masks.long().diff().le(0).all()  # one stretch, from the first token on
    held = [ids[mask].tolist() for ids, mask in zip(batch["completion_ids"], masks, strict=True)]
    said = [until_the_end(ids, made.ends) for ids in calls[0][1]]
    assert Counter(map(tuple, held)) == Counter(map(tuple, said)) and batch["num_items_in_batch"] == sum(map(len, said))
    ended = [ids[-1] in made.ends for ids in said]
    assert any(ended) and not all(ended)  # reflection_tokens cuts some of them off
    bare = [ids[:-1] if end else ids for ids, end in zip(said, ended, strict=True)]
    assert [line["reflection"] for line in logged] == made.tokenizer.batch_decode(bare, skip_special_tokens=True)
    for kind in ("prompt", "completion"):
        ids, mask, pad = batch[f"{kind}_ids"], batch[f"{kind}_mask"].bool(), made.tokenizer.pad_token_id
        assert not (ids[mask] == pad).any() and (ids[~mask] == pad).all()


def test_rewards_are_mixed_so_that_there_is_something_to_train_on(first):
    rewards = [line["reward"] for line in first[3]]
    assert 0 < sum(rewards) < len(rewards) and first[2]["advantages"].abs().max() > 0


# ---------------------------------------------------------------- nothing of the checkpoint's defaults


def without_defaults(model, ends):
    """The model with a generation config that knows the ends alone."""
    kept, model.generation_config = model.generation_config, GenerationConfig(eos_token_id=ends)
    return kept


def test_no_default_of_the_checkpoint_leaks_into_a_text(made):
    model = made.base.model
    if made.family.generation:
        assert model.generation_config.temperature == made.family.generation["temperature"]  # it is there to leak

    def said():
        """Token by token: a text does not show at which of its ends it ended."""
        with heard() as calls:
            for prompts, n, heat in ((asked()[:4], 1, 0.0), (asked()[:4], 1, WARMTH), (asked()[:1], 48, WARMTH)):
                made.sample(prompts, n, 14, heat, 5)
        return [until_the_end(ids, made.ends) for _, out in calls for ids in out]

    with_them = said()
    kept = without_defaults(model, made.ends)
    try:
        assert said() == with_them
    finally:
        model.generation_config = kept


def test_its_defaults_would_change_the_texts(made):
    """The test above can fail: a `generate` that is told less than ours says other texts with the defaults."""
    [ids] = conversation.prompt_ids(made.tokenizer, asked()[:1])
    prompt = {"input_ids": torch.tensor([ids] * 32), "attention_mask": torch.ones(32, len(ids), dtype=torch.long)}

    def says():
        torch.manual_seed(0)
        told = {"do_sample": True, "max_new_tokens": 14, "pad_token_id": made.tokenizer.pad_token_id}
        return made.base.model.generate(**prompt, **told).tolist()

    with_them = says()
    kept = without_defaults(made.base.model, made.ends)
    try:
        assert (says() == with_them) == (not made.family.generation)
    finally:
        made.base.model.generation_config = kept


def test_no_default_of_the_checkpoint_leaks_into_training(made, first, tmp_path):
    trainer = made.trainer(tmp_path)
    base = trainer.model.get_base_model()
    assert base.generation_config.eos_token_id == made.ends
    without_defaults(base, made.ends)
    again = batch_of(trainer)
    for name in ("completion_ids", "advantages"):
        assert again[name].tolist() == first[2][name].tolist()


# ---------------------------------------------------------------- the four stages


def all_stages(name, task_name, folder):
    """The four stages by their functions, and what must be true of their files."""
    folder.mkdir(exist_ok=True)
    one = families.given(folder, families.save(folder, name, task_name), task_name)
    done = helpers_models.all_stages(one)
    train, task = runs.stage_dir(one, "train"), tasks.get(task_name)
    lines, logged = files.read_jsonl(train / "training.jsonl"), files.read_jsonl(train / "reflections.jsonl")
    assert [line["step"] for line in lines] == [1, 2] and len(logged) == 2 * 3 * 8
    assert all(math.isfinite(line[key]) for line in lines for key in ("loss", "kl", "grad_norm"))
    spread = [line for line in lines if line["reward_std"] > 0]
    assert spread and all(line["grad_norm"] > 0 and line["zero_variance"] < 1 for line in spread)
    mean = sum(line["reward"] for line in logged) / len(logged)
    assert sum(line["retry_correct"] for line in lines) / 2 == pytest.approx(mean)
    assert json.loads((train / "adapter" / "adapter_config.json").read_text())["r"] == one.lora_rank
    frame = pd.read_csv(runs.stage_dir(one, "tables") / "cells.csv")
    assert set(frame["task"]) == {task_name} and (frame["n"] == one.test_items).all()
    for failure in files.read_jsonl(runs.stage_dir(one, "failures") / "failures.jsonl"):
        assert not task.verify(failure["attempt"], failure["row"]).correct
    assert done["evaluate"]["identity"]["model_hash"].startswith("sha256:")


FAST = ("llama-3, own", "function_calling"), ("phi-3.5, own", "countdown")
EACH = [pytest.param(*one.values, task, marks=one.marks) for task in families.SAID for one in
        (wants(name, slow=(name, task) not in FAST) for name in families.NAMES)]  # fmt: skip


@pytest.mark.parametrize("name, task", EACH)
def test_all_four_stages(name, task, tmp_path, capsys):
    all_stages(name, task, tmp_path / "family")
    capsys.readouterr()
