"""The record of what was tried on dev: made of finished trials only, and of the runs' own files."""

from __future__ import annotations

import pandas as pd
import pytest
from small import SMALL

from rrr_utils import failures, files, runs, settings, training
from rrr_utils.errors import ResultsError
from rrr_utils.report import trials
from rrr_utils.settings import ROOT

TRIED = {"slow": {**SMALL, "steps": 2, "learning_rate": 1e-3}}


def test_the_record_is_made_of_finished_trials(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "load", lambda profile: TRIED)
    monkeypatch.setattr(trials, "changed", lambda name, tried: {**tried, "results_dir": str(tmp_path / "runs" / name)})
    target = tmp_path / "results" / "tiny"
    with pytest.raises(ResultsError, match="'slow' is not finished: make trials"):
        trials.record("tiny", tmp_path)
    one = settings.load("tiny", {**trials.changed("slow", TRIED["slow"]), "seed": 0})
    for stage in (failures.sample, failures.finish, training.train, training.finish):
        stage(one)
    (target / "trials" / "dropped").mkdir(parents=True)
    (target / "RECIPE.md").write_text("before\n<!-- generated:trials -->\n<!-- /generated:trials -->\nafter\n")
    frame = trials.record("tiny", tmp_path)
    assert frame["trial"].tolist() == ["slow"] and "learning_rate 0.001" in frame["settings"].item()
    dev = files.read_jsonl(target / "trials" / "slow" / "dev.jsonl")
    assert frame["dev rescued, %, by step"].item() == " ".join(f"{line['step']}: {100 * line['rescued']:.1f}" for line in dev)
    untrained = files.read_jsonl(runs.stage_dir(one, "failures") / "dev_attempts.jsonl")
    share = sum(line["solved"] for line in untrained) / len(untrained)
    assert frame["dev first try, %: untrained"].item() == round(100 * share, 1)
    assert not (target / "trials" / "dropped").exists() and len(pd.read_csv(target / "trials.csv")) == 1
    recipe = (target / "RECIPE.md").read_text()
    assert "| slow" in recipe and recipe.startswith("before") and recipe.endswith("after\n")
    assert str(ROOT) not in (target / "trials" / "slow" / "result.json").read_text()


def test_every_trial_of_the_repository_is_of_known_settings():
    for name, tried in trials.load("tiny").items():
        assert settings.load("tiny", {**trials.changed(name, tried), "seed": 0}).results_dir == f"results/runs/trials/{name}"
    with pytest.raises(settings.SettingsError, match="no trials of profile 'nothing'"):
        trials.load("nothing")
