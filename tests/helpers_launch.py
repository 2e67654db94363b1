"""Made-up notebooks that are as the real ones begin: a parameters cell, then the settings; and the launcher as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat

from rrr_utils.settings import ROOT

PARAMETERS = 'profile = "tiny"\ntask = None\nmodel = None\nseed = 0\nresults_dir = "results/runs"\noverrides = {}'
SETTINGS = "from rrr_utils.settings import from_notebook\nsettings = from_notebook(globals())"
STAGE = """
import contextlib, sys, time
from rrr_utils import runs
tables = contextlib.nullcontext((runs.open_tables(settings), settings)) if "{stage}" == "tables" else None
with tables or runs.begin(settings, "{stage}") as (folder, settings):
    (folder / "out.txt").write_text(repr([settings.learning_rate, type(settings.learning_rate).__name__, sys.executable]))
    (folder / "report.md").write_text("a report")
    result = runs.finish(settings, "{stage}", [folder / "out.txt"], {{}}, time.time())
"""


def write_notebook(path: Path, *cells: str) -> Path:
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_markdown_cell("# A title"),
        nbformat.v4.new_code_cell(PARAMETERS),
        nbformat.v4.new_code_cell(SETTINGS),
    ]
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book.cells[1].metadata["tags"] = ["parameters"]
    book.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(book, path)
    return path


def start(*arguments, **environment) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "rrr_utils.launch", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run(*arguments, **environment) -> tuple[int, str, str]:
    process = start(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err
