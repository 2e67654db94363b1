"""An evaluation by several processes: the bytes of one process's, and what a killed or interrupted one leaves."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

import pytest
import torch
from peft import get_peft_model
from small import small

from rrr_utils import evaluation, policy, runs
from rrr_utils.errors import ResultsError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Settings with finished stages before the evaluation, of an adapter that changes what the model says."""
    settings = small(tmp_path_factory.mktemp("runs"), controls=["own", "blind"], test_items=40)
    base = settings.model_copy(update={"seed": None})
    evaluation.generate(base)
    evaluation.finish(base)
    with runs.begin(settings, "failures") as (folder, _):
        (folder / "failures.jsonl").write_text("")
        runs.finish(settings, "failures", [folder / "failures.jsonl"], {})
    with runs.begin(settings, "train") as (folder, _):
        torch.manual_seed(0)
        model = get_peft_model(policy.load_base(settings).model, policy.lora_config(settings))
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.data = 0.05 * torch.randn(weight.shape)
        model.save_pretrained(folder / "adapter")
        runs.finish(settings, "train", [folder / "adapter"], {})
    return settings


@pytest.fixture
def by_one(trained):
    """What one process writes; its folder is empty again."""
    assert evaluation._processes(trained, 40, 4) == 1  # too little for several
    evaluation.generate(trained)
    path = runs.stage_dir(trained, "evaluate") / "samples.jsonl"
    written = path.read_bytes()
    path.unlink()
    return path, written


def meanwhile(do) -> threading.Thread:
    """Calls a function with the processes that generate, once there are two and they have begun."""

    def wait():
        while len(there := multiprocessing.active_children()) < 2:
            time.sleep(0.05)
        time.sleep(1)
        do(there)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_several_processes_write_the_same_bytes_and_go_on_after_a_kill_and_an_interrupt(trained, by_one, monkeypatch):
    path, written = by_one
    monkeypatch.setattr(evaluation, "SEVERAL", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    assert evaluation._processes(trained, 40, 4) == 2
    assert evaluation._processes(trained.model_copy(update={"seed": None}), 40, 2) == 1  # it runs beside a training

    killing = meanwhile(lambda children: children[0].kill())
    with pytest.raises(ResultsError, match="was killed .*the same command goes on"):
        evaluation.generate(trained)
    killing.join()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background, a shell has it ignored
    interrupting = meanwhile(lambda children: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        evaluation.generate(trained)
    interrupting.join()
    signal.signal(signal.SIGINT, before)
    assert not multiprocessing.active_children()

    first = written.splitlines(keepends=True)[:15]
    path.write_bytes(b"".join(first[:7]))
    (path.parent / "samples-trained-greedy.part.jsonl").write_bytes(b"".join(first[5:]) + b'{"torn')
    evaluation.generate(trained)
    assert path.read_bytes() == written
    assert not list(path.parent.glob("*.part.jsonl"))
    assert evaluation.finish(trained)["summary"]["items"] == 40
