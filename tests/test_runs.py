"""Results: identity, atomic files, torn tails, done or not, and what may share a table."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from rrr_utils import files, report, runs
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.settings import ROOT, load


@pytest.fixture
def made(tmp_path):
    """Settings of a run with a made-up model, in a folder of its own."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")

    def settings(**overrides):
        return load("tiny", {"model": str(model), "results_dir": str(tmp_path / "runs"), **overrides})

    return settings


def hash_of(settings, stage):
    return runs.identity_hash(runs.identity(settings, stage))


def finish(settings, stage, text="content"):
    folder = runs.open_stage(settings, stage)
    (folder / "out.txt").write_text(text)
    return runs.finish(settings, stage, [folder / "out.txt"], {"n": 1}, time.time())


# ---------------------------------------------------------------- identity


@pytest.mark.parametrize(
    "overrides",
    [
        {"micro_batch": 32},
        {"threads": 2},
        {"dtype": "bfloat16"},
        {"report_to": "wandb"},
        {"sample_batch": 1},
        {"gradient_checkpointing": True},
    ],
)
@pytest.mark.parametrize("stage", ["failures", "train", "evaluate"])
def test_identity_does_not_depend_on_the_machine(made, stage, overrides):
    assert hash_of(made(), stage) == hash_of(made(**overrides), stage)


def test_identity_does_not_depend_on_where_files_lie(made, tmp_path):
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    (tmp_path / "model").rename(moved)
    there = made(model=str(moved), results_dir="results/runs")
    moved_hash = hash_of(there, "train")
    moved.rename(tmp_path / "model")
    assert moved_hash == hash_of(made(), "train")


def test_identity_depends_on_what_bears_on_the_stage(made):
    for stage, differs in {"failures": False, "train": True, "evaluate": True}.items():
        assert (hash_of(made(), stage) != hash_of(made(learning_rate=1e-4), stage)) == differs, stage
        assert (hash_of(made(), stage) != hash_of(made(seed=1), stage)) == differs, stage
        assert hash_of(made(), stage) != hash_of(made(temperature=0.5), stage)
    vanilla = made(seed=None)
    assert hash_of(vanilla, "evaluate") == hash_of(made(seed=None, learning_rate=1e-4, policies=["trained"]), "evaluate")


def test_identity_depends_on_model_data_and_versions(made, tmp_path, monkeypatch):
    before = hash_of(made(), "train")
    monkeypatch.setitem(runs.VERSIONS, "failures", 99)
    assert hash_of(made(), "train") != before  # through its upstream
    monkeypatch.undo()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    assert hash_of(made(), "train") != before
    assert hash_of(made(), "train") != hash_of(made(source="procedural:numbers=3,low=1,high=5,target_low=1,target_high=9"), "train")


def test_a_hub_revision_known_on_one_side_only_is_no_difference():
    old, new = {"data": "hub:a/b", "x": 1}, {"data": "hub:a/b@123", "x": 1}
    assert runs._same(old, new)
    assert runs._same(new, old)
    assert not runs._same({**new, "data": "hub:a/b@456"}, new)
    assert not runs._same({**old, "x": 2}, new)
    assert not runs._same({**old, "data": "hub:a/c"}, new)


def test_a_folder_without_a_model_is_refused(made, tmp_path):
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ResultsError, match="no saved model"):
        hash_of(made(), "failures")


# ---------------------------------------------------------------- where things lie


def test_directories(made, tmp_path):
    base = tmp_path / "runs" / "tiny" / "countdown" / "model"
    assert runs.stage_dir(made(seed=2), "failures") == base / "vanilla" / "failures"
    assert runs.stage_dir(made(seed=2), "train") == base / "seed2" / "train"
    assert runs.stage_dir(made(seed=None), "evaluate") == base / "vanilla" / "evaluate"
    assert runs.stage_dir(made(), "tables") == tmp_path / "runs" / "tiny" / "tables"
    assert runs.stage_dir(made(results_dir="results/runs"), "train").is_relative_to(ROOT / "results" / "runs")
    with pytest.raises(SettingsError, match="needs a seed"):
        runs.stage_dir(made(seed=None), "train")
    with pytest.raises(SettingsError, match="unknown stage"):
        runs.stage_dir(made(), "trian")


# ---------------------------------------------------------------- done or not


def test_done_only_with_the_identity_asked_for_and_intact_outputs(made):
    assert runs.done(made(), "failures") is None
    result = finish(made(), "failures")
    assert runs.done(made(), "failures") == result
    assert runs.done(made(threads=2, learning_rate=1.0), "failures") == result
    assert runs.done(made(train_queries=3), "failures") is None
    folder = runs.stage_dir(made(), "failures")
    (folder / "out.txt").write_text("changed")
    assert runs.done(made(), "failures") is None
    (folder / "out.txt").unlink()
    assert runs.done(made(), "failures") is None


def test_result_json_holds_what_the_format_says(made):
    finish(made(), "failures")
    result = json.loads((runs.stage_dir(made(), "failures") / "result.json").read_text())
    assert result.keys() == {"stage", "identity", "identity_hash", "provenance", "outputs", "summary"}
    assert result["identity_hash"] == runs.identity_hash(result["identity"])
    assert {"commit", "dirty", "packages", "python", "hardware", "threads", "start", "seconds", "command"} <= result["provenance"].keys()


def test_a_folder_of_outputs_counts_file_by_file(made):
    folder = runs.open_stage(made(), "train")
    (folder / "adapter" / "deep").mkdir(parents=True)
    (folder / "adapter" / "deep" / "x").write_text("x")
    result = runs.finish(made(), "train", [folder / "adapter"], {}, time.time())
    assert list(result["outputs"]) == ["adapter/deep/x"]


def test_open_stage_goes_on_with_the_same_identity_and_moves_others_aside(made, capsys):
    folder = runs.open_stage(made(), "failures")
    (folder / "failures.jsonl").write_text("{}\n")
    (folder / ".launch.lock").write_text("")
    assert (runs.open_stage(made(threads=2), "failures") / "failures.jsonl").exists()
    assert not (runs.open_stage(made(rounds=[7]), "failures") / "failures.jsonl").exists()
    assert "aside" in capsys.readouterr().out
    aside = list(folder.parent.glob("failures.stale-*"))
    assert [path.name for path in aside] == [f"failures.stale-{hash_of(made(), 'failures')}"]
    assert (aside[0] / "failures.jsonl").exists()
    assert (folder / ".launch.lock").exists()
    (folder / "failures.jsonl").write_text("{}\n")
    runs.open_stage(made(), "failures")
    runs.open_stage(made(rounds=[7]), "failures")  # back and forth: nothing is overwritten
    assert len(list(folder.parent.glob("failures.stale-*"))) == 3


def test_open_stage_moves_damaged_results_aside(made):
    finish(made(), "failures")
    (runs.stage_dir(made(), "failures") / "out.txt").write_text("changed")
    folder = runs.open_stage(made(), "failures")
    assert not (folder / "result.json").exists()
    assert list(folder.parent.glob("failures.damaged-*"))


def test_tables_are_stale_once_an_evaluation_changes(made):
    finish(made(seed=None), "evaluate")
    finish(made(), "tables")
    assert runs.done(made(), "tables")
    finish(made(seed=0), "evaluate")
    assert not runs.done(made(), "tables")
    finish(made(), "tables")
    finish(made(seed=0), "evaluate", "rescored")
    assert not runs.done(made(), "tables")


# ---------------------------------------------------------------- files


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_one_line(tmp_path, monkeypatch, broken):
    path = tmp_path / "result.json"
    files.write_json(path, {"a": 1})
    monkeypatch.setattr(files.os, broken, no_space)
    with pytest.raises(ResultsError, match="cannot write .*result.json: No space left on device") as caught:
        files.write_json(path, {"a": 2})
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert files.read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_in_an_append_leaves_the_rows_before(tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, [{"a": 1}])
    monkeypatch.setattr(files.os, "fsync", no_space)
    with pytest.raises(ResultsError, match="No space left"):
        files.append_jsonl(path, [{"a": 2}, {"a": 3}])
    monkeypatch.undo()
    files.append_jsonl(path, [{"a": 4}])
    assert files.read_jsonl(path) == [{"a": 1}, {"a": 4}]


def test_a_torn_tail_is_dropped_at_every_byte(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": 1, "text": "a\u2028b"}, {"id": 2, "text": "é{}"}]
    files.append_jsonl(path, rows)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        expected = rows[: (cut >= first - 1) + (cut >= len(whole) - 1)]  # whole but for the newline is whole
        assert files.read_jsonl(path) == expected, cut
        files.append_jsonl(path, [{"id": 3}])
        assert files.read_jsonl(path) == [*expected, {"id": 3}], cut


def test_a_bad_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ResultsError, match=r"rows.jsonl, line 2: not JSON"):
        files.read_jsonl(path)


def test_what_models_say_survives_the_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = ["\ud800", "\x00\x85\u2028\r\n", "٣", '"\\']
    files.append_jsonl(path, [{"text": text} for text in texts])
    assert [row["text"] for row in files.read_jsonl(path)] == texts
    files.append_jsonl(path, [{"loss": float("nan"), "kl": [float("inf"), 1.0]}])
    assert files.read_jsonl(path)[-1] == {"loss": None, "kl": [None, 1.0]}


# ---------------------------------------------------------------- reading all of them


def test_results_of_different_settings_do_not_share_a_table(made, tmp_path):
    folder = str(tmp_path / "runs")
    for seed in (None, 0, 1):
        finish(made(seed=seed), "evaluate")
    assert len(runs.evaluations("tiny", folder)) == 3
    finish(made(seed=1, test_items=7), "evaluate")
    with pytest.raises(ResultsError, match="'test_items' is .* and .*"):
        runs.evaluations("tiny", folder)
    finish(made(seed=1), "evaluate")
    finish(made(seed=0), "train")
    finish(made(seed=1, learning_rate=1.0), "train")
    with pytest.raises(ResultsError, match="'learning_rate'"):
        runs.evaluations("tiny", folder)


def test_load_gives_cells_or_says_how_to_make_them(made, tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(ResultsError, match="make reproduce PROFILE=nosuch"):
        report.load("nosuch", str(runs))
    header = "task,model,policy,seed,decoding,attempt,control,n,correct,accuracy,ci_low,ci_high,clusters,identity_hash\n"
    (runs / "tiny" / "tables").mkdir(parents=True)
    rows = ["vanilla,,greedy,first,,10,3,.3,.1,.5,9,12345678\n", "trained,0,greedy,second,own,10,5,.5,.3,.7,9,0e123456\n"]
    (runs / "tiny" / "tables" / "cells.csv").write_text(header + "".join(f"countdown,embedded,{row}" for row in rows))
    frame = report.load("tiny", str(runs))
    assert frame["control"].tolist() == ["", "own"]
    assert frame["identity_hash"].tolist() == ["12345678", "0e123456"]
    assert frame["seed"].isna().tolist() == [True, False]


def test_no_torch_is_needed():
    code = "import sys; from rrr_utils import conversation, launch, runs; sys.exit(bool({'torch', 'papermill'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
