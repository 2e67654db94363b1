"""The strict launcher, on made-up notebooks: what is refused before anything runs."""

from __future__ import annotations

import nbformat
import pytest
from helpers_launch import STAGE, write_notebook

from rrr_utils import launch, needs, runs
from rrr_utils.errors import SettingsError
from rrr_utils.settings import load

# ---------------------------------------------------------------- refused before anything runs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-p", "lerning_rate=1e-5"], ["'lerning_rate'", "'learning_rate'"]),
        (["-p", "sead=1"], ["'sead'", "'seed'"]),
        (["-p", "learning_rate=fast"], ["learning_rate", "fast"]),
        (["-p", "seed=1.5"], ["seed", "1.5"]),
        (["-p", "seed=true"], ["seed", "True"]),
        (["-p", "load_in_4bit=maybe"], ["load_in_4bit", "maybe"]),
        (["-p", "overrides={\"stepps\": 3}"], ["stepps", "steps"]),
        (["-p", "policies=trained,reflecter"], ["policies", "reflector"]),
        (["-p", "task=countdwn"], ["countdwn", "countdown"]),
        (["-p", "seed"], ["NAME=VALUE"]),
        (["--profile", "tinny"], ["tinny", "tiny"]),
        (["--profle", "tiny"], ["--profle", "usage"]),
        (["--profile", "nowhere.yaml"], ["nowhere.yaml"]),
        (["-p", "overrides=[1]"], ["overrides must be an object"]),
        (["-p", "overrides={\"seed\": 1}"], ["cannot hold 'seed'"]),
        (["-p", "source=procedurl:numbers=3"], ["procedurl:numbers=3"]),
        (["-p", "source=rows.jsonl"], ["rows.jsonl"]),
        (["-p", "seeds=0,0"], ["seeds", "twice"]),
        (["-p", "gpus=3"], ["gpus 3", "256"]),
        (["-p", "preset=gpu_24gb"], ["preset gpu_24gb is for a GPU", "days", "preset=cpu"]),
        (["-p", "report_to=mlflow"], ["mlflow", "not installed"]),
    ],
)  # fmt: skip
def test_wrong_names_and_types_are_refused(tmp_path, given, capsys, options, words):
    book = write_notebook(tmp_path / "02_train_reflection.ipynb", STAGE.format(stage="train"))
    assert launch.main([str(book), *given[0], *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not (tmp_path / "runs").exists()


def test_the_notebook_must_be_a_stage_s_with_a_parameters_cell(tmp_path, capsys):
    for name in ("trian", str(tmp_path / "05_other.ipynb"), str(tmp_path / "02_train_reflection.ipynb")):
        assert launch.main([name]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "02_train_reflection.ipynb")
    assert launch.main([str(tmp_path / "02_train_reflection.ipynb")]) == 2
    assert "no cell tagged 'parameters'" in capsys.readouterr().err


def test_a_missing_upstream_is_refused_with_its_command_outside_the_tiny_profile(tmp_path, given, capsys):
    (tmp_path / "mine.yaml").write_text("preset: cpu\n")
    book = write_notebook(tmp_path / "02_train_reflection.ipynb", STAGE.format(stage="train"))
    options = ["-p", "preset=cpu", "-p", "source=procedural:"]
    assert launch.main([str(book), "--profile", "single_gpu", *given[0], *options]) == 2
    err = capsys.readouterr().err
    assert "make it with   python -m rrr_utils.launch failures --profile single_gpu -p preset=cpu -p model=" in err
    alone = {
        "results_dir": str(tmp_path / "runs"),
        "preset": "cpu",
        "model": str(tmp_path / "model"),
        "source": "procedural:",
    }
    with pytest.raises(SettingsError, match="rrr_utils.launch failures --profile single_gpu"):
        needs.ensure(load("single_gpu", alone), "train")


def test_parameters_arrive_with_their_types(tmp_path, given):
    book = write_notebook(tmp_path / "02_train_reflection.ipynb")
    options = ["seed=3", "learning_rate=1e-5", "rounds=1,3", "load_in_4bit=True", "steps=1e2", "preset=cpu"]
    parameters, settings = launch.check(book, "tiny", options)
    assert parameters["seed"] == 3
    assert parameters["overrides"] == {
        "learning_rate": 1e-5,
        "rounds": [1, 3],
        "load_in_4bit": True,
        "steps": 100,
        "preset": "cpu",
    }
    assert (settings.seed, settings.learning_rate, settings.rounds, settings.steps) == (3, 1e-5, (1, 3), 100)
    assert launch.check(book, "tiny", ["seed=none"])[1].seed is None


def test_command_makes_the_same_settings_again(tmp_path):
    settings = load(
        "tiny", {"seed": None, "learning_rate": 1e-5, "rounds": [1, 2], "policies": ["trained"], "source": "a b'c"}
    )
    import shlex

    words = shlex.split(needs.command(settings, "evaluate"))
    assert words[:6] == ["python", "-m", "rrr_utils.launch", "evaluate", "--profile", "tiny"]
    book = write_notebook(tmp_path / "03_evaluate.ipynb")
    assert launch.check(book, "tiny", words[7::2])[1] == settings


@pytest.mark.parametrize("folder", ["/proc/rrr", "{tmp}/file", "{tmp}/file/below"])
def test_a_results_dir_that_cannot_be_written_is_refused(tmp_path, given, capsys, folder):
    (tmp_path / "file").write_text("")
    book = write_notebook(tmp_path / "01_collect_failures.ipynb", STAGE.format(stage="failures"))
    assert launch.main([str(book), *given[0], "-p", f"results_dir={folder.format(tmp=tmp_path)}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "cannot write" in err and "set results_dir elsewhere" in err


def test_a_mistyped_procedural_source_is_refused_before_anything_runs(tmp_path, given, capsys):
    book = write_notebook(tmp_path / "01_collect_failures.ipynb", STAGE.format(stage="failures"))
    assert launch.main([str(book), *given[0], "-p", "source=procedural:nubers=3"]) == 2
    assert "unknown 'nubers'" in capsys.readouterr().err


def test_fewer_failures_than_a_step_needs_are_refused(tmp_path, given, capsys):
    options, settings = given
    with runs.begin(settings(), "failures") as (folder, one):
        runs.finish(one, "failures", [], {"failures": 12})
    book = write_notebook(tmp_path / "02_train_reflection.ipynb", STAGE.format(stage="train"))
    assert launch.main([str(book), *options]) == 2
    assert "12 failures, and a step takes failures_per_step 32" in capsys.readouterr().err


def test_nothing_is_trained_that_was_not_asked_for(tmp_path, given, capsys):
    options, settings = given
    for stage in ("failures", "train"):
        with runs.begin(settings(), stage) as (folder, one):
            runs.finish(one, stage, [], {"failures": 99})
    book = write_notebook(tmp_path / "03_evaluate.ipynb", STAGE.format(stage="evaluate"))
    assert launch.main([str(book), *options, "-p", "learning_rate=1e-4", "-p", "policies=trained"]) == 2
    err = capsys.readouterr().err
    name = runs.stage_dir(settings(), "train").name
    assert (
        f"there is {name}, with learning_rate 0.003 there and 0.0001 here: set these to take it, or make it with" in err
    )
    assert needs.missing(settings(policies=["trained"]), "evaluate") == []


def test_a_profile_can_be_a_file_seen_from_where_the_user_is(tmp_path, given, monkeypatch, capsys):
    (tmp_path / "mine.yaml").write_text("preset: cpu\nsteps: 7\n")
    book = write_notebook(tmp_path / "02_train_reflection.ipynb")
    monkeypatch.chdir(tmp_path)
    parameters, settings = launch.check(book, "mine.yaml", [])
    assert parameters["profile"] == str(tmp_path / "mine.yaml") and settings.steps == 7
    assert runs.stage_dir(settings, "tables").name == "mine"
    assert needs.command(settings, "failures") == f"python -m rrr_utils.launch failures --profile {tmp_path}/mine.yaml"
