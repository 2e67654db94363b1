"""How a task is found, what is said of one that is not whole, and what its data is called."""

from __future__ import annotations

import hashlib
import json
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
        ("sources", "unknown task 'sources'; known: countdown, function_calling; a dotted module or a .py file works"),
        ("strictjson", "unknown task 'strictjson'; known: countdown, function_calling;"),
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
        ("VERSION = 1", "VERSION = 1\nEXAMPLE = []", "EXAMPLE must be of type dict, not list"),
        ("VERSION = 1", "VERSION = 1\nKINDS = ('a',)", "has KINDS, so it also needs kind(reflection, row)"),
        ("VERSION = 1", "VERSION = 1\nkind = 'a'", "kind must be a function kind(reflection, row), not str"),
        ("def prompt(row)", "def flaw():\n    pass\n\n\ndef prompt(row)", "flaw must take flaw(row)"),
        ("VERSION = 1", "VERSION = 1\nGENERIC = ('Try.',)", "GENERIC must be of type str, not tuple"),
        ("def prompt(row)", "def mask(row):\n    pass\n\n\ndef prompt(row)", "mask must take mask(reflection, row)"),
        ("def prompt(row)", "def answer_of(row):\n    pass\n\n\ndef prompt(row)", "must take answer_of(text, row)"),
        ("VERSION = 1", "VERSION = 1\nwrong_in = ''", "wrong_in must be a function wrong_in(reflection, row), not str"),
        ("VERSION = 1", "VERSION = = 1", "cannot be loaded: SyntaxError"),
        ("VERSION = 1", "raise SystemExit(3)", "cannot be loaded: SystemExit: 3"),
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


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_fingerprints(tmp_path):
    countdown = tasks.get("countdown")
    assert tasks.fingerprint(countdown, None) == countdown.DEFAULT_SOURCE
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n")
    assert tasks.fingerprint(countdown, str(path)) == "sha256:" + hashlib.sha256(b"{}\n").hexdigest()
    assert tasks.fingerprint(SimpleNamespace(DEFAULT_SOURCE=f"a/b@{COMMIT}"), None) == f"hub:a/b@{COMMIT}"
    assert tasks.fingerprint(countdown, f"a/b@{COMMIT}") == f"hub:a/b@{COMMIT}"
    with pytest.raises(tasks.DataError, match="a/b: its commit is not known"):
        tasks.fingerprint(countdown, "a/b")


def test_where_the_data_comes_from(tmp_path):
    countdown, calls = tasks.get("countdown"), tasks.get("function_calling")
    (tmp_path / "rows.jsonl").touch()
    assert tasks.hub_source(calls, None) == calls.DEFAULT_SOURCE and tasks.hub_source(calls, "a/b.c") == "a/b.c"
    for task, source in [
        (countdown, None),
        (countdown, "procedural:numbers=3"),
        (calls, str(tmp_path / "rows.jsonl")),
        (calls, f"a/b@{COMMIT}"),  # nothing left to look up
        (SimpleNamespace(), None),
    ]:
        assert tasks.hub_source(task, source) is None


@pytest.mark.parametrize(
    "source",
    ["other.jsonl", "owner/rows.parquet", "proceduralx:3", "a/b/c", "../b", "a/b@main", "", "words", "a/ b", "é/b"],
)
def test_a_mistyped_source(source):
    for call in (tasks.hub_source, tasks.fingerprint):
        with pytest.raises(tasks.DataError) as caught:
            call(tasks.get("countdown"), source)
        assert str(caught.value).startswith(f"no file {source} (looked in /") and "owner/name" in str(caught.value)


def test_the_content_of_a_task_that_is_not_built_in(tmp_path, monkeypatch):
    assert tasks.content_hash("countdown", tasks.get("countdown")) is None
    path = tmp_path / "countdown.py"  # a built-in task's name
    path.write_text(WHOLE)
    assert tasks.content_hash("countdown.py", tasks.get(str(path))) == hashlib.sha256(WHOLE.encode()).hexdigest()
    path.write_text(WHOLE + "\n\n")
    assert (
        tasks.content_hash("countdown.py", tasks.get(str(path))) == hashlib.sha256(f"{WHOLE}\n\n".encode()).hexdigest()
    )
    (tmp_path / "own_tasks").mkdir()
    (tmp_path / "own_tasks" / "sums.py").write_text(WHOLE)
    monkeypatch.syspath_prepend(tmp_path)
    assert (
        tasks.content_hash("own_tasks.sums", tasks.get("own_tasks.sums")) == hashlib.sha256(WHOLE.encode()).hexdigest()
    )
    with pytest.raises(tasks.DataError, match="task 'made' has no source file"):
        tasks.content_hash("made", SimpleNamespace(__name__="made", __file__=None))


def test_a_built_in_task_loads_once_and_another_twice(tmp_path, monkeypatch):
    from rrr_utils.tasks import countdown

    calls, honest = [], countdown.load
    monkeypatch.setattr(countdown, "load", lambda *given, **more: calls.append(more) or honest(*given, **more))
    assert tasks.load(countdown, "train", 5) == honest("train", 5, 0) and calls == [{}]
    (tmp_path / "sums.py").write_text(WHOLE.replace("def load(split", "calls = []\n\n\ndef load(split").replace(
        "source=None):", "source=None, max_bad_rows=0):\n    calls.append(max_bad_rows)"
    ))  # fmt: skip
    sums = tasks.get(str(tmp_path / "sums.py"))
    assert len(tasks.load(sums, "train", 5, max_bad_rows=0.2)) == 5 and sums.calls == [0.2, 0.2]


SAID = {
    "countdown": ["", "<answer> 9 * 3 + 4 </answer>", "<answer> 9 × 3 + 4 = 31 </answer>", "<answer> 9 * 3 </answer>",
                  "<answer> 9 * 3 - 4 </answer>", "9 * 3 + 4", "<answer> 9 ** 3 </answer>",
                  "<answer> 4 / (3 - 3) </answer>"],
    "function_calling": ["", "[", '[{"name": "now", "arguments": {"zone": "Europe/Oslo"}}]',
                         '{"name": "then", "arguments": {}}', '{"name": "now", "arguments": {}}',
                         '{"name": "now", "arguments": {"zone": "UTC"}}', "[]",
                         'So: {"name": "now", "arguments": {"zone": "Europe/Oslo"}}'],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "version", "digest"),
    [("countdown", 1, "f7a8ef95fd4eaeef"), ("function_calling", 2, "9e0c2665180633f8")],
)
def test_prompts_and_verdicts_belong_to_the_version(name, version, digest):
    """Another prompt or verdict needs another VERSION: results tell by it whether they are still the same."""
    task = tasks.get(name)
    verdicts = [tasks.verify(task, text, task.EXAMPLE) for text in SAID[name]]
    shown = json.dumps([tasks.prompt(task, task.EXAMPLE), task.REFLECT, task.EXAMPLE, verdicts])
    assert (task.VERSION, hashlib.sha256(shown.encode()).hexdigest()[:16]) == (version, digest)


def test_needs_neither_torch_nor_datasets():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'datasets', 'numpy']))\n"
        "from rrr_utils import tasks\n"
        "task = tasks.get('countdown')\n"
        "row = task.load('train', 1, 0)[0]\n"
        "assert task.verify('<answer> 1 </answer>', row).error == 'wrong_numbers'\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


@pytest.mark.parametrize(
    ("name", "gives", "words"),
    [
        ("mask", "None", "mask gave None: it must be text"),
        ("kind", "'c'", "kind gave 'c': it must be one of KINDS"),
        ("answers_in", "'30'", "answers_in gave '30': it must be a list of passages of the text"),
        ("answers_in", "['31']", "answers_in gave ['31']: it must be a list of passages of the text"),
        ("answers_in", "['']", "answers_in gave ['']"),
        ("wrong_in", "(text,)", "wrong_in gave ('30',)"),
        ("answer_of", "30", "answer_of gave 30: it must be text"),
        ("mask", "1 / 0", "mask raised ZeroDivisionError"),
    ],
)
def test_what_an_optional_name_gives_is_checked(name, gives, words):
    task = SimpleNamespace(__name__="sums", KINDS=("a", "b"), **{name: lambda text, row: eval(gives, {"text": text})})
    with pytest.raises(tasks.DataError) as caught:
        tasks.told(task, name, "30", {"id": "r7"})
    assert str(caught.value).startswith(f"task 'sums', row 'r7': {words}")


def test_an_optional_name_that_breaks_its_rules_is_found_before_any_model_is_loaded(tmp_path):
    (tmp_path / "sums.py").write_text(WHOLE + "\n\ndef mask(reflection, row):\n    return None\n")
    with pytest.raises(tasks.DataError, match="row '0': mask gave None"):
        tasks.load(tasks.get(str(tmp_path / "sums.py")), "train", 5)


def test_cut_goes_on_until_nothing_is_left_to_cut_and_only_joins_spaces():
    def task(*wanted):
        return SimpleNamespace(__name__="words", answers_in=lambda text, row: [w for w in wanted if w in text])

    assert tasks.cut(task("b"), "a b c  d", {}) == "a c  d"
    assert tasks.cut(task("ab"), "x aabb y", {}) == "x y"  # the first cut makes a second one
    assert tasks.cut(task("d", "b"), "a b c d", {}) == "a c "  # in any order
    assert tasks.cut(task("b c", "c d"), "a b c d", {}) == "a d"  # overlapping
    assert tasks.cut(task("a"), "a\n\n a", {}) == "\n\n "
    assert tasks.cut(task("z"), " a  b ", {}) == " a  b "
