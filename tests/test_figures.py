"""Every figure is drawn from full and from scanty rows, with its CSV beside it, and comes out the same twice."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic

from rrr_utils.report import cells, figures, kinds, tables
from rrr_utils.tasks import countdown


@pytest.fixture(scope="module")
def run():
    rows, lines = synthetic.problems(60), []
    for policy, seed in (("vanilla", None), ("trained", 0), ("reflector", 0), ("reflector", 1), ("trained", 1)):
        for decoding in ("greedy", "sampled"):
            lines += synthetic.samples(rows, policy, seed, decoding)
    frame = cells.outcomes(lines)
    counted = cells.cells(frame, "countdown", "embedded", "0123abcd")
    return tables.Run("countdown", "embedded", [], lines, frame, counted, "strict", {})


def drawn(run, folder, seeds=(0, 1)) -> list:
    logs, steps = {}, {}
    for seed in seeds:
        logs[seed], logged = synthetic.training_log(synthetic.problems(60), seed, 12)
        steps[seed] = kinds.over_steps("countdown", logged)
    averaged = cells.over_seeds(run.outcomes, run.task, run.model)
    return list(figures.all_of(run, averaged, kinds.table("countdown", run.samples), logs, steps, folder))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    drawn(run, folder)
    return folder


def test_each_figure_has_its_rows_beside_it_and_is_the_same_again(run, folder, tmp_path):
    second = drawn(run, tmp_path)
    first = [folder / path.name for path in second]
    names = ["cells", "cells-sampled", "training", "lengths", "rescue-by-length"]
    assert [p.name for p in first] == [f"{name}-countdown-embedded.png" for name in names]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes()[:4] == b"\x89PNG" and one.stat().st_size > 10_000
        for suffix in (".png", ".svg", ".csv"):
            assert one.with_suffix(suffix).read_bytes() == other.with_suffix(suffix).read_bytes()
        assert len(pd.read_csv(one.with_suffix(".csv"))) > 0


def test_rows_beside_the_figures_are_what_is_drawn(run, folder):
    rows = pd.read_csv(folder / "rescue-by-length-countdown-embedded.csv")
    content = kinds.table("countdown", run.samples)
    greedy = content[content["decoding"] == "greedy"]
    assert rows.groupby("policy")["n"].sum().to_dict() == greedy["policy"].value_counts().to_dict()
    assert (rows["ci_low"] <= rows["rescued"]).all() and (rows["rescued"] <= rows["ci_high"]).all()
    lengths = pd.read_csv(folder / "lengths-countdown-embedded.csv")
    assert lengths["n"].sum() == len(greedy)
    steps = pd.read_csv(folder / "training-countdown-embedded.csv")
    assert len(steps) == 24 and steps[list(countdown.KINDS)].sum(axis=1).round(9).eq(1).all()


def test_the_untrained_model_alone_can_be_drawn(run, tmp_path):
    lines = [s for s in run.samples if s["policy"] == "vanilla" and s["decoding"] == "greedy"]
    alone = run._replace(samples=lines, outcomes=cells.outcomes(lines), cells=cells.cells(lines, "t", "m", "h"))
    assert [p.name for p in drawn(alone, tmp_path, seeds=())] == [
        f"{n}-countdown-embedded.png" for n in ("cells", "lengths", "rescue-by-length")
    ]


def test_sampled_decoding_alone_can_be_drawn(run, tmp_path):
    lines = [s for s in run.samples if s["decoding"] == "sampled"]
    alone = run._replace(samples=lines, outcomes=cells.outcomes(lines), cells=run.cells[run.cells["decoding"] == "sampled"])
    assert len(drawn(alone, tmp_path)) == 4 and len(tables.main_table(alone)) == 7


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_reflections_can_be_drawn(run, tmp_path, count):
    content = kinds.table("countdown", run.samples).head(count)
    assert figures.lengths(content, tmp_path / "lengths").is_file() if count else True
    assert figures.rescue_by_length(content, tmp_path / "rescue").is_file()
    logs, logged = synthetic.training_log(synthetic.problems(60), 0, 1)
    assert figures.training({0: logs}, {0: kinds.over_steps("countdown", logged)}, tmp_path / "training").is_file()


def test_a_folder_that_cannot_be_written_is_one_plain_line(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file") as refused:
        figures.lengths(kinds.table("countdown", run.samples), tmp_path / "file" / "lengths")
    assert "\n" not in str(refused.value)
