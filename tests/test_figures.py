"""Every figure is drawn from many and from few rows, with its CSV, and comes out the same twice."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic

from rrr_utils import files
from rrr_utils.report import cells, figures, kinds, tables, text
from rrr_utils.settings import CONTROLS
from rrr_utils.tasks import countdown


@pytest.fixture(scope="module")
def row(tmp_path_factory):
    [row], _ = tables.gather(synthetic.made(tmp_path_factory.mktemp("runs"), (0, 1), 60))
    return row


def drawn(row, folder) -> list:
    return list(figures.all_of(row, kinds.table("countdown", row.samples), folder))


@pytest.fixture(scope="module")
def folder(row, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    drawn(row, folder)
    return folder


def test_each_figure_has_its_rows_as_csv_and_is_the_same_again(row, folder, tmp_path):
    second = drawn(row, tmp_path)
    first = [folder / path.name for path in second]
    names = ["cells", "cells-sampled", "controls", "training", "lengths", "recovery-by-length"]
    assert [p.name for p in first] == [f"{name}-countdown-model.png" for name in names]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes()[:4] == b"\x89PNG" and one.stat().st_size > 10_000
        assert "nan" not in one.with_suffix(".svg").read_text().lower()
        for suffix in (".png", ".svg", ".csv"):
            assert one.with_suffix(suffix).read_bytes() == other.with_suffix(suffix).read_bytes()
        assert len(pd.read_csv(one.with_suffix(".csv"))) > 0


def test_the_csv_files_are_what_is_drawn(row, folder):
    rows = pd.read_csv(folder / "recovery-by-length-countdown-model.csv")
    content = kinds.table("countdown", row.samples)
    greedy = content[content["decoding"] == "greedy"]
    assert rows.groupby("policy")["n"].sum().to_dict() == greedy["policy"].value_counts().to_dict()
    assert (rows["ci_low"] <= rows["recovered"]).all() and (rows["recovered"] <= rows["ci_high"]).all()
    bars = pd.read_csv(folder / "cells-countdown-model.csv", keep_default_na=False)
    assert set(bars["control"]) == {"", *text.HEADLINE} and set(bars["decoding"]) == {"greedy"}
    beside = pd.read_csv(folder / "controls-countdown-model.csv")
    assert set(beside["control"]) == set(CONTROLS) and set(beside["policy"]) == {"vanilla", "trained"}
    lengths = pd.read_csv(folder / "lengths-countdown-model.csv")
    assert lengths["n"].sum() == len(greedy)
    steps = pd.read_csv(folder / "training-countdown-model.csv")
    assert len(steps) == 60 and steps[list(countdown.KINDS)].sum(axis=1).round(9).eq(1).all()


def of(row, lines, seeds, decoding):
    """A row as if only these lines were there."""
    outcomes = cells.outcomes(lines)
    evaluated = [one.model_copy(update={"decodings": (decoding,)}) for one in row.evaluated if one.seed in seeds]
    counted, averaged = cells.cells(lines, "t", "m", "h"), cells.over_seeds(outcomes, "t", "m")
    return row._replace(settings=evaluated[0], evaluated=evaluated, samples=lines, cells=counted, averaged=averaged)


def test_the_base_model_alone_can_be_drawn(row, tmp_path):
    lines = [s for s in row.samples if s["policy"] == "vanilla" and s["decoding"] == "greedy"]
    names = [f"{name}-countdown-model.png" for name in ("cells", "controls", "lengths", "recovery-by-length")]
    assert [path.name for path in drawn(of(row, lines, [None], "greedy"), tmp_path)] == names


def test_the_controls_of_a_headline_table_alone_have_no_figure_of_their_own(row, tmp_path):
    few = {"", *text.HEADLINE}
    alone = row._replace(
        **{name: x[x["control"].isin(few)] for name, x in (("averaged", row.averaged), ("cells", row.cells))}
    )
    assert not any(path.name.startswith("controls") for path in drawn(alone, tmp_path))
    with_forced = row.averaged[row.averaged["control"].isin(["", "own", "forced"])]
    assert figures.controls(with_forced, tmp_path / "forced").is_file()


def test_sampled_decoding_alone_can_be_drawn(row, tmp_path):
    alone = of(row, [s for s in row.samples if s["decoding"] == "sampled"], [None, 0, 1], "sampled")
    names = [
        f"{name}-countdown-model.png" for name in ("cells", "controls", "training", "lengths", "recovery-by-length")
    ]
    assert [path.name for path in drawn(alone, tmp_path)] == names
    assert len(tables.main_table(alone)) == 7


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_reflections_can_be_drawn(row, tmp_path, count):
    content = kinds.table("countdown", row.samples).head(count)
    alone = row._replace(evaluated=row.evaluated[:1])  # so without the figure of training
    pictures = list(figures.all_of(alone, content, tmp_path / "figures"))
    assert len(pictures) == 3 + 2 * count and all(path.is_file() for path in pictures)
    lines, logged = synthetic.training_log(synthetic.problems(60), 0, 1)
    files.append_jsonl(tmp_path / "training.jsonl", lines)
    assert figures.training_curves("countdown", {0: tmp_path}, tmp_path / "no kinds yet").is_file()
    files.append_jsonl(tmp_path / "reflections.jsonl", logged)
    assert figures.training_curves("countdown", {0: tmp_path}, tmp_path / "one step").is_file()


def test_a_folder_that_cannot_be_written_is_one_plain_line(row, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file") as refused:
        figures.lengths(kinds.table("countdown", row.samples), tmp_path / "file" / "lengths")
    assert "\n" not in str(refused.value)
