"""Copies of runs: whole, the newest alone, never in the way of a run; and a new machine that goes on from them."""

from __future__ import annotations

import os
import shutil

import pytest
from small import small

from rrr_utils import backup, failures, files, needs, runs, settings, training
from rrr_utils.errors import ResultsError
from rrr_utils.report import listing


def begun(one, stage, **texts):
    """A stage's folder with some files, begun and, with a `result.json`, done."""
    with runs.begin(one, stage) as (folder, _):
        for name, text in texts.items():
            (folder / f"{name}.jsonl").write_text(text)
    return folder


@pytest.fixture
def mine(tmp_path):
    return small(tmp_path / "here", backup_dir=str(tmp_path / "copies"))


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_finished_stage_is_copied_whole_but_for_what_only_served_to_get_there(mine, tmp_path):
    folder = begun(mine, "failures", failures="{}\n", part="{}\n")
    for name in (
        "checkpoints/checkpoint-2/adapter.bin",
        "damaged/a.txt",
        "before/b.txt",
        "adapter.part/c.bin",
        ".hidden",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    runs.finish(mine, "failures", [folder / "failures.jsonl"], {})
    copy = tmp_path / "copies" / folder.relative_to(tmp_path / "here")
    assert names(copy) == ["begun.json", "failures.jsonl", "part.jsonl", "result.json"]
    assert runs.whole(copy)["summary"] == {}


def test_a_copy_replaces_the_one_before_it_which_is_emptied(mine, tmp_path, monkeypatch):
    folder, emptied = begun(mine, "failures", log="1\n"), []
    truncate = os.truncate
    monkeypatch.setattr(os, "truncate", lambda path, size: (emptied.append(path.name), truncate(path, size)))
    for step in (2, 4):
        checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / f"weights-{step}").write_text("x" * step)
        backup.save(mine, folder, checkpoint)
    copy = tmp_path / "copies" / folder.relative_to(tmp_path / "here")
    assert names(copy / "checkpoints") == ["checkpoint-4/weights-4"]
    assert "weights-2" in emptied and "weights-4" not in emptied
    assert [path.name for path in copy.parent.iterdir()] == [copy.name], "neither .part nor .old stays"


def test_a_copy_that_cannot_be_made_is_one_line_and_the_stage_ends_well(mine, tmp_path, capsys):
    (tmp_path / "copies").write_text("a file where a folder should be")
    folder = begun(mine, "failures", failures="{}\n")
    runs.finish(mine, "failures", [folder / "failures.jsonl"], {})
    said = capsys.readouterr().out.strip().splitlines()
    assert len(said) == 1 and "could not be copied" in said[0] and "the run goes on" in said[0]
    assert runs.done(mine, "failures")


def test_a_new_machine_takes_what_it_lacks_and_leaves_what_is_begun(mine, tmp_path, capsys):
    folder = begun(mine, "failures", failures="{}\n")
    files.write_json(tmp_path / "here" / "revisions.json", {"a/b": "c0ffee"})
    runs.finish(mine, "failures", [folder / "failures.jsonl"], {})
    shutil.rmtree(tmp_path / "here")
    backup.exchange(mine, "train")
    assert runs.done(mine, "failures") and f"{folder.name} was taken from" in capsys.readouterr().out
    assert files.read_json(tmp_path / "here" / "revisions.json") == {"a/b": "c0ffee"}
    (folder / "failures.jsonl").write_text("other\n")
    backup.exchange(mine, "train")
    assert (folder / "failures.jsonl").read_text() == "other\n" and not capsys.readouterr().out


def test_a_copy_that_was_being_replaced_is_taken_from_the_one_before(mine, tmp_path):
    folder = begun(mine, "failures", failures="{}\n")
    runs.finish(mine, "failures", [folder / "failures.jsonl"], {})
    copy = tmp_path / "copies" / folder.relative_to(tmp_path / "here")
    copy.rename(copy.with_name(f"{copy.name}.old"))
    copy.with_name(f"{copy.name}.part").mkdir()
    shutil.rmtree(tmp_path / "here")
    backup.exchange(mine, "failures")
    assert runs.done(mine, "failures")
    shutil.rmtree(tmp_path / "here")
    backup.exchange(mine, "tables")
    assert runs.done(mine, "failures")


def test_what_was_finished_before_there_were_copies_is_copied_before_a_stage_that_reads_it(tmp_path):
    before = small(tmp_path / "here")
    folder = begun(before, "failures", failures="{}\n")
    runs.finish(before, "failures", [folder / "failures.jsonl"], {})
    after = before.model_copy(update={"backup_dir": str(tmp_path / "copies")})
    backup.exchange(after, "train")
    assert (tmp_path / "copies" / folder.relative_to(tmp_path / "here") / "result.json").is_file()


def test_a_run_that_is_removed_does_not_come_back(mine, tmp_path):
    folder = begun(mine, "failures", failures="{}\n")
    runs.finish(mine, "failures", [folder / "failures.jsonl"], {})
    listing.delete(mine.model_copy(update={"backup_dir": None}), [folder.name])  # make runs knows the profile alone
    backup.exchange(mine, "failures")
    assert not folder.exists()


def test_copies_that_cannot_be_read_are_one_line(mine, tmp_path, monkeypatch):
    folder = begun(mine, "failures", failures="{}\n")
    backup.save(mine, folder)
    shutil.rmtree(tmp_path / "here")

    def broken(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shutil, "copytree", broken)
    with pytest.raises(ResultsError, match="copies in .* cannot be read.*Input/output error.*set backup_dir elsewhere"):
        backup.exchange(mine, "failures")


def test_on_colab_a_mounted_drive_is_the_default_and_nowhere_else(tmp_path, monkeypatch):
    here = small(tmp_path)
    monkeypatch.setattr(backup, "DRIVE", tmp_path)
    assert backup.folder(here) is None
    monkeypatch.setenv("COLAB_RELEASE_TAG", "release-colab")
    assert backup.folder(here) == tmp_path / "rrr"
    assert backup.folder(here.model_copy(update={"backup_dir": "copies"})) == settings.ROOT / "copies"
    monkeypatch.setattr(backup, "DRIVE", tmp_path / "not-mounted")
    assert backup.folder(here) is None


class Lost(BaseException):
    """The machine is gone."""


def trained(folder):
    """What a training came to; seconds differ between equal runs."""
    logs = {name: files.read_jsonl(folder / f"{name}.jsonl") for name in ("training", "dev", "reflections")}
    for line in logs["training"]:
        line.pop("seconds")
    weights = {path.name: files.file_hash(path) for path in sorted((folder / "adapter").iterdir())}
    return logs, weights


def test_a_training_goes_on_on_a_new_machine_and_ends_as_an_unbroken_one(tmp_path, monkeypatch):
    unbroken = small(tmp_path / "unbroken")
    failures.sample(unbroken)
    failures.finish(unbroken)
    training.train(unbroken)
    training.finish(unbroken)

    mine, save = small(tmp_path / "here", backup_dir=str(tmp_path / "copies")), backup.save
    failures.sample(mine)
    failures.finish(mine)

    def last(*arguments):
        save(*arguments)
        raise Lost

    monkeypatch.setattr(backup, "save", last)
    with pytest.raises(Lost):
        training.train(mine)  # at the first checkpoint, of step 2
    monkeypatch.setattr(backup, "save", save)
    shutil.rmtree(tmp_path / "here")

    needs.ensure(mine, "train")
    folder = runs.stage_dir(mine, "train")
    assert len(files.read_jsonl(folder / "training.jsonl")) == 2
    training.train(mine)
    result = training.finish(mine)
    assert trained(folder) == trained(runs.stage_dir(unbroken, "train"))
    copy = tmp_path / "copies" / folder.relative_to(tmp_path / "here")
    assert runs.whole(copy) == result and not (copy / "checkpoints").exists()
