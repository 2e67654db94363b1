"""The paper's cells: only what is known, lines of a reader's own, verdicts."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic

from rrr_utils.report import paper, statistics, tables
from rrr_utils.report.text import markdown
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


def ours(model: str, cell: str, accuracy: float, low: float, high: float, **other) -> pd.DataFrame:
    """One averaged cell, of the paper's Countdown set unless `data` or `n` say otherwise."""
    policy, attempt, control = paper.CELLS[cell]
    place = {"policy": policy, "decoding": "greedy", "attempt": attempt, "control": control}
    data = {"data": "hub:Jiayi-Pan/Countdown-Tasks-3to4@0123abcd", "n": 15_000}
    share = {"accuracy": accuracy, "ci_low": low, "ci_high": high}
    return pd.DataFrame([{"task": "countdown", "model": model, **place, **share, **data, **other}])


def verdict_of(frame: pd.DataFrame, model: str, cell: str) -> str:
    return frame[(frame["task"] == "countdown") & (frame["model"] == model) & (frame["cell"] == cell)]["verdict"].item()


@pytest.mark.parametrize(
    ("cell", "low", "high", "verdict"),
    [
        ("vanilla_first", 0.30, 0.33, "within +-1.5"),
        ("vanilla_first", 0.32, 0.35, "above"),
        ("vanilla_first", 0.25, 0.31, "below"),
        ("trained_second", 0.48, 0.52, "within +-2.0"),
        ("trained_second", 0.60, 0.70, "within +-5.0"),
        ("trained_second", 0.40, 0.50, "below"),
        ("vanilla_second", 0.40, 0.50, "not available"),
    ],
)
def test_verdicts(cell, low, high, verdict):
    frame = paper.compare(ours("Qwen/Qwen2.5-7B-Instruct", cell, (low + high) / 2, low, high))
    assert verdict_of(frame, "Qwen2.5-7B-Instruct", cell) == verdict
    assert frame["ours"].dropna().item() == pytest.approx(50 * (low + high))


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ({"data": "procedural:numbers=3"}, "not comparable: other data"),
        ({"data": "sha256:0123"}, "not comparable: other data"),
        ({"data": "hub:someone/Countdown-Tasks-3to4@0123abcd"}, "not comparable: other data"),
        ({"n": 1000}, "not comparable: 1000 items, not 15000"),
        ({}, "within +-1.5"),
    ],
)
def test_only_the_same_data_and_number_of_items_are_compared(other, verdict):
    frame = paper.compare(ours("Qwen/Qwen2.5-7B-Instruct", "vanilla_first", 0.315, 0.30, 0.33, **other))
    assert verdict_of(frame, "Qwen2.5-7B-Instruct", "vanilla_first") == verdict
    assert f"31.7 (S) / 31.5 [30.0, 33.0], {verdict}" in markdown(paper.table(frame))


def test_what_was_not_run_or_is_not_known_says_so():
    frame = paper.compare(ours("embedded", "trained_second", 0.5, 0.4, 0.6))
    assert verdict_of(frame, "embedded", "trained_second") == "not available"
    assert verdict_of(frame, "Qwen2.5-1.5B-Instruct", "trained_second") == "not run"
    assert verdict_of(frame, "Qwen2.5-3B-Instruct", "trained_second") == "not available"
    cells_of = frame.set_index(["task", "model", "cell"])["paper"]
    assert ("function_calling", "Qwen2-72B-Instruct", "trained_second") not in cells_of.index  # it was not trained
    known = {(r[0], r[1], r[2]) for r in KNOWN}
    assert all((key in known) == pd.notna(value) for key, value in cells_of.items())


def test_the_interval_is_that_of_the_mean_over_seeds(tmp_path):
    """Not the mean of the seeds' interval ends: seeds are resampled with the clusters."""
    [row], _ = tables.gather(synthetic.made(tmp_path, (0, 1), 60))
    frame = paper.compare(row.averaged)
    mine = frame[(frame["model"] == "model") & (frame["cell"] == "trained_second")].iloc[0]
    is_own = (row.cells["policy"] == "trained") & (row.cells["control"] == "own") & (row.cells["decoding"] == "greedy")
    of_seeds = row.cells[is_own]
    values = row.outcomes[(row.outcomes["policy"] == "trained") & (row.outcomes["decoding"] == "greedy")]
    each = values.pivot(index="seed", columns="id", values="own")
    clusters = values.drop_duplicates("id").set_index("id")["cluster"].loc[each.columns]
    low, high = statistics.cluster_bootstrap(each.to_numpy(), clusters)
    assert mine["ours"] == pytest.approx(100 * of_seeds["accuracy"].mean())
    assert (mine["ci_low"], mine["ci_high"]) == pytest.approx((100 * low, 100 * high), abs=0.3)


def test_first_tries_and_length_are_told_beside_the_paper_s(tmp_path):
    [row], _ = tables.gather(synthetic.made(tmp_path, (0, 1), 60))
    first, _, length = paper.beside("countdown", row.averaged, row.samples).partition("\n- ")
    assert "in the paper Llama-3.1-8B-Instruct 2.2 to 8.8, Qwen2.5-1.5B-Instruct 6.0 to 34.9," in first
    means = row.cells[row.cells["attempt"] == "first"].groupby(["decoding", "policy"])["accuracy"].mean()
    for how in ("greedy", "sampled"):
        assert f"{100 * means[how, 'vanilla']:.1f} to {100 * means[how, 'trained']:.1f} ({how})" in first
        own = {who: [x["second"]["own"]["reflection_tokens"] for x in row.samples if "own" in x["second"]
                     and (x["policy"], x["decoding"]) == (who, how)] for who in ("vanilla", "trained")}  # fmt: skip
        before, after = (sum(each) / len(each) for each in own.values())
        assert f"{before:.0f} to {after:.0f} tokens ({how})" in length
    assert paper.beside("sorting", row.averaged, row.samples) == ""


def test_a_reader_fills_a_cell_with_one_line(tmp_path):
    path = tmp_path / "paper.csv"
    path.write_text(
        paper.PATH.read_text()
        + 'main,countdown,Qwen2.5-3B-Instruct,trained_second,=,1.5,V,"made up, for this test"\n\n'
    )
    frame = paper.compare(ours("Qwen/Qwen2.5-3B-Instruct", "trained_second", 0.5, 0.4, 0.6), paper.load(path))
    row = frame[(frame["model"] == "Qwen2.5-3B-Instruct") & (frame["cell"] == "trained_second")].iloc[0]
    assert (row["paper"], row["verdict"]) == (1.5, "above")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,45.0%,V,me", "line 21: value '45.0%' is not a number"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,145,V,me", "from 0 to 100"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,nan,V,me", "from 0 to 100"),
        (
            "main,countdown,Qwen2.5-3B-Instruct,trained_2nd,=,45,V,me",
            "unknown cell 'trained_2nd'; did you mean 'trained_second'",
        ),
        (
            "main,count_down,Qwen2.5-3B-Instruct,trained_second,=,45,V,me",
            "unknown task 'count_down'; did you mean 'countdown'",
        ),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,~,45,V,me", "unknown relation '~'"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,45,X,me", "unknown certainty 'X'"),
        ("main,countdown,Qwen2.5-3B-Instruct,trained_second,=,45,V", "7 fields, not 8"),
        ("main,countdown,,trained_second,=,45,V,me", "model is empty"),
        ("main,countdown,Qwen2.5-7B-Instruct,vanilla_first,=,31.7,V,me", "is there twice"),
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
    text = markdown(paper.table(paper.compare(ours("embedded", "vanilla_first", 0.28, 0.25, 0.31))))
    assert len({len(line) for line in text.splitlines()}) == 1
    assert ">50.0 (V) / not run" in text and "| - / 28.0 [25.0, 31.0]" in text and "not available" in text
