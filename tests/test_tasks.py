"""How a task is found, what is said of one that is not whole, and what its data is called."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from rrr_utils import tasks

WHOLE = """
from dataclasses import dataclass
from rrr_utils.tasks import Verdict

VERSION = 1
REFLECT = "Reflect."
ERRORS = ("wrong",)


@dataclass
class Sum:
    a: "int"


def load(split, n, seed, source=None):
    return [{"id": str(a), "cluster": str(a), "a": a} for a in range(10)][:n]


def prompt(row):
    return f"What is {row['a']} + 1?"


def verify(completion, row):
    right = completion.strip() == str(row["a"] + 1)
    return Verdict(right, None if right else "wrong", right)
"""


def test_built_in():
    from rrr_utils.tasks import countdown

    assert tasks.get("countdown") is tasks.get("rrr_utils.tasks.countdown") is countdown


def test_a_file(tmp_path, monkeypatch):
    (tmp_path / "my_sums.py").write_text("from __future__ import annotations\n" + WHOLE)
    monkeypatch.chdir(tmp_path)
    for name in ("my_sums.py", "./my_sums.py", str(tmp_path / "my_sums.py")):
        task = tasks.get(name)
        assert task.__name__ == "my_sums"
        row = task.load("train", 1, 0)[0]
        assert task.verify("1", row) == (True, None, True) and task.prompt(row) == "What is 0 + 1?"
    assert tasks.fingerprint(task, None) == "built-in"


def test_a_file_that_is_called_like_a_module(tmp_path):
    import json

    (tmp_path / "json.py").write_text(WHOLE)
    assert tasks.get(str(tmp_path / "json.py")).VERSION == 1
    assert sys.modules["json"] is json


def test_a_dotted_module(tmp_path, monkeypatch):
    (tmp_path / "my_tasks").mkdir()
    (tmp_path / "my_tasks" / "sums.py").write_text(WHOLE)
    (tmp_path / "my_tasks" / "needy.py").write_text("import no_such_package\n" + WHOLE)
    (tmp_path / "my_tasks" / "broken.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.get("my_tasks.sums").__name__ == "my_tasks.sums"
    for name, words in [
        ("my_tasks.smus", "unknown task 'my_tasks.smus'"),
        ("my_tasks.needy", "cannot be imported: .*no_such_package"),
        ("my_tasks.broken", "cannot be imported: SyntaxError"),
    ]:
        with pytest.raises(tasks.DataError, match=words):
            tasks.get(name)


@pytest.mark.parametrize(
    "name, words",
    [
        ("countdwn", "unknown task 'countdwn'; did you mean 'countdown'?"),
        ("", "unknown task ''"),
        ("..", "task '..' cannot be imported"),
        ("no/such/file.py", "no file no/such/file.py"),
        ("os.path", "task 'os.path' has no VERSION"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(tasks.DataError) as caught:
        tasks.get(name)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("VERSION = 1", "", "has no VERSION: it needs VERSION, REFLECT, ERRORS, load, prompt, verify"),
        ("VERSION = 1", "VERSION = '1'", "VERSION must be of type int, not str"),
        ("VERSION = 1", "VERSION = True", "VERSION must be of type int, not bool"),
        ("REFLECT = ", "REFLECTION = ", "has no REFLECT:"),
        ('("wrong",)', '["wrong"]', "ERRORS must be of type tuple, not list"),
        ('("wrong",)', "(1,)", "ERRORS must hold names"),
        ("def verify", "def check", "has no verify(completion, row)"),
        ("def prompt(row)", "def prompt()", "prompt must take prompt(row)"),
        (", source=None)", ")", "load must take load(split, n, seed, source=None)"),
        ("VERSION = 1", "VERSION = 1\nDEFAULT_SOURCE = 3", "DEFAULT_SOURCE must be of type str, not int"),
        ("VERSION = 1", "VERSION = = 1", "cannot be loaded: SyntaxError"),
        ("VERSION = 1", "raise RuntimeError('two\\nlines')", "cannot be loaded: RuntimeError: two lines"),
    ],
)
def test_a_file_that_is_not_whole(tmp_path, old, new, words):
    assert old in WHOLE
    path = tmp_path / "my_task.py"
    path.write_text(WHOLE.replace(old, new))
    with pytest.raises(tasks.DataError) as caught:
        tasks.get(str(path))
    assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_fingerprints(tmp_path, monkeypatch):
    countdown = tasks.get("countdown")
    assert tasks.fingerprint(countdown, None) == countdown.DEFAULT_SOURCE
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n")
    assert tasks.fingerprint(countdown, str(path)) == "sha256:" + hashlib.sha256(b"{}\n").hexdigest()
    with pytest.raises(tasks.DataError, match="no file other.jsonl"):
        tasks.fingerprint(countdown, "other.jsonl")
    monkeypatch.setenv("RRR_CACHE", str(tmp_path))
    assert tasks.fingerprint(SimpleNamespace(DEFAULT_SOURCE="a/b"), None) == "hub:a/b"
    monkeypatch.setattr("rrr_utils.tasks.sources.recorded", {"a/b": "0123"}.get)
    assert tasks.fingerprint(countdown, "a/b") == "hub:a/b@0123"


def test_needs_neither_torch_nor_datasets():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'datasets', 'numpy']))\n"
        "from rrr_utils import tasks\n"
        "task = tasks.get('countdown')\n"
        "row = task.load('train', 1, 0)[0]\n"
        "assert task.verify('<answer> 1 </answer>', row).error == 'wrong_numbers'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
