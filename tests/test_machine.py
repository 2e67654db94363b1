"""What a run is begun with: no `auto`, the ceilings where they fit, one line that says so, and refusals before anything."""

from __future__ import annotations

import pytest
from small import small

from rrr_utils import failures, files, launch, machine, runs
from rrr_utils.errors import SettingsError
from rrr_utils.settings import load


def test_the_tiny_profile_is_begun_with_its_presets_sizes(tmp_path, capsys):
    settings = load("tiny", {"results_dir": str(tmp_path)})
    for stage in ("failures", "train", "evaluate"):
        found = machine.resolve(settings, stage)
        assert (found.micro_batch, found.sample_batch, found.generation_batch) == (32, 64, 4096)
        assert (found.engine, found.backend) == ("hf", "transformers")
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3
    assert said[1].startswith("train: by transformers (not unsloth: ") and "32 reflections a pass" in said[1]


def test_a_run_keeps_what_it_was_begun_with(tmp_path):
    settings = small(tmp_path, backend="auto", engine="auto")
    failures.sample(settings)
    result = failures.finish(settings)
    assert (result["settings"]["engine"], result["settings"]["backend"]) == ("hf", "transformers")
    begun = files.read_json(runs.stage_dir(settings, "failures") / "begun.json")
    assert "auto" not in [begun["settings"][name] for name in ("engine", "backend")]


@pytest.mark.parametrize(
    ("stage", "wish", "way"),
    [("train", "backend=unsloth", "backend=transformers"), ("failures", "engine=vllm", "engine=hf")],
)
def test_what_cannot_run_here_is_refused_in_one_line_before_anything(tmp_path, capsys, monkeypatch, stage, wish, way):
    monkeypatch.setenv("RRR_VLLM_PYTHON", str(tmp_path / "python"))
    options = ["-p", wish, "-p", f"results_dir={tmp_path / 'runs'}", "-p", "make_missing=true"]
    assert launch.main([stage, *options]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and way in said
    assert not list(tmp_path.glob("runs/*/*/*"))


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("rrr_utils.gpus.total_bytes", lambda: 2**28)
    with pytest.raises(SettingsError, match="choose a smaller model"):
        machine.resolve(small(tmp_path), "train")
