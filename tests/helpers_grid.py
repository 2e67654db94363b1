"""A grid of small local models and two tasks, for tests that run it whole; and Snakemake over it as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import yaml

from rrr_utils import settings
from rrr_utils.settings import ROOT

TASK = ROOT / "tests" / "data" / "sorting_task.py"
SOURCE = "procedural:letters=abc"
#: settings that make a stage take a second or two, once torch is there
SHARED = {
    "preset": "cpu", "train_queries": 16, "dev_items": 4, "test_items": 12, "rounds": [1, 2], "failures_per_query": 2,
    "failures_wanted": 16, "steps": 2, "dev_every": 1, "failures_per_step": 4, "reflections_per_failure": 4,
    "micro_batch": 4, "lora_rank": 4, "learning_rate": 3e-3, "attempt_tokens": 16, "reflection_tokens": 24,
    "decodings": ["greedy"], "policies": ["trained"], "controls": ["own", "blind"], "threads": 1,
}  # fmt: skip


def write_profile(path: Path, rows: list[dict], **shared) -> Path:
    """A profile's file: rows over shared settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**SHARED, **shared, "rows": rows}, sort_keys=False), encoding="utf-8")
    return path


def both_tasks(models: Iterable[Path]) -> list[dict]:
    """A row of each task for each model, with what the task needs of its own."""
    every = [{"task": "countdown", "model": str(model)} for model in models]
    own = {"task": str(TASK), "source": SOURCE, "attempt_tokens": 6}
    return [row for one in every for row in (one, {**one, **own})]


def snakemake(
    profile: Path | str, results_dir: Path, *more: str, seeds: str = "0,1", jobs: int = 2, **overrides
) -> list[str]:
    """The command line of a whole profile; `more`: names of --config and targets."""
    given = json.dumps({"results_dir": str(results_dir), **overrides})
    config = [f"profile={profile}", f"seeds={seeds}", f"overrides={given}", *(x for x in more if "=" in x)]
    flags = [x for x in more if "=" not in x]
    return [sys.executable, "-m", "snakemake", "--cores", str(jobs), *flags, "--config", *config]


def run(words: list[str], timeout: int = 600, **environment: str) -> subprocess.CompletedProcess:
    """A command to its end, from the repository."""
    alone = {**os.environ, **environment}
    return subprocess.run(words, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=timeout)


def ran(said: str) -> list[str]:
    """Which stages were run, in order of their names: "evaluate seed 0", once for each that began."""
    return sorted(line.split(": running")[0] for line in said.splitlines() if ": running" in line)


def finished(results_dir: Path) -> list[Path]:
    """The stage folders that are done."""
    return sorted(path.parent for path in results_dir.glob("*/*/*/result.json"))


def kernels(results_dir: Path, stage: str) -> Iterator[psutil.Process]:
    """The living kernels of a stage's notebooks that write to a folder."""
    for process in psutil.process_iter():
        try:
            told = process.environ().get("RRR_COMMAND", "") if "ipykernel" in " ".join(process.cmdline()) else ""
        except psutil.Error:
            continue  # it has just ended
        if str(results_dir) in told and f"rrr_utils.launch {stage} " in told:
            yield process


def settings_of(profile: Path, results_dir: Path, row: dict, **more) -> settings.Settings:
    """The settings of one row of a profile."""
    asked = {"task": row["task"], "model": row["model"], "results_dir": str(results_dir), **more}
    return settings.load(str(profile), asked)
