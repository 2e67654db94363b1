"""The notebooks as they are committed: no outputs, short cells, one parameters cell; and (slow) that they run as they are."""

from __future__ import annotations

import ast
import difflib
import subprocess
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from small import SMALL

from rrr_utils import launch, runs, settings

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path):
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert max(len(cell.source.splitlines()) for cell in code) <= 20 and len(code) < len(book.cells) - len(code)
    assert [k for k, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])] == [0]
    assert set(settings.PARAMETERS) <= set(launch.parameters_of(path))
    assert book.cells[0].cell_type == "markdown" and book.cells[0].source.startswith("# ")
    assert "finish(" in code[-1].source or "write" in code[-1].source, "the last cell writes the result"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_cell_uses_a_parameter_s_name_for_something_else(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"][1:]
    bodies = [ast.parse(TransformerManager().transform_cell(text)) for text in code]
    stored = {
        node.id
        for body in bodies
        for node in ast.walk(body)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    assert not stored & set(settings.PARAMETERS)
    known = [*settings.Settings.model_fields, "overrides"]  # else a second "run all" takes it for a misspelt setting
    assert not [name for name in stored if difflib.get_close_matches(name, known, n=1, cutoff=0.75)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_committed_without_outputs(path):
    """As committed: `make lab` saves outputs into the working copy, and that is fine."""
    shown = subprocess.run(["git", "show", f"HEAD:notebooks/{path.name}"], cwd=ROOT, capture_output=True, text=True)
    if shown.returncode:
        pytest.skip("not a git checkout")
    code = [cell for cell in nbformat.reads(shown.stdout, as_version=4).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_notebooks_run_by_papermill_and_the_next_one_makes_what_it_misses(tmp_path):
    arguments = [
        f"{name}={value}".replace(" ", "")
        for name, value in {"task": "countdown", **SMALL, "results_dir": tmp_path}.items()
    ]
    words = [word for argument in arguments for word in ("-p", argument)]
    assert (
        launch.main(["evaluate", *words]) == 0
    )  # makes failures, training and the untrained model's evaluation in place
    run = settings.load("tiny", {"task": "countdown", **SMALL, "results_dir": str(tmp_path)})
    for stage in ("failures", "train", "evaluate"):
        assert runs.done(run, stage) and (runs.stage_dir(run, stage) / "run.ipynb").is_file()
    assert launch.main(["tables", *words]) == 0
    assert (tmp_path / "tables/tiny/cells.csv").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["countdown", "function_calling"])
def test_an_embedded_model_can_be_made_again(tmp_path, task):
    import papermill

    given = {"smoke": True, "results_dir": str(tmp_path), "task": task}
    path = ROOT / "notebooks/A1_embedded_model.ipynb"
    papermill.execute_notebook(path, tmp_path / "out.ipynb", given, cwd=str(ROOT))
    folder = tmp_path / f"embedded-{task}-smoke"
    assert (folder / "gate.json").is_file() and (folder / "model.safetensors").is_file()
