"""Settings: names and types are checked, and every complaint is one line that names the remedy."""

from __future__ import annotations

import pytest

from rrr_utils import settings
from rrr_utils.errors import SettingsError
from rrr_utils.settings import STAGE_FIELDS, Settings, from_notebook, load


@pytest.mark.parametrize("profile", settings.profiles())
def test_every_profile_loads(profile):
    loaded = load(profile)
    assert loaded.profile == profile
    assert load(profile, {"preset": "cpu"}).dtype == "float32"


def test_a_preset_never_changes_what_is_computed():
    meaning = {name for fields in STAGE_FIELDS.values() for name in fields}
    for values in settings.read_yaml(settings.DATA / "presets.yaml").values():
        assert not meaning & values.keys()


def test_a_preset_s_micro_batch_gives_way_to_the_batch_but_one_s_own_does_not():
    assert load("tiny", {"failures_per_step": 3, "preset": "cpu"}).micro_batch == 24
    with pytest.raises(SettingsError, match="does not divide the batch of 24"):
        load("tiny", {"failures_per_step": 3, "micro_batch": 16})
    with pytest.raises(SettingsError, match="failures_per_step"):
        load("tiny", {"failures_per_step": "three"})


def test_stage_fields_are_settings():
    assert {name for fields in STAGE_FIELDS.values() for name in fields} <= Settings.model_fields.keys()


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("learning_rate", "1e-5", 1e-5),
        ("steps", "7", 7),
        ("load_in_4bit", "false", False),
        ("rounds", [1, 3], (1, 3)),
        ("seed", None, None),
    ],
)
def test_text_is_read_as_the_setting_s_type(name, value, read):
    got = getattr(load("tiny", {name: value}), name)
    assert got == read
    assert type(got) is type(read)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"lerning_rate": 1e-5}, ["lerning_rate", "learning_rate"]),
        ({"learning_rate": "fast"}, ["learning_rate", "number", "fast"]),
        ({"steps": 1.5}, ["steps", "1.5"]),
        ({"steps": 0}, ["steps", "greater than 0"]),
        ({"seed": True}, ["seed", "switches"]),
        ({"rounds": [1, "x"]}, ["rounds.1"]),
        ({"policies": ["reflctor"]}, ["policies", "reflector"]),
        ({"preset": "gpu_24"}, ["preset", "gpu_24gb"]),
        ({"micro_batch": 7}, ["micro_batch", "divide"]),
        ({"lora_rank": 0, "policies": ["trained", "reflector"]}, ["reflector", "lora_rank"]),
        ({"lora_rank": 0, "load_in_4bit": True}, ["4-bit"]),
        ({"rounds": [1, 0]}, ["rounds.1", "greater than 0"]),
        ({"seeds": [0, 0]}, ["seeds", "twice"]),
        ({"seeds": [-1]}, ["seeds.0", "0"]),
        ({"decodings": ["greedy", "greedy"]}, ["decodings", "twice"]),
        ({"policies": ["trained", "trained"]}, ["policies", "twice"]),
        ({"learning_rate": float("inf")}, ["learning_rate", "finite"]),
        ({"temperature": "nan"}, ["temperature", "finite"]),
        ({"learning_rate": 1e9}, ["learning_rate", "less than"]),
        ({"test_items": 10**30}, ["test_items", "less than"]),
        ({"seed": 2**80}, ["seed", "less than"]),
        ({"report_to": "wandbb"}, ["report_to", "wandb"]),
        ({"results_dir": ""}, ["results_dir", "at least 1"]),
        ({"gpus": 3}, ["gpus 3", "does not divide", "256"]),
        ({"gpus": 4, "micro_batch": 24}, ["micro_batch 24", "64 on each of 4 GPUs"]),
    ],
)
def test_bad_settings_are_refused_in_one_line(overrides, words):
    with pytest.raises(SettingsError) as caught:
        load("tiny", overrides)
    text = str(caught.value)
    assert "\n" not in text
    assert all(word in text for word in words), text


def test_unknown_profile_names_the_nearest():
    with pytest.raises(SettingsError, match="unknown profile 'tinny'.*'tiny'"):
        load("tinny")


def test_a_profile_can_be_a_file_of_one_s_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("preset: cpu\nsteps: 3\n")
    mine = load(str(tmp_path / "mine.yaml"))
    assert (mine.profile, mine.steps) == (str(tmp_path / "mine.yaml"), 3)
    (tmp_path / "tiny.yaml").write_text("steps: 3\n")
    with pytest.raises(SettingsError, match="called like a built-in one, 'tiny': rename the file"):
        load(str(tmp_path / "tiny.yaml"))
    (tmp_path / "mine.yaml").write_text("preset: [cpu\n")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load(str(tmp_path / "mine.yaml"))


def standard(**more):
    return {
        "profile": "tiny",
        "task": None,
        "model": None,
        "seed": 0,
        "results_dir": "results/runs",
        "overrides": {},
        **more,
    }


def test_notebook_variables_become_settings():
    assert from_notebook(standard()) == load("tiny")
    assert from_notebook(standard(seed=None)).seed is None
    assert from_notebook(standard(overrides={"steps": 5})).steps == 5
    assert (
        from_notebook(standard(steps=5, np=pytest, In=[], _i="x")).steps == 5
    )  # modules and IPython's own are no parameters


def test_a_misspelt_notebook_variable_is_refused():
    with pytest.raises(SettingsError, match="unknown parameter 'sede'.*'seed'"):
        from_notebook(standard(sede=1))
    with pytest.raises(SettingsError, match="unknown parameter 'stepss'.*'steps'"):
        from_notebook(standard(overrides={"stepss": 1}))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ([1], "must be an object"),
        ("steps=3", "must be an object"),
        ({"profile": "tiny"}, "cannot hold 'profile'"),
        ({"seed": 3}, "cannot hold 'seed'"),
        ({1: 2}, "unknown parameter '1'"),
    ],
)
def test_overrides_that_are_no_settings_are_refused(overrides, words):
    with pytest.raises(SettingsError, match=words):
        from_notebook(standard(overrides=overrides))


def test_another_task_does_not_keep_the_profile_s_source():
    assert load("colab_t4").source == "Jiayi-Pan/Countdown-Tasks-3to4"
    assert load("colab_t4", {"task": "countdown"}).source == "Jiayi-Pan/Countdown-Tasks-3to4"
    assert load("colab_t4", {"task": "function_calling"}).source is None
    assert load("colab_t4", {"task": "function_calling", "source": "a/b"}).source == "a/b"


def test_paths_count_from_where_the_user_is_and_then_from_the_repository(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    (tmp_path / "my_task.py").write_text("")
    monkeypatch.chdir(tmp_path)
    mine = from_notebook(standard(model="./model", task="my_task.py", overrides={"source": "rows.jsonl"}))
    assert (mine.model, mine.task, mine.source) == tuple(
        str(tmp_path / name) for name in ("model", "my_task.py", "rows.jsonl")
    )
    assert load("tiny", {"model": "data/embedded/countdown"}).model == str(settings.DATA / "embedded" / "countdown")
    (tmp_path / "embedded").mkdir()
    assert load("tiny").model == "embedded"
    assert load("tiny", {"model": "owner/name"}).model == "owner/name"


def test_the_settings_cell_can_run_again_after_later_cells():
    later = standard(settings=load("tiny"), item=3, text="abc")
    assert from_notebook(later) == load("tiny")
    with pytest.raises(SettingsError, match="learning_rate"):
        from_notebook({**later, "learning_rat": 1e-3})


def test_a_row_s_source_stays_where_its_task_is_named_by_another_path(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "rows.jsonl").write_text("")
    (tmp_path / "pair.yaml").write_text(
        f"preset: cpu\nrows:\n- {{task: countdown, model: a/b}}\n"
        f"- {{task: {tmp_path / 'mine.py'}, model: a/b, source: {tmp_path / 'rows.jsonl'}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    assert load("pair.yaml", {"task": "mine.py"}).source == str(tmp_path / "rows.jsonl")
    assert load("pair.yaml").task == "countdown" and load("pair.yaml").source is None
