"""Seconds of a GRPO step and of its phases; times trl's own methods from outside."""

from __future__ import annotations

import contextlib
import io
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import TrainerCallback
from trl import GRPOTrainer

from rrr_utils import training
from rrr_utils.settings import Settings

#: what is timed; "log-probabilities" covers the reference model and the trained one, "backward" only the gradients
PHASES = ("generation", "retries", "log-probabilities", "backward")


class Clock(TrainerCallback):
    """Collects for each step its seconds, the seconds of each phase, and the tokens generated."""

    def __init__(self, trainer: GRPOTrainer, reward):
        self.reward, self.seconds, self.lines = reward, defaultdict(float), []
        trainer._generate_single_turn = self.timed(trainer._generate_single_turn, "generation")
        logps = trainer._get_per_token_logps_and_entropies
        trainer._get_per_token_logps_and_entropies = self.timed(logps, "log-probabilities")
        trainer.accelerator.backward = self.timed(trainer.accelerator.backward, "backward")
        trainer.reward_funcs = [self.timed(reward, "retries")]
        trainer.add_callback(self)

    def timed(self, function: Callable, phase: str) -> Callable:
        """The function, with its seconds added to the phase."""

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
    """Seconds, after the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(given: Settings, failures: list[dict], variant: Callable | None, folder: Path) -> dict[str, float]:
    """Medians of a step, without the first one: our trainer with `variant(given, trainer)` as reward, None: our own."""
    trainer, ours = training.build_trainer(given, failures, folder)
    clock = Clock(trainer, variant(given, trainer) if variant else ours)
    with contextlib.redirect_stdout(io.StringIO()):  # trl's own lines
        trainer.train()
    steps = clock.lines[1:] or clock.lines
    return {name: statistics.median(step[name] for step in steps) for name in steps[0]}
