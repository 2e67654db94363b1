"""Data frames for people who plot: every row of a grid beside the paper's cells, every run, and plots in five lines."""

from __future__ import annotations

import matplotlib
import pandas as pd
import pytest
import synthetic
import yaml

from rrr_utils import files, report, runs
from rrr_utils.report import cells, frames, tables
from rrr_utils.settings import load

matplotlib.use("Agg")


def tabulate(settings) -> None:
    """The two files of the tables that the frames read."""
    folder = runs.open_tables(settings)
    rows, _ = tables.gather(settings)
    for name, column in (("cells", "cells"), ("seeds", "averaged")):
        frame = pd.concat([getattr(row, column) for row in rows])
        files.write_text(folder / f"{name}.csv", frame.to_csv(index=False))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two learning rates of a model called as one of the paper's, and a profile of three rows of which one was run."""
    folder = tmp_path_factory.mktemp("frames")
    model = folder / "Qwen2.5-3B-Instruct"
    model.mkdir()
    for name in ("config.json", "m.safetensors"):
        (model / name).write_text("{}")
    lines = [{"task": "countdown", "model": one} for one in (str(model), "Qwen/Qwen2.5-1.5B-Instruct", "Palmyra 1.7B")]
    profile = folder / "three.yaml"
    profile.write_text(yaml.safe_dump({"preset": "cpu", "seeds": [0, 1], "rows": lines}))
    settings = load(str(profile), {"results_dir": str(folder / "runs")})
    synthetic.write_runs(settings, (0, 1), 20)
    other = settings.model_copy(update={"learning_rate": 0.5})
    synthetic.write_runs(other, (0,), 20)
    tabulate(settings)
    return settings, other


def test_the_grid_has_every_row_and_says_what_was_not_run(made):
    settings, _ = made
    frame = report.grid(settings.profile, settings.results_dir)
    assert list(frame.columns) == frames.GRID
    assert set(frame["model"]) == {"Qwen2.5-3B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct", "Palmyra 1.7B"}
    done = frame[frame["status"] == "done"]
    [row], _ = tables.gather(settings)
    assert (
        set(done["seed"]) == {"", "0", "1", "mean"}
        and len(done) == len(row.cells) + (row.averaged["policy"] != "vanilla").sum()
    )
    place = {"policy": "trained", "decoding": "greedy", "control": "own", "seed": "mean"}
    mine = done[(done[list(place)] == pd.Series(place)).all(axis=1)].iloc[0]
    own = row.averaged.set_index(["policy", "decoding", "control"]).loc["trained", "greedy", "own"]
    assert mine[["accuracy", "ci_low", "ci_high"]].tolist() == pytest.approx(
        own[["accuracy", "ci_low", "ci_high"]].tolist()
    )


def test_the_papers_cells_stand_beside_ours_and_in_rows_that_were_not_run(made):
    settings, _ = made
    frame = report.grid(settings.profile, settings.results_dir)
    lacks = frame[frame["model"] == "Qwen/Qwen2.5-1.5B-Instruct"].set_index(["seed", "attempt"])
    assert lacks.loc[("mean", "second"), "paper"] == 0.45 and lacks.loc[("", "first"), "paper"] == 0.06
    assert lacks.loc[("1", "second"), "certainty"] == "S" and lacks["accuracy"].isna().all()
    assert set(lacks["status"]) == {"not run"}
    nobody = frame[frame["model"] == "Palmyra 1.7B"]
    assert (
        len(nobody) == 8 and nobody["status"].str.contains("no public weights").all() and nobody["paper"].isna().all()
    )


def test_a_profile_with_no_tables_is_all_lacking_and_one_that_has_new_runs_says_so(made, tmp_path):
    settings, other = made
    frame = report.grid(settings.profile, str(tmp_path))
    assert frame["accuracy"].isna().all() and set(frame["status"].str[:7]) == {"not run"}
    (runs.stage_dir(settings, "tables") / "cells.csv").rename(tmp_path / "cells.csv")
    frame = report.grid(settings.profile, settings.results_dir)
    (tmp_path / "cells.csv").rename(runs.stage_dir(settings, "tables") / "cells.csv")
    assert set(frame[frame["model"] == "Qwen2.5-3B-Instruct"]["status"]) == {"done, but not in the last tables"}


def test_published_cells_serve_where_nothing_was_run():
    frame = report.grid("tiny", "results/nothing")
    frame = frame[frame["task"] == "countdown"]
    assert set(frame["status"]) == {"done"} and frame["paper"].isna().all()
    own = frame[(frame["seed"] == "mean") & (frame["decoding"] == "greedy") & (frame["control"] == "own")]
    assert own.set_index("policy")["accuracy"].round(3).to_dict() == {"trained": 0.681, "reflector": 0.703}


def test_every_run_has_a_line_with_what_differs_and_what_it_came_to(made):
    settings, other = made
    frame = report.runs(settings.results_dir).set_index("run")
    assert len(frame) == len(runs.listed(settings.results_dir)) == 8 and set(frame["state"]) == {"done"}
    assert {"learning_rate"} <= set(frame.columns) and not {"temperature", "task_hash", "beta"} & set(frame.columns)
    train = frame.loc[runs.stage_dir(other, "train").name]
    assert (train["learning_rate"], train["steps"], train["dev_best"], train["seed"]) == (0.5, 30, 0.5, 0)
    log = files.read_log(runs.stage_dir(other, "train") / "training.jsonl")
    assert train["reward"] == log[-1]["reward"] and pd.isna(train["first"])
    for one in (other, settings, settings.model_copy(update={"seed": None})):
        line = frame.loc[runs.stage_dir(one, "evaluate").name]
        greedy = [x for x in tables.samples.read(runs.stage_dir(one, "evaluate")) if x["decoding"] == "greedy"]
        right = cells.outcomes(greedy).groupby("policy")[["first", "own"]].mean()
        main = right.loc["vanilla" if one.seed is None else "trained"]
        assert (line["first"], line["second"]) == (main["first"], main["own"])
        assert pd.isna(line["reflector"]) if one.seed is None else line["reflector"] == right.loc["reflector", "own"]
        assert pd.isna(line["learning_rate"]) if one.seed is None else line["learning_rate"] == one.learning_rate
    failures = frame[frame["stage"] == "failures"]
    assert len(failures) == 1 and failures["learning_rate"].isna().all() and failures["seed"].isna().all()


def test_a_run_that_has_not_ended_or_was_edited_has_no_accuracy(made, tmp_path):
    settings = synthetic.made(tmp_path, (0,), 20)
    path = runs.stage_dir(settings, "evaluate") / "samples.jsonl"
    path.write_text(path.read_text().replace('"correct": false', '"correct": true', 1))
    with runs.begin(settings.model_copy(update={"seed": 1}), "train") as (folder, _):
        files.append_jsonl(folder / "training.jsonl", [{"step": 1, "reward": 0.25}])
    frame = report.runs(settings.results_dir).set_index("run")
    assert frame.loc[path.parent.name, "state"] == "damaged" and pd.isna(frame.loc[path.parent.name, "first"])
    begun = frame.loc[folder.name]
    assert (begun["state"], begun["steps"], begun["reward"]) == ("not finished", 1, 0.25) and pd.isna(begun["dev_best"])
    assert report.runs(str(tmp_path / "nowhere")).empty


def test_five_lines_draw_each(made, tmp_path):
    settings, _ = made
    cells = report.grid(settings.profile, settings.results_dir)
    second = cells[cells["seed"].isin(["", "mean"]) & (cells["control"] == "own") & (cells["decoding"] == "greedy")]
    axes = second.assign(name=second["model"] + ", " + second["policy"]).plot.barh(x="name", y=["accuracy", "paper"])
    axes.figure.savefig(tmp_path / "grid.png", bbox_inches="tight")
    assert len(axes.patches) == 2 * len(second) and {"accuracy", "paper"} == set(axes.get_legend_handles_labels()[1])

    every = report.runs(settings.results_dir)
    evaluated = every[(every["stage"] == "evaluate") & every["learning_rate"].notna()]
    axes = evaluated.plot.scatter(x="learning_rate", y="second", logx=True)
    axes.figure.savefig(tmp_path / "runs.png")
    assert len(axes.collections[0].get_offsets()) == 3 and (tmp_path / "runs.png").stat().st_size > 5_000
