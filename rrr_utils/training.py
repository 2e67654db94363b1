"""Reflect-retry GRPO: trl's trainer, and a reward that lets the model retry.

With the failed conversation and the request to reflect as GRPO's prompt, the completion *is* the reflection, and trl's
own completion mask is exactly the set of tokens that the paper rewards. All that is ours is the reward: write the
retry, verify it. `python -m rrr_utils.training settings.json` serves `accelerate launch` (one model, several GPUs).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import trl.trainer.grpo_trainer as grpo  # Unsloth patches names in this module: look them up here, at use
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from rrr_utils import conversation, files, runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.policy import Policy, exact_4bit, load_base, lora_config, trainable_to_float32, without_adapter
from rrr_utils.sampling import Completion, HFSampler
from rrr_utils.settings import ROOT, Settings


class RetryReward:
    """The reward of a reflection: does the retry that follows it verify? Mean over `retries_per_reflection` retries.

    trl calls it with a batch of reflections and the columns of the data set. Set `trainer` after construction.
    """

    __name__ = "retry"  # trl names its metrics after it

    def __init__(self, settings: Settings, log: Path | None = None):
        self.settings, self.task, self.log = settings, tasks.get(settings.task), log
        self.trainer: GRPOTrainer | None = None
        self.generated_tokens = 0  # of reflections and retries, since the start

    def __call__(
        self,
        prompts: list,
        completions: list,
        completion_ids: list[list[int]],
        *,
        id: list[str],
        row: list[str],
        attempt: list[str],
        trainer_state,
        log_extra: Callable,
        log_metric: Callable,
        **_,
    ) -> list[float]:
        """Rewards in 0..1, one a completion."""
        texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
        rows = [json.loads(text) for text in row]
        retries = self.retry(rows, attempt, texts, trainer_state.global_step)
        verdicts = [[self.right(c.text, one) for c in own] for own, one in zip(retries, rows, strict=True)]
        rewards = [sum(own) / len(own) for own in verdicts]
        self.generated_tokens += sum(map(len, completion_ids)) + sum(c.tokens for own in retries for c in own)
        log_extra("reflection", texts)
        log_extra("retry", [own[0].text for own in retries])
        log_metric("retry_correct", sum(rewards) / len(rewards))
        if self.log is not None and self.trainer.accelerator.is_main_process:
            keys = ("step", "id", "row", "attempt", "reflection", "retry", "reward")
            columns = ([trainer_state.global_step + 1] * len(texts), id, rows, attempt, texts, [o[0].text for o in retries], rewards)
            files.append_jsonl(self.log, [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)])
        return rewards

    def right(self, completion: str, row: dict) -> bool:
        """The verdict that counts, by the settings."""
        verdict = self.task.verify(completion, row)
        return verdict.correct if self.settings.verdict == "strict" else verdict.lenient

    def retry(self, rows: list[dict], attempts: list[str], reflections: list[str], step: int) -> list[list[Completion]]:
        """The second tries that follow the reflections, all in one batch, as training decodes them."""
        s = self.settings
        conversations = [
            conversation.retry(self.task, row, attempt, reflection, s.chain_of_thought)
            for row, attempt, reflection in zip(rows, attempts, reflections, strict=True)
        ]
        n, temperature = (s.retries_per_reflection, s.temperature) if s.retry_decoding == "sampled" else (1, 0.0)
        seed = (s.seed or 0) * 1_000_003 + step + 7919 * self.trainer.accelerator.process_index
        return self.generate(conversations, n, s.attempt_tokens, temperature, seed, base=s.retry_policy == "base")

    def generate(
        self, conversations: list, n: int, max_tokens: int, temperature: float, seed: int, base: bool = False
    ) -> list[list[Completion]]:
        """Sample from the model in training, in eval mode (in train mode with gradient checkpointing, text is silently wrong)."""
        trainer = self.trainer
        deepspeed3 = getattr(trainer.args, "ds3_gather_for_generation", True)
        unwrap = grpo.unwrap_model_for_generation
        with unwrap(trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=deepspeed3) as model:
            was_training = model.training
            model.eval()
            try:
                with without_adapter(model) if base else contextlib.nullcontext():
                    sampler = HFSampler(Policy(model, trainer.processing_class), self.settings.sample_batch, progress=False)
                    return sampler.sample(conversations, n, max_tokens, temperature, seed)
            finally:
                model.train(was_training)


def grpo_config(settings: Settings, directory: Path) -> GRPOConfig:
    """Every field that matters, spelt out: Unsloth replaces defaults of GRPOConfig."""
    s = settings
    processes = int(os.environ.get("WORLD_SIZE", 1))
    reflections = s.failures_per_step * s.reflections_per_failure
    micro_batch = min(s.micro_batch, reflections // processes)
    accumulation = max(1, reflections // (micro_batch * processes))
    return GRPOConfig(
        output_dir=str(directory / "checkpoints"), max_steps=s.steps, seed=s.seed, data_seed=s.seed,
        # the batch: `failures_per_step` groups, generated at once, one optimiser step
        per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation, steps_per_generation=accumulation,
        num_generations=s.reflections_per_failure, num_iterations=1, shuffle_dataset=True, remove_unused_columns=False,
        # sampling reflections
        max_completion_length=s.reflection_tokens, temperature=s.temperature, top_p=1.0, top_k=0, min_p=None, repetition_penalty=1.0,
        mask_truncated_completions=False, use_vllm=False,
        # the loss
        beta=s.beta, loss_type=s.loss_type, scale_rewards="group", epsilon=0.2, epsilon_high=0.2, importance_sampling_level="token",
        # the optimiser
        optim="adamw_torch", learning_rate=s.learning_rate, lr_scheduler_type=s.learning_rate_schedule,
        warmup_steps=round(s.warmup * s.steps), weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.999, max_grad_norm=s.max_grad_norm,
        # the machine
        bf16=s.dtype == "bfloat16", fp16=s.dtype == "float16", use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=s.gradient_checkpointing, dataloader_num_workers=0,
        # logs and checkpoints: a checkpoint is a generation boundary, since a step is one generation
        logging_steps=1, save_strategy="steps", save_steps=s.dev_every, save_total_limit=2, report_to=s.report_to, disable_tqdm=True,
        log_completions=False,
    )  # fmt: skip


def dataset(settings: Settings, failures: list[dict]) -> Dataset:
    """GRPO's prompts, a row a failure; the task's row travels as JSON, since its shape is the task's own affair."""
    task = tasks.get(settings.task)
    return Dataset.from_list(
        [
            {
                "prompt": conversation.reflect(task, f["row"], f["attempt"], settings.chain_of_thought),
                "id": f["id"],
                "row": json.dumps(f["row"]),
                "attempt": f["attempt"],
            }
            for f in failures
        ]
    )


def build_trainer(settings: Settings, failures: list[dict], directory: Path) -> tuple[GRPOTrainer, RetryReward]:
    """The trainer on the 4-bit base with a fresh adapter in float32, and its reward."""
    set_seed(settings.seed)  # trl makes the adapter before it seeds
    policy = load_base(settings)
    reward = RetryReward(settings, directory / "reflections.jsonl")
    trainer = GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        args=grpo_config(settings, directory),
        train_dataset=dataset(settings, failures),
        peft_config=lora_config(settings),
    )
    reward.trainer = trainer
    exact_4bit(trainer.model)
    trainable_to_float32(trainer.model)
    return trainer, reward


class Record(TrainerCallback):
    """Writes `training.jsonl`, scores checkpoints on dev, keeps the best adapter, shows progress, stops on interrupt."""

    def __init__(self, settings: Settings, reward: RetryReward, dev: list[dict], directory: Path):
        self.settings, self.reward, self.dev, self.directory = settings, reward, dev, directory
        self.bar, self.began, self.tokens, self.interrupted, self.best = None, 0.0, 0, False, -1.0

    def on_train_begin(self, args, state, control, **kwargs):
        done = [r for r in _read(self.directory / "dev.jsonl") if r["step"] <= state.global_step]
        for name in ("dev", "training", "reflections"):  # what a killed run wrote after its last checkpoint comes again
            path = self.directory / f"{name}.jsonl"
            if path.exists():
                files.write_jsonl(path, [r for r in files.read_jsonl(path) if r["step"] <= state.global_step])
        self.best = max((r["rescued"] for r in done), default=-1.0)
        self.bar = tqdm(
            total=args.max_steps, initial=state.global_step, desc="training", unit="step", disable=not state.is_world_process_zero
        )
        if state.global_step == 0 and not done:
            self.score(0)

    def on_step_begin(self, args, state, control, **kwargs):
        self.began, self.tokens = time.time(), self.reward.generated_tokens

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or "reward" not in logs:
            return
        line = {
            "step": state.global_step, "reward": logs["reward"], "reward_std": logs["reward_std"],
            "zero_variance": logs["frac_reward_zero_std"], "loss": logs["loss"], "kl": logs.get("kl", 0.0),
            "grad_norm": float(logs["grad_norm"]), "learning_rate": logs["learning_rate"],
            "reflection_tokens": logs["completions/mean_length"], "truncated": logs["completions/clipped_ratio"],
            "retry_correct": logs["retry_correct"], "generated_tokens": self.reward.generated_tokens - self.tokens,
            "seconds": time.time() - self.began, "checkpoint": state.global_step % self.settings.dev_every == 0,
        }  # fmt: skip
        files.append_jsonl(self.directory / "training.jsonl", [line])
        self.bar.set_postfix(
            reward=f"{line['reward']:.2f}", tokens=f"{line['reflection_tokens']:.0f}", kl=f"{line['kl']:.2f}", dev=f"{self.best:.2f}"
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()
        if state.global_step % self.settings.dev_every == 0 or state.global_step == args.max_steps:
            self.score(state.global_step)
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def score(self, step: int) -> None:
        """Greedy reflections and retries on the dev failures; the adapter is kept if more are rescued than ever."""
        s, task = self.settings, self.reward.task
        asked = [conversation.reflect(task, f["row"], f["attempt"], s.chain_of_thought) for f in self.dev]
        reflections = [own[0] for own in self.reward.generate(asked, 1, s.reflection_tokens, 0.0, 0)]
        again = [
            conversation.retry(task, f["row"], f["attempt"], r.text, s.chain_of_thought) for f, r in zip(self.dev, reflections, strict=True)
        ]
        retries = self.reward.generate(again, 1, s.attempt_tokens, 0.0, 0, base=s.retry_policy == "base")
        rescued = sum(self.reward.right(own[0].text, f["row"]) for own, f in zip(retries, self.dev, strict=True)) / len(self.dev)
        if not self.reward.trainer.accelerator.is_main_process:
            return
        better = rescued > self.best
        if better:
            self.best = rescued
            self.reward.trainer.save_model(str(self.directory / "adapter"))
        mean_tokens = sum(r.tokens for r in reflections) / len(reflections)
        line = {"step": step, "rescued": rescued, "n": len(self.dev), "reflection_tokens": mean_tokens, "best": better}
        files.append_jsonl(self.directory / "dev.jsonl", [line])


def train(settings: Settings) -> None:
    """Train on the collected failures, going on from the last checkpoint if there is one.

    An interrupt (Ctrl-C, JupyterLab's stop button) ends after the step at hand and saves; the same call goes on.
    """
    if runs.done(settings, "train"):
        return
    upstream = runs.stage_dir(settings, "failures")
    if not runs.done(settings, "failures"):
        raise ResultsError(f"no failures of these settings in {upstream}: run notebook 01_collect_failures first")
    directory = runs.open_stage(settings, "train")
    trainer, reward = build_trainer(settings, files.read_jsonl(upstream / "failures.jsonl"), directory)
    record = Record(settings, reward, files.read_jsonl(upstream / "dev_failures.jsonl"), directory)
    trainer.add_callback(record)
    trainer.remove_callback(PrinterCallback)  # `Record` says the same in one line
    with _stop_on_interrupt(record):
        trainer.train(resume_from_checkpoint=last_checkpoint(directory))
    if record.interrupted:
        raise KeyboardInterrupt(f"training stopped and saved at step {trainer.state.global_step}: run it again to go on")


def finish(settings: Settings) -> dict:
    """Write the stage's result: the best adapter by dev, and the logs; returns it."""
    if (result := runs.done(settings, "train")) is not None:
        return result
    directory = runs.stage_dir(settings, "train")
    lines, dev = _read(directory / "training.jsonl"), _read(directory / "dev.jsonl")
    if len(lines) < settings.steps:
        raise ResultsError(f"{directory} holds {len(lines)} of {settings.steps} training steps: train first")
    best = max((r for r in dev if r["best"]), key=lambda r: r["step"])
    summary = {
        "steps": len(lines), "best_step": best["step"], "dev_untrained": dev[0]["rescued"], "dev_best": best["rescued"],
        "dev_failures": best["n"], "seconds": sum(r["seconds"] for r in lines),
        "generated_tokens": sum(r["generated_tokens"] for r in lines),
    }  # fmt: skip
    outputs = [directory / f"{name}.jsonl" for name in ("training", "dev", "reflections")]
    outputs += sorted(path for path in (directory / "adapter").iterdir() if path.suffix in (".safetensors", ".json"))
    return runs.finish(settings, "train", outputs, summary, runs.began(directory))


def last_checkpoint(directory: Path) -> str | None:
    """The newest checkpoint that was written whole (the trainer state is written last); None to begin anew."""
    found = [p for p in (directory / "checkpoints").glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return str(max(found, key=lambda p: int(p.name.rpartition("-")[2]))) if found else None


def train_on_several_gpus(settings: Settings, processes: int) -> None:
    """The same through `accelerate launch`, one process a GPU, in a subprocess (a fork would break once CUDA was touched)."""
    path = runs.open_stage(settings, "train") / "settings.json"
    files.write_json(path, settings.model_dump(mode="json"))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), "-m", "rrr_utils.training", str(path)]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise ResultsError(f"training on {processes} GPUs failed, see above; the same command goes on from the last checkpoint")


@contextlib.contextmanager
def _stop_on_interrupt(record: Record):
    """While training, the first SIGINT asks to stop after the step at hand; the second stops at once."""

    def ask(number, frame):
        if record.interrupted:
            raise KeyboardInterrupt
        record.interrupted = True
        print("stopping after this step; interrupt once more to stop at once", file=sys.stderr)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read(path: Path) -> list[dict]:
    return files.read_jsonl(path) if path.exists() else []


if __name__ == "__main__":
    train(Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
