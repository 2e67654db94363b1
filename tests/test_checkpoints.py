"""How a killed training goes on: which checkpoint is taken, and that adapter, dev scores and logs are of one step."""

from __future__ import annotations

import pytest

from rrr_utils import checkpoints, files


def made(directory, rates: dict[int, float], kept: int = 2):
    """A training that was scored at these steps, with its last `kept` checkpoints, as trl and `Record` leave them."""
    for step, rate in rates.items():
        for done in range(max(1, step - 1), step + 1):
            files.append_jsonl(directory / "training.jsonl", [{"step": done}])
            files.append_jsonl(directory / "reflections.jsonl", [{"step": done, "reflection": "r"}])
        files.append_jsonl(directory / "dev_texts.jsonl", [{"step": step, "retry": "r"}])
        files.append_jsonl(directory / "dev.jsonl", [{"step": step, "score": rate}])
        folder = checkpoints.folder_of(directory, step)
        folder.mkdir(parents=True)
        for name in (
            "adapter_model.safetensors",
            "adapter_config.json",
            "optimizer.pt",
            "rng_state.pth",
            "trainer_state.json",
        ):
            (folder / name).write_text(f"{name} of step {step}")
        checkpoints.saved(directory, step)
    for step in list(rates)[:-kept]:
        for path in checkpoints.folder_of(directory, step).iterdir():
            path.unlink()
        checkpoints.folder_of(directory, step).rmdir()


def adapter(directory) -> str:
    assert not (directory / "adapter/optimizer.pt").exists()
    return (directory / "adapter/adapter_model.safetensors").read_text()


def steps(directory, name: str) -> list[int]:
    return [line["step"] for line in files.read_log(directory / f"{name}.jsonl")]


def test_a_whole_training_is_finished_and_stays_as_it_is(tmp_path):
    made(tmp_path, {2: 0.1, 4: 0.3, 6: 0.2})
    assert checkpoints.finished(tmp_path, 6) and not checkpoints.finished(tmp_path, 8)
    checkpoints.go_back(tmp_path)
    assert checkpoints.newest(tmp_path).name == "checkpoint-6" and adapter(tmp_path).endswith("of step 4")
    assert steps(tmp_path, "training") == [1, 2, 3, 4, 5, 6] and steps(tmp_path, "dev") == [2, 4, 6]


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "adapter_model.safetensors", "files.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_taken(tmp_path, capsys, name, how):
    made(tmp_path, {2: 0.1, 4: 0.3, 6: 0.5})
    path = checkpoints.folder_of(tmp_path, 6) / name
    path.unlink() if how == "gone" else path.write_text(path.read_text()[:5])
    checkpoints.go_back(tmp_path)
    assert checkpoints.newest(tmp_path).name == "checkpoint-4"
    assert (
        tmp_path / "checkpoints/damaged-checkpoint-6"
    ).is_dir() and "cannot be gone on from" in capsys.readouterr().out
    assert checkpoints.LOGS == ("training", "dev", "dev_texts", "reflections")
    assert [steps(tmp_path, name) for name in checkpoints.LOGS] == [[1, 2, 3, 4], [2, 4], [2, 4], [1, 2, 3, 4]]
    assert adapter(tmp_path).endswith("of step 4"), "the adapter is no newer than dev.jsonl"


def test_a_kill_between_the_score_and_its_checkpoint_leaves_the_older_adapter(tmp_path):
    made(tmp_path, {2: 0.1, 4: 0.3})
    files.append_jsonl(tmp_path / "training.jsonl", [{"step": 5}, {"step": 6}])
    files.append_jsonl(tmp_path / "dev.jsonl", [{"step": 6, "score": 0.9}])
    checkpoints.go_back(tmp_path)
    assert adapter(tmp_path).endswith("of step 4") and steps(tmp_path, "dev") == [2, 4]


def test_a_kill_between_the_checkpoint_and_its_copy_is_made_good(tmp_path):
    made(tmp_path, {2: 0.1, 4: 0.3})
    checkpoints.keep(tmp_path, 2)  # as it was before the best one was copied
    assert not checkpoints.finished(tmp_path, 4)
    checkpoints.go_back(tmp_path)
    assert adapter(tmp_path).endswith("of step 4") and checkpoints.finished(tmp_path, 4)


def test_without_the_best_adapter_the_training_begins_anew_and_keeps_what_there_was(tmp_path):
    made(tmp_path, {2: 0.9, 4: 0.3, 6: 0.2, 8: 0.1})
    (tmp_path / "adapter/adapter_model.safetensors").write_text("cut")
    checkpoints.go_back(tmp_path)
    assert checkpoints.newest(tmp_path) is None and not (tmp_path / "dev.jsonl").exists()
    assert len(files.read_jsonl(tmp_path / "before/dev.jsonl")) == 4


def test_logs_that_do_not_reach_a_checkpoint_are_not_gone_on_from(tmp_path):
    made(tmp_path, {2: 0.1, 4: 0.3})
    (tmp_path / "training.jsonl").unlink()
    checkpoints.go_back(tmp_path)
    assert checkpoints.newest(tmp_path) is None
