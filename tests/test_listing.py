"""The list of runs: what differs from the settings at hand, what a table takes, and removing what is named."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import synthetic
from filelock import FileLock

from rrr_utils import files, runs
from rrr_utils.errors import ResultsError
from rrr_utils.report import listing, tables
from rrr_utils.report.__main__ import main
from rrr_utils.settings import ROOT, load


def name_of(settings, stage, seed=0):
    return runs.stage_dir(settings.model_copy(update={"seed": seed}), stage).name


@pytest.fixture
def two_rates(tmp_path):
    """Two learning rates of one seed, side by side."""
    settings = synthetic.made(tmp_path, (0,), 20)
    other = settings.model_copy(update={"learning_rate": 1e-4})
    synthetic.write_runs(other, (0,), 20)
    return settings, other


def test_other_runs_say_what_differs_and_how_they_did(two_rates):
    settings, other = two_rates
    frame = listing.others(settings, "evaluate")
    assert frame["run"].unique().tolist() == [name_of(other, "evaluate")]
    assert set(frame["differs (there / here)"]) == {f"learning_rate 0.0001 / {settings.learning_rate}"}
    [row], _ = tables.gather(other)
    right = row.cells[(row.cells["decoding"] == "greedy") & (row.cells["control"] == "own")]
    right = right.set_index("policy")["accuracy"]
    for line in frame.to_dict("records"):
        assert line["second: own reflection"] == f"{100 * right[line['policy']]:.1f}" and line["state"] == "done"
    assert sorted(frame["policy"]) == ["reflector", "trained"]
    back = listing.others(other, "train")
    assert back["differs (there / here)"].tolist() == [f"learning_rate {settings.learning_rate} / 0.0001"]
    assert listing.others(settings, "failures").empty


def test_unfinished_failed_and_damaged_runs_are_listed_as_such(two_rates):
    settings, other = two_rates
    with runs.begin(settings.model_copy(update={"seed": 1}), "train"):
        pass
    (runs.stage_dir(other, "evaluate") / "samples.jsonl").write_text("{}\n")
    files.write_json(
        runs.stage_dir(settings.model_copy(update={"seed": 1}), "train") / "failed.json", {"error": "a|b\ud800"}
    )
    frame = listing.others(settings, "train").set_index("run")
    assert frame.loc[name_of(settings, "train", 1), "state"] == "failed: a¦b\\ud800"
    assert frame.loc[name_of(settings, "train", 1), "differs (there / here)"] == "the seed alone"
    assert listing.others(settings, "evaluate")["state"].tolist() == ["damaged"]
    assert "failed: a¦b" in listing.overview(settings)


def test_every_run_is_listed_with_what_a_table_would_take(two_rates):
    settings, other = two_rates
    said = listing.overview(settings)
    lines = {line.split("|")[1].strip().rpartition("/")[2]: line for line in said.splitlines() if "countdown/" in line}
    assert len(lines) == 6 and "6 runs, " in said and " MB, in " in said
    assert "| yes " in lines[name_of(settings, "train")] and "| yes " not in lines[name_of(other, "train")]
    assert f"learning_rate 0.0001 / {settings.learning_rate}" in lines[name_of(other, "evaluate")]
    without = listing.overview(settings.model_copy(update={"seeds": (1,)}))  # it shares failures and the base model
    assert without.count("| yes") == 2 and without.count("the seed alone") == 2
    assert "0 runs, 0.0 MB" in listing.overview(settings.model_copy(update={"results_dir": "/nowhere"}))


def test_a_hub_model_with_no_recorded_commit_does_not_break_the_list(two_rates):
    settings, _ = two_rates
    one = load("tiny", {"results_dir": settings.results_dir, "model": "no-such-owner/no-such-model"})
    said = listing.overview(one)
    assert said.count("countdown/model/") == 6 and "| yes" not in said


def test_named_runs_are_removed_and_what_was_made_from_them_is_told(two_rates):
    settings, other = two_rates
    folder = runs.open_tables(settings)
    (folder / "cells.csv").write_text("")
    runs.finish(settings, "tables", [folder / "cells.csv"], {}, 1.0)
    gone = [name_of(other, "train"), f"countdown/model/{name_of(settings, 'evaluate', None)}"]
    said = "\n".join(listing.delete(settings, gone))
    assert f"removed countdown/model/{gone[0]}: 0." in said and " freed" in said
    assert f"{name_of(other, 'evaluate')} was made from it; it stays" in said
    assert f"{name_of(settings, 'evaluate')} was made from it; it stays" in said  # the reflector reads the base model's
    assert "the report in tables/tiny was made from it; it stays" in said
    left = {run.folder.name for run in runs.listed(settings.results_dir)}
    assert len(left) == 4 and not {gone[0], gone[1].rpartition("/")[2]} & left
    assert runs.done(settings, "tables") is None


def test_one_unknown_or_ambiguous_name_or_a_busy_folder_and_nothing_is_removed(two_rates):
    settings, other = two_rates
    good = name_of(settings, "evaluate")
    copy = runs.root(settings) / "other" / "model" / good
    copy.mkdir(parents=True)
    (copy / "begun.json").write_bytes((runs.stage_dir(settings, "evaluate") / "begun.json").read_bytes())
    for names, message in (
        ([name_of(other, "train"), "train-seed9"], "no run 'train-seed9'"),
        ([name_of(other, "train"), "seed0"], "no run 'seed0'"),
        ([name_of(other, "train"), ""], "no run ''"),
        ([name_of(other, "train"), good], f"'{good}' may be countdown/model/{good}, other/model/{good}: say which"),
    ):
        with pytest.raises(ResultsError) as refused:
            listing.delete(settings, names)
        assert message in str(refused.value) and "\n" not in str(refused.value)
    for lock in (".lock", ".launch.lock"):
        with (
            FileLock(runs.stage_dir(other, "train") / lock),
            pytest.raises(ResultsError, match="another process works"),
        ):
            listing.delete(settings, [f"other/model/{good}", name_of(other, "train")])
    assert len(runs.listed(settings.results_dir)) == 7
    assert listing.delete(settings, [f"other/model/{good}"])[0].startswith(f"removed other/model/{good}")


def test_make_runs_as_a_process_without_the_network(two_rates):
    settings, other = two_rates
    command = [sys.executable, "-m", "rrr_utils.report", "--runs", "--results-dir", settings.results_dir]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0 and "6 runs, " in done.stdout and not done.stderr
    assert main([*command[4:], "--delete", name_of(other, "evaluate")]) == 0
    assert len(runs.listed(settings.results_dir)) == 5
