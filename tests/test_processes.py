"""Several processes train one model: what they compute is what one computes, and they log, stop, fail and go on as one."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from small import interrupted_at, small

from rrr_utils import checkpoints, failures, files, runs, training
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.settings import ROOT

#: a group of reflections lies on two processes, and dev in unequal shares
SIZES = {"failures_per_step": 3, "reflections_per_failure": 4, "micro_batch": 3, "dev_items": 5}
LOGS = ("training", "dev", "reflections")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the failures stage done."""
    one = small(tmp_path_factory.mktemp("runs"), **SIZES)
    failures.sample(one)
    failures.finish(one)
    return runs.root(one)


def logs(folder: Path) -> list[list[dict]]:
    """Logs without what differs between equal runs."""
    lines = [files.read_jsonl(folder / f"{name}.jsonl") for name in LOGS]
    return [[{k: v for k, v in line.items() if k != "seconds"} for line in log] for log in lines]


def workers(folder: Path) -> list[psutil.Process]:
    """Processes that train this folder, their launcher left out."""
    found = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in (one.info["cmdline"] or ())]
    return [one for one in found if "rrr_utils.training" in one.info["cmdline"]]


def ended(found: list[psutil.Process], seconds: float) -> bool:
    return not psutil.wait_procs(found, timeout=seconds)[1]


def once(happened, act) -> threading.Thread:
    """In a thread: act as soon as it happened."""

    def watch():
        deadline = time.time() + 200
        while not happened() and time.time() < deadline:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def logged(folder: Path, steps: int):
    return lambda: len(files.read_log(folder / "training.jsonl")) >= steps


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def forced(home: Path, folder: Path, processes: int) -> tuple[list[list[dict]], dict, list[list[dict]]]:
    """Two steps with forced texts: the logs, the adapter, and what each process said on dev."""
    two_steps = small(home, steps=2, learning_rate=1e-3, **SIZES)
    files.write_json(folder / "settings.json", two_steps.model_dump(mode="json"))
    by = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    words = [sys.executable, *by, str(ROOT / "tests/helpers_processes.py"), str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [files.read_jsonl(path) for path in sorted(folder.glob("said-*.jsonl"))]
    return logs(folder), load_file(folder / "checkpoints/checkpoint-2/adapter_model.safetensors"), said


@pytest.mark.slow
def test_with_the_same_texts_two_processes_compute_what_one_computes(home, tmp_path):
    (one, weights, [said]), (two, others, shares) = (forced(home, tmp_path / str(n), n) for n in (1, 2))
    for line, other in zip(one[0], two[0], strict=True):
        assert 0 < line["reward"] < 1 and line["reward_std"] > 0 and line["grad_norm"] > 0
        assert line["zero_variance"] == other["zero_variance"] < 1 and line["truncated"] == other["truncated"]
        for name in ("reward", "reward_std", "retry_correct", "reflection_tokens", "generated_tokens", "learning_rate"):
            assert other[name] == pytest.approx(line[name], rel=1e-6), name
        for name in ("loss", "grad_norm"):  # trl's kl is the mean of each backward pass's mean, the loss holds it right
            assert other[name] == pytest.approx(line[name], rel=1e-5, abs=1e-6), name
    assert one[2] == two[2] and len(one[2]) == 2 * 12, "the same reflections, in the same order"
    assert weights.keys() == others.keys()
    assert max(float((weights[name] - others[name]).abs().max()) for name in weights) < 1e-4
    fresh = load_file(tmp_path / "1/checkpoints/untrained/adapter_model.safetensors")
    assert max(float((weights[name] - fresh[name]).abs().max()) for name in weights) > 5e-4, "they learnt"

    greedy = lambda lines: sorted((str(one["asked"]), one["said"]) for one in lines if one["heat"] == 0)  # noqa: E731
    assert [len(greedy(share)) for share in shares] == [2 * 2 * 3, 2 * 2 * 2], "dev of steps 0 and 2, shared out"
    assert greedy(said) == greedy([*shares[0], *shares[1]])
    assert [line["greedy"] for line in one[1]] == [line["greedy"] for line in two[1]]
    assert [line["n"] for line in two[1]] == [5, 5]


def adapter(folder: Path) -> bytes:
    return (folder / "adapter/adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_an_interrupt_saves_and_the_run_goes_on_with_two_and_with_one(home, tmp_path, capfd):
    two = small(home, gpus=2, seed=1, steps=6, dev_every=5, **SIZES)
    folder = runs.stage_dir(two, "train")
    training.train(two)
    said = capfd.readouterr().out
    assert "6/6" in said and "Traceback" not in said and "WARNING" not in said
    result = training.finish(two)
    whole, weights = logs(folder), adapter(folder)
    assert [line["step"] for line in whole[0]] == [*range(1, 7)] and [line["step"] for line in whole[1]] == [0, 5, 6]
    for line in whole[0]:
        own = [one for one in whole[2] if one["step"] == line["step"]]
        assert len(own) == 12 and len({one["id"] for one in own}) == 3, "three groups of four, of both processes"
        assert [one["id"] for one in own] == [own[k // 4 * 4]["id"] for k in range(12)], "in the order of the batch"
        assert line["reward"] == pytest.approx(sum(one["reward"] for one in own) / 12)
        spoken = line["generated_tokens"] - 12 * line["reflection_tokens"]
        assert 12 * 2 <= spoken <= 12 * two.attempt_tokens, "the rest are all twelve retries"
    assert result["summary"]["generated_tokens"] == sum(line["generated_tokens"] for line in whole[0])

    folder.rename(tmp_path / "whole")
    once(logged(folder, 1), interrupt)
    with pytest.raises(KeyboardInterrupt, match="run it again"):
        training.train(two)
    assert not workers(folder), "the workers ended before"
    saved = checkpoints.newest(folder)
    stop = int(saved.name.split("-")[1])
    assert 0 < stop < 5 and f"training saved at step {stop} and stopped" in capfd.readouterr().out
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= files.read_json(saved / "files.json").keys()
    shutil.copytree(folder, tmp_path / "stopped")

    training.train(two)
    training.finish(two)
    assert logs(folder) == whole and adapter(folder) == weights

    folder.rename(tmp_path / "again")
    shutil.copytree(tmp_path / "stopped", folder)
    one = two.model_copy(update={"gpus": 1})
    training.train(one)
    training.finish(one)
    after = logs(folder)
    for log, other in zip(after, whole, strict=True):
        assert [line for line in log if line["step"] <= stop] == [line for line in other if line["step"] <= stop]
        assert [line["step"] for line in log] == [line["step"] for line in other]


@pytest.mark.slow
def test_a_run_that_one_process_began_goes_on_with_two_and_the_same_batch(home, monkeypatch):
    sizes = {"seed": 2, "steps": 5, "dev_every": 5, **SIZES}
    one = small(home, **{**sizes, "micro_batch": 4})
    with interrupted_at(3, monkeypatch):
        training.train(one)
    folder = runs.stage_dir(one, "train")
    before = logs(folder)
    with pytest.raises(SettingsError, match="micro_batch 4 does not divide .* 6 on each of 2 GPUs"):
        small(home, gpus=2, **{**sizes, "micro_batch": 4})
    two = small(home, gpus=2, **sizes)  # its folder goes on with 4
    training.train(two)
    assert training.finish(two)["settings"]["micro_batch"] == 4
    after = logs(folder)
    assert [log[: len(old)] for log, old in zip(after, before, strict=True)] == before
    assert [line["step"] for line in after[0]] == [1, 2, 3, 4, 5] and [line["step"] for line in after[1]] == [0, 5]
    assert [sum(line["step"] == step for line in after[2]) for step in range(1, 6)] == [12] * 5
    assert (checkpoints.newest(folder) / "rng_state_1.pth").exists()


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_is_one_line(home):
    two = small(home, gpus=2, seed=3, steps=100, **SIZES)
    folder = runs.stage_dir(two, "train")
    once(logged(folder, 1), lambda: next(one for one in workers(folder) if one.environ()["RANK"] == "1").kill())
    with pytest.raises(ResultsError, match=r"goes on .*: process 1 of 2: Signal 9 \(SIGKILL\) received") as told:
        training.train(two)
    assert "\n" not in str(told.value) and not workers(folder)


@pytest.mark.slow
def test_a_disk_that_is_full_is_told_by_the_process_that_writes(home):
    two, (soft, hard) = small(home, gpus=2, seed=4, steps=2, **SIZES), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
        with pytest.raises(ResultsError, match="process 0 of 2: ResultsError: cannot write .*Free some space"):
            training.train(two)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.slow
def test_the_processes_end_when_the_one_that_began_them_is_killed(home):
    sizes = {"gpus": 2, "seed": 5, "steps": 500, **SIZES}
    folder = runs.stage_dir(small(home, **sizes), "train")
    code = f"from small import small; from rrr_utils import training; training.train(small({str(home)!r}, **{sizes}))"
    where = {"cwd": ROOT / "tests", "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    parent = subprocess.Popen([sys.executable, "-c", code], **where)
    found = []
    once(logged(folder, 1), lambda: found.extend(psutil.Process(parent.pid).children(recursive=True))).join()
    parent.kill()
    assert parent.wait() and len(found) == 3 and ended(found, 15)


@pytest.mark.parametrize("number, why", [(5, "gpus 5 does not divide"), (4, "micro_batch 2 .* 3 on each of 4 GPUs")])
def test_numbers_that_do_not_divide_the_batch_are_refused(tmp_path, number, why):
    with pytest.raises(SettingsError, match=why):
        small(tmp_path, gpus=number, **{**SIZES, "micro_batch": 2})
