"""Seconds of a GRPO step and of its phases: trl's own methods, timed from outside."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback, set_seed
from trl import GRPOTrainer

from rrr_utils import training
from rrr_utils.policy import exact_4bit, load_base, lora_config, trainable_to_float32
from rrr_utils.settings import Settings

#: what is timed; log-probabilities are the reference's and the trained model's, backward is the gradients alone
PHASES = ("generation", "retries", "log-probabilities", "backward")


class Clock(TrainerCallback):
    """A line a step: seconds in all and of each phase, tokens generated. A trainer's methods are wrapped where phases begin."""

    def __init__(self, trainer: GRPOTrainer, reward):
        self.reward, self.seconds, self.lines = reward, defaultdict(float), []
        trainer._generate_single_turn = self.timed(trainer._generate_single_turn, "generation")
        trainer._get_per_token_logps_and_entropies = self.timed(trainer._get_per_token_logps_and_entropies, "log-probabilities")
        trainer.accelerator.backward = self.timed(trainer.accelerator.backward, "backward")
        trainer.reward_funcs = [self.timed(reward, "retries")]
        trainer.add_callback(self)

    def timed(self, function: Callable, phase: str) -> Callable:
        """The function, whose seconds are counted."""

        def call(*arguments, **named):
            began = now()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds[phase] += now() - began

        return call

    def on_step_begin(self, args, state, control, **kwargs):
        self.began, self.tokens = now(), self.reward.generated_tokens
        self.seconds.clear()

    def on_step_end(self, args, state, control, **kwargs):
        line = {"seconds": now() - self.began, "tokens": self.reward.generated_tokens - self.tokens}
        self.lines.append(line | {phase: self.seconds[phase] for phase in PHASES})


def now() -> float:
    """Seconds, once the GPU has done what it was asked."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def median(lines: list[dict]) -> dict[str, float]:
    """The median of each number over the steps after the first, which warms up."""
    rest = lines[1:] or lines
    return {name: statistics.median(line[name] for line in rest) for name in rest[0]}


def measure(given: Settings, failures: list[dict], variant: Callable, folder: Path) -> dict[str, float]:
    """The median step of one variant: the same model, batch, seed and trainer settings, another reward."""
    set_seed(given.seed)
    policy = load_base(given)
    reward = variant(given)
    trainer = GRPOTrainer(
        model=policy.model, processing_class=policy.tokenizer, reward_funcs=reward, args=training.grpo_config(given, folder),
        train_dataset=training.dataset(given, failures), peft_config=lora_config(given),
    )  # fmt: skip
    reward.trainer = trainer
    exact_4bit(trainer.model)
    trainable_to_float32(trainer.model)
    clock = Clock(trainer, reward)
    with contextlib.redirect_stdout(io.StringIO()):  # trl's own lines, which say nothing of time
        trainer.train()
    return median(clock.lines)
