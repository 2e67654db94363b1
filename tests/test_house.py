"""The house: one list of versions, from which the others follow, and a menu that says what there is."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib

import pytest
import yaml

from rrr_utils.settings import ROOT

CHOSEN = """torch 2.13.0, trl 1.14.2, transformers 5.17.0, datasets 4.8.5, peft 0.21.2, accelerate 1.15.0, bitsandbytes 0.50.2,
tokenizers 0.23.3, huggingface_hub 1.33.0, numpy 2.4.6, pandas 3.1.1, matplotlib 3.11.2, papermill 2.7.0, jupyterlab 4.6.6,
ipykernel 7.4.0, pytest 9.2.0, snakemake 9.27.1"""


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "plain pins only: one list for CPU and GPU"
    found = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}
    assert len(found) == len(lines)
    return found


def test_the_lock_holds_the_chosen_versions_and_all_that_the_package_names():
    lock = pins("requirements.lock")
    for name, version in (pair.split() for pair in CHOSEN.replace("\n", " ").split(",")):
        assert lock[name.replace("_", "-")] == version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {name.replace("_", "-") for name in (*project["dependencies"], *project["optional-dependencies"]["dev"])}
    assert named <= lock.keys()
    assert not {"pip", "triton", "rrr-utils"} & lock.keys()
    assert not any(name.startswith("nvidia") for name in lock)


def test_colab_s_constraints_are_the_lock_without_torch():
    lock = pins("requirements.lock")
    assert lock.pop("torch")
    assert pins("constraints-colab.txt") == lock, "run: make constraints-colab.txt"


def test_conda_brings_python_and_pip_only():
    python, pip, rest = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert (python, pip, rest["pip"][0]) == ("python=3.11", "pip", "-r requirements.lock")


@pytest.mark.skipif(subprocess.run(["make", "--version"], capture_output=True).returncode != 0, reason="no make")
def test_make_prints_the_menu():
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}  # these tests run under make
    menu = subprocess.run(["make"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    verbs = [line.split()[1] for line in menu.splitlines()]
    assert verbs == ["reproduce", "test", "test-slow", "lab", "bench", "trials", "publish", "clean"]
