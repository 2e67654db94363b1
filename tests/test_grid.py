"""A profile of several rows: what is asked of whom, what is refused, and the whole grid broken off and gone on with."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import helpers_grid as grids
import pytest
import synthetic
from helpers_launch import STAGE, write_notebook

from rrr_utils import conversation, files, grid, launch, models, needs, runs
from rrr_utils.report import listing, tables
from rrr_utils.settings import Settings, load

#: names the settings that a job was run with, for a row's own and for those given to all
TOLD = '(folder / "out.txt").write_text(f"{settings.attempt_tokens} {settings.test_items} {settings.steps}")'
ROWS = 17  # rows of the paper's two tables; two more are of models that it found not to learn


@pytest.fixture
def two_rows(tmp_path):
    """A profile of two made-up models of one task, the second with attempt_tokens of its own."""
    rows = []
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
        rows.append({"task": "countdown", "model": str(tmp_path / name)})
    rows[1]["attempt_tokens"] = 7
    return grids.write_profile(tmp_path / "pair.yaml", rows), rows


@pytest.fixture
def books(tmp_path):
    """Notebooks that take a moment and write down some of their settings."""
    (tmp_path / "books").mkdir()
    for stage, stem in launch.NOTEBOOKS.items():
        first, _, rest = STAGE.format(stage=stage).partition('    (folder / "out.txt")')
        cell = f"{first}    {TOLD}\n{rest.partition(chr(10))[2]}"
        write_notebook(tmp_path / "books" / f"{stem}.ipynb", cell)
    return f"notebooks={tmp_path / 'books'}"


def counts(said: str) -> list[int]:
    """Jobs of each stage, as a dry run says them."""
    found = dict(re.findall(r"^(\w+) +([0-9]+)$", said, re.MULTILINE))
    return [int(found.get(stage, 0)) for stage in runs.STAGES]


def dry(profile, folder: Path, *more: str, seeds: str = "0,1", **overrides) -> subprocess.CompletedProcess:
    return grids.run(
        [*grids.snakemake(profile, folder, "--dry-run", "--quiet", "rules", *more, seeds=seeds, **overrides)]
    )


# ---------------------------------------------------------------- what is asked of whom


def test_a_row_s_own_settings_reach_its_jobs_and_what_is_given_reaches_all(tmp_path, two_rows):
    profile, rows = two_rows
    asked = load(str(profile), {"results_dir": str(tmp_path / "runs"), "seed": 0, "seeds": [0, 1], "test_items": 9})
    assert [Path(one.model).name for one in grid.rows_of(asked)] == ["ant", "bee"]
    assert [one.attempt_tokens for one in grid.rows_of(asked)] == [16, 7]
    every = [(one, stage) for one in runs.asked(asked) for stage in runs.STAGES[:3]]
    every = [(one, stage) for one, stage in every if one.seed is not None or stage == "evaluate"]
    assert len(every) == 2 * (1 + 2 * 3) and all(one.test_items == 9 for one, _ in every)
    assert len({runs.stage_dir(one, stage) for one, stage in every}) == 2 * 6  # both seeds read the same failures
    for one, stage in every:  # and the command of each job makes these very settings again
        words = shlex.split(needs.command(one, stage))
        name, again = launch.check(launch.find(stage)[0], str(profile), words[7::2])
        assert runs.stage_dir(again, stage) == runs.stage_dir(one, stage), words
        assert (again.attempt_tokens, again.test_items) == (7 if one.model.endswith("bee") else 16, 9)
    given = load(str(profile), {"results_dir": str(tmp_path / "runs"), "attempt_tokens": 5})
    assert [one.attempt_tokens for one in grid.rows_of(given)] == [5, 5]  # beyond the profile counts more than a row
    alone = load(str(profile), {"task": "countdown", "model": rows[1]["model"]})
    assert alone.attempt_tokens == 7 and [one.model for one in grid.rows_of(alone)] == [rows[1]["model"]]
    assert load(str(profile)).model == rows[0]["model"]
    (tmp_path / "mine.py").write_text("VERSION = 1")
    own = load(str(profile), {"task": str(tmp_path / "mine.py")})  # a task of no row stands alone
    assert grid.rows_of(own) == (own,)


def test_rows_picks_and_names_what_there_is(tmp_path, two_rows):
    profile, _ = two_rows
    whole, one = dry(profile, tmp_path / "runs"), dry(profile, tmp_path / "runs", "rows=countdown:bee")
    assert counts(whole.stdout + whole.stderr) == [2, 4, 6, 1]
    assert counts(one.stdout + one.stderr) == [1, 2, 3, 1]
    none = dry(profile, tmp_path / "runs", "rows=countdown:cat")
    assert none.returncode == 2 and none.stderr.count("\n") <= 2
    assert "has no row 'countdown:cat'" in none.stderr and "ant" in none.stderr and "bee" in none.stderr


def test_a_job_of_a_grid_that_is_refused_says_why_in_the_table(given, monkeypatch, capsys):
    options, settings = given
    words = ["failures", "--profile", "tiny", *options, "-p", "preset=gpu_24gb"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert launch.main(words) == 2 and runs.status(settings(), "failures") == "not run"
    monkeypatch.setenv("RRR_GRID", "1")
    assert launch.main(words) == 2
    assert runs.status(settings(), "failures").startswith("failed: preset gpu_24gb is for a GPU")
    assert runs.status(settings(), "evaluate").startswith("failed: preset gpu_24gb is for a GPU")


def test_a_row_that_is_evaluated_only_has_no_training(tmp_path, two_rows):
    rows = [{**row, "policies": []} if row["model"].endswith("ant") else row for row in two_rows[1]]
    profile = grids.write_profile(tmp_path / "larger.yaml", rows)
    said = dry(profile, tmp_path / "runs")
    assert counts(said.stdout + said.stderr) == [1, 2, 4, 1]


def test_rows_that_cannot_be_had_are_said_before_anything_starts_and_get_no_job(tmp_path, two_rows, monkeypatch):
    profile, rows = two_rows
    gated, unpublished, gone = "meta-llama/Llama-3.2-3B-Instruct", "Palmyra 1.7B", str(tmp_path / "gone")
    rows += [{"task": "countdown", "model": model} for model in (gated, unpublished, gone)]
    profile = grids.write_profile(profile, rows)
    without = {"HF_HOME": str(tmp_path / "hub"), "HF_TOKEN": "", "HUGGING_FACE_HUB_TOKEN": "", "HF_HUB_OFFLINE": "1"}
    planned = grids.run(grids.snakemake(profile, tmp_path / "runs", "--summary"), **without)  # what it would make
    assert planned.returncode == 0, planned.stderr
    folders = re.findall(r"countdown/(\S+)/([a-z]+)-\S*result.json", planned.stdout)
    assert sorted(set(folders)) == [
        (name, stage) for name in ("ant", "bee") for stage in ("evaluate", "failures", "train")
    ]
    lines = [line for line in planned.stderr.splitlines() if "left out" in line]
    assert len(lines) == 3
    reasons = {gated: "set HF_TOKEN", unpublished: "no public weights", gone: "no saved model"}
    assert all(model in line and why in line for line, (model, why) in zip(lines, reasons.items(), strict=True))
    said = grids.run(grids.snakemake(profile, tmp_path / "runs", "--dry-run", "--quiet", "rules"), **without).stderr
    assert f"{gated} waits: " in said and said.count("left out") == 2  # a plan counts it
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    asked = load(str(profile), {"results_dir": str(tmp_path / "runs"), "seeds": [0, 1]})
    synthetic.write_runs(load(str(profile), {"results_dir": str(tmp_path / "runs"), **rows[1]}), (0, 1), 30)
    there, lacking = tables.gather(asked)
    assert [row.model for row in there] == ["bee"]
    stands = {name.partition(", ")[0].partition(":")[2]: why for name, why in lacking.items()}
    assert stands[unpublished] == "not run: no public weights" and stands["ant"] == "not run"
    assert stands[gated].startswith(f"not run: {gated} is gated") and "no saved model" in stands["gone"]


# ---------------------------------------------------------------- the paper's grid, with no way to a hub

NO_HUB = """
import socket
def refuse(self, address, *more):
    if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "localhost", "::1"):
        open({log!r}, "a").write(f"{{address}}\\n")
        raise OSError("no network in this test")
    return known(self, address, *more)
known, socket.socket.connect = socket.socket.connect, refuse
"""


@pytest.fixture
def no_hub(tmp_path):
    """An environment with an empty cache, no token and no way out, in which what was tried is written down."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_HUB.format(log=str(tmp_path / "asked")))
    # not HF_HUB_OFFLINE: with it nothing would try
    environment = {
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path / "hub"),
        "HF_TOKEN": "",
        "PYTHONPATH": str(tmp_path / "site"),
    }
    yield environment
    assert not (tmp_path / "asked").exists(), (tmp_path / "asked").read_text()


def of_the_paper() -> set[tuple[str, str]]:
    """Task and model of each row of the paper's tables, from what is known of models."""
    return {(task, name) for name, one in models.listed().items() for task in one.get("paper", {})}


def test_the_network_s_guard_sees_who_asks(tmp_path, no_hub):
    done = grids.run(["python3", "-c", "import socket; socket.create_connection(('192.0.2.1', 80), 1)"], **no_hub)
    assert done.returncode == 1 and "no network in this test" in done.stderr
    assert "192.0.2.1" in (tmp_path / "asked").read_text()
    (tmp_path / "asked").unlink()


def test_snakemake_plans_the_paper_s_grid_offline(tmp_path, no_hub):
    rows = {(runs.task_name(one), one.model) for one in grid.rows_of(load("paper"))}
    assert rows == of_the_paper() and len(rows) == ROWS + 2
    began = time.monotonic()
    words = grids.snakemake("paper", tmp_path / "runs", "--dry-run", seeds="0,1,2")
    said = grids.run(words, **no_hub)
    assert said.returncode == 0, said.stderr[-2000:]
    assert time.monotonic() - began < 60  # six seconds on a machine that does nothing else
    for task, model in rows:
        jobs = re.findall(rf"folder={task}/{re.escape(model.replace('/', '--'))}/(\w+)", said.stdout)
        told = [line for line in said.stderr.splitlines() if line.startswith(f"{task}:{model} ")]
        if models.unpublished(model):
            assert jobs == [] and [line.split(model)[1] for line in told] == [" is left out: no public weights"]
        else:  # the data of function calling are gated too
            larger = models.known(model)["paper"][task][0] == "untrained"
            assert sorted(jobs) == sorted(["evaluate"] + (not larger) * ["failures", *3 * ["evaluate", "train"]]), model
            gated = models.known(model)["gated"] or task == "function_calling"
            assert bool(told) == gated and all(" waits: " in line and "HF_TOKEN" in line for line in told), told
    assert not (tmp_path / "runs" / "revisions.json").exists()


def test_the_plan_names_every_row_of_the_paper_s_offline(tmp_path, no_hub):
    words = [sys.executable, "-m", "rrr_utils.plan", "--profile", "paper", "--seeds", "0,1,2", "--card", "H100"]
    said = grids.run([*words, "--overrides", f'{{"results_dir": "{tmp_path / "runs"}"}}'], **no_hub)
    assert said.returncode == 0, said.stderr
    for name in {model.rpartition("/")[2] for _, model in of_the_paper()}:
        assert name in said.stdout, name


# ---------------------------------------------------------------- what is not of these settings enters no table


@pytest.fixture
def evaluated(tmp_path, two_rows):
    """Two rows' evaluations, and what asks for them."""
    profile, rows = two_rows
    task = tmp_path / "mine.py"
    task.write_text("from rrr_utils.tasks.countdown import *  # noqa: F403\n\nVERSION = 1\n")
    profile = grids.write_profile(profile, [rows[0], {**rows[1], "task": str(task)}], decodings=["greedy"])
    asked = load(str(profile), {"results_dir": str(tmp_path / "runs"), "seeds": [0]})
    for one in grid.rows_of(asked):
        synthetic.write_runs(one, (0,), 20)
    assert len(tables.gather(asked)[0]) == 2 and not tables.gather(asked)[1]
    return asked, task


def rows_there(asked: Settings) -> list[tuple[str, list]]:
    """Task of each row of the table, and whose evaluations are in it."""
    return [(row.task, [one.seed for one in row.evaluated]) for row in tables.gather(asked)[0]]


def test_edited_samples_enter_no_table(evaluated, capsys):
    asked, _ = evaluated
    trained = grid.rows_of(asked)[0].model_copy(update={"seed": 0})
    path = runs.stage_dir(trained, "evaluate") / "samples.jsonl"
    lines = files.read_jsonl(path)
    lines[0]["verdict"]["correct"] = not lines[0]["verdict"]["correct"]
    path.write_text("".join(f"{files.json.dumps(line)}\n" for line in lines))
    assert rows_there(asked) == [("countdown", [None]), ("mine", [None, 0])]
    said = capsys.readouterr().err
    assert "result.json is set aside as result.damaged.json: samples.jsonl is not as it was written" in said
    [lacks] = tables.gather(asked)[1]
    assert "countdown" in lacks and "seed 0" in lacks
    assert (
        "damaged" in listing.others(trained.model_copy(update={"seed": 1, "seeds": (1,)}), "evaluate")["state"].tolist()
    )


def test_another_task_file_of_the_same_name_enters_no_table(evaluated):
    asked, task = evaluated
    task.write_text(task.read_text() + "REFLECT = 'Why was that wrong?'\n")
    assert rows_there(asked) == [("countdown", [None, 0])]
    assert all("mine" in name and why == "not run" for name, why in tables.gather(asked)[1].items())
    frame = listing.others(grid.rows_of(asked)[1], "evaluate")
    assert len(frame) == 2 and all("task_hash" in said for said in frame["differs (there / here)"])


def test_another_prompt_enters_no_table(evaluated, monkeypatch):
    asked, _ = evaluated
    monkeypatch.setattr(conversation, "DIRECT", "Say the answer alone.")
    with pytest.raises(tables.ResultsError, match="no finished evaluation of profile"):
        tables.gather(asked)
    for row in grid.rows_of(asked):
        frame = listing.others(row, "evaluate")
        assert len(frame) == 2 and all("shown" in said for said in frame["differs (there / here)"])


def test_other_data_and_other_settings_enter_no_table(evaluated):
    asked, _ = evaluated
    for name, value in {
        "test_items": 13,
        "test_source": "procedural:numbers=4,low=1,high=15,target_low=10,target_high=40",
    }.items():
        other = load(asked.profile, {"results_dir": asked.results_dir, "seeds": [0], name: value})
        with pytest.raises(tables.ResultsError, match="no finished evaluation of profile"):
            tables.gather(other)
        word = "data" if name == "test_source" else name
        assert all(
            word in said for said in listing.others(grid.rows_of(other)[0], "evaluate")["differs (there / here)"]
        )


# ---------------------------------------------------------------- a whole run


@pytest.mark.slow
def test_two_rows_by_two_seeds_and_a_second_run_that_has_nothing_to_do(tmp_path, two_rows, books):
    words = grids.snakemake(two_rows[0], tmp_path / "runs", books, test_items=9)
    first = grids.run(words)
    assert first.returncode == 0, first.stderr[-3000:]
    assert len(grids.finished(tmp_path / "runs")) == 12 and len(grids.ran(first.stdout)) == 13
    told = {path.parent.parent.name: path.read_text() for path in (tmp_path / "runs").glob("countdown/*/*/out.txt")}
    assert told == {"ant": "16 9 2", "bee": "7 9 2"}
    second = grids.run(words)
    assert (second.returncode, second.stdout.strip()) == (0, "")
    part = grids.run(grids.snakemake(two_rows[0], tmp_path / "runs", books, "rows=countdown:bee", test_items=8))
    assert part.returncode == 0 and grids.ran(part.stdout) == [
        "evaluate",
        "evaluate seed 0",
        "evaluate seed 1",
        "tables",
    ]
