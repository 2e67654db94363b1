"""Reflect-retry GRPO by trl's trainer, with the reward of `reward.py`.

With the failed conversation and the request to reflect as GRPO's prompt, the completion *is* the reflection, and trl's
own completion mask is exactly the set of tokens that the paper rewards. `checkpoints.py` says how a killed training
goes on; `python -m rrr_utils.training FOLDER` is each of the processes that train one model (`backends.train_apart`).
"""

import contextlib
import json
import os
import signal
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from accelerate.utils import set_seed as set_seeds
from datasets import Dataset
from torch.distributed.elastic.multiprocessing.errors import record as record_error
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback, get_scheduler, set_seed
from trl import GRPOConfig, GRPOTrainer

from rrr_utils import backends, backup, checkpoints, conversation, failures, fit, forecast, machine, runs, tasks
from rrr_utils.errors import PLAIN, ResultsError, SettingsError
from rrr_utils.files import append_jsonl, is_disk_error, no_space, read_jsonl, read_log, write_json
from rrr_utils.policy import exact_4bit, trainable_to_float32
from rrr_utils.reward import RetryReward
from rrr_utils.settings import Settings

#: dev failures whose greedy texts are kept at every scoring
SHOWN = 32


def grpo_config(settings: Settings, directory: Path) -> GRPOConfig:
    """Every field that matters, with its value: Unsloth replaces defaults of GRPOConfig."""
    s = settings
    processes = int(os.environ.get("WORLD_SIZE", 1))
    reflections = s.failures_per_step * s.reflections_per_failure
    micro_batch = min(s.micro_batch, reflections // processes)
    accumulation = max(1, reflections // (micro_batch * processes))
    part = fit.PREFILL_TOKENS if torch.cuda.is_available() and s.backend == "transformers" else None  # as HFSampler
    at_once = (accumulation, micro_batch, s.reflections_per_failure, s.generation_batch, processes)
    return GRPOConfig(
        output_dir=str(directory / "checkpoints"), max_steps=s.steps, seed=s.seed, data_seed=s.seed,
        # the batch: `failures_per_step` groups, generated at once or in equal parts, one optimiser step
        per_device_train_batch_size=micro_batch, gradient_accumulation_steps=accumulation,
        steps_per_generation=fit.steps_per_generation(*at_once), num_generations=s.reflections_per_failure,
        num_iterations=1, shuffle_dataset=True, remove_unused_columns=False,
        # sampling reflections, or first tries
        max_completion_length=s.attempt_tokens if s.objective == "answer" else s.reflection_tokens,
        temperature=s.temperature, top_p=1.0, top_k=0, min_p=None,
        repetition_penalty=1.0, mask_truncated_completions=False, use_vllm=False,
        chat_template_kwargs=dict(conversation.TEMPLATE), generation_kwargs={"prefill_chunk_size": part},
        # the loss
        beta=s.beta, loss_type=s.loss_type, scale_rewards="group", epsilon=0.2, epsilon_high=0.2,
        importance_sampling_level="token",
        # the optimiser
        optim="adamw_torch", learning_rate=s.learning_rate, lr_scheduler_type=s.learning_rate_schedule,
        weight_decay=0.0, adam_beta1=0.9, adam_beta2=0.999,
        max_grad_norm=s.max_grad_norm,
        # the machine
        bf16=s.dtype == "bfloat16", fp16=s.dtype == "float16", use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=s.gradient_checkpointing, dataloader_num_workers=0, ddp_find_unused_parameters=False,
        # logs and checkpoints: a step is whole generations, so every checkpoint is between two of them
        logging_steps=1, save_strategy="steps", save_steps=s.dev_every, save_total_limit=2, report_to=s.report_to,
        disable_tqdm=True, log_completions=False,
    )  # fmt: skip


def examples(settings: Settings) -> tuple[list[dict], list[dict]]:
    """What is trained on, and dev: the kept failures, or with objective `answer` the queries they were collected of."""
    if settings.objective == "answer":
        train, dev = failures.queries(settings)
        return tuple([{"id": row["id"], "row": row, "attempt": ""} for row in rows] for rows in (train, dev))
    folder = runs.stage_dir(settings, "failures")
    return read_jsonl(folder / "failures.jsonl"), read_jsonl(folder / "dev_failures.jsonl")


def dataset(settings: Settings, examples: list[dict]) -> Dataset:
    """GRPO's prompts, one row per example; the task's row is passed as JSON, since only the task knows its shape."""
    task, cot, answer = tasks.get(settings.task), settings.chain_of_thought, settings.objective == "answer"
    lines = []
    for one in examples:
        row, said = one["row"], one["attempt"]
        prompt = conversation.attempt(task, row, cot) if answer else conversation.reflect(task, row, said, cot)
        lines.append({"prompt": prompt, "id": one["id"], "row": json.dumps(row), "attempt": said})
    return Dataset.from_list(lines)


def build_trainer(settings: Settings, examples: list[dict], directory: Path) -> tuple[GRPOTrainer, RetryReward]:
    """The trainer on the 4-bit base with a fresh adapter in float32, and its reward."""
    set_seed(settings.seed)  # the adapter is random, and trl seeds later
    data = dataset(settings, examples)
    policy = backends.load(settings, list(data["prompt"]))
    reward = RetryReward(settings, directory / "reflections.jsonl")
    trainer = GRPOTrainer(
        model=policy.model,
        processing_class=policy.tokenizer,
        reward_funcs=reward,
        args=grpo_config(settings, directory),
        train_dataset=data,
    )
    reward.trainer = trainer
    if "ref" in getattr(trainer.model, "peft_config", {}):
        trainer.model.delete_adapter("ref")  # trl's copy of the fresh adapter, which is the base model at more cost
    exact_4bit(trainer.model)
    trainable_to_float32(trainer.model)
    _schedule(trainer, settings)
    return trainer, reward


def _schedule(trainer: GRPOTrainer, settings: Settings) -> None:
    """The learning rate's schedule, one step on: transformers' warm-up begins at rate 0, a step that learns nothing."""
    steps, warmup = settings.steps, round(settings.warmup * settings.steps)
    scheduler = get_scheduler(settings.learning_rate_schedule, trainer.create_optimizer(), warmup, steps + 1)
    with warnings.catch_warnings(action="ignore"):  # torch expects an optimiser step first
        scheduler.step()
    trainer.lr_scheduler = scheduler


class Record(TrainerCallback):
    """Writes `training.jsonl`, scores checkpoints on dev, keeps the best adapter, shows progress, stops if asked."""

    def __init__(self, settings: Settings, reward: RetryReward, dev: list[dict], directory: Path):
        self.settings, self.reward, self.dev, self.directory = settings, reward, dev, directory
        self.bar, self.began, self.tokens, self.best = None, 0.0, 0, -1.0
        self.interrupted = self.stopped = False  # this process was asked to stop; one of them was
        self.took: list[float] = []  # seconds of this process's steps

    def on_train_begin(self, args, state, control, **kwargs):
        scored = read_log(self.directory / "dev.jsonl")
        self.best = max((line["score"] for line in scored), default=-1.0)
        hidden, at = not state.is_world_process_zero, state.global_step
        self.bar = tqdm(total=args.max_steps, initial=at, desc="training", unit="step", disable=hidden)
        if not scored:
            self.score(0)
        if at:  # where the checkpoint is of another number of processes, it has no random state for this one
            set_seeds(args.seed + at, device_specific=True)

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
        append_jsonl(self.directory / "training.jsonl", [line])
        self.took.append(line["seconds"])
        if len(self.took) == 3:
            pace = statistics.median(self.took)
            self.bar.write(forecast.corrected(self.settings, "train", pace, 1 / self.settings.steps))
        shown = {"reward": line["reward"], "tokens": line["reflection_tokens"], "kl": line["kl"], "dev": self.best}
        self.bar.set_postfix({name: f"{value:.{0 if name == 'tokens' else 2}f}" for name, value in shown.items()})

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()
        if state.global_step % self.settings.dev_every == 0 or state.global_step == args.max_steps:
            self.score(state.global_step)
        if any(gather_object([self.interrupted])):
            self.stopped = control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **kwargs):
        PartialState().wait_for_everyone()  # each process writes its random state
        if state.is_world_process_zero:
            checkpoints.saved(self.directory, state.global_step)
            backup.save(self.settings, self.directory, checkpoints.newest(self.directory))

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()

    def score(self, step: int) -> None:
        """Scores dev, greedily and sampled; a checkpoint with a better mean of the two than ever is kept."""
        scored, texts = {"greedy": self.reward.score(self.dev, 0.0)}, self.reward.scored[:SHOWN]
        scored["sampled"] = self.reward.score(self.dev, self.settings.temperature)
        if not self.reward.trainer.accelerator.is_main_process:
            return
        mean = sum(rate for rate, _ in scored.values()) / len(scored)
        better, self.best = mean > self.best, max(mean, self.best)
        if step == 0:  # of later steps, the checkpoint is kept once it is saved
            self.reward.trainer.save_model(str(checkpoints.folder_of(self.directory, 0)))
            checkpoints.keep(self.directory, 0)
        line = {"step": step, "score": mean, **{name: rate for name, (rate, _) in scored.items()}}
        line |= {"n": len(self.dev), "completion_tokens": scored["sampled"][1], "best": better}
        append_jsonl(self.directory / "dev_texts.jsonl", [{"step": step, **one} for one in texts])
        append_jsonl(self.directory / "dev.jsonl", [line])


def train(settings: Settings) -> None:
    """Train on the collected failures (objective `answer`: on their queries), from the last checkpoint on, if any.

    An interrupt (Ctrl-C, JupyterLab's stop button) ends after the current step and saves; the same call goes on. Raises
    ResultsError where there are no failures, SettingsError where there are fewer than a step needs.
    """
    if runs.already(settings, "train"):
        return
    with runs.begin(settings, "train", machine.resolve) as (directory, settings):
        settings.check_failures(len(examples(settings)[0]))
        checkpoints.go_back(directory)
        if checkpoints.finished(directory, settings.steps):
            print(f"already trained: {directory}", flush=True)
            return
        if why := backends.refusal(settings):
            raise SettingsError(f"{why} (make runs DELETE={directory.name} begins the run anew)")
        share = settings.failures_per_step * settings.reflections_per_failure // settings.gpus
        fitting = [n for n in range(1, min(settings.micro_batch, share) + 1) if share % n == 0]
        settings = settings.model_copy(update={"micro_batch": fitting[-1]})  # it may have begun with other gpus
        if settings.backend == "unsloth" or settings.gpus > 1:
            write_json(directory / "settings.json", settings.model_dump(mode="json"))
            backends.train_apart(directory)
        else:
            _train(settings, directory)


def _train(settings: Settings, directory: Path) -> None:
    """The training itself, in this process (maybe one of several)."""
    train_on, dev = examples(settings)
    trainer, reward = build_trainer(settings, train_on, directory)
    record = Record(settings, reward, dev[: settings.dev_items], directory)
    trainer.add_callback(record)
    trainer.remove_callback(PrinterCallback)  # `Record` says the same in one line
    newest = checkpoints.newest(directory)
    try:
        with _stop_on_interrupt(record):
            trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    except Exception as error:
        if is_disk_error(error) and not isinstance(error, ResultsError):
            raise no_space(directory, OSError(28, "No space left on device")) from None
        raise
    if record.stopped or record.interrupted:
        raise KeyboardInterrupt(
            f"training saved at step {trainer.state.global_step} and stopped: run it again to go on"
        )


@contextlib.contextmanager
def _stop_on_interrupt(record: Record):
    """While training, the first SIGINT asks to stop after the current step; the second stops at once."""

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


def finish(settings: Settings) -> dict:
    """Write the stage's result: the best adapter by dev, and the logs; returns it."""
    if (result := runs.done(settings, "train")) is not None:
        return result
    with runs.begin(settings, "train", machine.resolve) as (directory, settings):
        lines, dev = read_log(directory / "training.jsonl"), read_log(directory / "dev.jsonl")
        if not checkpoints.finished(directory, settings.steps):
            raise ResultsError(f"{directory} holds {len(lines)} of {settings.steps} training steps: train first")
        best = checkpoints.best(dev)
        summary = {
            "steps": len(lines), "best_step": best["step"], "dev_untrained": dev[0]["score"],
            "dev_best": best["score"], "dev_items": best["n"], "seconds": sum(r["seconds"] for r in lines),
            "generated_tokens": sum(r["generated_tokens"] for r in lines),
        }  # fmt: skip
        outputs = [directory / f"{name}.jsonl" for name in ("training", "dev", "reflections")]
        return runs.finish(settings, "train", [*outputs, directory / "adapter"], summary)


if __name__ == "__main__":
    given = Path(sys.argv[1])
    backends.end_with_parent()
    # processes on a CPU are on "cpu:0", which torch.load does not know
    torch.serialization.register_package(9, lambda kept: None, lambda kept, place: kept if place == "cpu:0" else None)
    try:
        told = json.loads((given / "settings.json").read_text(encoding="utf-8"))
        record_error(lambda: _train(Settings(**told), given))()
    except KeyboardInterrupt as error:
        print(error)
    except PLAIN as error:
        sys.exit(f"{type(error).__name__}: {error}")
