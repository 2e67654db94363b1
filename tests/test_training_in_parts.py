"""A training step whose reflections are made in several parts: gradient, log, retries, and going on."""

from __future__ import annotations

import pytest
import torch
from small import interrupted_at, small
from transformers import TrainerCallback

from rrr_utils import failures, files, runs, training
from rrr_utils.sampling import Completion

# --- a step in several parts


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the failures stage done."""
    folder = tmp_path_factory.mktemp("runs")
    failures.sample(small(folder))
    failures.finish(small(folder))
    return folder


def gradients(home, folder, loss_type: str, at_once: int) -> tuple[torch.Tensor, list[int]]:
    """Of the first step, over all adapter weights, with the same reflections and rewards however many are made at once."""
    s = small(home, failures_per_step=4, generation_batch=at_once, loss_type=loss_type, beta=0.0, max_grad_norm=1e6)
    folder.mkdir(parents=True)
    trainer, reward = training.build_trainer(
        s, files.read_jsonl(runs.stage_dir(s, "failures") / "failures.jsonl"), folder
    )
    torch.manual_seed(0)
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn_like(parameter)
    calls, found, words = [], [], trainer.processing_class("I should be more careful .")["input_ids"]

    def said(prompt_ids, *_):
        """A group's reflections have lengths of 4, 8, 12 ... tokens, times the place of its failure in the step."""
        calls.append(len(prompt_ids))
        first = sum(calls[:-1]) // 4
        return [(words * 40)[: 4 * (k % 4 + 1) * (first + k // 4 + 1)] for k in range(len(prompt_ids))], None

    monkey = pytest.MonkeyPatch()
    monkey.setattr(trainer, "_generate_single_turn", said)
    monkey.setattr(reward, "retry", lambda rows, *_: [[Completion(str(k % 4), False, 1)] for k in range(len(rows))])
    monkey.setattr(reward, "right", lambda text, row: text in ("0", "3"))

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            found.append(
                torch.cat([p.grad.flatten().clone() for p in trainer.model.parameters() if p.grad is not None])
            )
            control.should_training_stop = True

    trainer.add_callback(Keep())
    trainer.train()
    monkey.undo()
    return found[0], calls


def test_a_step_s_gradient_does_not_depend_on_how_many_reflections_are_made_at_once(home, tmp_path):
    for loss_type in ("grpo", "dapo"):
        whole, calls = gradients(home, tmp_path / loss_type / "whole", loss_type, 4096)
        parts, more = gradients(home, tmp_path / loss_type / "parts", loss_type, 4)
        assert (calls, more) == ([16], [4, 4, 4, 4])
        apart = ((whole - parts).norm() / whole.norm()).item()
        cosine = torch.nn.functional.cosine_similarity(whole, parts, dim=0).item()
        print(loss_type, apart, cosine)
        assert apart < 1e-5 if loss_type == "grpo" else 1e-3 < apart < 1 and cosine > 0.8


def log_of(directory):
    lines = files.read_jsonl(directory / "training.jsonl"), files.read_jsonl(directory / "reflections.jsonl")
    return [[{k: v for k, v in line.items() if k != "seconds"} for line in log] for log in lines]


def test_a_training_in_parts_has_a_line_a_step_its_own_retries_and_goes_on_to_the_same_result(
    home, tmp_path, monkeypatch
):
    s = small(home, seed=3, generation_batch=4)
    seeds, generate = [], training.RetryReward.generate

    def noted(self, conversations, n, max_tokens, temperature, seed, base=False):
        seeds.append(seed)
        return generate(self, conversations, n, max_tokens, temperature, seed, base)

    monkeypatch.setattr(training.RetryReward, "generate", noted)
    training.train(s)
    folder = runs.stage_dir(s, "train")
    lines, reflections = log_of(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    for line in lines:
        own = [one["reward"] for one in reflections if one["step"] == line["step"]]
        assert len(own) == 8 and line["reward"] == pytest.approx(sum(own) / 8) == line["retry_correct"]
    retried = [seed - 3 * 1_000_003 for seed in seeds if seed > 1]
    assert retried == [step + call * 104_729 for step in range(4) for call in range(2)]

    adapter = (folder / "adapter/adapter_model.safetensors").read_bytes()
    folder.rename(tmp_path / "whole")
    with interrupted_at(3, monkeypatch):
        training.train(s)
    training.train(s)
    assert log_of(folder) == [lines, reflections]
    assert (folder / "adapter/adapter_model.safetensors").read_bytes() == adapter
