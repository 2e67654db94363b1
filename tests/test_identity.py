"""What a run is of: what its identity depends on, where it lies, and the commits of hub models and data."""

from __future__ import annotations

import json
import threading
import time

import pytest
from helpers_runs import finish, hash_of

from rrr_utils import conversation, identity, runs, tasks
from rrr_utils.errors import DataError, ResultsError, SettingsError
from rrr_utils.settings import DATA, ROOT, load
from rrr_utils.tasks import sources

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
