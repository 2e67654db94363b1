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

SEEN = ["second: own reflection", "second: blind"]  # with no failure there is no telling what else was run


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
    assert list(frame.columns) == cells.CELLS and len(frame) == 2 * (1 + len(CONTROLS)) + 4 * 2 * (
        1 + len(CONTROLS) - 2
    )  # forced, outright: the base model's
    assert list(pd.read_csv(folder / "comparisons.csv").columns) == cells.COMPARISONS
    written = (folder / "report.md").read_text()
    for piece in (
        *(
            "greedy decoding",
            "sampled decoding",
            "reflecting beats a fixed hint",
            "In words",
            "45.0 (S) / not run",
            "recovery rate",
        ),
        "Not in this table: seed 2: not run.",
    ):
        assert piece in written
    assert "another problem's" in written and "in 2 of 2 seeds" in written and " nan" not in written
    tables_only = written.partition("# Reflections before and after")[0]  # then come whole texts
    assert max(len(line) for line in tables_only.splitlines()) < 160
    assert "changed their verdict" in said and "evaluate-seed1-" in said


def test_cells_for_people_who_plot_are_those_of_the_last_tables_or_the_published_ones(run_by_notebook, tmp_path):
    settings, _ = run_by_notebook
    frame = report.load("tiny", settings.results_dir)
    assert set(frame["control"]) == {"", *CONTROLS} and frame["seed"].isna().sum() == 2 * (1 + len(CONTROLS))
    published = report.load("tiny", str(tmp_path))
    assert set(published["model"]) == {"embedded"}
    with pytest.raises(ResultsError, match="make reproduce PROFILE=nothing"):
        report.load("nothing", str(tmp_path))


def test_the_notebook_runs_by_default_with_nothing_changed_and_is_explained_cell_by_cell():
    notebook = json.loads((ROOT / "notebooks" / "04_paper_tables.ipynb").read_text(encoding="utf-8"))
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    defaults: dict = {}
    exec("".join(first["source"]), defaults)
    wanted = {"profile": "tiny", "task": None, "model": None, "seed": 0, "results_dir": None, "overrides": {}}
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
        f"train was run with sample_batch {settings.sample_batch} (seed 0), 8 (seed 1)",
        "evaluate was run with dtype float32 (base model, seed 0), bfloat16 (seed 1)",
        f"evaluate was run with sample_batch {settings.sample_batch} (base model, seed 0), 8 (seed 1)",
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


def test_the_recovery_rate_is_of_the_base_models_failures_for_every_policy(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (0, 1), 60))
    lines = [line for line in row.samples if line["decoding"] == "greedy"]
    failed = {x["id"] for x in lines if x["policy"] == "vanilla" and not x["verdict"]["correct"]}
    table = tables.main_table(row).set_index(["policy", "seed"])["recovery rate"]
    for (policy, seed), rate in table.items():
        own = [x for x in lines if x["policy"] == policy and x["id"] in failed and seed in ("mean", "", str(x["seed"]))]
        right = [x["verdict"]["correct"] or x["second"]["own"]["verdict"]["correct"] for x in own]
        assert rate == f"{100 * sum(right) / len(right):.1f}" and len(right) == len(failed) * (
            2 if seed == "mean" else 1
        )
    alone = row._replace(outcomes=row.outcomes[row.outcomes["policy"] != "vanilla"])
    assert set(tables.main_table(alone)["recovery rate"]) == {""}  # nothing to be of the same items as
    content = kinds.table("countdown", row.samples)
    greedy = content[content["decoding"] == "greedy"]
    assert tables.kinds_table(content)["reflections"].sum() == len(greedy)


def test_a_first_try_that_training_mends_counts_as_recovered(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (0,), 20))
    here = row.outcomes["policy"] == "trained"
    mended = row.outcomes.assign(
        first=row.outcomes["first"].where(~here, 1.0), own=row.outcomes["own"].where(~here, 1.0)
    )
    table = tables.main_table(row._replace(outcomes=mended)).set_index("policy")
    assert table.loc["trained", "recovery rate"] == "100.0"


def test_the_headline_table_and_the_other_controls_hold_every_second_try_once(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (0, 1), 20))
    head, others = tables.main_table(row), tables.controls_table(row, "sampled")
    titles = [text.TRIES["first", ""], *(text.TRIES["second", name] for name in text.HEADLINE)]
    assert list(head.columns) == ["policy", "seed", *titles, "recovery rate"]
    assert others["second try"].tolist() == [text.SECOND[name] for name in CONTROLS if name not in text.HEADLINE[1:]]
    mean = row.averaged.set_index(["policy", "decoding", "control"]).loc["trained", "sampled", "masked"]
    shown = others.set_index("second try")["trained"]
    assert shown[text.SECOND["masked"]].startswith(f"{100 * mean['accuracy']:.1f} [")
    assert shown[text.SECOND["forced"]] == ""
    few = row._replace(averaged=row.averaged[row.averaged["control"].isin(["", "own", "blind"])])
    assert tables.controls_table(few).empty
    few = few._replace(cells=row.cells[row.cells["control"].isin(["", "own", "blind"])])
    assert list(tables.main_table(few).columns) == ["policy", "seed", *titles[:3], "recovery rate"]


def test_comparisons_are_printed_with_what_they_say(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (0, 1), 60))
    compared = cells.comparisons(row.outcomes, row.task, row.model)
    table = tables.comparison_table(compared)
    assert len(table) == 10 and table["question"].tolist() == 2 * list(cells.QUESTIONS)
    first = compared.iloc[0]
    assert table.loc[0, "single seeds"] == f"{100 * first['lowest']:+.1f} to {100 * first['highest']:+.1f}"
    said = tables.in_words(compared).splitlines()
    assert said[0] == f"- training improves the second try (trained, greedy): {first['finding']}"
    assert said[-1] == "- training improves the first try (trained, sampled): no difference in any item"


def test_all_right_at_first_leaves_nothing_to_recover(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (), 20))
    right = [line | {"second": {}, "verdict": {"correct": True, "lenient": True}} for line in row.samples]
    counted, outcomes = cells.cells(right, row.task, row.model, "h"), cells.outcomes(right)
    averaged = cells.over_seeds(outcomes, row.task, row.model)
    table = tables.main_table(row._replace(cells=counted, averaged=averaged, outcomes=outcomes))
    assert table["recovery rate"].tolist() == [""] and list(table.columns)[2:] == ["first try", *SEEN, "recovery rate"]


@pytest.mark.parametrize("hostile", ["a\x1b[31m|b", "<script>x</script>", "<!-- -->\n```"])
def test_hostile_texts_are_shown_as_text(hostile, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    tables.show(hostile, pd.DataFrame({hostile: [hostile, 1]}), [hostile])
    html = shown[0].data
    assert html.encode() and "\x1b" not in html and "<script>" not in html and "<!--" not in html
    line = text.markdown(pd.DataFrame({hostile: [hostile]})).splitlines()
    assert len(line) == 3 and all(one.count("|") == 2 and one.isprintable() for one in line)
