"""From whole run folders to the tables: gathering, refusing to mix, notebook 04 without torch, publishing."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import synthetic

from rrr_utils import files, runs
from rrr_utils.errors import ResultsError
from rrr_utils.report import cells, publish, tables
from rrr_utils.settings import ROOT, load

MARKERS = "".join(f"# {name}\n<!-- generated:{name} -->\n<!-- /generated:{name} -->\n" for name in ("table", "kinds", "examples"))


def made(folder, seeds=(0, 1), n=50, **overrides):
    """Settings whose evaluations are there, of a model that is no model."""
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "m.safetensors"):
        (model / name).write_text("{}")
    settings = load("tiny", {"results_dir": str(folder / "runs"), "model": str(model), **overrides})
    synthetic.write_runs(settings, seeds, n)
    return settings


@pytest.fixture(scope="module")
def run_by_notebook(tmp_path_factory):
    """The tables of synthetic runs, made by notebook 04's own code where torch cannot be imported."""
    folder = tmp_path_factory.mktemp("tables")
    settings = made(folder)
    command = [sys.executable, str(ROOT / "tests" / "torch_free.py"), settings.results_dir, settings.model]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return settings, done.stdout


def test_notebook_04_and_rescoring_need_no_torch(run_by_notebook):
    settings, said = run_by_notebook
    folder = runs.stage_dir(settings, "tables")
    assert runs.done(settings, "tables")["summary"]["missing"] == ["seed 2: not run"]
    assert "countdown, model: vanilla, seed0, seed1; 50 test problems" in said
    frame = pd.read_csv(folder / "cells.csv")
    assert list(frame.columns) == cells.CELLS and len(frame) == 5 * 2 * 4
    assert list(pd.read_csv(folder / "comparisons.csv").columns) == cells.COMPARISONS
    report = (folder / "report.md").read_text()
    for piece in (
        "greedy decoding",
        "sampled decoding",
        "reflector/1/second/own-blind",
        "45.0 (S) / not run",
        "Not in this report: seed 2: not run.",
    ):
        assert piece in report
    assert max(len(line) for line in report.splitlines()) < 160
    assert "changed their verdict" in said


def test_the_notebook_as_committed_is_the_default_run_and_holds_no_outputs():
    notebook = json.loads((ROOT / "notebooks" / "04_paper_tables.ipynb").read_text(encoding="utf-8"))
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    defaults: dict = {}
    exec("".join(first["source"]), defaults)
    wanted = {"profile": "tiny", "task": None, "model": None, "seed": 0, "results_dir": "results/runs", "overrides": {}}
    assert {name: defaults[name] for name in wanted} == wanted and first["metadata"]["tags"] == ["parameters"]
    for before, cell in itertools.pairwise(notebook["cells"]):
        if cell["cell_type"] == "code":
            assert before["cell_type"] == "markdown" and len(cell["source"]) <= 25
            assert not cell["outputs"] and cell["execution_count"] is None


def test_the_tables_are_stale_once_a_result_changes(run_by_notebook, tmp_path):
    settings, _ = run_by_notebook
    path = runs.stage_dir(settings.model_copy(update={"seed": 1}), "evaluate") / "result.json"
    kept = path.read_text()
    path.write_text(kept.replace(json.loads(kept)["identity_hash"], "00000000"))
    try:
        assert runs.done(settings, "tables") is None
        with pytest.raises(ResultsError, match="not there or not of the present results"):
            publish.publish(settings, tmp_path)
    finally:
        path.write_text(kept)


def test_publishing_copies_what_is_committed_and_fills_in_readme(run_by_notebook, tmp_path):
    settings, _ = run_by_notebook
    (tmp_path / "results" / "tiny" / "old" / "model" / "seed7" / "train").mkdir(parents=True)
    (tmp_path / "results" / "tiny" / "RECIPE.md").write_text("what was tried")
    (tmp_path / "README.md").write_text("before\n" + MARKERS + "after\n")
    folder = publish.publish(settings, tmp_path)
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    wanted = {"RECIPE.md", "cells.csv", "seeds.csv", "comparisons.csv", "kinds.csv", "paper.csv", "report.md", "result.json"}
    wanted |= {
        f"countdown/model/{who}/evaluate/{name}" for who in ("vanilla", "seed0", "seed1") for name in ("result.json", "samples.jsonl.gz")
    }
    wanted |= {f"countdown/model/seed{k}/train/{name}" for k in (0, 1) for name in ("result.json", "training.jsonl")}
    assert {name for name in there if not name.startswith("figures/")} == wanted
    assert {f"figures/training-countdown-model{suffix}" for suffix in (".png", ".svg", ".csv")} <= there
    packed = folder / "countdown/model/seed0/evaluate/samples.jsonl.gz"
    assert gzip.decompress(packed.read_bytes()) == (runs.stage_dir(settings, "evaluate") / "samples.jsonl").read_bytes()
    assert not any(str(ROOT) in p.read_text() for p in folder.rglob("*.json"))
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "results/tiny/figures/training-countdown-model.png" in text and "| reflector | mean |" in text
    assert text.count("```text") == 3 and "reflection before training" in text and "by the sha256 of their id" in text
    first = {name: (folder / name).read_bytes() for name in there}
    publish.publish(settings, tmp_path)
    assert {name: (folder / name).read_bytes() for name in there} == first and (tmp_path / "README.md").read_text() == text


def test_examples_are_those_that_the_rule_picks(run_by_notebook):
    settings, _ = run_by_notebook
    run = tables.gather("tiny", settings.results_dir)[0]
    text = publish.examples(run, count=1)
    before, after = ({s["id"]: s for s in run.samples if (s["policy"], s["decoding"]) == (p, "greedy") and s["seed"] in (None, 0)}
                     for p in ("vanilla", "reflector"))  # fmt: skip
    fits = [
        i
        for i in before
        if before[i]["second"] and not before[i]["second"]["own"]["verdict"]["correct"] and after[i]["second"]["own"]["verdict"]["correct"]
    ]
    chosen = min(fits, key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    assert f"got {len(fits)} right on the second" in text
    for part in (before[chosen]["second"]["own"]["reflection"], after[chosen]["second"]["own"]["reflection"], after[chosen]["attempt"]):
        assert part in text


def test_results_of_different_settings_share_no_table(tmp_path):
    settings = made(tmp_path, (), 20)
    synthetic.write_runs(settings.model_copy(update={"model": settings.model, "temperature": 0.5}), (0,), 20)
    vanilla = runs.stage_dir(settings.model_copy(update={"seed": None}), "evaluate")
    other = vanilla.with_name("aside")
    vanilla.rename(other)
    synthetic.write_runs(settings, (), 20)
    with pytest.raises(ResultsError, match="'temperature' is") as refused:
        tables.gather("tiny", settings.results_dir)
    assert "\n" not in str(refused.value)


def test_nothing_run_says_what_to_run(tmp_path):
    with pytest.raises(ResultsError, match="make reproduce PROFILE=tiny"):
        tables.gather("tiny", str(tmp_path))


def test_the_ceiling_is_the_best_kinds_rescue_rate_at_the_gate(tmp_path, monkeypatch):
    settings = made(tmp_path, (0,), 30)
    run = tables.gather("tiny", settings.results_dir)[0]._replace(ceiling={"greedy": 0.6})
    table = tables.main_table(run, "greedy")
    assert table["way to ceiling"].tolist()[0] == "" and table["way to ceiling"].tolist()[1].endswith("%")
    monkeypatch.setattr(tables, "DATA", tmp_path)
    gates = {"greedy": {"best_kind": "search", "rescued": {"empty": 0.1, "search": 0.7}}}
    files.write_json(tmp_path / "embedded/countdown/gate.json", gates)
    assert tables._ceiling("countdown", "embedded") == {"greedy": 0.7}
    assert tables._ceiling("countdown", "other/model") == {} == tables._ceiling("chess", "embedded")


@pytest.mark.parametrize("text", ["", "<!-- generated:table -->", MARKERS + MARKERS])
def test_a_readme_without_markers_is_refused(text):
    with pytest.raises(ResultsError, match="README.md must hold one"):
        publish.fill(text, {"table": "x"})


def test_the_command_line_ends_in_one_plain_line(tmp_path, capsys):
    assert publish.main(["--profile", "tinny"]) == 1
    assert capsys.readouterr().err == "publish: unknown profile 'tinny'; did you mean 'tiny'?\n"
    assert publish.main(["--results-dir", str(tmp_path)]) == 1
    assert "python -m rrr_utils.launch tables" in capsys.readouterr().err
