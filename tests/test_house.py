"""The house: which room may import which, how long things are, one list of versions, and a menu of what there is."""

from __future__ import annotations

import ast
import graphlib
import os
import re
import subprocess
import tomllib

import pytest

from rrr_utils.settings import ROOT

#: the rooms from the ground up: a module imports from its own floor or from below
FLOORS = (
    "errors gpus", "profiles", "settings", "grid", "files provenance models", "tasks", "conversation", "identity tokens", "backup", "runs",
    "checkpoints samples nf4 decoding", "policy", "sampling fit", "engines backends controls reward", "machine", "forecast", "plan bar", "progress",
    "failures training evaluation report live", "needs", "kernel launch colab", "miniature",
)  # fmt: skip
CORE = ("settings", "conversation", "policy", "sampling", "failures", "training", "controls", "evaluation")
SOURCES = {
    path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in sorted((ROOT / "rrr_utils").rglob("*.py"))
}


def imports(path) -> set[str]:
    """The package's modules that a file imports, inside functions too, but not those for type checkers only."""
    found, tree = set(), ast.parse(path.read_text(encoding="utf-8"))
    idle = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {id(inner) for node in idle for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in skipped:
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            found |= {name if (name := f"{node.module}.{one.name}") in SOURCES else node.module for one in node.names}
    return found & SOURCES.keys() - {"rrr_utils"}


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_down_and_in_no_circle():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names.split()}
    graph = {module: imports(path) - {module} for module, path in SOURCES.items() if module != "rrr_utils"}
    for module, used in graph.items():
        for other in used:
            assert floor[room(other)] <= floor[room(module)], f"{module} imports {other}, which is above it"
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) >= len(graph)  # CycleError where there is one


def test_stages_do_not_know_the_report_and_only_a1_and_tests_know_the_miniature():
    for module, path in SOURCES.items():
        used = {room(other) for other in imports(path)}
        if module != "rrr_utils" and room(module) not in ("report", "miniature"):
            assert "report" not in used, module
        if module != "rrr_utils" and room(module) != "miniature":
            assert "miniature" not in used, module
    for book in (ROOT / "notebooks").glob("*.ipynb"):
        assert book.name.startswith("A1") or "rrr_utils.miniature" not in book.read_text(encoding="utf-8"), book.name


def test_no_countdown_code_runs_for_another_task():
    for module, path in SOURCES.items():
        if room(module + ".") not in ("tasks", "miniature", ""):
            assert not any(other.startswith("rrr_utils.tasks.countdown") for other in imports(path)), module


def test_things_are_short():
    total = 0
    for path in SOURCES.values():
        lines = path.read_text(encoding="utf-8").splitlines()
        total += len(lines)
        assert len(lines) <= 320, path
        assert max(map(len, lines), default=0) <= 120, path
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
    # 7,469 before real models (backends, engines, sizes, forecasts, Colab), 9,131 before grids, plans, claims, processes,
    # 10,431 before the second miniature (rows, corpus, words, checks), 11,459 before what notebooks show while they run
    assert total <= 12_000
    assert sum(len(SOURCES[f"rrr_utils.{name}"].read_text().splitlines()) for name in CORE) <= 1_500


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


@pytest.mark.skipif(subprocess.run(["make", "--version"], capture_output=True).returncode != 0, reason="no make")
def test_make_prints_the_menu():
    alone = {
        name: value for name, value in os.environ.items() if not name.startswith("MAKE")
    }  # these tests run under make
    menu = subprocess.run(["make"], cwd=ROOT, env=alone, capture_output=True, text=True, check=True).stdout
    verbs = [line.split()[1] for line in menu.splitlines()]
    assert verbs == [
        "reproduce",
        "plan",
        "paper",
        "test",
        "test-slow",
        "lab",
        "bench",
        "runs",
        "trials",
        "ablations",
        "publish",
        "address",
        "vllm",
        "clean",
    ]
