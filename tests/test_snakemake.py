"""Snakemake over the launcher, on made-up notebooks: bad settings, kills, what runs again."""

from __future__ import annotations

import json
import subprocess
import sys
import time

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


def test_snakemake_refuses_bad_settings_in_one_line(snakemake):
    refused = subprocess.run([*snakemake(stepps=3), "--workflow-profile", "none"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "snakemake: unknown setting 'stepps'" in refused.stderr
    assert refused.stderr.count("\n") <= 2


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
    assert runs.done(settings(), "tables")
    assert len(runs.evaluations("tiny", settings().results_dir)) == 3
    assert not list(runs.runs_dir(settings()).rglob("*.stale-*"))
    third = subprocess.run(snakemake(), cwd=ROOT, capture_output=True, text=True)
    assert (third.returncode, third.stdout.strip()) == (0, "")
    stale = subprocess.run(snakemake(test_items=9), cwd=ROOT, capture_output=True, text=True)  # only what it bears on
    ran = sorted(line.split(": running")[0] for line in stale.stdout.splitlines() if ": running" in line)
    assert ran == ["evaluate", "evaluate seed 0", "evaluate seed 1", "tables"]
