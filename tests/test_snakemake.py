"""Snakemake over the launcher, on made-up notebooks: bad settings, kills, what runs again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers_launch import STAGE, write_notebook

from rrr_utils import launch, runs
from rrr_utils.settings import ROOT


@pytest.fixture
def snakemake(tmp_path, given):
    """The command line for a whole profile of made-up notebooks, each of which takes a second."""
    (tmp_path / "books").mkdir()
    for stage, stem in launch.NOTEBOOKS.items():
        write_notebook(tmp_path / "books" / f"{stem}.ipynb", "import time; time.sleep(1)", STAGE.format(stage=stage))
    overrides = {"model": str(tmp_path / "model"), "results_dir": str(tmp_path / "runs")}

    def command(**more):
        config = [f"notebooks={tmp_path / 'books'}", f"overrides={json.dumps({**overrides, **more})}"]
        return [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "profile=tiny", "seeds=0,1", *config]

    return command


def refused(words: list[str]) -> str:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "snakemake: " in done.stderr and done.stderr.count("\n") <= 2, done.stderr
    return done.stderr


def test_snakemake_refuses_bad_settings_in_one_line(snakemake, tmp_path):
    assert "without profile and seed" in refused(snakemake(seed=3))
    assert "unknown --config name 'sedes'; did you mean 'seeds'?" in refused([*snakemake(), "sedes=1"])
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(snakemake(results_dir=str(tmp_path / "file")))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (['OVERRIDES={"source": "it\'s"}'], "it's"),
        (["SEEDS=0,0"], "twice"),
        (["SEEDS=zero"], "seeds must be numbers"),
    ],
)
def test_make_refuses_in_one_line(names, words):
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    venv = f"VENV={Path(sys.executable).parent.parent}"
    done = subprocess.run(["make", "reproduce", venv, *names], cwd=ROOT, env=alone, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert done.returncode == 2 and len(said) == 1 and words in said[0], done.stderr


def ran(done: subprocess.CompletedProcess) -> list[str]:
    return sorted(line.split(": running")[0] for line in done.stdout.splitlines() if ": running" in line)


def test_ablations_ask_for_each_run_of_their_studies_once_and_for_no_tables(snakemake, given):
    words = [*snakemake(), "ablations=1", "--quiet", "rules", "--dry-run", "--", "ablations"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    counts = dict(re.findall(r"^(\w+) +([0-9]+)$", said, re.MULTILINE))
    # the recipe's three seeds, three of the answer and one each of two other ways; all of these are evaluated, the
    # recipe's on two more kinds of problems and with every control too, and the base model on all of it
    assert counts == {"evaluate": "17", "failures": "1", "train": "8", "ablations": "1", "total": "27"}
    assert not list(runs.root(given[1]()).glob("*/*/*/result.json"))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [6, 11])
def test_a_killed_snakemake_is_gone_on_with_and_nothing_runs_twice(snakemake, given, seconds):
    settings = given[1]
    killed = subprocess.Popen(snakemake(), cwd=ROOT)
    time.sleep(seconds)
    killed.kill()
    killed.wait()
    again = subprocess.run(snakemake(), cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert runs.done(settings(seeds=[0, 1]), "tables")
    names = {path.parent.name.rpartition("-")[0] for path in runs.home(settings()).glob("*/result.json")}
    assert names == {"failures", "train-seed0", "train-seed1", "evaluate-vanilla", "evaluate-seed0", "evaluate-seed1"}
    third = subprocess.run(snakemake(), cwd=ROOT, capture_output=True, text=True)
    assert (third.returncode, third.stdout.strip()) == (0, "")
    fewer = subprocess.run(snakemake(test_items=9), cwd=ROOT, capture_output=True, text=True)  # only what it bears on
    assert ran(fewer) == ["evaluate", "evaluate seed 0", "evaluate seed 1", "tables"]
    back = subprocess.run(snakemake(), cwd=ROOT, capture_output=True, text=True)
    assert ran(back) == ["tables"]  # the tables are derived; nothing else is computed again


@pytest.mark.slow
def test_damaged_outputs_are_made_again_and_a_row_that_fails_stops_only_itself(snakemake, given, tmp_path):
    settings = given[1]
    book = tmp_path / "books" / "03_evaluate.ipynb"
    whole = book.read_text()
    write_notebook(book, "assert settings.seed != 1, 'no memory'", STAGE.format(stage="evaluate"))
    failed = subprocess.run(snakemake(), cwd=ROOT, capture_output=True, text=True)
    assert failed.returncode != 0 and "evaluate seed 1: AssertionError: no memory" in failed.stderr
    lacking = runs.done(settings(seeds=[0, 1]), "tables")["identity"]["lacking"]
    assert lacking.keys() == {"seed 1"} and lacking["seed 1"].startswith("failed: AssertionError: no memory")
    book.write_text(whole)
    (runs.stage_dir(settings(), "train") / "out.txt").write_text("cut")
    mended = subprocess.run(snakemake(), cwd=ROOT, capture_output=True, text=True)
    assert mended.returncode == 0, mended.stderr
    assert ran(mended) == ["evaluate seed 1", "tables", "train seed 0"]
    assert runs.done(settings(seeds=[0, 1]), "tables")["identity"]["lacking"] == {}


@pytest.mark.slow
def test_sigterm_to_make_stops_what_it_started(tmp_path, given):
    from small import SMALL

    overrides = {**SMALL, "steps": 40, "dev_every": 40, "results_dir": str(tmp_path / "runs")}
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    words = ["make", "reproduce", f"VENV={Path(sys.executable).parent.parent}", f"OVERRIDES={json.dumps(overrides)}"]
    make = subprocess.Popen(words, cwd=ROOT, env=alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    logs, limit = tmp_path / "runs/countdown/embedded", time.monotonic() + 300
    while not list(logs.glob("train-*/training.jsonl")):
        assert time.monotonic() < limit and make.poll() is None
        time.sleep(0.2)
    started = psutil.Process(make.pid).children(recursive=True)
    make.terminate()
    said, _ = make.communicate(timeout=120)
    gone, alive = psutil.wait_procs(started, timeout=5)
    assert not alive, [process.cmdline() for process in alive]
    assert make.returncode != 0 and "What was computed stays" in said
    assert list(logs.glob("train-*/checkpoints/checkpoint-*/files.json")), "the interrupted training saved"
