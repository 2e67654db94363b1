"""What is rewarded, and by what: the loss mask, the retries, 4-bit layers and their gradients, interrupt and resume."""

from __future__ import annotations

import json
import random
import resource

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from small import small
from transformers import TrainerCallback

from rrr_utils import conversation, failures, files, policy, runs, training
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.miniature import countdown as corpus
from rrr_utils.sampling import Completion, HFSampler
from rrr_utils.tasks import countdown


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the failures stage done."""
    folder = tmp_path_factory.mktemp("runs")
    settings = small(folder)
    failures.sample(settings)
    failures.finish(settings)
    return folder


def trainer_of(home, folder, **overrides):
    settings = small(home, **overrides)
    kept = files.read_jsonl(runs.stage_dir(settings, "failures") / "failures.jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    trainer, reward = training.build_trainer(settings, kept, folder)
    return settings, kept, trainer, reward


def batch_of(trainer):
    """The first batch as the trainer prepares it: reflections sampled, retried, rewarded."""
    trainer.model.train()
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def gradients(trainer, batch):
    trainer.model.zero_grad()
    trainer.current_gradient_accumulation_steps = (
        trainer.args.gradient_accumulation_steps
    )  # set by the loop that this leaves out
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


def perturb(model):
    """An adapter that says something else than its base."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn_like(parameter)


def test_the_loss_mask_is_the_reflections(home, tmp_path):
    _, _, trainer, _ = trainer_of(home, tmp_path)
    batch = batch_of(trainer)
    logged = [line["reflection"] for line in files.read_jsonl(tmp_path / "reflections.jsonl")]
    tokenizer = trainer.processing_class
    masked = [
        tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
    ]
    assert masked and set(masked) <= set(logged)
    for prompt in tokenizer.batch_decode(batch["prompt_ids"], skip_special_tokens=True):
        assert prompt.rstrip().endswith(
            countdown.REFLECT
        )  # task, failed attempt and the request are context, never completion


def retries_that(reward, right):
    """Replace what the model retries by answers that are right where `right(k)` says so, in one of two wordings."""

    def retry(rows, attempts, reflections, step, wording="{}"):
        made = []
        for k, row in enumerate(rows):
            steps, rng = corpus.steps(row["nums"]), random.Random(k)
            text = corpus.right(steps, row["target"], rng) if right(k) else corpus.wrong(steps, row["target"], rng)[0]
            made.append([Completion(reward.wording.format(text), False, 9)])
        return made

    reward.retry = retry


def test_gradients_depend_on_the_verdict_and_not_on_the_words_of_the_retry(home, tmp_path):
    found = {}
    cases = {
        "as it is": (lambda k: k % 2 == 0, "{}"),
        "in other words": (lambda k: k % 2 == 0, "I think it is {}"),
        "other verdicts": (lambda k: k % 4 == 0, "{}"),
    }
    for name, (right, wording) in cases.items():
        _, _, trainer, reward = trainer_of(home, tmp_path / name.replace(" ", "-"))
        reward.wording = wording
        retries_that(reward, right)
        found[name] = gradients(trainer, batch_of(trainer))
    one, other, third = found.values()
    assert one and all(torch.equal(one[k], other[k]) for k in one)
    assert any(not torch.allclose(one[k], third[k]) for k in one)


def test_adapter_trains_in_float32_and_every_matrix_moves(home, tmp_path):
    settings, _, trainer, reward = trainer_of(
        home, tmp_path, learning_rate=1e-5, learning_rate_schedule="constant_with_warmup"
    )
    reward.wording = "{}"
    retries_that(reward, lambda k: k % 2 == 0)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert before and all(p.dtype == torch.float32 for p in before.values())
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(not torch.equal(before[n], after[n]) for n in before)
    assert all("lora_" in n for n in before)


def four_bit(model):
    return [m for m in model.modules() if isinstance(m, Linear4bit)]


def test_layers_are_4bit_and_gradients_agree_before_and_after_a_generate(home, tmp_path):
    _, kept, trainer, reward = trainer_of(home, tmp_path, gradient_checkpointing=True)
    perturb(trainer.model)
    layers = four_bit(trainer.model)
    batch = batch_of(trainer)
    before = gradients(trainer, batch)
    packed = [layer.weight.data.clone() for layer in layers]
    HFSampler(policy.Policy(trainer.model.eval(), trainer.processing_class), 8, progress=False).sample(
        [conversation.attempt(countdown, f["row"]) for f in kept[:4]], 1, 8, 0.0, 0
    )
    trainer.model.train()
    after = gradients(trainer, batch)
    assert len(layers) == 7 * trainer.model.config.num_hidden_layers
    assert all(layer.weight.quant_type == "nf4" and layer.weight.data.dtype == torch.uint8 for layer in layers)
    assert all(torch.equal(a, layer.weight.data) for a, layer in zip(packed, layers, strict=True))
    assert before and all(torch.equal(before[n], after[n]) for n in before)


@pytest.mark.parametrize("who", ["live", "base"])
def test_retries_in_the_reward_equal_an_eval_mode_reference(home, tmp_path, who):
    settings, kept, trainer, reward = trainer_of(
        home, tmp_path, gradient_checkpointing=True, retry_policy=who, retry_decoding="greedy"
    )
    perturb(trainer.model)
    trainer.model.train()
    rows, attempts = [f["row"] for f in kept[:8]], [f["attempt"] for f in kept[:8]]
    texts = ["I should be more careful ."] * len(rows)
    inside = [own[0].text for own in reward.retry(rows, attempts, texts, 0)]
    assert trainer.model.training
    trainer.save_model(str(tmp_path / "adapter"))
    reference = policy.load_policy(settings, tmp_path / "adapter" if who == "live" else None)
    asked = [conversation.retry(countdown, r, a, t) for r, a, t in zip(rows, attempts, texts, strict=True)]
    outside = [
        own[0].text
        for own in HFSampler(reference, 64, progress=False).sample(asked, 1, settings.attempt_tokens, 0.0, 0)
    ]
    assert inside == outside
    other = policy.load_policy(settings, None if who == "live" else tmp_path / "adapter")
    assert inside != [
        own[0].text for own in HFSampler(other, 64, progress=False).sample(asked, 1, settings.attempt_tokens, 0.0, 0)
    ]


def lines_of(directory):
    """Logs without what differs between equal runs."""
    return [
        [{k: v for k, v in line.items() if k != "seconds"} for line in files.read_jsonl(directory / f"{name}.jsonl")]
        for name in ("training", "dev", "reflections")
    ]


class InterruptAt(TrainerCallback):
    def __init__(self, record, step):
        self.record, self.step = record, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.record.interrupted = True


def test_an_interrupt_saves_and_the_same_call_goes_on_to_the_same_result(home, tmp_path, monkeypatch):
    whole = small(home, seed=1)
    training.train(whole)
    expected = lines_of(runs.stage_dir(whole, "train"))
    adapter = (runs.stage_dir(whole, "train") / "adapter/adapter_model.safetensors").read_bytes()

    moved = runs.stage_dir(whole, "train")
    moved.rename(tmp_path / "whole")
    added = training.GRPOTrainer.add_callback

    def add(trainer, callback):
        added(trainer, callback)
        if (
            isinstance(callback, training.Record)
            and not runs.stage_dir(whole, "train").joinpath("training.jsonl").exists()
        ):
            added(trainer, InterruptAt(callback, 2))  # stops after step 3, between two checkpoints

    monkeypatch.setattr(training.GRPOTrainer, "add_callback", add)
    with pytest.raises(KeyboardInterrupt, match="step 3"):
        training.train(whole)
    with pytest.raises(ResultsError, match="3 of 4 training steps"):
        training.finish(whole)
    training.train(whole)
    result = training.finish(whole)
    assert lines_of(moved) == expected
    assert (moved / "adapter/adapter_model.safetensors").read_bytes() == adapter
    assert result["summary"]["steps"] == 4 and runs.done(whole, "train")


def test_full_weights_train_too(home, tmp_path):
    settings = small(
        home,
        seed=2,
        lora_rank=0,
        load_in_4bit=False,
        policies=["trained"],
        retry_policy="live",
        steps=1,
        learning_rate=1e-4,
        results_dir=str(tmp_path),
    )
    failures.sample(settings)
    failures.finish(settings)
    training.train(settings)
    training.finish(settings)
    loaded = policy.load_policy(settings, runs.stage_dir(settings, "train") / "adapter")
    assert not four_bit(loaded.model)


def test_reward_is_the_mean_over_retries_and_the_verdict_that_counts(home, tmp_path):
    settings, kept, trainer, reward = trainer_of(home, tmp_path, retries_per_reflection=2)
    row = kept[0]["row"]
    good = corpus.right(corpus.steps(row["nums"]), row["target"], random.Random(0))
    bare = good.removeprefix("<answer> ").removesuffix(" </answer>")
    reward.retry = lambda *a: [
        [Completion(good, False, 9), Completion("no idea", False, 2)],
        [Completion(bare, False, 9)] * 2,
    ]
    columns = {"id": ["a", "b"], "row": [json.dumps(row)] * 2, "attempt": ["x", "y"]}
    call = {"trainer_state": trainer.state, "log_extra": lambda *a: None, "log_metric": lambda *a: None}
    completions = [[{"role": "assistant", "content": "hm"}]] * 2
    assert reward([None] * 2, completions, [[1], [2]], **columns, **call) == [0.5, 0.0]
    reward.settings = reward.settings.model_copy(update={"verdict": "lenient"})
    assert reward([None] * 2, completions, [[1], [2]], **columns, **call) == [0.5, 1.0]


def test_a_missing_upstream_is_named(tmp_path):
    with pytest.raises(ResultsError, match="01_collect_failures"):
        training.train(small(tmp_path))


def test_a_checkpoint_that_lacks_its_optimizer_is_set_aside_and_the_one_before_it_taken(home, tmp_path, capsys):
    settings = small(home, seed=3)
    training.train(settings)
    folder = runs.stage_dir(settings, "train")
    expected, adapter = lines_of(folder), (folder / "adapter/adapter_model.safetensors").read_bytes()
    (folder / "checkpoints/checkpoint-4/optimizer.pt").unlink()
    files.write_jsonl(
        folder / "training.jsonl", files.read_jsonl(folder / "training.jsonl")[:-1]
    )  # killed in the last step
    training.train(settings)
    assert "optimizer.pt is missing or damaged): set aside as damaged-checkpoint-4" in capsys.readouterr().out
    assert lines_of(folder) == expected and (folder / "adapter/adapter_model.safetensors").read_bytes() == adapter
    assert training.finish(settings)["summary"]["steps"] == 4
    assert (folder / "checkpoints/damaged-checkpoint-4").is_dir()

    (folder / "adapter/adapter_model.safetensors").write_bytes(adapter[:100])  # a finished adapter that was cut
    assert runs.done(settings, "train") is None
    training.train(settings)
    training.finish(settings)
    assert lines_of(folder) == expected and (folder / "adapter/adapter_model.safetensors").read_bytes() == adapter


def test_a_disk_that_does_not_take_the_adapter_is_one_line_and_nothing_is_lost(home, tmp_path):
    settings = small(home, seed=4, steps=2, results_dir=str(tmp_path))
    for stage in (failures.sample, failures.finish):
        stage(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
        with pytest.raises(ResultsError, match="cannot write .*train-seed4-.*Free some space") as caught:
            training.train(settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    training.train(settings)
    assert training.finish(settings)["summary"]["steps"] == 2


def test_fewer_failures_than_a_step_needs_are_told_before_a_model_is_loaded(home, monkeypatch):
    monkeypatch.setattr(training, "build_trainer", lambda *a: pytest.fail("a model was loaded"))
    with pytest.raises(SettingsError, match="24 failures, and a step takes failures_per_step 32"):
        training.train(small(home, failures_per_step=32))
