"""Real function-calling rows through all four stages, with a small random model. Nothing is claimed of its scores: they are 0.

The file is 1,000 queries of the Berkeley leaderboard in APIGen's columns; RRR_BFCL names it where it lies elsewhere.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import helpers_models
import pandas as pd
import pytest

from rrr_utils import conversation, failures, files, runs, samples, settings, tasks
from rrr_utils.report import cells
from rrr_utils.settings import ROOT

FILE = Path(os.environ.get("RRR_BFCL") or ROOT.parent / "shared" / "data" / "bfcl_as_apigen.jsonl")
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"no {FILE}: set RRR_BFCL to the file")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A random model of two layers, and a tokenizer that is trained on the file's text."""
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    texts = ["\n".join((row["query"], row["tools"], row["answers"])) for row in rows]
    tokenizer, folder = helpers_models.bpe_tokenizer(texts), tmp_path_factory.mktemp("bfcl") / "random"
    helpers_models.save_model(folder, tokenizer)
    assert 1900 < len(tokenizer) < 2100
    helpers_models.same_tokenizer(tokenizer, folder, [*texts, "\u00e9 \u4e2d \U0001f600 \\u00e9 \x00 \r\n  \t", ""])
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))


def given(folder: Path, model: Path, **more):
    values = {
        "task": "function_calling",
        "model": str(model),
        "source": str(FILE),
        "results_dir": str(folder),
        "seed": 0,
    }
    return settings.load("tiny", {**helpers_models.FEW, **values, **more})


def test_all_four_stages_by_their_functions(tmp_path, model, capsys):
    one = given(tmp_path / "runs", model)
    done = helpers_models.all_stages(one)
    task, home = tasks.get("function_calling"), runs.stage_dir(one, "train")
    assert (
        done["failures"]["summary"]["accuracy"] == 0
        and home.parent == tmp_path / "runs" / "function_calling" / "random"
    )
    assert done["failures"]["identity"]["data"].startswith("sha256:")
    rows = {row["id"]: row for split in ("train", "dev", "test") for row in task.load(split, None, 0, str(FILE))}
    for failure in files.read_jsonl(runs.stage_dir(one, "failures") / "failures.jsonl"):
        assert failure["row"] == rows[failure["id"]] and failure["error"] in task.ERRORS
        assert task.verify(failure["attempt"], failure["row"]).error == failure["error"]

    # every group is without spread, and training goes on
    lines = files.read_jsonl(home / "training.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert all(
        (line["reward"], line["reward_std"], line["zero_variance"], line["retry_correct"]) == (0, 0, 1, 0)
        for line in lines
    )
    assert all(line["loss"] == line["loss"] and line["reflection_tokens"] >= 1 for line in lines)
    logged = files.read_jsonl(home / "reflections.jsonl")
    assert len(logged) == 3 * 2 * 4 and all(line["row"] == rows[line["id"]] for line in logged)
    assert done["train"]["summary"]["dev_best"] == 0 and (home / "adapter" / "adapter_config.json").is_file()

    # texts are whole: the verifier says the same of them again, and the prompts that they stood in hold every tool
    for seed, policies in ((None, {"vanilla"}), (0, {"trained", "reflector"})):
        evaluated = one.model_copy(update={"seed": seed})
        lines = samples.read(runs.stage_dir(evaluated, "evaluate"))
        assert {s["policy"] for s in lines} == policies and len(lines) == 10 * 2 * len(policies)
        for s in lines:
            assert s["row"] == rows[s["id"]] and s["cluster"] == rows[s["id"]]["cluster"]
            assert s["second"].keys() == {*one.controls}
            assert task.verify(s["attempt"], s["row"])._asdict() == s["verdict"]
            own = s["second"]["own"]
            asked = conversation.retry(task, s["row"], s["attempt"], own["reflection"])
            assert all(json.dumps(tool, ensure_ascii=False) in asked[0]["content"] for tool in s["row"]["tools"])
            assert asked[0] == asked[-1] and task.verify(own["retry"], s["row"])._asdict() == own["verdict"]
            assert (
                1 <= s["attempt_tokens"] <= one.attempt_tokens
                and 1 <= own["reflection_tokens"] <= one.reflection_tokens
            )
        again = cells.rescore(runs.stage_dir(evaluated, "evaluate"))
        assert again["correct"].tolist() == cells.of_evaluation(evaluated)["correct"].tolist()

    frame = pd.read_csv(runs.stage_dir(one, "tables") / "cells.csv")
    assert len(frame) == 3 * 2 * (1 + len(one.controls)) and (frame[["correct", "accuracy", "ci_low"]] == 0).all(
        axis=None
    )
    compared = pd.read_csv(runs.stage_dir(one, "tables") / "comparisons.csv")
    assert len(compared) and (compared["difference"] == 0).all() and (compared["p"] == 1).all()
    report = (runs.stage_dir(one, "tables") / "report.md").read_text()
    assert "function_calling, random: 10 test problems" in report and "nan" not in report.lower().split()
    capsys.readouterr()


@pytest.mark.slow
def test_all_four_notebooks_by_the_launcher(tmp_path, model):
    one = given(tmp_path / "runs", model)
    said = helpers_models.launch_all(one)
    assert [line.split()[1] for line in said] == ["failures", "train", "evaluate", "evaluate", "tables"]
    assert "function_calling, random" in (runs.stage_dir(one, "tables") / "report.md").read_text()


def test_a_model_that_never_ends_its_turn_is_told_so(tmp_path, model, capsys):
    folder = tmp_path / "endless"
    tokenizer = helpers_models.byte_tokenizer()
    helpers_models.save_model(folder, tokenizer, ends=0.0)
    one = given(tmp_path / "runs", folder)
    failures.sample(one)
    summary = failures.finish(one)["summary"]
    assert (
        f"{summary['failures']} of {summary['failures']} failures were cut off at attempt_tokens 6"
        in capsys.readouterr().out
    )
