"""The record of the ablations: of finished runs alone, the base model once, in words whatever comes out, each run once."""

from __future__ import annotations

import random
from collections import Counter

import pandas as pd
import pytest
import synthetic

from rrr_utils import files, runs, samples, settings
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.report import ablations
from rrr_utils.settings import ROOT
from rrr_utils.tasks import countdown
from rrr_utils.tasks.countdown_rows import solutions

HARDER = "procedural:low=1,high=30,target_low=61,target_high=99"
LISTED = f"""
tiny:
  loss: {{seeds: [0, 1], variants: {{dapo: {{}}, grpo: {{loss_type: grpo, policies: [trained]}}}}}}
  problems:
    seeds: [0, 1]
    variants: {{as trained: {{}}, larger numbers: {{test_source: "{HARDER}", policies: [trained]}}}}
"""


def finish(one, rows, chance, tokens=1000):
    """Finished runs in which the trained model's retry is right with this chance, and the base model's with 0.2."""
    for each in runs.asked(one):
        if each.seed is not None:
            synthetic.finish(each, "failures", {})
            synthetic.finish(each, "train", {"training": [], "dev": []}, {"generated_tokens": tokens + each.seed})
        lines = []
        for policy in each.policies if each.seed is not None else ("vanilla",):
            for decoding in each.decodings:
                rng = random.Random(f"{policy}{each.seed}{decoding}{chance}")
                lines += [line(row, policy, each.seed, decoding, chance, rng) for row in rows]
        synthetic.finish(each, "evaluate", {"samples": lines})


def line(row, policy, seed, decoding, chance, rng):
    def judged(right):
        return {"correct": right, "error": None if right else "missed_target", "lenient": right}

    first, own = rng.random() < 0.3, rng.random() < (0.2 if policy == "vanilla" else chance)
    second = {"own": {"verdict": judged(own)}, "blind": {"verdict": judged(False)}}
    second["fresh"] = {"tries": ["", ""], "verdict": judged(True), "verdicts": [judged(False), judged(True)]}
    found = {"id": row["id"], "cluster": row["cluster"], "row": row, "attempt": "", "second": {} if first else second}
    return found | {"policy": policy, "seed": seed, "decoding": decoding, "verdict": judged(first)}


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """The studies of a made-up list, with all runs finished but those of `larger numbers`; and the profile."""
    (tmp_path / "ablations.yaml").write_text(LISTED)
    whole = ablations.load
    monkeypatch.setattr(ablations, "load", lambda *given: whole(*given, path=tmp_path / "ablations.yaml"))
    found = ablations.load("tiny", {"results_dir": str(tmp_path / "runs")})
    rows = synthetic.problems(120)
    finish(found["loss"]["dapo"], rows, 0.7)
    finish(found["loss"]["grpo"], rows, 0.3, 5000)
    return found, settings.load("tiny", {"results_dir": str(tmp_path / "runs")})


def test_the_record_says_what_came_out_and_keeps_each_run_once(studies, tmp_path):
    found, profile = studies
    with pytest.raises(ResultsError) as caught:
        ablations.record(profile, tmp_path)
    why = "problems, larger numbers, base model (not run); problems, larger numbers, seed 0 (not run); "
    assert why in str(caught.value) and "grpo" not in str(caught.value) and "make ablations" in str(caught.value)
    assert "seed 0 (not run); problems, larger numbers, seed 1 (not run): make" in str(caught.value)
    finish(found["problems"]["larger numbers"], countdown.load("test", 80, 0, HARDER), 0.21)
    target = tmp_path / "results" / "tiny"
    published = target / "countdown" / "embedded" / "evaluate-seed0"  # what the main tables hold already
    files.write_json(published / "result.json", runs.done(found["loss"]["dapo"], "evaluate"))
    (target / "ablations" / "runs" / "dropped").mkdir(parents=True)
    said = ablations.record(profile, tmp_path).read_text()

    frame = pd.read_csv(target / "ablations" / "ablations.csv", keep_default_na=False)
    assert list(frame.columns) == ablations.COLUMNS
    own = frame[(frame["control"] == "own") & (frame["decoding"] == "greedy")]
    who = list(zip(own["study"], own["variant"], own["policy"], own["generated_tokens"], strict=True))
    assert who == [
        ("loss", "dapo", "vanilla", 0),  # of `grpo` it would be the same one
        ("loss", "dapo", "trained", 1000),
        ("loss", "grpo", "trained", 5000),
        ("problems", "as trained", "vanilla", 0),
        ("problems", "as trained", "trained", 1000),
        ("problems", "larger numbers", "vanilla", 0),
        ("problems", "larger numbers", "trained", 1000),
    ]
    assert own["split"].tolist() == [""] * 5 + [HARDER] * 2 and own["n"].tolist() == [120] * 5 + [80] * 2
    lines = [x for seed in (0, 1) for x in read(found["loss"]["grpo"], seed) if x["decoding"] == "greedy"]
    right = [x["verdict"]["correct"] or x["second"]["own"]["verdict"]["correct"] for x in lines]
    assert own["accuracy"].iloc[2] == pytest.approx(sum(right) / len(right)) and len(right) == 240
    assert own["ci_low"].iloc[2] < own["lowest"].iloc[2] <= own["accuracy"].iloc[2] <= own["highest"].iloc[2]

    compared = pd.read_csv(target / "ablations" / "comparisons.csv")
    assert set(zip(compared["study"], compared["a"], compared["b"], strict=True)) == {
        ("loss", "trained/grpo", "trained/dapo"),
        (
            "problems",
            "trained/larger numbers",
            "vanilla/larger numbers",
        ),  # other problems: against the base model there
    }
    worse, none = compared[compared["question"].str.contains("own")].groupby("study")["finding"].first()
    assert worse.startswith("no, the other way round: -") and "below in 2 of 2 seeds" in worse
    assert none.startswith("no difference seen; one of") and none in said and worse in said
    assert said.count("## ") == 2 and "![loss](loss.png)" in said and "5,000" in said

    kept = {path.relative_to(target / "ablations" / "runs").as_posix() for path in target.rglob("samples.jsonl.gz")}
    assert kept == {
        "loss--dapo/evaluate-vanilla/samples.jsonl.gz",
        "loss--dapo/evaluate-seed1/samples.jsonl.gz",  # seed 0 is published
        *(f"loss--grpo/evaluate-seed{seed}/samples.jsonl.gz" for seed in (0, 1)),
        *(f"problems--larger-numbers/evaluate-{who}/samples.jsonl.gz" for who in ("vanilla", "seed0", "seed1")),
    }
    assert len(samples.read(target / "ablations/runs/loss--grpo/evaluate-seed1")) == 240
    logs = {path.parent.relative_to(target / "ablations/runs").as_posix() for path in target.rglob("dev.jsonl")}
    assert logs == {f"loss--{variant}/train-seed{seed}" for variant in ("dapo", "grpo") for seed in (0, 1)}
    assert not (target / "ablations" / "runs" / "dropped").exists()
    assert str(ROOT) not in (target / "ablations/runs/loss--grpo/train-seed0/result.json").read_text()
    for study in ("loss", "problems"):
        assert {".png", ".svg", ".csv"} == {path.suffix for path in (target / "ablations").glob(f"{study}.*")}
    assert "Right after reflecting (greedy): " in (target / "ablations" / "loss.svg").read_text()


def read(one, seed):
    return samples.read(runs.stage_dir(one.model_copy(update={"seed": seed}), "evaluate"))


def test_the_profile_s_studies_share_its_runs_and_train_no_more_than_they_must():
    studies = ablations.load("tiny")
    assert list(studies) == ["controls", "objective", "problems", "retry_policy", "loss"]
    profile = settings.load("tiny", {"seed": 0})
    every = ablations.wanted(studies)
    assert {(one.seed, stage) for *_, one, stage in every if stage == "evaluate" or one.seed is None} == {
        (seed, "evaluate") for seed in (None, 0, 1, 2)
    }
    firsts = {runs.stage_dir(next(iter(v.values())), "evaluate") for v in studies.values() if len(v) > 1}
    assert firsts == {runs.stage_dir(profile, "evaluate")}
    folders = {(stage, runs.stage_dir(one, stage)) for *_, one, stage in every}
    # trained are the recipe, the answer as objective, base retries and another loss; nothing for harder problems, and
    # nothing for the controls
    assert Counter(stage for stage, _ in folders) == {"train": 3 + 3 + 1 + 1, "evaluate": 4 + 4 + 3 + 4 + 1 + 1}
    assert len({runs.stage_dir(one, "failures") for *_, one, _ in every}) == 1
    with pytest.raises(SettingsError, match="no ablations of profile 'nothing'"):
        ablations.load("nothing")


def test_harder_problems_are_enough_and_harder():
    studies = ablations.load("tiny")["problems"]
    rows = {name: countdown.load("test", one.test_items, 0, one.test_source) for name, one in studies.items()}
    assert {len(every) for every in rows.values()} == {1000}
    as_trained, larger, single = rows.values()
    assert min(row["target"] for row in larger) > max(row["target"] for row in as_trained)
    counts = [solutions(tuple(sorted(row["nums"])))[row["target"]] for row in single]
    assert set(counts) == {1} and max(max(row["nums"]) for row in single) <= max(max(row["nums"]) for row in as_trained)
