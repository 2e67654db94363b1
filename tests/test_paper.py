"""The paper's cells: only what is known, lines of a reader's own, verdicts."""

from __future__ import annotations

import pandas as pd
import pytest

from rrr_utils.report import paper
from rrr_utils.tasks import DataError

#: every cell of the paper that is known: task, model, cell, relation, %, certainty
KNOWN = {
    ("function_calling", "Qwen2-1.5B-Instruct", "vanilla_first", "=", 32.6, "V"),
    ("function_calling", "Qwen2-1.5B-Instruct", "vanilla_second", "=", 34.8, "V"),
    ("function_calling", "Qwen2-1.5B-Instruct", "trained_first", "=", 48.6, "V"),
    ("function_calling", "Qwen2-1.5B-Instruct", "trained_second", "=", 52.9, "V"),
    ("function_calling", "Qwen2-7B-Instruct", "vanilla_first", "=", 66.4, "V"),
    ("function_calling", "Qwen2-7B-Instruct", "trained_first", "=", 72.2, "S"),
    ("function_calling", "Qwen2-7B-Instruct", "trained_second", "=", 77.3, "S"),
    ("function_calling", "Llama-3.1-8B-Instruct", "vanilla_first", "=", 64.9, "S"),
    ("function_calling", "Llama-3.1-8B-Instruct", "trained_first", "=", 68.7, "S"),
    ("function_calling", "Qwen2-72B-Instruct", "vanilla_second", "=", 76.6, "S"),
    ("countdown", "Qwen2.5-1.5B-Instruct", "vanilla_first", "=", 6.0, "S"),
    ("countdown", "Qwen2.5-1.5B-Instruct", "vanilla_second", "=", 10.2, "S"),
    ("countdown", "Qwen2.5-1.5B-Instruct", "trained_first", "=", 34.9, "S"),
    ("countdown", "Qwen2.5-1.5B-Instruct", "trained_second", "=", 45.0, "S"),
    ("countdown", "Qwen2.5-7B-Instruct", "vanilla_first", "=", 31.7, "S"),
    ("countdown", "Qwen2.5-7B-Instruct", "trained_first", "=", 41.6, "S"),
    ("countdown", "Qwen2.5-7B-Instruct", "trained_second", ">", 50.0, "V"),
    ("countdown", "Llama-3.1-8B-Instruct", "vanilla_first", "=", 2.2, "S"),
    ("countdown", "Llama-3.1-8B-Instruct", "trained_first", "=", 8.8, "S"),
}


def test_the_file_holds_what_is_known_and_no_more():
    frame = paper.load()
    columns = ["task", "model", "cell", "relation", "value", "certainty"]
    assert set(frame[columns].itertuples(index=False, name=None)) == KNOWN and len(frame) == len(KNOWN)
    assert list(frame.columns) == ["table", "task", "model", "cell", "relation", "value", "certainty", "source"]


def ours(model: str, cell: str, accuracy: float, low: float, high: float, seed: int = 0) -> dict:
    policy, attempt, control = paper.CELLS[cell]
    place = {"policy": policy, "seed": seed, "decoding": "greedy", "attempt": attempt, "control": control}
    return {"task": "countdown", "model": model, **place, "accuracy": accuracy, "ci_low": low, "ci_high": high}


@pytest.mark.parametrize(
    ("cell", "low", "high", "verdict"),
    [("vanilla_first", 0.30, 0.33, "within"), ("vanilla_first", 0.32, 0.35, "above"), ("vanilla_first", 0.25, 0.31, "below"),
     ("trained_second", 0.48, 0.52, "within"), ("trained_second", 0.60, 0.70, "within"), ("trained_second", 0.40, 0.50, "below"),
     ("vanilla_second", 0.40, 0.50, "not available")],
)  # fmt: skip
def test_verdicts(cell, low, high, verdict):
    mine = pd.DataFrame([ours("Qwen/Qwen2.5-7B-Instruct", cell, (low + high) / 2, low, high)])
    frame = paper.compare(mine)
    row = frame[(frame["task"] == "countdown") & (frame["model"] == "Qwen2.5-7B-Instruct") & (frame["cell"] == cell)].iloc[0]
    assert row["verdict"] == verdict and row["ours"] == pytest.approx(50 * (low + high))


def test_what_was_not_run_or_is_not_known_says_so():
    frame = paper.compare(pd.DataFrame([ours("embedded", "trained_second", 0.5, 0.4, 0.6)]))
    verdicts = frame.set_index(["task", "model", "cell"])["verdict"]
    assert verdicts["countdown", "embedded", "trained_second"] == "not available"
    assert verdicts["countdown", "Qwen2.5-1.5B-Instruct", "trained_second"] == "not run"
    assert verdicts["countdown", "Qwen2.5-3B-Instruct", "trained_second"] == "not available"
    assert ("function_calling", "Qwen2-72B-Instruct", "trained_second") not in verdicts.index  # it was not trained
    known = {(r[0], r[1], r[2]) for r in KNOWN}
    assert all((key in known) == pd.notna(value) for key, value in frame.set_index(["task", "model", "cell"])["paper"].items())


def test_seeds_are_averaged():
    rows = [ours("embedded", "trained_second", a, a - 0.1, a + 0.1, seed) for seed, a in enumerate((0.4, 0.6))]
    frame = paper.compare(pd.DataFrame(rows))
    assert frame[(frame["model"] == "embedded") & (frame["cell"] == "trained_second")]["ours"].item() == pytest.approx(50)


def test_a_reader_fills_a_cell_with_one_line(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text(paper.PATH.read_text() + 'main,countdown,Qwen2.5-3B-Instruct,trained_second,=,1.5,V,"made up, for this test"\n\n')
    frame = paper.compare(pd.DataFrame([ours("Qwen/Qwen2.5-3B-Instruct", "trained_second", 0.5, 0.4, 0.6)]), paper.load(path))
    row = frame[(frame["model"] == "Qwen2.5-3B-Instruct") & (frame["cell"] == "trained_second")].iloc[0]
    assert (row["paper"], row["verdict"]) == (1.5, "above")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,45.0%,V,me", "line 21: value '45.0%' is no number"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,145,V,me", "from 0 to 100"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,nan,V,me", "from 0 to 100"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_2nd,=,45,V,me", "unknown cell 'trained_2nd'; did you mean 'trained_second'"),
        ("main,count_down,Qwen2.5-3B-Instruct,trained_second,=,45,V,me", "unknown task 'count_down'; did you mean 'countdown'"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,~,45,V,me", "relation '~'"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,45,X,me", "certainty 'X'"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,45,V", "7 fields, not 8"),
        ("main,countdown,,trained_second,=,45,V,me", "model is empty"),
        ("main,countdown,Qwen2.5-7B-Instruct,vanilla_first,=,31.7,V,me", "is already on line"),
    ],
)
def test_a_bad_line_is_refused_in_one_line(tmp_path, line, message):
    path = tmp_path / "paper.csv"
    path.write_text(paper.PATH.read_text() + line + "\n")
    with pytest.raises(DataError, match="line 21") as refused:
        paper.load(path)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_of_another_shape_is_refused(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text("task,model\n")
    with pytest.raises(DataError, match="the columns must be table,task,model,cell,relation,value,certainty,source"):
        paper.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        paper.load(tmp_path / "absent.csv")


def test_the_table_stands_straight():
    text = paper.markdown(paper.table(paper.compare(pd.DataFrame([ours("embedded", "vanilla_first", 0.28, 0.25, 0.31)]))))
    assert len({len(line) for line in text.splitlines()}) == 1
    assert ">50.0 (V) / not run" in text and "| - / 28.0 [25.0, 31.0]" in text and "not available" in text
