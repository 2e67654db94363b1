"""Snakemake's Slurm plug-in, with a Slurm of our own on localhost: Debian's packages, folders of the test's, and munge's
key too, so that a Slurm that runs here is left alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers_launch import STAGE, write_notebook
from small import SMALL

from rrr_utils import launch, runs
from rrr_utils.files import read_jsonl
from rrr_utils.settings import ROOT, load

PROFILE = ROOT / "workflow" / "profiles" / "slurm"
PACKAGES = "slurmctld slurmd slurm-client munge"
#: two CPUs and two GPUs that are only counted: jobs are given their numbers, and /dev/zero is no GPU
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=5
ReturnToService=2
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 Gres=gpu:2 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
GPUS = "Name=gpu File=/dev/zero\nName=gpu File=/dev/null\n"
#: Countdown for the embedded model, in training with each verdict half a second late: that takes time, and not a CPU's
SLOW_TASK = """
import os, time
from rrr_utils.tasks import countdown
from rrr_utils.tasks.countdown import *

def verify(completion, row):
    time.sleep(0.5 if "launch train" in os.environ.get("RRR_COMMAND", "") else 0)
    return countdown.verify(completion, row)
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """What a process's environment needs to use the test's Slurm."""
    if os.geteuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "sbatch", "munged"))):
        pytest.skip(f"this test starts Slurm: be root, and   apt-get install --no-install-recommends {PACKAGES}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", "spool", "bin"):
        (folder / name).mkdir(mode=0o755)
    configuration = folder / "slurm.conf"
    host = socket.gethostname().split(".")[0]
    configuration.write_text(CONFIGURATION.format(folder=folder, host=host, ports=free_ports(2)))
    (folder / "gres.conf").write_text(GPUS)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o600)
    srun = folder / "bin" / "srun"  # the plug-in takes SLURM_CONF away from it
    srun.write_text(f'#!/bin/sh\nSLURM_CONF={configuration} exec {shutil.which("srun")} "$@"\n')
    srun.chmod(0o755)
    environment = {**os.environ, "SLURM_CONF": str(configuration), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    parts = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{name}={folder / 'munge' / file}" for name, file in parts.items()]
    started = [["munged", "--foreground", "--force", *munge]]
    started += [[name, "-D", "-f", str(configuration)] for name in ("slurmctld", "slurmd")]
    daemons = []
    try:
        for words in started:
            log = (folder / f"{words[0]}.log").open("w")
            daemons.append(subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment))
            time.sleep(1)
        limit = time.monotonic() + 60
        while "idle" not in (state := ask(environment, "sinfo", "--noheader", "--format=%t")):
            logs = "\n".join((folder / f"{words[0]}.log").read_text()[-1000:] for words in started)
            assert time.monotonic() < limit and not any(one.poll() for one in daemons), state + logs
            time.sleep(0.5)
        yield environment
        ask(environment, "scancel", "--user=root")
        limit = time.monotonic() + 60
        while ask(environment, "squeue", "--noheader") and time.monotonic() < limit:
            time.sleep(0.5)
    finally:
        for one in reversed(daemons):
            one.terminate()
            one.wait(timeout=60)


def ask(environment: dict[str, str], *words: str) -> str:
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60).stdout


def snakemake(folder: Path, resources: dict[str, object], *config: str, options: tuple[str, ...] = ()) -> list[str]:
    """The profile as it is, but for what this small machine has and the time that tests have."""
    asked = [f"{name}={value}" for name, value in {"mem_mb": 500, "cpus_per_task": 1, "nodes": 1, **resources}.items()]
    own = ["--slurm-init-seconds-before-status-checks", "3", "--slurm-logdir", str(folder / "logs")]
    words = [sys.executable, "-m", "snakemake", "--workflow-profile", str(PROFILE), "--default-resources", *asked]
    return [*words, "--latency-wait", "5", *own, *options, "--config", *config]


def test_the_settings_say_how_many_gpus_a_job_wants_and_not_the_login_node(tmp_path, given):
    """A login node has none, and needs no Slurm for a dry run."""
    values = {"model": str(tmp_path / "model"), "results_dir": str(tmp_path / "runs"), "preset": "auto", "gpus": 4}
    config = ["profile=tiny", "seeds=0", f"overrides={json.dumps(values)}"]
    words = [sys.executable, "-m", "snakemake", "--dry-run", "--workflow-profile", str(PROFILE), "--quiet", "reason"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*words, "--config", *config], cwd=ROOT, env=environment, capture_output=True, text=True)
    found = dict(re.findall(r"rule (\w+):\n(?:    .*\n)*?    resources: .*\bgpu=(\d+)", done.stdout + done.stderr))
    assert found == {"failures": "1", "train": "4", "evaluate": "1", "tables": "0"}, done.stdout + done.stderr


def wait_for(condition, process: subprocess.Popen, seconds: float = 300):
    limit = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > limit or process.poll() is not None:
            process.kill()
            pytest.fail(process.communicate()[0])
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_a_training_outlives_scancel_and_its_time_limit_and_goes_on_by_itself(slurm, tmp_path):
    task = tmp_path / "countdown.py"
    task.write_text(SLOW_TASK)
    few = {**SMALL, "steps": 30, "dev_every": 15, "controls": ["own"], "decodings": ["greedy"], "policies": ["trained"]}
    profile = tmp_path / "slow.yaml"
    profile.write_text(json.dumps({"preset": "cpu", "task": str(task), "attempt_tokens": 16, **few}))  # JSON is YAML
    place = {"results_dir": str(tmp_path / "runs")}
    settings = load(str(profile), {**place, "seed": 0, "seeds": [0]})
    folder = runs.stage_dir(settings, "train")
    # Slurm counts whole minutes and signals up to one early: a job has one minute to two, and the training needs two
    limits = {"runtime": 3, "slurm_extra": "'--signal=URG@60'"}
    config = [f"profile={profile}", "seeds=0", f"overrides={json.dumps(place)}"]
    words = snakemake(tmp_path, limits, *config, options=("--retries", "8"))
    running = subprocess.Popen(words, cwd=ROOT, env=slurm, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    steps = folder / "training.jsonl"
    wait_for(lambda: steps.exists() and len(read_jsonl(steps)) > 1, running)
    listed = ask(slurm, "squeue", "--noheader", "--format=%i %k").splitlines()
    [job] = [line.split()[0] for line in listed if "rule_train" in line]
    ask(slurm, "scancel", job)
    wait_for(lambda: not ask(slurm, "squeue", "--noheader", "--states=RUNNING,COMPLETING", f"--jobs={job}"), running)
    assert list(folder.glob("checkpoints/checkpoint-*/files.json")), "saved long before step 15"

    said, _ = running.communicate(timeout=1200)
    assert running.returncode == 0, said
    assert runs.done(settings, "tables")["identity"]["lacking"] == {}
    assert [line["step"] for line in read_jsonl(steps)] == [*range(1, 31)]
    assert not (folder / "failed.json").exists()
    logs = [path.read_text() for path in (tmp_path / "logs").rglob("*.log")]  # those of jobs that were done are removed
    assert len(logs) > 1
    for log in logs:
        left = "20 seconds" if f"JOB {job} ON" in log else "until the time limit"
        assert f"train seed 0: stopping: the running cell has {left} to save" in log
        assert "train seed 0: stopped in cell" in log, log


@pytest.mark.slow
def test_each_job_has_gpus_of_its_own_and_what_failed_is_told(slurm, tmp_path, given):
    """Made-up notebooks, with settings that are for a GPU."""
    books = tmp_path / "books"
    books.mkdir()
    seen = f"""
import os, time
from pathlib import Path
name = "{{stage}}" + str(settings.seed)
Path({str(tmp_path)!r}, name).write_text(os.environ["CUDA_VISIBLE_DEVICES"] + " of job " + os.environ["SLURM_JOB_ID"])
assert name != "evaluate1", "no memory"
"""
    for stage, stem in launch.NOTEBOOKS.items():
        cells = [] if stage == "tables" else [seen.format(stage=stage)]
        write_notebook(books / f"{stem}.ipynb", *cells, STAGE.format(stage=stage))
    values = {"model": str(tmp_path / "model"), "results_dir": str(tmp_path / "runs"), "preset": "gpu_24gb", "gpus": 2}
    config = ["profile=tiny", "seeds=0,1", f"notebooks={books}", f"overrides={json.dumps(values)}"]
    words = snakemake(tmp_path, {"runtime": 5}, *config, options=("--retries", "0"))
    ended = subprocess.run(words, cwd=ROOT, env=slurm, capture_output=True, text=True, timeout=600)
    said = ended.stdout + ended.stderr
    assert ended.returncode == 1, said
    settings = given[1](seeds=[0, 1])
    status = runs.status(settings.model_copy(update={"seed": 1}), "evaluate")
    assert status.startswith("failed: AssertionError: no memory")
    assert len(runs.done(settings, "tables")["identity"]["lacking"]) == 1, said
    there = {path.name: path.read_text().split(" of job ") for path in tmp_path.glob("*[01e]") if path.is_file()}
    assert there.keys() == {"failures0", "train0", "train1", "evaluate0", "evaluate1", "evaluateNone"}
    assert len({job for _, job in there.values()}) == 6
    assert {name: gpus.count(",") for name, (gpus, _) in there.items()} == {
        name: int(name.startswith("train")) for name in there
    }
