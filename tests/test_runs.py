"""Run folders: their names, how they are begun, finished and found damaged, and what may go on in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from rrr_utils import conversation, files, identity, runs, tasks
from rrr_utils.errors import DataError, ResultsError, SettingsError
from rrr_utils.settings import DATA, ROOT, load
from rrr_utils.tasks import sources


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
    """A stage's result, and before it those that it reads."""
    for one, name in runs.upstream(settings, stage):
        if not runs.done(one, name):
            finish(one, name)
    with runs.begin(settings, stage) as (folder, settings):
        (folder / "out.txt").write_text(text)
        return runs.finish(settings, stage, [folder / "out.txt"], {"n": 1})


# ---------------------------------------------------------------- identity


MACHINE = [
    {"micro_batch": 32}, {"threads": 2}, {"dtype": "bfloat16"}, {"report_to": "wandb"}, {"sample_batch": 1},
    {"gradient_checkpointing": True}, {"gpus": 2}, {"engine": "vllm"}, {"preset": "t4"}, {"seeds": [0, 1]},
]  # fmt: skip


@pytest.mark.parametrize("overrides", MACHINE, ids=str)
@pytest.mark.parametrize("stage", ["failures", "train", "evaluate"])
def test_identity_does_not_depend_on_the_machine(made, stage, overrides):
    assert hash_of(made(), stage) == hash_of(made(**overrides), stage)


def test_identity_does_not_depend_on_where_files_lie(made, tmp_path):
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    before = hash_of(made(), "train")
    (tmp_path / "model").rename(moved)
    assert hash_of(made(model=str(moved), results_dir="results/runs"), "train") == before


def test_identity_depends_on_what_bears_on_the_stage(made):
    for stage, differs in {"failures": False, "train": True, "evaluate": True}.items():
        assert (hash_of(made(), stage) != hash_of(made(learning_rate=1e-4), stage)) == differs, stage
        assert (hash_of(made(), stage) != hash_of(made(seed=1), stage)) == differs, stage
        assert hash_of(made(), stage) != hash_of(made(temperature=0.5), stage)
    vanilla = made(seed=None)
    assert hash_of(vanilla, "evaluate") == hash_of(
        made(seed=None, learning_rate=1e-4, policies=["trained"]), "evaluate"
    )


def test_identity_depends_on_model_data_and_versions(made, tmp_path, monkeypatch):
    before = hash_of(made(), "train")
    monkeypatch.setitem(identity.VERSIONS, "failures", 99)
    assert hash_of(made(), "train") != before  # through its upstream
    monkeypatch.undo()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    assert hash_of(made(), "train") != before
    assert hash_of(made(), "train") != hash_of(made(source="procedural:numbers=3,low=1,high=5"), "train")


def test_identity_depends_on_every_word_that_the_model_is_shown(made, monkeypatch):
    before = {stage: hash_of(made(), stage) for stage in ("failures", "train", "evaluate")}
    for module, name in ((conversation, "BLIND"), (conversation, "DIRECT"), (tasks.get("countdown"), "REFLECT")):
        monkeypatch.setattr(module, name, "Other words.")
        assert not set(before.values()) & {hash_of(made(), stage) for stage in before}, name
        monkeypatch.undo()
    monkeypatch.setattr(tasks.get("countdown"), "prompt", lambda row: f"Make {row['target']} of {row['nums']}.")
    assert hash_of(made(), "failures") != before["failures"]


def test_a_task_file_with_a_built_in_s_name_has_folders_of_its_own(made, tmp_path):
    path = tmp_path / "countdown.py"
    path.write_text((ROOT / "rrr_utils" / "tasks" / "countdown.py").read_text())
    own = made(task=str(path))
    assert runs.stage_dir(own, "failures").parent == runs.stage_dir(made(), "failures").parent
    assert runs.stage_dir(own, "failures") != runs.stage_dir(made(), "failures")
    before = hash_of(own, "failures")
    path.write_text(path.read_text() + "\n# other content\n")
    assert hash_of(own, "failures") != before


@pytest.mark.parametrize(
    ("name", "shown"), [("countdown", "5144d83e82c873b6"), ("function_calling", "05272589623df9b1")]
)
def test_what_a_model_is_shown_is_what_it_was(name, shown):
    """Other words make other folders: change this only with the words. The tasks' own pins are in test_tasks.py."""
    assert identity.shown(tasks.get(name), chain_of_thought=False) == shown


# ---------------------------------------------------------------- where things lie


def test_folders_are_named_by_what_they_hold(made, tmp_path):
    base = tmp_path / "runs" / "countdown" / "model"
    assert runs.stage_dir(made(seed=2), "failures") == base / f"failures-{hash_of(made(), 'failures')}"
    assert runs.stage_dir(made(seed=2), "train") == base / f"train-seed2-{hash_of(made(seed=2), 'train')}"
    vanilla = made(seed=None)
    assert runs.stage_dir(vanilla, "evaluate") == base / f"evaluate-vanilla-{hash_of(vanilla, 'evaluate')}"
    assert runs.stage_dir(made(), "tables") == tmp_path / "runs" / "tables" / "tiny"
    assert runs.stage_dir(made(results_dir="results/runs"), "train").is_relative_to(ROOT / "results" / "runs")
    with pytest.raises(SettingsError, match="needs a seed"):
        runs.stage_dir(made(seed=None), "train")
    with pytest.raises(SettingsError, match="unknown stage"):
        runs.stage_dir(made(), "trian")


def test_a_folder_without_a_model_is_refused(made, tmp_path):
    (tmp_path / "model" / "model.safetensors").unlink()
    with pytest.raises(ResultsError, match="no saved model for task"):
        hash_of(made(), "failures")


def test_other_settings_stand_beside_and_going_back_finds_the_older_ones(made, tmp_path):
    first = finish(made(), "train")
    second = finish(made(learning_rate=1e-4), "train")
    assert first["identity_hash"] != second["identity_hash"]
    assert runs.done(made(), "train") == first and runs.done(made(learning_rate=1e-4), "train") == second
    names = sorted(run.folder.name.rpartition("-")[0] for run in runs.listed(tmp_path / "runs"))
    assert names == ["failures", "train-seed0", "train-seed0"]  # what both share is there once


def test_profiles_share_what_is_equal(made, tmp_path):
    (tmp_path / "mine.yaml").write_text((DATA / "profiles" / "tiny.yaml").read_text().replace("steps: 32", "steps: 41"))
    base = made()
    mine = load(str(tmp_path / "mine.yaml"), {"model": base.model, "results_dir": base.results_dir})
    assert runs.stage_dir(mine, "failures") == runs.stage_dir(base, "failures")
    assert runs.stage_dir(mine, "train") != runs.stage_dir(base, "train")
    assert runs.stage_dir(mine, "tables").name == "mine"


# ---------------------------------------------------------------- hub revisions


def test_a_hub_revision_is_looked_up_once_and_recorded(made, monkeypatch, tmp_path):
    asked = []

    def commit_of(hub_id, kind):
        asked.append(hub_id)
        time.sleep(0.2)
        return f"{len(asked)}" * 40

    monkeypatch.setattr(sources, "commit_of", commit_of)
    settings = made(model="some/model", source="some/data")
    found = []
    threads = [threading.Thread(target=lambda: found.append(hash_of(settings, "train"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and sorted(asked) == ["some/data", "some/model"]
    recorded = json.loads((tmp_path / "runs" / "revisions.json").read_text())
    assert set(recorded) == {"some/model", "datasets/some/data"}
    assert runs.source_of(settings) == f"some/data@{recorded['datasets/some/data']}"
    assert runs.model_path(settings) == ("some/model", recorded["some/model"])
    (tmp_path / "runs" / "revisions.json").write_text(json.dumps({**recorded, "some/model": "a" * 40}))
    assert hash_of(settings, "train") != found[0]


def test_a_finished_run_stays_done_when_the_hub_cache_is_deleted(made, monkeypatch, tmp_path):
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    (cache / "models--some--model" / "refs").mkdir(parents=True)
    (cache / "models--some--model" / "refs" / "main").write_text("b" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    settings = made(model="some/model")
    result = finish(settings, "train")
    assert result["identity"]["model_hash"] == f"hub:some/model@{'b' * 40}"
    (cache / "models--some--model" / "refs" / "main").unlink()
    assert runs.done(settings, "train") == result


def test_no_record_and_no_network_is_refused_in_one_line(made, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="some/model") as refused:
        runs.stage_dir(made(model="some/model"), "failures")
    assert "\n" not in str(refused.value)
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs" / "revisions.json").write_text('{"some/model": ')
    with pytest.raises(ResultsError, match="revisions.json cannot be read"):
        runs.stage_dir(made(model="some/model"), "failures")


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
