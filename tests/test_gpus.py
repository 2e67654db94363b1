"""GPUs: which card it is and the preset that suits it, and launchers that take one each."""

from __future__ import annotations

import os
import sys

import pytest
from helpers_launch import STAGE, write_notebook

from rrr_utils import gpus, launch, needs
from rrr_utils.errors import SettingsError
from rrr_utils.settings import DATA, load, read_yaml

GIB = 2**30


# --- the card


def nvidia_smi(folder, monkeypatch, line: str) -> None:
    """A machine with one GPU, as far as its driver's tool says."""
    tool = folder / "nvidia-smi"
    body = f"print('GPU 0: it' if '-L' in sys.argv else {line!r})"
    tool.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpus._card.cache_clear()


@pytest.fixture(autouse=True)
def _forget_the_card():
    yield
    gpus._card.cache_clear()


@pytest.mark.parametrize(
    ("line", "preset", "dtype"),
    [
        ("Tesla T4, [N/A], 15360, 7.5", "t4", "float16"),
        ("Quadro RTX 8000, [N/A], 49152, 7.5", "t4", "float16"),
        ("NVIDIA L4, [N/A], 23034, 8.9", "gpu_24gb", "bfloat16"),
        ("NVIDIA GeForce RTX 3090, [N/A], 24576, 8.6", "gpu_24gb", "bfloat16"),
        ("NVIDIA A100-SXM4-40GB, Disabled, 40960, 8.0", "gpu_24gb", "bfloat16"),
        ("NVIDIA H100 80GB HBM3, Disabled, 81559, 9.0", "gpu_80gb", "bfloat16"),
        (
            "NVIDIA H100 80GB HBM3, Enabled, 81559, 9.0",
            "gpu_24gb",
            "bfloat16",
        ),  # shared out: its size is not the card's
        ("no such field", "gpu_24gb", "bfloat16"),
    ],
)
def test_the_card_is_recognised_and_preset_auto_follows(tmp_path, monkeypatch, line, preset, dtype):
    nvidia_smi(tmp_path, monkeypatch, line)
    for profile in ("tiny", "single_gpu"):
        s = load(profile, {"preset": "auto"})
        assert (s.preset, s.dtype) == (preset, dtype)
    card = gpus.card()
    assert (card is None) == ("Enabled" in line or "such" in line)
    if card:
        assert card.total_bytes == int(line.split(",")[2]) * 2**20 == gpus.total_bytes()


def test_without_a_gpu_auto_is_cpu_for_the_embedded_model_and_refused_for_another(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.card() is None and gpus.total_bytes() > GIB
    assert load("tiny", {"preset": "auto"}) == load("tiny")
    real = load("single_gpu", {"preset": "auto", "results_dir": str(tmp_path)})
    assert real.preset == "auto"
    with pytest.raises(SettingsError, match="is for a GPU and this machine shows none"):
        needs.check(real, "failures")
    with pytest.raises(SettingsError, match="unknown preset 'autto'.*auto"):
        load("tiny", {"preset": "autto"})


def test_presets_are_ceilings_in_the_order_of_the_cards():
    presets = read_yaml(DATA / "presets.yaml")
    assert [presets[name]["sample_batch"] for name in ("t4", "gpu_24gb", "gpu_80gb")] == [256, 512, 1024]
    assert presets["cpu"] == {
        "dtype": "float32", "threads": 1, "micro_batch": 32, "sample_batch": 64, "gradient_checkpointing": False
    }  # fmt: skip


# ---------------------------------------------------------------- GPUs


def test_each_launcher_takes_gpus_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))

    def take(number, visible="4,7,9"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        locks = gpus.take(number, "")
        return locks, os.environ["CUDA_VISIBLE_DEVICES"]

    first, got = take(1)
    assert got == "4"
    second, got = take(2)
    assert got == "7,9"
    first[0].release()
    third, got = take(1)
    assert got == "4"
    assert take(1, visible="7") == ([], "7")  # a single one is not handed out
    for lock in second + third:
        lock.release()


def test_an_empty_list_of_visible_gpus_is_none(monkeypatch):
    for text, seen in (("", []), ("-1", []), ("3", ["3"]), ("0,2", ["0", "2"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", text)
        assert gpus.visible() == seen


def test_more_gpus_than_there_are_is_refused(tmp_path, given, capsys, monkeypatch):
    monkeypatch.setattr(gpus, "visible", lambda: ["0"])
    book = write_notebook(tmp_path / "02_train_reflection.ipynb", STAGE.format(stage="train"))
    assert launch.main([str(book), *given[0], "-p", "gpus=2"]) == 2
    assert "gpus is 2 but this machine shows 1" in capsys.readouterr().err
