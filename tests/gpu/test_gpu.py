"""On a CUDA GPU: the tiny profile's model in NF4, and a GRPO step of it with the preset for 24 GB."""

from __future__ import annotations

import random

import pytest
import torch

from rrr_utils import conversation, files, policy, settings, tasks, training
from rrr_utils.miniature import countdown as corpus
from rrr_utils.sampling import HFSampler

pytestmark = pytest.mark.gpu


@pytest.fixture
def given(tmp_path):
    """The tiny profile for one step on a GPU, in bfloat16 where the GPU has it."""
    preset = "gpu_24gb" if torch.cuda.is_bf16_supported() else "t4"
    few = {"steps": 1, "dev_every": 1, "warmup": 0.0}
    return settings.load("tiny", {"preset": preset, "results_dir": str(tmp_path), **few})


def made_failures(number: int) -> list[dict]:
    rng, rows = random.Random(0), tasks.get("countdown").load("train", 4 * number, 0)
    rows = [row for row in rows if corpus.solvable(row)][:number]
    attempts = [corpus.wrong(corpus.steps(row["nums"]), row["target"], rng)[0] for row in rows]
    return [{"id": row["id"], "row": row, "attempt": text} for row, text in zip(rows, attempts, strict=True)]


def test_nf4_weights_are_on_the_gpu_and_generate(given):
    loaded = policy.load_policy(given)
    layers = [m for m in loaded.model.modules() if m.__class__.__name__ == "Linear4bit"]
    assert len(layers) == 7 * loaded.model.config.num_hidden_layers
    weights = [layer.weight for layer in layers]
    assert all(w.is_cuda and w.quant_type == "nf4" and w.dtype == torch.uint8 for w in weights)
    rows = tasks.get("countdown").load("dev", 40, 0)
    asked = [conversation.attempt(tasks.get("countdown"), row) for row in rows]
    sampler = HFSampler(loaded, given.sample_batch, progress=False)
    greedy = sampler.sample(asked, 1, given.attempt_tokens, 0.0, 0)
    assert sum("<answer>" in own[0].text for own in greedy) > len(rows) / 2
    first, second = (sampler.sample(asked, 2, given.attempt_tokens, 1.0, 0) for _ in range(2))
    assert first == second


def test_one_step_trains_the_adapter_and_not_the_base(given, tmp_path):
    trainer, reward = training.build_trainer(given, made_failures(4 * given.failures_per_step), tmp_path)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert all(p.dtype == torch.float32 and p.is_cuda for p in trainer.model.parameters() if p.requires_grad)
    coin = random.Random(0)
    reward.right = lambda completion, row: coin.random() < 0.5  # different rewards in every group
    trainer.train()
    line = next(entry for entry in trainer.state.log_history if "reward" in entry)
    assert line["grad_norm"] > 0 and line["loss"] == line["loss"] and 0.2 < line["reward"] < 0.8
    for name, p in trainer.model.named_parameters():  # the A matrices have no gradient while the B matrices are still 0
        assert torch.equal(p, before[name]) == ("lora_B" not in name), name
    logged = files.read_jsonl(tmp_path / "reflections.jsonl")
    assert len(logged) == given.failures_per_step * given.reflections_per_failure


def test_an_adapter_saved_on_the_gpu_gives_the_same_texts_when_loaded(given, tmp_path):
    trainer, reward = training.build_trainer(given, made_failures(4 * given.failures_per_step), tmp_path)
    for name, p in trainer.model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.02, generator=torch.Generator(p.device).manual_seed(0))
    asked = [conversation.attempt(tasks.get("countdown"), f["row"]) for f in made_failures(16)]
    inside = reward.generate(asked, 1, given.attempt_tokens, 0.0, 0)
    trainer.save_model(str(tmp_path / "adapter"))
    again = HFSampler(policy.load_policy(given, tmp_path / "adapter"), given.sample_batch, progress=False)
    assert again.sample(asked, 1, given.attempt_tokens, 0.0, 0) == inside
