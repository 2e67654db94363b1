"""The front door: README and the pages that it links. Short, with no dead link, and every command and snippet runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rrr_utils import launch
from rrr_utils.report.text import interval
from rrr_utils.settings import ROOT

README = ROOT / "README.md"
PAGES = [
    README,
    *(
        ROOT / f"{folder}/README.md"
        for folder in ("notebooks", "results/tiny", "rrr_utils", "rrr_utils/tasks", "tests", "workflow")
    ),
]
#: what `make` takes, without running it: the runs that it would plan
PLANNED = ("reproduce", "paper")


def fenced(path: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page that are not generated: language and text."""
    text = re.sub(
        r"<!-- generated:(\w+) -->.*?<!-- /generated:\1 -->", "", path.read_text(encoding="utf-8"), flags=re.S
    )
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M)


def commands(path: Path) -> list[str]:
    """Every command of a page: lines of blocks without a language, and code in a sentence that begins like one."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
    lines = [
        line.partition("  #")[0].strip()
        for language, block in fenced(path)
        if not language
        for line in block.splitlines()
    ]
    spoken = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    return list(
        dict.fromkeys(line for line in lines + spoken if re.match(r"(make|\S*python|\S*papermill|\S*snakemake) ", line))
    )


ALL = list(dict.fromkeys(line for path in PAGES for line in commands(path)))


def test_readme_is_read_in_minutes():
    words = [word for word in README.read_text(encoding="utf-8").split() if re.search("[A-Za-z]", word)]
    assert len(words) < 1500
    assert {"make reproduce", "make test", "make lab"} <= {*commands(README)}


def slugs(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_link_is_dead(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if not name.startswith("https://"):
            there = (path.parent / name).resolve() if name else path
            assert there.exists(), target
            assert not anchor or anchor in slugs(there), target


def dry_run(command: str) -> None:
    """A command of make, papermill or the launcher as far as it goes without its runs. Raises where it would fail."""
    own = (ROOT / "tests" / "data" / "sorting_task.py").as_posix()  # the task that the pages show
    words = shlex.split(command.replace("my_task.py", own))
    if words[0] == "make":
        given = dict(word.split("=", 1) for word in words[2:])
        rule = re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), flags=re.M)
        assert rule and {name.lower() for name in given} <= {
            *"profile seeds rows overrides card executor delete url torch_index cores python".split()
        }
        if words[1] in PLANNED:
            profile = given.get("PROFILE", "paper" if words[1] == "paper" else "tiny")
            config = [f"{name}={given.get(name.upper(), '')}" for name in ("seeds", "rows", "overrides")]
            there = ["-n", "--quiet", "all", "--nolock", "--cores", "1", "--workflow-profile", "none"]
            made = subprocess.run(
                [sys.executable, "-m", "snakemake", *there, "--config", f"profile={profile}", *config],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert made.returncode == 0, made.stderr[-500:]
        elif words[1] == "plan":
            known = [word for name, value in given.items() for word in (f"--{name.lower()}", value)]
            subprocess.run([sys.executable, "-m", "rrr_utils.plan", *known], cwd=ROOT, check=True, capture_output=True)
    elif words[1:3] == ["-m", "rrr_utils.launch"]:
        asked = launch._parse(words[3:])
        launch.check(launch.find(asked.notebook)[0], asked.profile, asked.p)
    elif words[1:3] == ["-m", "rrr_utils.report"]:
        assert "--rescore" in words and (ROOT / words[-1] / "samples.jsonl.gz").is_file()
    elif words[1:3] == ["-m", "rrr_utils.tasks.function_calling"]:
        assert words[3:] == ["--check", "FILE"]  # tried in test_function_calling_rows.py
    else:
        assert words[0].endswith("papermill") and (ROOT / words[1]).is_file(), command
        assert {words[k + 1] for k, word in enumerate(words) if word == "-p"} <= launch.parameters_of(
            ROOT / words[1]
        ).keys()


@pytest.mark.parametrize("command", ALL)
def test_every_command_of_the_pages_goes_as_far_as_its_runs(command):
    dry_run(command)


def snippets(path: Path) -> list[str]:
    return [block for language, block in fenced(path) if language == "python" and not block.startswith('"""')]


@pytest.fixture
def place(tmp_path):
    """A folder that has what the snippets read, with an adapter where `make reproduce` leaves it."""
    (tmp_path / "data").symlink_to(ROOT / "data")
    model = AutoModelForCausalLM.from_pretrained(ROOT / "data/embedded/countdown")
    adapter = tmp_path / "results/runs/countdown/embedded/train-seed0-0123abcd/adapter"
    get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(adapter)
    adapter.with_name("result.json").touch()  # of a training that is done
    return tmp_path


@pytest.mark.parametrize("snippet", [block for path in PAGES for block in snippets(path)])
def test_every_snippet_of_the_pages_runs(place, snippet):
    quiet = {**os.environ, "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run([sys.executable, "-c", snippet], cwd=place, env=quiet, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-800:]
    pictures = re.findall(r'savefig\("([^"]+)"', snippet)
    assert all((place / name).stat().st_size > 5_000 for name in pictures)
    assert pictures or "<|assistant|>" in ran.stdout


def test_the_first_table_is_of_the_published_files():
    text = README.read_text(encoding="utf-8").partition("<!-- generated:result -->")[2].partition("<!-- /generated")[0]
    seeds = pd.read_csv(ROOT / "results/tiny/seeds.csv", keep_default_na=False)
    own = seeds[(seeds["attempt"] == "second") & (seeds["control"] == "own")]
    assert len(own) and all(interval(r.accuracy, r.ci_low, r.ci_high) in text for r in own.itertuples())
