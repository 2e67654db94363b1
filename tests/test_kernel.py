"""Signals to a launcher and its kernel: what a cluster sends at the end of a job, and that children still end by SIGTERM."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from helpers_launch import start, write_notebook
from test_launch_runs import WAIT, wait_for

from rrr_utils import gpus, kernel

CHILDREN = """
import multiprocessing, signal, subprocess, time
forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
forked.start()
time.sleep(0.5)
forked.terminate()
forked.join(10)
other = subprocess.Popen(["sleep", "60"])
other.terminate()
assert (forked.exitcode, other.wait(10)) == (-signal.SIGTERM, -signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("number", "has"), [(signal.SIGTERM, "20 seconds"), (kernel.LIMIT_NEAR, "until the time limit")]
)
def test_a_signal_to_every_process_of_a_job_lets_the_cell_save(tmp_path, given, number, has):
    mark = tmp_path / "mark"
    book = write_notebook(tmp_path / "01_collect_failures.ipynb", CHILDREN, WAIT.format(mark=str(mark)))
    launcher = start(book, *given[0])
    wait_for(mark)
    everyone = [*psutil.Process(launcher.pid).children(recursive=True), psutil.Process(launcher.pid)]
    for process in everyone:
        process.send_signal(number)
    out, err = launcher.communicate(timeout=60)
    assert launcher.returncode == 1 and Path(f"{mark}.saved").exists(), err
    assert f"stopping: the running cell has {has} to save" in err
    assert "stopped in cell 5 of 01_collect_failures.ipynb. What was computed stays" in err.splitlines()[-1]
    assert not psutil.wait_procs(everyone, timeout=10)[1]


def test_two_jobs_of_a_cluster_share_no_lease_and_two_launchers_of_one_do(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    taken = []
    for job in ("7", "8", "8"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        taken.append((gpus.take(1, ""), gpus.os.environ["CUDA_VISIBLE_DEVICES"]))
    assert [which for _, which in taken] == ["0", "0", "1"]
