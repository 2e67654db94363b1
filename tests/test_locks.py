"""The lists of versions: each for what it is for, none against another, and (slow) that pip resolves them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from test_house import pins

from rrr_utils.settings import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_unsloth_s_pins_come_on_top_of_the_lock_and_change_none_of_it():
    lock, gpu = pins("requirements.lock"), pins("requirements-gpu.txt")
    assert not lock.keys() & gpu.keys()
    extra = dict(one.replace("_", "-").split("==") for one in PROJECT["optional-dependencies"]["gpu"])
    assert extra.items() <= gpu.items()
    assert not any(name.startswith(("unsloth", "vllm", "xformers", "nvidia")) for name in lock)


def test_conda_brings_python_and_pip_and_pip_brings_the_lock_and_unsloth():
    python, pip, rest = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert (python, pip, list(rest)) == ("python=3.11", "pip", ["pip"])
    assert rest["pip"] == ["-r requirements.lock", "-r requirements-gpu.txt", "-e ."]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"]).groups()
    assert int(low) <= int(python.split("3.")[1]) < int(high)


def test_make_installs_the_lock_without_unsloth():
    made = re.search(r"^\$\(VENV\)/stamp:.*?\n\n", (ROOT / "Makefile").read_text(), re.DOTALL | re.MULTILINE)[0]
    assert "requirements.lock" in made and "gpu" not in made


def pythons() -> dict[str, str]:
    """Pythons 3.11 to 3.13 on the PATH, or named by RRR_PYTHONS (paths, with colons between them)."""
    found, named = {}, os.environ.get("RRR_PYTHONS", "").split(":")
    for path in [*named, *(shutil.which(f"python3.{minor}") or "" for minor in (11, 12, 13))]:
        words = [path, "-c", "import sys; print('3.%d' % sys.version_info[1])"]
        asked = subprocess.run(words, capture_output=True, text=True) if path else None
        if asked and asked.returncode == 0:
            found.setdefault(asked.stdout.strip(), path)
    return found


def resolved(python: str, folder: Path, *words: str) -> dict[str, str]:
    """What pip would install for this Python; pip reads every package's own requirements for it."""
    report = folder / "report.json"
    options = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
    command = [sys.executable, "-m", "pip", "--python", python, "install", *options, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]
    listed = [one["metadata"] for one in json.loads(report.read_text())["install"]]
    return {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"].split("+")[0] for one in listed}


@pytest.mark.slow
@pytest.mark.parametrize("files", [("requirements.lock",), ("requirements.lock", "requirements-gpu.txt")], ids=len)
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_the_lock_resolves(version, files, tmp_path):
    python = pythons().get(version)
    if python is None:
        pytest.skip(f"no Python {version} here: put it on the PATH or into RRR_PYTHONS")
    got = resolved(python, tmp_path, *(word for name in files for word in ("-r", name)))
    wanted = {name: value for file in files for name, value in pins(file).items()}
    others = got.keys() - wanted.keys()
    assert wanted.items() <= got.items()
    if len(files) == 1:  # Unsloth asks for more, which is why its pins are installed without that where it can be
        assert all(re.match(r"nvidia-|cuda-|triton$", name) for name in others), "only what torch brings for its GPU"


@pytest.mark.slow
def test_environment_yml_s_pip_part_resolves(tmp_path):
    """With the kit itself, whose own requirements are names only."""
    python = pythons().get("3.11") or pytest.skip("no Python 3.11 here: put it on the PATH or into RRR_PYTHONS")
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"]
    (tmp_path / "pip.txt").write_text(
        "\n".join(line.replace("-r ", f"-r {ROOT}/").replace("-e .", f"-e {ROOT}") for line in lines)
    )
    got = resolved(python, tmp_path, "-r", str(tmp_path / "pip.txt"))
    assert {"unsloth", "trl", "rrr-utils"} <= got.keys()
