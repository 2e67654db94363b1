"""The record of what was tried on dev: made of finished trials only, and of the runs' own files."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from small import SMALL

from rrr_utils import failures, files, runs, training
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.report import trials
from rrr_utils.settings import ROOT, load

TRIED = {"slow": {**SMALL, "steps": 2, "learning_rate": 1e-3}}


def test_the_record_is_made_of_finished_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "load", lambda profile: TRIED)
    profile, target = load("tiny", {"results_dir": str(tmp_path / "runs")}), tmp_path / "results" / "tiny"
    with pytest.raises(ResultsError, match="'slow' is not finished: make trials"):
        trials.record(profile, tmp_path)
    one = load("tiny", {**TRIED["slow"], "results_dir": profile.results_dir, "seed": 0})
    for stage in (failures.sample, failures.finish, training.train, training.finish):
        stage(one)
    (target / "trials" / "dropped").mkdir(parents=True)
    (target / "RECIPE.md").write_text("before\n<!-- generated:trials -->\n<!-- /generated:trials -->\nafter\n")
    frame = trials.record(profile, tmp_path)
    assert frame["trial"].tolist() == ["slow"] and "learning_rate 0.001" in frame["settings"].item()
    dev = files.read_jsonl(target / "trials" / "slow" / "dev.jsonl")
    said = " ".join(f"{line['step']}: {100 * line['greedy']:.1f} / {100 * line['sampled']:.1f}" for line in dev)
    assert frame["right on dev, %, greedy / sampled, by step"].item() == said and len(dev) == 2
    assert not (target / "trials" / "dropped").exists() and len(pd.read_csv(target / "trials.csv")) == 1
    recipe = (target / "RECIPE.md").read_text()
    assert "| slow" in recipe and recipe.startswith("before") and recipe.endswith("after\n")
    assert str(ROOT) not in (target / "trials" / "slow" / "result.json").read_text()

    # where the run is gone, what was recorded of it stays, but not for other settings
    shutil.rmtree(runs.stage_dir(one, "train"))
    pd.testing.assert_frame_equal(trials.record(profile, tmp_path), frame)
    monkeypatch.setattr(trials, "load", lambda profile: {"slow": {**TRIED["slow"], "learning_rate": 2e-3}})
    with pytest.raises(ResultsError, match="'slow' is not finished"):
        trials.record(profile, tmp_path)


def test_trials_are_other_settings_in_the_same_folder_of_runs():
    """So each has a training of its own, and all that need no other failures share them."""
    listed = [load("tiny", {"seed": 0, **tried}) for tried in trials.load("tiny").values()]
    assert {one.results_dir for one in listed} == {"results/runs"}
    assert len({runs.stage_dir(one, "train") for one in listed}) == len(listed)
    assert len({runs.stage_dir(one, "failures") for one in listed}) == len({one.task for one in listed})
    with pytest.raises(SettingsError, match="no trials of profile 'nothing'"):
        trials.load("nothing")
