"""Run folders: how they are begun, finished and found damaged, and what may go on in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from helpers_runs import finish

from rrr_utils import files, runs
from rrr_utils.errors import ResultsError
from rrr_utils.settings import ROOT

# ---------------------------------------------------------------- done or not


def test_done_only_with_intact_outputs(made, capsys):
    assert runs.done(made(), "failures") is None
    result = finish(made(), "failures")
    assert runs.done(made(), "failures") == result
    assert runs.done(made(threads=2, learning_rate=1.0), "failures") == result
    assert runs.done(made(train_queries=3), "failures") is None
    folder = runs.stage_dir(made(), "failures")
    (folder / "out.txt").write_text("changed")
    assert runs.done(made(), "failures") is None
    assert "out.txt is not as it was written" in capsys.readouterr().err
    assert not (folder / "result.json").exists() and (folder / "result.damaged.json").exists()


def test_a_damaged_output_is_moved_aside_and_made_again(made):
    result = finish(made(), "failures")
    folder = runs.stage_dir(made(), "failures")
    (folder / "out.txt").write_text("changed")
    assert runs.done(made(), "failures") is None
    with runs.begin(made(), "failures") as (same, _):
        assert same == folder and not (folder / "out.txt").exists()
    assert (folder / "damaged" / "out.txt").read_text() == "changed"
    again = finish(made(), "failures")
    assert again["outputs"] == result["outputs"] and runs.done(made(), "failures") == again


@pytest.mark.parametrize(
    "content", ["{", "[]", "null", '{"stage": "failures"}', '{"outputs": [], "identity": 3}', "\x00"]
)
def test_a_result_of_a_wrong_shape_is_no_result(made, content):
    finish(made(), "failures")
    path = runs.stage_dir(made(), "failures") / "result.json"
    path.write_text(content)
    assert runs.done(made(), "failures") is None and runs.status(made(), "failures") == "not finished"
    assert not path.exists()
    assert finish(made(), "failures")


def test_a_result_that_belongs_to_another_folder_is_no_result(made):
    finish(made(), "train")
    finish(made(learning_rate=1e-4), "train")
    one, other = (runs.stage_dir(s, "train") / "result.json" for s in (made(), made(learning_rate=1e-4)))
    one.write_text(other.read_text())
    assert runs.done(made(), "train") is None


def test_result_json_holds_what_the_format_says(made):
    finish(made(), "train")
    result = json.loads((runs.stage_dir(made(), "train") / "result.json").read_text())
    names = {"stage", "identity", "identity_hash", "settings", "provenance", "read", "outputs", "summary"}
    assert result.keys() == names
    assert result["identity_hash"] == runs.identity_hash(result["identity"])
    assert result["settings"] == made().model_dump(mode="json")
    upstream = runs.done(made(), "failures")
    name = runs.stage_dir(made(), "failures").name
    assert result["read"] == {f"{name}/out.txt": upstream["outputs"]["out.txt"]}
    wanted = {"commit", "dirty", "packages", "python", "hardware", "threads", "start", "seconds", "command"}
    assert wanted <= result["provenance"].keys()


def test_a_folder_of_outputs_counts_file_by_file(made):
    finish(made(), "failures")
    with runs.begin(made(), "train") as (folder, settings):
        (folder / "adapter" / "deep").mkdir(parents=True)
        (folder / "adapter" / "deep" / "x").write_text("x")
        result = runs.finish(settings, "train", [folder / "adapter"], {})
    assert list(result["outputs"]) == ["adapter/deep/x"]


# ---------------------------------------------------------------- begun, and gone on with


def test_an_unfinished_folder_goes_on_with_what_it_was_begun_with(made, capsys):
    with runs.begin(made(micro_batch=32, sample_batch=100), "failures") as (folder, settings):
        (folder / "attempts.jsonl").write_text("{}\n")
        assert (settings.micro_batch, settings.sample_batch) == (32, 100)
    capsys.readouterr()
    with runs.begin(made(dtype="bfloat16", sample_batch=7, threads=2), "failures") as (same, settings):
        assert same == folder and (folder / "attempts.jsonl").exists()
        assert (settings.dtype, settings.sample_batch, settings.threads) == ("float32", 100, 2)
    said = capsys.readouterr().out
    assert "goes on with dtype float32, as it was begun, not bfloat16" in said
    assert "goes on with sample_batch 100, as it was begun, not 7" in said


def test_what_reads_an_upstream_that_is_another_one_now_does_not_go_on(made):
    finish(made(), "failures")
    with runs.begin(made(), "train"):
        pass
    folder = runs.stage_dir(made(), "failures")
    (folder / "out.txt").unlink()
    finish(made(), "failures", "collected anew")  # the same identity, another content
    with pytest.raises(
        ResultsError, match="was begun with another failures-.*/out.txt than is there now.*make runs DELETE="
    ):
        with runs.begin(made(), "train"):
            pass


def test_a_missing_upstream_is_named(made):
    with pytest.raises(ResultsError, match="no finished 'failures' result in .*failures-"):
        with runs.begin(made(), "train"):
            pass


def test_whoever_begins_a_folder_waits_for_who_works_in_it(made, tmp_path):
    code = (
        "import sys, time; from rrr_utils import runs; from rrr_utils.settings import load\n"
        "with runs.begin(load('tiny', {'model': sys.argv[1], 'results_dir': sys.argv[2]}), 'failures') as (folder, _):\n"
        "    (folder / 'mark').write_text('x'); time.sleep(1.5); (folder / 'mark').write_text('done')"
    )
    settings = made()
    other = subprocess.Popen([sys.executable, "-c", code, settings.model, settings.results_dir], cwd=ROOT)
    mark = runs.stage_dir(settings, "failures") / "mark"
    while not mark.exists():
        time.sleep(0.02)
    with runs.begin(settings, "failures"):
        assert mark.read_text() == "done"
        with runs.begin(settings, "failures"):  # who has the lock may take it again
            pass
    assert other.wait() == 0


@pytest.mark.parametrize("where", ["/proc/rrr", "file", "file/below"])
def test_a_results_dir_that_cannot_be_written_is_one_line(made, tmp_path, where):
    (tmp_path / "file").write_text("")
    folder = where if where.startswith("/") else str(tmp_path / where)
    with pytest.raises(ResultsError, match="cannot write") as refused:
        with runs.begin(made(results_dir=folder), "failures"):
            pass
    assert "\n" not in str(refused.value)


# ---------------------------------------------------------------- reading all of them


def test_listed_runs_say_what_differs(made, tmp_path):
    finish(made(), "train")
    finish(made(learning_rate=1e-4), "train")
    with runs.begin(made(seed=None), "evaluate"):
        pass
    listed = {run.folder.name: run for run in runs.listed(tmp_path / "runs")}
    assert len(listed) == 4
    other = listed[runs.stage_dir(made(learning_rate=1e-4), "train").name]
    assert other.result and runs.differing(made(), other) == {"learning_rate": (1e-4, 0.003)}
    assert runs.differing(made(threads=2), listed[runs.stage_dir(made(), "train").name]) == {}
    assert runs.differing(made(train_queries=5), other)["train_queries"] == (600, 5)  # of a stage before it
    (tmp_path / "model" / "config.json").write_text('{"other": 1}')
    assert runs.differing(made(learning_rate=1e-4), other).keys() == {"model_hash"}


def test_status_says_how_far_a_stage_is(made):
    settings = made()
    assert runs.status(settings, "failures") == "not run"
    with runs.begin(settings, "failures") as (folder, _):
        assert runs.status(settings, "failures") == "not finished"
    files.write_json(folder / "failed.json", {"stage": "failures", "error": "no memory", "when": "now"})
    assert runs.status(settings, "failures") == "failed: no memory"
    assert runs.status(settings, "evaluate") == "failed: no memory"  # what reads it fails with it
    finish(settings, "failures")
    assert (runs.status(settings, "failures"), runs.status(settings, "train")) == ("done", "not run")


def test_tables_are_made_again_once_an_evaluation_changes_or_fails(made):
    def tables():
        folder = runs.open_tables(made())
        (folder / "cells.csv").write_text("x")
        return runs.finish(made(), "tables", [folder / "cells.csv"], {}, time.time())

    finish(made(seed=None), "evaluate")
    assert tables()["identity"]["lacking"] == {"seed 0": "not run"}
    assert runs.done(made(), "tables")
    finish(made(seed=0), "evaluate")
    assert not runs.done(made(), "tables")
    assert tables()["identity"]["lacking"] == {}
    finish(made(seed=1), "evaluate")
    assert not runs.done(made(), "tables")  # one more seed is there
    tables()
    path = runs.stage_dir(made(seed=1), "evaluate")
    (path / "out.txt").write_text("edited")
    assert not runs.done(made(), "tables")
    assert [one.seed for one in runs.asked(made())] == [None, 0]
    assert [one.seed for one in runs.asked(made(seeds=[3, 1]))] == [None, 3, 1]
    files.write_json(path / "failed.json", {"stage": "evaluate", "error": "no memory", "when": "now"})
    asked = made(seeds=[0, 1])
    folder = runs.open_tables(asked)
    (folder / "cells.csv").write_text("y")
    assert runs.finish(asked, "tables", [folder / "cells.csv"], {}, 0.0)["identity"]["lacking"] == {
        "seed 1": "failed: no memory"
    }


def test_no_torch_is_needed():
    code = "import sys; from rrr_utils import launch, runs, samples; sys.exit(bool({'torch', 'papermill'} & sys.modules.keys()))"
    alone = {**os.environ, "PYTHONPATH": ""}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=alone).returncode == 0
