"""What a stage needs before it runs: GPUs, packages, data, a disk, and the results of the stages before it.

Everything that would stop a stage later is found here first, in one line. `ensure` is for notebooks.
"""

import contextlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys

from rrr_utils import backup, gpus, grid, machine, runs, tasks
from rrr_utils.errors import PLAIN, ResultsError, SettingsError
from rrr_utils.settings import ROOT, Settings, load


def command(settings: Settings, stage: str) -> str:
    """The command that makes a stage's result; what equals the profile is left out.

    >>> command(load("tiny", {"seed": 1, "steps": 5}), "train")
    'python -m rrr_utils.launch train --profile tiny -p seed=1 -p steps=5'
    """
    first, own = load(settings.profile), settings.model_dump(mode="json")
    row = load(settings.profile, {"task": settings.task, "model": settings.model})
    base = row.model_dump(mode="json") | {"task": first.task, "model": first.model}
    ignored = {"failures": {"profile", "seed", "seeds", "rows"}, "tables": {"profile", "seed"}}
    left_out, always = ignored.get(stage, {"profile", "seeds", "rows"}), set()
    if stage == "tables":  # of several rows: what one has anyhow, others may not have
        left_out |= {"task", "model"} - set(settings.overridden)
        always = set(settings.overridden) - {"results_dir", "task", "model"} if len(grid.names(settings)) > 1 else set()
    options = []
    for name, value in own.items():
        if (value != base[name] or name in always) and name not in left_out:
            text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            options += ["-p", f"{name}={text}"]
    return shlex.join(["python", "-m", "rrr_utils.launch", stage, "--profile", settings.profile, *options])


def check(settings: Settings, stage: str) -> None:
    """Raise one of PLAIN for whatever would stop the stage later: GPUs, packages, data, upstream results, the disk."""
    there = gpus.visible()
    if stage != "tables" and settings.preset not in (None, "cpu") and not there:
        raise SettingsError(
            f"preset {settings.preset} is for a GPU and this machine shows none: on a CPU a model of billions of "
            "parameters takes days. Run it where there is a GPU, or add preset=cpu to run it here all the same"
        )
    if stage != "tables":
        machine.refuse(settings, stage)
    if stage == "train" and there and settings.gpus > len(there):  # on a CPU they are processes
        raise SettingsError(f"gpus is {settings.gpus} but this machine shows {len(there)}: set gpus lower")
    package = settings.report_to
    if stage == "train" and package != "none" and importlib.util.find_spec(package) is None:
        raise SettingsError(f"report_to is {package}, which is not installed: pip install {package}, or set it to none")
    if stage == "failures" and (settings.source or "procedural:").startswith("procedural:"):
        tasks.load(tasks.get(settings.task), "train", 1, runs.source_of(settings), settings.max_bad_rows)
    check_upstream(settings, stage)
    if stage == "train" and settings.objective == "reflection" and (found := runs.done(settings, "failures")):
        settings.check_failures(found["summary"].get("failures", settings.failures_per_step))
    with runs.hold(runs.root(settings)):  # the folder can be made and written to
        pass


def missing(settings: Settings, stage: str) -> list[tuple[Settings, str]]:
    """What the stage reads and is not there. For the tables any finished evaluation will do."""
    if stage == "tables":
        return [] if runs.evaluated(settings)[0] else [(one, "evaluate") for one in runs.asked(settings)]
    return [(one, name) for one, name in runs.upstream(settings, stage) if not runs.done(one, name)]


def check_upstream(settings: Settings, stage: str) -> None:
    """Raise SettingsError where the stage reads what is not there and what nobody asked to be made (`make_missing`).
    The tiny profile makes what it lacks, unless a training of this seed is there with other settings."""
    for one, name in missing(settings, stage) if not settings.make_missing else ():
        make = f"make it with   {command(one, name)}"
        if runs.profile_name(settings) != "tiny":
            text = f"{stage} reads the result of {name}, which is not there: {make}"
            raise SettingsError(f"{text}   or set make_missing, and it is made here{_minutes(one, name)}")
        for run in runs.listed(runs.root(settings)) if one.seed is not None and name != "failures" else ():
            same = run.folder.parent == runs.home(one) and run.begun["settings"].get("seed") == one.seed
            if same and run.begun["stage"] == "train" and run.folder != runs.stage_dir(one, "train"):
                apart = runs.differing(one, run).items()
                what = ", ".join(f"{key} {there!r} there and {here!r} here" for key, (there, here) in apart)
                raise SettingsError(
                    f"no '{name}' result of these settings; there is {run.folder.name}, with {what}: "
                    f"set these to take it, or {make}"
                )


def _minutes(settings: Settings, stage: str) -> str:
    """How long a stage and what it lacks will take here, in words; nothing where that cannot be told."""
    from rrr_utils import forecast  # pandas: only when it is to be said

    todo, seconds = [(settings, stage)], 0.0
    with contextlib.suppress(*PLAIN):
        for one, name in todo:
            seconds += sum(forecast.parts(one, name).values())
            todo += missing(one, name)
        return f", in about {max(1, round(seconds / 60))} minutes"
    return ""


def ensure(settings: Settings, stage: str) -> None:
    """For notebooks: check the stage, and make what it reads and lacks in the tiny profile or where `make_missing` asks
    for it. Raises one of PLAIN."""
    backup.exchange(settings, stage)
    if runs.done(settings, stage):
        return
    check(settings, stage)
    for one, name in missing(settings, stage):
        line = command(one, name)
        said = f"{stage} reads the result of {name}, which is not there yet. Making it{_minutes(one, name)}:"
        print(f"{said} {line}", flush=True)
        words, last = [sys.executable, *shlex.split(line)[1:]], ""
        env = {**os.environ, "RRR_PLAIN_LOG": "1", "TQDM_MININTERVAL": "2"}
        how = {"cwd": ROOT, "env": env, "text": True}
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how) as process:
            try:
                wide = 0
                for last in process.stdout:  # a bar stays in its line, and what comes next covers it
                    bar = "%|" in last
                    print(f"{last.rstrip():<{wide}}", end="\r" if bar else "\n", flush=True)
                    wide = len(last) if bar else 0
            except KeyboardInterrupt:  # it was interrupted too, and saves
                process.wait()
                raise KeyboardInterrupt(
                    f"{name}, which {stage} reads, is not finished: run it again to go on"
                ) from None
        if process.returncode:
            raise ResultsError(f"{name}, which {stage} reads, could not be made: {last.strip() or line}")
