"""Colab: cells and badges come from one place, the install cell acts there only, and leaves alone what a kernel holds.

The slow test runs the cell for real in a Python 3.13 environment with Colab's versions (tests/data/colab.txt). It makes one
without torch; RRR_COLAB_PYTHON names the Python of one that is there already, with torch if you like: its packages change.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import nbformat
import pytest
from packaging.utils import canonicalize_name
from small import SMALL

from rrr_utils import colab, forecast, gpus, launch, needs, runs, settings
from rrr_utils.errors import SettingsError

ROOT = settings.ROOT
BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SNAPSHOT = ROOT / "tests" / "data" / "colab.txt"
#: what a running kernel of Colab holds by the time of the first cell, and torch
UNTOUCHED = {"numpy", "pandas", "ipykernel", "ipython", "pyarrow", "matplotlib", "torch", "torchvision", "triton"}
URL = "https://github.com/you/rrr"
#: what Unsloth asks for, in short: it is not installed where these tests run
ASKED = {
    "unsloth": [
        "unsloth_zoo>=2026.10.7",
        "torchvision",
        "tyro",
        'xformers; "linux" in sys_platform',
        "hf_transfer",
        "structlog",
    ],
    "unsloth-zoo": ["torch", "torchao>=0.13.0", "triton", "cut_cross_entropy", "msgspec", "einops", "pillow"],
}


def code(path, number):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"][number]


def theirs():
    """Colab's packages and versions."""
    lines = [line for line in SNAPSHOT.read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_notebook_s_first_cells_are_those_that_colab_py_makes(path):
    variables = re.search(r"from_notebook\((.*)\)$", code(path, 1))[1]
    assert code(path, 1) == colab.cell(colab.address(), variables), "run: make address URL=..."
    assert code(path, 0) == colab.form(code(path, 0)), "run: make address URL=..."
    fields = {
        line.split(" = ")[0]: line.split("# @param ")[1] for line in code(path, 0).splitlines() if "@param" in line
    }
    assert set(fields) == {"profile", "make_missing"}
    assert set(re.findall(r'"(\w+)"', fields["profile"].split("]")[0])) == set(settings.profiles())
    assert launch.parameters_of(path)["make_missing"] is False and launch.parameters_of(path)["profile"] == "tiny"


def test_there_is_no_dead_badge():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [path for path in [ROOT / "README.md", *BOOKS] if "OWNER" in path.read_text(encoding="utf-8")]
    for path in BOOKS:
        assert f"](notebooks/{path.name}) | {colab.badge(f'notebooks/{path.name}', colab.address())} |" in text


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """What the address stands in, elsewhere."""
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    monkeypatch.setattr(colab, "ROOT", tmp_path)
    return tmp_path


def test_an_address_reaches_badges_and_cells_and_can_change(copy):
    for url in ("https://github.com/old/kit", URL):
        colab._note(url)
        assert len(colab.follow(colab.address())) == 1 + len(BOOKS) and not colab.follow(colab.address())
    readme, wanted = (copy / "README.md").read_text(), "https://colab.research.google.com/github/you/rrr/blob/main"
    for path in BOOKS:
        assert f"({wanted}/notebooks/{path.name})" in readme
        assert f"git clone -q --depth 1 {URL} " in code(copy / "notebooks" / path.name, 1)
        nbformat.validate(nbformat.read(copy / "notebooks" / path.name, as_version=4))
    assert "old/kit" not in readme + (copy / "pyproject.toml").read_text()
    colab._note("https://gitlab.com/you/rrr")  # Colab opens notebooks of GitHub only
    colab.follow(colab.address())
    assert "colab-badge" not in (copy / "README.md").read_text()


@pytest.mark.parametrize("url", ["rrr", "http://github.com/you/rrr", 'https://x.org/"; rm', "git@github.com:you/rrr"])
def test_what_is_no_address_is_refused(copy, url):
    before = (copy / "pyproject.toml").read_text()
    with pytest.raises(SettingsError, match="no address such as https://github.com/you/rrr"):
        colab._note(url)
    assert (copy / "pyproject.toml").read_text() == before


@pytest.mark.parametrize("url", ["", URL])
def test_elsewhere_the_cell_only_reads_the_settings(url, monkeypatch):
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    text = colab.cell(url)
    variables = {"profile": "tiny", "make_missing": True}
    exec(text.replace("!git", "pass  # "), variables)
    assert variables["settings"] == settings.load("tiny", {"make_missing": True})
    assert len(text.splitlines()) <= 25
    tree = ast.parse(text.replace("!git", "pass  # "))
    stored = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    assert all(name.startswith("_") or name == "settings" for name in stored), "or they would be taken for parameters"


def test_what_is_installed_on_colab_is_ours_or_missing_there_and_in_no_kernel_s_hands(monkeypatch):
    """By the recorded versions of Colab, and by what the packages installed here ask for."""
    there = theirs()
    monkeypatch.setattr(colab, "_version", lambda name: there.get(canonicalize_name(name)))
    requires = importlib.metadata.requires

    def asked(name):
        try:
            return ASKED.get(name) or requires(name)
        except importlib.metadata.PackageNotFoundError:  # not installed here
            return []

    monkeypatch.setattr(colab.metadata, "requires", asked)
    rounds = []
    while found := colab.lacking():
        assert len(rounds) < 5
        rounds.append(found)
        there |= found
    assert set(colab.OURS) <= rounds[0].keys() and rounds[0]["datasets"] == "4.3.0"
    installed = {name: version for found in rounds for name, version in found.items()}
    assert not installed.keys() & UNTOUCHED
    assert installed.keys() - set(colab.OURS) <= colab.versions().keys() - theirs().keys(), "only what is missing"
    lock = {**colab.versions(), "datasets": "4.3.0"}
    assert all(version == lock[name] for name, version in installed.items())


def test_colab_s_versions_suffice_for_ours():
    """What our pins ask for is met by Colab's versions and ours together, but for two that are known to run with less."""
    from packaging.requirements import Requirement

    there, known = {**theirs(), **{name: colab.versions()[name] for name in colab.OURS}}, set()
    for name in set(colab.OURS) - {"unsloth", "unsloth-zoo", "torchao"}:  # these are not installed here
        for text in importlib.metadata.requires(name) or []:
            one = Requirement(text)
            if (not one.marker or one.marker.evaluate({"extra": ""})) and one.name not in colab.NEVER:
                version = there.get(canonicalize_name(one.name))
                if version is not None and not one.specifier.contains(version, prereleases=True):
                    known.add((name, canonicalize_name(one.name)))
    assert known == {("datasets", "pyarrow"), ("huggingface-hub", "click")}


def test_a_pip_that_fails_is_one_line(monkeypatch):
    gone = subprocess.CompletedProcess([], 1, "", "WARNING: a\nERROR: No matching distribution found for trl==1.14.2\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: gone)
    with pytest.raises(SettingsError, match=r"pip could not install trl==1.14.2: ERROR: No matching"):
        colab._pip("trl==1.14.2")


def test_outside_the_tiny_profile_a_missing_result_is_named_with_its_minutes_and_made_if_asked_for(given, tmp_path):
    options, one = given
    other = one().model_copy(update={"profile": "single_gpu"})
    with pytest.raises(
        SettingsError, match="reads the result of failures.*python -m rrr_utils.launch failures.*make_missing"
    ):
        needs.check_upstream(other, "train")
    asked = other.model_copy(update={"make_missing": True})
    needs.check_upstream(asked, "train")
    assert "-p make_missing=true" in needs.command(asked, "failures")


def test_the_t4_profile_ends_in_a_session_by_the_forecast(tmp_path, monkeypatch):
    from transformers import Qwen2Config

    shape = {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    Qwen2Config(**shape, num_attention_heads=12, num_key_value_heads=2, tie_word_embeddings=True).save_pretrained(
        tmp_path
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(settings.DATA / "embedded" / "countdown" / name, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"only its shape counts")
    monkeypatch.setattr(gpus, "card", lambda: gpus.Card("Tesla T4", 15_360 * 2**20, 7.5))
    own = {"model": str(tmp_path), "results_dir": str(tmp_path / "runs"), "source": None, "backend": "transformers"}
    one = settings.load("colab_t4", own)
    assert (one.preset, one.dtype) == ("t4", "float16")
    base = one.model_copy(update={"seed": None})
    stages = ((one, "failures"), (one, "train"), (base, "evaluate"), (one, "evaluate"))
    assert 3600 < sum(sum(forecast.parts(each, stage).values()) for each, stage in stages) < 2 * 3600


@pytest.mark.slow
def test_make_missing_makes_what_a_stage_reads_in_any_profile(tmp_path, capsys):
    values = {"preset": "cpu", **{name: list(v) if isinstance(v, tuple) else v for name, v in SMALL.items()}}
    (tmp_path / "mine.yaml").write_text(json.dumps(values))
    one = settings.load(str(tmp_path / "mine.yaml"), {"make_missing": True, "results_dir": str(tmp_path / "runs")})
    needs.ensure(one, "train")
    said = capsys.readouterr().out.splitlines()[0]
    assert re.search(
        r"failures, which is not there yet. Making it, in about \d+ minutes: python -m rrr_utils.launch", said
    )
    assert runs.done(one, "failures")


def freeze(python):
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True)
    return {canonicalize_name(one["name"]): one["version"] for one in json.loads(listed.stdout)}


def megabytes(log):
    """What pip fetched, by its log: downloads, and files that a local index serves."""
    unit, total = {"kB": 1e-3, "MB": 1.0, "GB": 1e3}, 0.0
    for size, name in set(re.findall(r"Downloading [^ ]+ \(([\d.]+) ([kMG]B)\)", log)):
        total += float(size) * unit[name]
    local = {Path(path) for path in re.findall(r"Processing (/\S+\.whl)", log)}
    return total + sum(path.stat().st_size for path in local) / 1e6


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A Python with Colab's versions, without torch where it is made here."""
    if given := os.environ.get("RRR_COLAB_PYTHON"):
        return given
    base = shutil.which("python3.13")
    if not base or subprocess.run([base, "-c", ""], capture_output=True).returncode:
        pytest.skip("Colab has Python 3.13, which is not here: put it on the PATH or name a Python by RRR_COLAB_PYTHON")
    folder = tmp_path_factory.mktemp("colab")
    heavy = ("torch", "triton", "torchvision", "diffusers")
    pins = [f"{name}=={version}" for name, version in theirs().items() if name not in heavy]
    subprocess.run([base, "-m", "venv", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", *pins], check=True, capture_output=True)
    return str(python)


@pytest.mark.slow
def test_the_cell_installs_the_kit_beside_what_colab_holds(runtime, tmp_path):
    content, stub = tmp_path / "content", tmp_path / "stub" / "google" / "colab"
    for folder in (content, stub):
        folder.mkdir(parents=True)
    (stub / "__init__.py").write_text("")
    (stub / "files.py").write_text("def upload():\n    raise SystemExit('no zip was found')\n")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    with zipfile.ZipFile(content / "rrr.zip", "w") as kit:
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file() and not name.startswith("results/"):
                kit.write(ROOT / name, f"rrr-main/{name}")
    cells = "\n".join(code(ROOT / "notebooks" / "02_train_reflection.ipynb", number) for number in (0, 1))
    held = "import numpy, pandas, IPython, matplotlib, ipykernel"
    said = "import sys; print(settings.profile, [n for n in sys.modules if n in ('torch', 'transformers')])"
    (tmp_path / "cells.py").write_text("\n".join([held, cells.replace("/content", str(content)), said]))
    before, log = freeze(runtime), tmp_path / "pip.log"
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "HF_TOKEN")}
    own |= {"COLAB_RELEASE_TAG": "release-colab", "PIP_LOG": str(log), "PYTHONPATH": str(stub.parent.parent)}

    def run():
        began = time.time()
        done = subprocess.run([runtime, "cells.py"], cwd=tmp_path, env=own, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.splitlines()[-1] == "tiny []" and "Restart" not in done.stdout
        return time.time() - began, done.stdout

    run()
    after = freeze(runtime)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed <= set(colab.OURS) and not changed & UNTOUCHED
    assert {"trl", "transformers", "unsloth", "papermill", "rrr-utils"} <= after.keys()
    assert megabytes(log.read_text()) <= 400
    again, text = run()
    assert "installing" not in text and again < 30
    tests = ["test_statistics.py", "test_cells.py", "test_figures.py", "test_settings.py"]  # what needs no torch
    words = [runtime, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)]
    done = subprocess.run(
        words, cwd=content / "rrr", env={**own, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
