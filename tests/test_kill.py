"""A kernel killed in the middle of training: the same command goes on, repeats nothing, and ends where an unbroken run ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import psutil
import pytest
from small import SMALL, small

from rrr_utils import files, runs
from rrr_utils.report import cells


def launch(stage, folder, *extra):
    settings = {**SMALL, "steps": 8, "results_dir": folder}
    words = [w for name, value in settings.items() for w in ("-p", f"{name}={value}".replace(" ", ""))]
    return subprocess.Popen(
        [sys.executable, "-m", "rrr_utils.launch", stage, *words, *extra],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(folder, name):
    """A log without what differs between equal runs."""
    path = runs.stage_dir(small(folder, steps=8), "train") / f"{name}.jsonl"
    return [{k: v for k, v in row.items() if k != "seconds"} for row in files.read_jsonl(path)] if path.exists() else []


@pytest.mark.slow
def test_sigkill_of_the_kernel_in_the_middle_of_training(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        assert launch("failures", folder).wait() == 0
    assert launch("train", whole).wait() == 0

    killed = launch("train", broken)
    folder = runs.stage_dir(small(broken, steps=8), "train")
    deadline = time.time() + 300
    while len(lines(broken, "training")) < 5 and killed.poll() is None:  # past the checkpoints of steps 2 and 4
        assert time.time() < deadline
        time.sleep(0.05)
    [kernel] = [
        child
        for child in psutil.Process(killed.pid).children(recursive=True)
        if "ipykernel" in " ".join(child.cmdline())
    ]
    kernel.send_signal(signal.SIGKILL)
    said, _ = killed.communicate(timeout=120)
    assert killed.returncode == 1 and "goes on" in said.strip().splitlines()[-1]
    assert (
        not (folder / "result.json").exists()
        and "kernel was killed" in files.read_json(folder / "failed.json")["error"]
    )

    assert launch("train", broken).wait() == 0
    assert lines(broken, "training") == lines(whole, "training")
    assert lines(broken, "dev") == lines(whole, "dev") and lines(broken, "reflections") == lines(whole, "reflections")
    one, other = (
        runs.stage_dir(small(f, steps=8), "train") / "adapter/adapter_model.safetensors" for f in (whole, broken)
    )
    assert one.read_bytes() == other.read_bytes()
    for folder in (whole, broken):
        assert launch("evaluate", folder, "-p", "seed=none").wait() == 0
        assert launch("evaluate", folder).wait() == 0
    frames = [cells.rescore(runs.stage_dir(small(f, steps=8), "evaluate")) for f in (whole, broken)]
    assert frames[0].equals(frames[1])
