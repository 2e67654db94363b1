"""What all tests share: no network, one thread, and GPU tests only where there is a GPU."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.pop("RRR_TRACEBACK", None)
#: for other environments than the lock's, or run by tests as processes
collect_ignore_glob = ["helpers_unsloth.py", "unsloth_*.py", "helpers_processes.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA GPU here"))


@pytest.fixture
def given(tmp_path):
    """Options that make a run with a made-up model in a folder of its own, and its settings."""
    from rrr_utils.settings import load

    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    options = ["-p", f"model={model}", "-p", f"results_dir={tmp_path / 'runs'}"]
    return options, lambda **more: load("tiny", {"model": str(model), "results_dir": str(tmp_path / "runs"), **more})


@pytest.fixture
def made(tmp_path):
    """Settings of a run with a made-up model, in a folder of its own."""
    from rrr_utils.settings import load

    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "config.json").write_text("{}")

    def settings(**overrides):
        return load("tiny", {"model": str(model), "results_dir": str(tmp_path / "runs"), **overrides})

    return settings
