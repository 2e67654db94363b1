"""Your own task: the one in rrr_utils/tasks/README.md goes through all four stages, and a faulty one is told so in one line."""

from __future__ import annotations

import math
from pathlib import Path

import helpers_models
import pandas as pd
import pytest

from rrr_utils import failures, files, launch, runs, settings, tasks
from rrr_utils.report import cells, publish
from rrr_utils.settings import ROOT
from rrr_utils.tasks import countdown_kinds

TASK = ROOT / "tests" / "data" / "sorting_task.py"
SOURCE = "procedural:letters=abc"
MARKER = "<!-- third task -->"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model whose every text is one of the task's answers, so that one in fifteen is right."""
    task, folder = tasks.get(str(TASK)), tmp_path_factory.mktemp("own") / "letters"
    answers = sorted({row["cluster"] for split in task.SPLITS for row in task.load(split, None, 0, SOURCE)})
    tokenizer = helpers_models.byte_tokenizer(answers)
    helpers_models.save_model(folder, tokenizer, answers, ends=0.9)
    helpers_models.same_tokenizer(tokenizer, folder, ["abcc is not ab cc", "ä 中\n  \t<answer>"])
    return folder


def given(folder: Path, model: Path, **more):
    values = {"task": str(TASK), "model": str(model), "source": SOURCE, "results_dir": str(folder), "seed": 0}
    few = {
        **helpers_models.FEW,
        "steps": 3,
        "failures_per_step": 8,
        "failures_wanted": 40,
        "train_queries": 20,
        "retries_per_reflection": 1,
    }
    return settings.load("tiny", {**few, **values, **more})


# ---------------------------------------------------------------- the task itself


def test_it_is_a_task_of_under_40_lines():
    task = tasks.get(str(TASK))
    assert len(TASK.read_text().splitlines()) < 40
    splits = {split: task.load(split, None, 0) for split in task.SPLITS}
    clusters = {split: {row["cluster"] for row in rows} for split, rows in splits.items()}
    assert sum(map(len, splits.values())) == 8**4 and sum(map(len, clusters.values())) == math.comb(8 + 4 - 1, 4)
    assert all(rows and rows[:3] == task.load(split, 3, 0) for split, rows in splits.items())
    row = {"id": "dcab", "cluster": "abcd", "word": "dcab"}
    assert task.verify("abcd", row) == (True, None, True)
    assert task.verify("Sorted: ABCD", row) == (False, "wrong_letters", True)
    assert task.verify("dcba", row) == (False, "wrong_order", False)
    for text in ("", "\x00", "\ud800", "a" * 100_000, "ａｂｃｄ"):
        assert task.verify(text, row) == (False, "wrong_letters", False)
    with pytest.raises(tasks.DataError, match="no split 'tset' of source"):
        task.load("tset", 1, 0)
    with pytest.raises(tasks.DataError, match="written like procedural:letters=abcdefgh"):
        task.load("test", 1, 0, "words.txt")


def test_the_page_on_tasks_shows_it_as_it_is():
    readme = ROOT / "rrr_utils" / "tasks" / "README.md"
    shown = readme.read_text(encoding="utf-8").split(MARKER)[1].split("```python\n")[1].split("```")[0]
    assert shown.strip() == TASK.read_text(encoding="utf-8").strip()


# ---------------------------------------------------------------- through the stages


def test_all_four_stages_by_their_functions(tmp_path, model, capsys):
    one = given(tmp_path / "runs", model)
    done = helpers_models.all_stages(one)
    home = tmp_path / "runs" / "sorting_task" / "letters"
    names = {path.parent.name.rpartition("-")[0] for path in home.glob("*/result.json")}
    assert names == {"failures", "train-seed0", "evaluate-vanilla", "evaluate-seed0"}
    assert done["failures"]["identity"]["task"] == "sorting_task" and 30 < done["failures"]["summary"]["failures"] <= 40
    assert done["failures"]["summary"]["errors"].keys() <= set(tasks.get(str(TASK)).ERRORS)
    logged = files.read_jsonl(runs.stage_dir(one, "train") / "reflections.jsonl")
    assert len(logged) == 3 * 8 * 4 and {line["reward"] for line in logged} == {0.0, 1.0}
    frame = pd.read_csv(runs.stage_dir(one, "tables") / "cells.csv")
    assert set(frame["task"]) == {"sorting_task"} and len(frame) == 3 * 2 * 4 and (frame["n"] == 10).all()
    assert "sorting_task, letters" in (runs.stage_dir(one, "tables") / "report.md").read_text()
    again = cells.rescore(runs.stage_dir(one, "evaluate"), task=str(TASK))
    assert again["correct"].tolist() == cells.of_evaluation(one)["correct"].tolist()
    published = publish.publish(one, tmp_path)
    assert (published / "sorting_task" / "letters" / "evaluate-seed0" / "samples.jsonl.gz").is_file()
    capsys.readouterr()
    # the same task from another place is the same task, and a raised VERSION is not
    moved = tmp_path / "sorting_task.py"
    moved.write_text(TASK.read_text())
    assert runs.done(given(tmp_path / "runs", model, task=str(moved)), "evaluate")
    moved.write_text(TASK.read_text().replace("VERSION = 1", "VERSION = 2"))
    assert not runs.done(given(tmp_path / "runs", model, task=str(moved)), "evaluate")


@pytest.mark.slow
def test_all_four_notebooks_by_the_launcher(tmp_path, model):
    one = given(tmp_path / "runs", model)
    said = helpers_models.launch_all(one)
    assert [line.split()[1] for line in said] == ["failures", "train", "evaluate", "evaluate", "tables"]
    assert "sorting_task, letters" in (runs.stage_dir(one, "tables") / "report.md").read_text()


def test_kinds_of_reflection_are_told_whatever_a_row_calls_nums_and_target():
    for row in (
        {},
        {"nums": 5, "target": [1]},
        {"nums": "abc", "target": {"a": 1}},
        {"nums": [[1], "2"], "target": "7"},
    ):
        assert countdown_kinds.classify("I put 3 + 4 = 7 , so 8 is wrong .", row).kind == "first_step"
        assert countdown_kinds.classify("I should be more careful .", row).kind == "empty"


# ---------------------------------------------------------------- a file that is not whole


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("VERSION = 1", "VERSIONS = 1", "has no VERSION: it needs VERSION, REFLECT, ERRORS, load, prompt, verify"),
        ("VERSION = 1", "VERSION = 1.5", "VERSION must be of type int, not float"),
        ("REFLECT = ", "REFLECT = 3, ", "REFLECT must be of type str, not tuple"),
        ('("wrong_letters", "wrong_order")', '["wrong_letters"]', "ERRORS must be of type tuple, not list"),
        ("DEFAULT_SOURCE = ", "DEFAULT_SOURCE = 8, ", "DEFAULT_SOURCE must be of type str, not tuple"),
        ("def load(", "def rows(", "has no load(split, n, seed, source=None)"),
        ("n: int | None, ", "", "load must take load(split, n, seed, source=None)"),
        ("def prompt(row: dict)", "def prompt(row: dict, query: str)", "prompt must take prompt(row)"),
        ("def verify(", "def check(", "has no verify(completion, row)"),
        ("import random", "import randomly", "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_a_missing_or_wrong_name_is_one_line_before_anything_runs(tmp_path, model, capsys, old, new, words):
    text = TASK.read_text()
    assert old in text
    path = tmp_path / "my_task.py"
    path.write_text(text.replace(old, new, 1))
    options = ["-p", f"task={path}", "-p", f"model={model}", "-p", f"results_dir={tmp_path / 'runs'}"]
    assert launch.main(["failures", *options]) == 2
    said = capsys.readouterr().err
    assert words in said and str(path) in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def changed(folder: Path, old: str, new: str) -> Path:
    """The task's file with one place changed."""
    text = TASK.read_text()
    assert old in text
    path = folder / "my_task.py"
    path.write_text(text.replace(old, new, 1))
    return path


def test_what_a_task_gives_is_looked_at_before_a_model_is(tmp_path, model):
    path = changed(tmp_path, "return rows[:n]", "return []")
    with pytest.raises(tasks.DataError, match="task 'my_task': has no rows of split 'train'"):
        failures.sample(given(tmp_path / "runs", model, task=str(path)))


ROWS = "return rows[:n]"
RIGHT = "    right = "


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (ROWS, "return []", "has no rows of split 'train'"),
        (ROWS, "return tuple(rows[:n])", "load must give a list of rows, not tuple"),
        (ROWS, 'return [row["word"] for row in rows]', "load must give rows that are dicts, not str"),
        (ROWS, 'return [{"id": row["id"], "word": row["word"]} for row in rows]', "has None as its 'cluster'"),
        (ROWS, "return rows[9999]", "load raised IndexError: list index out of range for split 'train'"),
        (ROWS, "raise SystemExit('two\\nlines')", "load raised SystemExit: two lines for split 'train'"),
        (ROWS, "random.shuffle(rows); return rows[:n]", "split 'train' has other rows when load is called again"),
        (ROWS, "rows[0]['id'] = str(random.random()); return rows[:n]", "has other rows when load is called again"),
        ('{"id": word', '{"id": 7', "a row of split 'train' has 7 as its 'id': every row needs text"),
        ('{"id": word', '{"id": word[0]', "row 'a': two rows of split 'train' have this id"),
        ('{"id": word', '{"id": word + "\\ud800"', "\\ud800': 'id' is not UTF-8: it has half of a surrogate pair"),
        (ROWS, "rows[0]['cluster'] = '\\udfff'; return rows[:n]", "'cluster' is not UTF-8"),
        ('"word": word}', '"word": word, "seen": {word}}', "cannot be written as JSON: TypeError"),
        ('"word": word}', '"word": word, "seen": (word,)}', "changes when written as JSON and read again: use lists"),
        ('"word": word}', '"word": word, "seen": float("nan")}', "changes when written as JSON and read again"),
        ('return f"Put', 'return len(row) or f"Put', "prompt must give text, not int"),
        ('return f"Put', 'return row["text"] or f"Put', "prompt raised KeyError: 'text'"),
        ('return f"Put', 'return "\\udcff" or f"Put', "the prompt is not UTF-8: it has half of a surrogate pair"),
        ('return f"Put', 'row["seen"] = 1; return f"Put', "prompt or verify changes the row"),
        ("return Verdict(error is None, error, ", "return (error is None, error, ", "must give a Verdict, not tuple"),
        (
            'else "wrong_order"',
            'else "order"\n    error = "letters"',
            "verify gave the error 'letters': it must be one of",
        ),
        (
            RIGHT,
            "    return Verdict(False, None, False); right = ",
            "verify gave the error None: it must be one of ERRORS",
        ),
        (
            RIGHT,
            "    return Verdict(True, 'wrong_order', True); right = ",
            "verify gave the error 'wrong_order': it must",
        ),
        (RIGHT, "    return Verdict(1, None, True); right = ", "correct and lenient must be True or False"),
        (RIGHT, "    return Verdict(True, None, False); right = ", "lenient is True where correct is"),
        (RIGHT, "    right = row['answer']; ", "verify raised KeyError: 'answer'"),
        (RIGHT, "    row['cluster'] += completion[:1]; right = ", "prompt or verify changes the row"),
    ],
)
def test_what_a_task_gives_is_one_line_if_it_cannot_be_used(tmp_path, old, new, words):
    task = tasks.get(str(changed(tmp_path, old, new)))
    with pytest.raises(tasks.DataError) as caught:
        tasks.load(task, "train", 20, SOURCE)
    said = str(caught.value)
    assert words in said and said.startswith("task 'my_task'") and "\n" not in said
    said.encode()  # also with half of a surrogate pair in the id


def test_a_task_s_own_complaint_stays_as_it_is():
    with pytest.raises(tasks.DataError, match="^no split 'tset' of source"):
        tasks.load(tasks.get(str(TASK)), "tset", 1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (RIGHT, "    right = len(completion) < 5 or row['answer']; right = ", "verify raised KeyError: 'answer'"),
        (RIGHT, "    len(completion) < 5 or exit(3); right = ", "verify raised SystemExit: 3"),
        (
            'else "wrong_order"',
            'else "wrong_order" if len(completion) < 5 else "order"',
            "verify gave the error 'order'",
        ),
        (RIGHT, "    if completion == 'abcde': return None\n    right = ", "verify must give a Verdict, not NoneType"),
    ],
)
def test_a_call_that_fails_late_names_task_and_row(tmp_path, old, new, words):
    task, row = tasks.get(str(changed(tmp_path, old, new))), {"id": "abcd\n", "cluster": "abcd", "word": "abcde"}
    assert tasks.verify(task, "abcd", row).error == "wrong_letters"
    with pytest.raises(tasks.DataError) as caught:
        tasks.verify(task, "abcde" if "None" in new or "answer" in new or "exit" in new else "edcba", row)
    said = str(caught.value)
    assert f"task 'my_task', row 'abcd\\n': {words}" in said and "\n" not in said


def test_one_row_in_two_splits(tmp_path):
    task = tasks.get(str(TASK))
    splits = {split: tasks.load(task, split, None, SOURCE) for split in ("train", "dev", "test")}
    tasks.disjoint(task, splits)
    with pytest.raises(tasks.DataError) as caught:
        tasks.disjoint(task, {**splits, "test": [*splits["test"], splits["train"][4]]})
    assert (
        str(caught.value) == f"task 'sorting_task', row '{splits['train'][4]['id']}': is in two splits, train and test"
    )
