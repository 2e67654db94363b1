"""From run folders to the tables: what a table takes and what it says is missing, notebook 04 without torch."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import synthetic

from rrr_utils import files, report, runs
from rrr_utils.errors import ResultsError
from rrr_utils.report import cells, kinds, tables, text
from rrr_utils.settings import CONTROLS, POLICIES, ROOT


@pytest.fixture(scope="module")
def run_by_notebook(tmp_path_factory):
    """The tables of synthetic runs, made by notebook 04's own code where torch cannot be imported."""
    folder = tmp_path_factory.mktemp("tables")
    settings = synthetic.made(folder)
    command = [sys.executable, str(ROOT / "tests" / "torch_free.py"), settings.results_dir, settings.model]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=alone)
    assert done.returncode == 0, done.stderr[-3000:]
    return settings.model_copy(update={"seeds": (0, 1, 2)}), done.stdout


def test_notebook_04_and_rescoring_need_no_torch(run_by_notebook):
    settings, said = run_by_notebook
    folder = runs.stage_dir(settings, "tables")
    assert runs.done(settings, "tables")["summary"]["lacking"] == {"seed 2": "not run"}
    assert "countdown, model: base model, seed 0, seed 1; 50 test problems" in said
    frame = pd.read_csv(folder / "cells.csv")
    assert list(frame.columns) == cells.CELLS and len(frame) == 5 * 2 * 4
    assert list(pd.read_csv(folder / "comparisons.csv").columns) == cells.COMPARISONS
    written = (folder / "report.md").read_text()
    for piece in (
        *("greedy decoding", "sampled decoding", "reflector/1/second/own-blind", "45.0 (S) / not run", "recovery rate"),
        "Not in this table: seed 2: not run.",
    ):
        assert piece in written
    assert max(len(line) for line in written.splitlines()) < 160
    assert "changed their verdict" in said and "evaluate-seed1-" in said


def test_cells_for_people_who_plot_are_those_of_the_last_tables_or_the_published_ones(run_by_notebook, tmp_path):
    settings, _ = run_by_notebook
    frame = report.load("tiny", settings.results_dir)
    assert len(frame) == 40 and set(frame["control"]) == {"", *CONTROLS} and frame["seed"].isna().sum() == 8
    published = report.load("tiny", str(tmp_path))
    assert set(published["model"]) == {"embedded"}
    with pytest.raises(ResultsError, match="make reproduce PROFILE=nothing"):
        report.load("nothing", str(tmp_path))


def test_the_notebook_runs_by_default_with_nothing_changed_and_is_explained_cell_by_cell():
    notebook = json.loads((ROOT / "notebooks" / "04_paper_tables.ipynb").read_text(encoding="utf-8"))
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    defaults: dict = {}
    exec("".join(first["source"]), defaults)
    wanted = {"profile": "tiny", "task": None, "model": None, "seed": 0, "results_dir": "results/runs", "overrides": {}}
    assert {name: defaults[name] for name in wanted} == wanted and first["metadata"]["tags"] == ["parameters"]
    for before, cell in itertools.pairwise(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown" and len(cell["source"]) <= 25


def test_what_is_asked_for_and_not_there_is_named_with_its_reason(tmp_path):
    settings = synthetic.made(tmp_path, (0,), 20, seeds=[0, 1, 2, 3])
    failing, begun = (settings.model_copy(update={"seed": seed}) for seed in (1, 2))
    folder = runs.stage_dir(failing, "train")
    files.write_json(folder / "failed.json", {"stage": "train", "error": "no space | left\x1b[31m", "when": ""})
    synthetic.finish(begun, "train", {"training": []})
    with runs.begin(begun, "evaluate"):
        pass
    rows, lacking = tables.gather(settings)
    assert [one.seed for row in rows for one in row.evaluated] == [None, 0]
    assert tables.absent(lacking) == ("seed 1: failed: no space ¦ left\\x1b[31m; seed 2: not finished; seed 3: not run")
    written = tables.report(rows, lacking, cells.comparisons(rows[0].outcomes, "t", "m"), pd.DataFrame({"task": []}))
    assert f"Not in this table: {tables.absent(lacking)}." in written


def test_edited_samples_enter_no_table(tmp_path):
    settings = synthetic.made(tmp_path, (0,), 20, seeds=[0])
    path = runs.stage_dir(settings, "evaluate") / "samples.jsonl"
    path.write_text(path.read_text().replace('"correct": false', '"correct": true', 1))
    rows, lacking = tables.gather(settings)
    assert [one.seed for one in rows[0].evaluated] == [None] and list(lacking) == ["seed 0"]


def test_other_settings_never_share_a_table(tmp_path):
    settings = synthetic.made(tmp_path, (0,), 20)
    synthetic.write_runs(settings.model_copy(update={"learning_rate": 1e-4}), (0, 1), 20)
    [row], lacking = tables.gather(settings)
    assert [one.seed for one in row.evaluated] == [None, 0] and not lacking
    wanted = {runs.stage_dir(one, "evaluate").name.rpartition("-")[2] for one in row.evaluated}
    assert set(row.cells["identity_hash"]) == wanted


def test_a_table_says_where_its_rows_were_not_run_alike(tmp_path):
    settings = synthetic.made(tmp_path, (0,), 20)
    assert tables.gather(settings)[0][0].notes == []
    other = settings.model_copy(update={"sample_batch": 8, "dtype": "bfloat16"})
    synthetic.write_runs(other, (1,), 20, {"adopted": [{"folder": "evaluate-seed1-0123abcd", "lines": 7}]})
    [row], _ = tables.gather(settings)
    assert row.notes == [
        "train was run with dtype float32 (seed 0), bfloat16 (seed 1)",
        "train was run with sample_batch 256 (seed 0), 8 (seed 1)",
        "evaluate was run with dtype float32 (base model, seed 0), bfloat16 (seed 1)",
        "evaluate was run with sample_batch 256 (base model, seed 0), 8 (seed 1)",
        "seed 1 has 7 lines from evaluate-seed1-0123abcd",
    ]
    written = tables.report([row], {}, cells.comparisons(row.outcomes, "t", "m"), pd.DataFrame({"task": []}))
    assert "Rows differ in how they were run: train was run with dtype float32 (seed 0)" in written


def test_nothing_run_says_what_to_run(tmp_path):
    settings = synthetic.made(tmp_path, (), 20)
    runs.stage_dir(settings.model_copy(update={"seed": None}), "evaluate").rename(tmp_path / "away")
    with pytest.raises(ResultsError, match=r"\(base model: not run; seed 0: not run\): make reproduce PROFILE=tiny"):
        tables.gather(settings)


def test_names_of_policies_and_tries_have_one_place():
    assert tuple(text.POLICIES) == POLICIES and tuple(text.SECOND) == CONTROLS
    assert list(text.TRIES) == [("first", ""), *(("second", control) for control in CONTROLS)]


def test_the_recovery_rate_is_the_share_of_failures_that_the_retry_recovers(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (0,), 60))
    table = tables.main_table(row).set_index("policy")
    content = kinds.table("countdown", row.samples)
    greedy = content[content["decoding"] == "greedy"]
    for policy, rate in greedy.groupby("policy")["recovered"].mean().items():
        assert table.loc[policy, "recovery rate"] == f"{100 * rate:.1f}"
    assert tables.kinds_table(content)["reflections"].sum() == len(greedy)


def test_all_right_at_first_leaves_nothing_to_recover(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (), 20))
    right = [line | {"second": {}, "verdict": {"correct": True, "lenient": True}} for line in row.samples]
    counted = cells.cells(right, row.task, row.model, "h")
    averaged = cells.over_seeds(cells.outcomes(right), row.task, row.model)
    table = tables.main_table(row._replace(cells=counted, averaged=averaged))
    assert table["recovery rate"].tolist() == ["0.0"] and table["second: blind, same tokens"].tolist() == [""]


@pytest.mark.parametrize("hostile", ["a\x1b[31m|b", "<script>x</script>", "<!-- -->\n```"])
def test_hostile_texts_are_shown_as_text(hostile, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    tables.show(hostile, pd.DataFrame({hostile: [hostile, 1]}), [hostile])
    html = shown[0].data
    assert html.encode() and "\x1b" not in html and "<script>" not in html and "<!--" not in html
    line = text.markdown(pd.DataFrame({hostile: [hostile]})).splitlines()
    assert len(line) == 3 and all(one.count("|") == 2 and one.isprintable() for one in line)
