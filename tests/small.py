"""Settings that make a stage take seconds, for tests that run the real thing on the embedded model."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from rrr_utils import settings
from rrr_utils.settings import Settings

SMALL = {
    "train_queries": 24, "dev_items": 6, "test_items": 12, "rounds": [1, 2], "failures_wanted": 24, "steps": 4, "failures_per_step": 2,
    "reflections_per_failure": 4, "micro_batch": 4, "dev_every": 2, "reflection_tokens": 24,
}  # fmt: skip


def small(folder: Path, **overrides) -> Settings:
    """The tiny profile in miniature, writing under `folder`."""
    return settings.load("tiny", {"task": "countdown", "results_dir": str(folder), **SMALL, **overrides})


@contextlib.contextmanager
def interrupted_at(step: int, monkeypatch):
    """Inside, a training is asked to stop in this step, which it does after it; KeyboardInterrupt is expected."""
    from rrr_utils import training  # torch

    begin = training.Record.on_step_begin

    def interrupted(self, args, state, control, **kwargs):
        begin(self, args, state, control, **kwargs)
        self.interrupted = state.global_step == step - 1

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt, match=f"step {step}"):
        patched.setattr(training.Record, "on_step_begin", interrupted)
        yield
