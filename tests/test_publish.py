"""Publishing: what is committed, the texts' generated parts, what is refused, hostile texts of a model."""

from __future__ import annotations

import gzip
import hashlib

import pandas as pd
import pytest
import synthetic

from rrr_utils import files, runs
from rrr_utils.errors import ResultsError
from rrr_utils.report import (
    cells,
    claims,
    deviations,
    diagnosis,
    error_kinds,
    figures,
    headline,
    kinds,
    paper,
    publish,
    tables,
)
from rrr_utils.report.__main__ import main
from rrr_utils.report.text import markdown
from rrr_utils.settings import ROOT

PAGE, FRONT = (
    "".join(f"# {name}\n<!-- generated:{name} -->\n<!-- /generated:{name} -->\n" for name in names)
    for names in (publish.PARTS, publish.FRONT)
)


def tabulate(settings):
    """The tables of what is there, as notebook 04 writes them; returns settings with their seeds."""
    folder = runs.open_tables(settings)
    rows, lacking = tables.gather(settings)
    compared = pd.concat([cells.comparisons(row.outcomes, row.task, row.model) for row in rows])
    with_paper = paper.compare(rows[0].averaged)
    content = kinds.table(rows[0].settings.task, rows[0].samples)
    list(figures.all_of(rows[0], content, folder / "figures"))
    for name, frame in {
        **{"cells": rows[0].cells, "seeds": rows[0].averaged, "comparisons": compared},
        **{"paper": with_paper, "kinds": tables.kinds_table(content)},
        **{"diagnosis": diagnosis.table(rows[0].settings.task, rows[0].samples)},
        **{"claims": claims.table(rows), "errors": error_kinds.table(rows[0])},
    }.items():
        files.write_text(folder / f"{name}.csv", frame.to_csv(index=False))
    files.write_text(folder / "report.md", tables.report(rows, lacking, compared, with_paper))
    runs.finish(settings, "tables", list(folder.glob("*.*")) + [folder / "figures"], {}, 1.0)
    return settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tabulate(synthetic.made(tmp_path_factory.mktemp("runs"), (0, 1), 60, seeds=[0, 1, 2]))


@pytest.fixture(scope="module")
def row(made):
    return tables.gather(made)[0][0]


def test_publishing_copies_what_is_committed_and_fills_in_the_texts(made, tmp_path):
    (tmp_path / "results" / "tiny" / "countdown" / "model" / "seed7" / "train").mkdir(parents=True)  # the older layout
    for name in ("trials", "ablations", "gates"):
        (tmp_path / "results" / "tiny" / name / "kept").mkdir(parents=True)
    (tmp_path / "results" / "tiny" / "RECIPE.md").write_text("what was tried")
    (tmp_path / "results" / "tiny" / "README.md").write_text("before\n" + PAGE + "after\n")
    (tmp_path / "README.md").write_text("before\n" + FRONT + "after\n")
    folder = publish.publish(made.model_copy(update={"seeds": ()}), tmp_path)  # the seeds are those of the last table
    assert (
        all((folder / name / "kept").is_dir() for name in ("trials", "ablations", "gates"))
        and not (folder / "countdown/model/seed7").exists()
    )
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    wanted = {"RECIPE.md", "README.md", *publish.TABLES, "countdown/model/failures/result.json"}
    for who in ("vanilla", "seed0", "seed1"):
        wanted |= {f"countdown/model/evaluate-{who}/{name}" for name in ("result.json", "samples.jsonl.gz")}
    for k in (0, 1):
        logs = ("result.json", "training.jsonl", "dev.jsonl")
        wanted |= {f"countdown/model/train-seed{k}/{name}" for name in logs}
    assert {name for name in there if not name.startswith("figures/")} == wanted
    assert {f"figures/training-countdown-model{suffix}" for suffix in (".png", ".svg", ".csv")} <= there
    packed = folder / "countdown/model/evaluate-seed0/samples.jsonl.gz"
    assert gzip.decompress(packed.read_bytes()) == (runs.stage_dir(made, "evaluate") / "samples.jsonl").read_bytes()
    assert not any(str(ROOT) in p.read_text() for p in folder.rglob("*.json"))
    assert cells.rescore(packed.parent)["identity_hash"].iloc[0] == runs.stage_dir(made, "evaluate").name[-8:]
    (packed.parent / "cells.rescored.csv").unlink()
    text, front = (folder / "README.md").read_text(), (tmp_path / "README.md").read_text()
    assert all(one.startswith("before\n") and one.endswith("after\n") for one in (text, front))
    assert "| reflector (adapter only while reflecting) |" in front and "mean of 2 trainings" in front
    assert front.count("```text") == 1 and front.split("```text")[1].split("```")[0] in text
    assert "(figures/training-countdown-model.png)" in text and "| reflector | mean |" in text
    assert "Not in this table: seed 2: not run." in text
    assert "1. `model` is model; in the paper one of" in text and deviations.part([made]) in text
    assert "figures/diagnosis-countdown-model.png" in text
    assert text.count("```text") == 3 and "reflection before training" in text and "by the sha256 of their id" in text
    first = {name: (folder / name).read_bytes() for name in there}
    publish.publish(made, tmp_path)
    assert {name: (folder / name).read_bytes() for name in there} == first
    assert (tmp_path / "README.md").read_text() == front
    (folder / "README.md").unlink()  # where there is none it is begun
    publish.publish(made, tmp_path)
    begun = (folder / "README.md").read_text()
    assert begun.startswith("# Results of tiny") and deviations.part([made]) in begun


def test_readme_s_first_table_names_the_strongest_control_of_any_policy(row, tmp_path):
    assert headline.ablated(tmp_path) is None
    frame = headline.table(row).set_index("second try, % right")
    rivals = row.averaged[(row.averaged["attempt"] == "second") & ~row.averaged["control"].isin(["own", "always"])]
    for decoding in row.settings.decodings:
        best = rivals[rivals["decoding"] == decoding].nlargest(1, "accuracy").iloc[0]
        assert frame.loc["strongest control", decoding].startswith(f"{100 * best['accuracy']:.1f} [")
        own = row.averaged.query("policy == 'trained' and control == 'own' and decoding == @decoding")[
            "accuracy"
        ].item()
        assert frame.loc["trained (adapter everywhere)", decoding].startswith(f"{100 * own:.1f} [")
    (tmp_path / "ablations").mkdir()
    names = ["attempt", "policy", "decoding", "control", "accuracy", "ci_low", "ci_high"]
    forced = ("second", "vanilla", "greedy", "forced", 0.99, 0.9, 1.0)
    lines = pd.DataFrame([forced, ("second", "vanilla", "greedy", "always", 1, 1, 1)], columns=names)
    lines.to_csv(tmp_path / "ablations" / "controls.csv", index=False)
    more = headline.ablated(tmp_path)
    assert headline.table(row, more).equals(headline.table(row))  # what is in this table as well is of this table
    fewer = row._replace(averaged=row.averaged[row.averaged["control"] != "forced"])
    found, alone = (headline.table(fewer, each).set_index("second try, % right") for each in (more, None))
    assert found.loc["strongest control", "greedy"] == "99.0 [90.0, 100.0] (first words forced, base model)"
    assert found.loc["strongest control", "sampled"] == alone.loc["strongest control", "sampled"]


def test_readme_s_tables_hold_means_over_seeds_every_comparison_and_the_other_controls(row):
    shown = "\n\n".join(publish._table(row))
    heads = [tables.main_table(row, decoding) for decoding in ("greedy", "sampled")]
    for frame in (*heads, tables.controls_table(row, "greedy")):
        assert markdown(frame[frame["seed"].isin(["", "mean"])] if "seed" in frame else frame) in shown
    assert {"0", "1"} <= set(heads[0]["seed"]) and markdown(heads[0]) not in shown
    compared = cells.comparisons(row.outcomes, row.task, row.model)
    for decoding in ("greedy", "sampled"):
        assert len(asked := compared[compared["decoding"] == decoding])
        assert markdown(tables.comparison_table(asked)) in shown
    assert tables.in_words(compared) in shown and compared["finding"].iloc[0] in shown
    assert "[report.md](report.md)" in shown
    alone = row._replace(averaged=row.averaged.assign(seeds=1))  # one seed: it stands for itself
    assert markdown(tables.main_table(alone, "greedy")) in "\n\n".join(publish._table(alone))


def test_a_table_of_fewer_seeds_or_rows_replaces_none_unless_told_to(made, tmp_path):
    target = tmp_path / "results" / "tiny"
    target.mkdir(parents=True)
    published = pd.read_csv(runs.stage_dir(made, "tables") / "cells.csv", dtype="string")
    more = pd.concat([published, published.assign(seed="5"), published.assign(task="other", seed="0")])
    more.to_csv(target / "cells.csv", index=False)
    with pytest.raises(ResultsError, match="lacks rows of the published one") as refused:
        publish.publish(made, tmp_path)
    assert "countdown model trained seed 5" in str(refused.value) and "\n" not in str(refused.value)
    assert "other model reflector seed 0" in str(refused.value) and not (target / "figures").exists()
    publish.publish(made, tmp_path, force=True)
    assert pd.read_csv(target / "cells.csv", dtype="string").equals(published)


def test_examples_are_those_that_the_rule_picks(row):
    text = publish.examples(row, count=1)
    before, after = (
        {s["id"]: s for s in row.samples if (s["policy"], s["decoding"]) == (p, "greedy") and s["seed"] in (None, 0)}
        for p in ("vanilla", "reflector")
    )

    def right(line):
        return line["second"]["own"]["verdict"]["correct"]

    fits = [i for i in before if "own" in before[i]["second"] and not right(before[i]) and right(after[i])]
    chosen = min(fits, key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    assert f"got {len(fits)} right on the second" in text
    said = before[chosen]["second"]["own"]["reflection"], after[chosen]["second"]["own"]["reflection"]
    assert all(part in text for part in (*said, after[chosen]["attempt"]))


@pytest.mark.parametrize(
    "hostile", ["<!-- /generated:examples -->", "a | b", "\x1b[31m", "```", "\ud800", "\u202e", "\n#"]
)
def test_what_a_model_says_cannot_break_readme(row, hostile):
    lines = [
        line | {"attempt": hostile, "second": {k: v | {"reflection": hostile} for k, v in line["second"].items()}}
        for line in row.samples
    ]
    parts = publish.sections([row._replace(samples=lines)], {"seed 1": hostile})
    text = publish.fill(PAGE, parts)
    assert publish.fill(text, parts) == text and text.encode()
    assert text.count("```") == 6 and all(line.isprintable() for line in text.splitlines())
    assert (
        len(text.split("# examples")[1].split("# deviations")[0].splitlines())
        == len(publish.examples(row).splitlines()) + 3
    )


@pytest.mark.parametrize("text", ["", "<!-- generated:table -->", PAGE + PAGE])
def test_a_readme_without_markers_is_refused(text):
    with pytest.raises(ResultsError, match="README.md must hold one"):
        publish.fill(text, {"table": "x"})


def test_the_command_line_ends_in_one_plain_line(tmp_path, capsys):
    for arguments, message in (
        (["--publish", "--profile", "tinny"], "unknown profile 'tinny'; did you mean 'tiny'?"),
        (["--publish", "--results-dir", str(tmp_path)], "python -m rrr_utils.launch tables"),
        (["--trials", "--profile", "paper"], "no trials of profile 'paper'"),
        (["--rescore", str(tmp_path)], "not the folder of an evaluation"),
        (["--publish", "--runs"], "not allowed with argument"),
        ([], "--delete is required"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr()
        assert message in said.err and said.err.startswith("report: ") and said.err.count("\n") == 1 and not said.out
