"""Tasks: what is asked, and how an answer is verified.

A task is a module (or a .py file of yours) with VERSION, REFLECT, ERRORS, `load`, `prompt` and `verify`; nothing is
registered, `get` finds it by its name. `countdown.py` is the one to copy from.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rrr_utils.errors import DataError, nearest

#: what a task must have, and of which type; for a function, its leading parameters
NAMES: dict[str, type] = {"VERSION": int, "REFLECT": str, "ERRORS": tuple}
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "load": ("split", "n", "seed", "source"),
    "prompt": ("row",),
    "verify": ("completion", "row"),
}


class Verdict(NamedTuple):
    """What the verifier says of a completion. `error` is one of the task's ERRORS, or None where it is correct."""

    correct: bool
    error: str | None
    lenient: bool  # right in substance, whatever the form; always True where `correct` is


def is_right(verdict: Verdict | dict, which: str = "strict") -> bool:
    """Whether a verdict, given or stored, counts as right: the strict one, or the lenient one."""
    stored = verdict if isinstance(verdict, dict) else verdict._asdict()
    return bool(stored["lenient" if which == "lenient" else "correct"])


def get(name: str) -> ModuleType:
    """The task of that name: a built-in one, a dotted module, or a path to a .py file.

    >>> get("countdown").ERRORS
    ('no_answer', 'not_an_equation', 'wrong_numbers', 'missed_target')
    """
    return check(_from_file(Path(name).expanduser()) if name.endswith(".py") else _from_module(name), name)


def check(module: ModuleType, name: str) -> ModuleType:
    """The module itself where it has all that a task needs; a DataError names the first thing that it lacks."""
    for attribute, kind in NAMES.items():
        value = getattr(module, attribute, None)
        if value is None:
            raise DataError(f"task '{name}' has no {attribute}: it needs {_needs()}")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DataError(f"task '{name}': {attribute} must be of type {kind.__name__}, not {type(value).__name__}")
    if not all(isinstance(error, str) for error in module.ERRORS):
        raise DataError(f"task '{name}': ERRORS must hold names of errors, such as ('no_answer', 'wrong')")
    for function, parameters in FUNCTIONS.items():
        value = getattr(module, function, None)
        signature = f"{function}({', '.join(parameters)})".replace("source", "source=None")
        if value is None:
            raise DataError(f"task '{name}' has no {signature}: it needs {_needs()}")
        if not callable(value):
            raise DataError(f"task '{name}': {function} must be a function {signature}, not {type(value).__name__}")
        try:
            inspect.signature(value).bind(*parameters)
        except (TypeError, ValueError) as error:
            raise DataError(f"task '{name}': {function} must take {signature}: {error}") from None
    source = getattr(module, "DEFAULT_SOURCE", None)
    if source is not None and not isinstance(source, str):
        raise DataError(f"task '{name}': DEFAULT_SOURCE must be of type str, not {type(source).__name__}")
    return module


def check_rows(task: ModuleType, split: str, rows: list[dict]) -> list[dict]:
    """The rows that `load` gave, where stages can work with them and with what the task says of the first one.

    What is wrong ends in a DataError before a model is loaded for it, and not in an error in the middle of a run.
    """
    name, seen = f"task '{task.__name__}'", set()

    def typed(what: str, value: object, kind: type, called: str) -> None:
        if not isinstance(value, kind):
            raise DataError(f"{name}: {what} {called}, not {type(value).__name__}")

    typed("load must give", rows, list, "a list of rows")
    if not rows:
        raise DataError(f"{name} has no rows of split '{split}'")
    for row in rows:
        typed("load must give", row, dict, "rows that are dicts")
        for key in ("id", "cluster"):
            if key not in row:
                raise DataError(f"{name}: a row of split '{split}' has no '{key}': every row needs 'id' and 'cluster'")
            typed(f"a row's '{key}' must be", row[key], str, "text")
        if row["id"] in seen:
            raise DataError(f"{name}: two rows of split '{split}' have the id '{row['id']}': an id names one row")
        seen.add(row["id"])
        try:
            same = json.loads(json.dumps(row)) == row
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: row '{row['id']}' cannot be written as JSON: {_one_line(error)}") from None
        if not same:
            raise DataError(f"{name}: row '{row['id']}' is another one once written as JSON and read again: use lists, and text for keys")
    said = {}
    for what, call in {"prompt": lambda: task.prompt(rows[0]), "verify": lambda: task.verify("", rows[0])}.items():
        try:
            said[what] = call()
        except Exception as error:  # the task is someone's program
            raise DataError(f"{name}: {what} raised {_one_line(error)} for row '{rows[0]['id']}'") from error
    typed("prompt must give", said["prompt"], str, "text")
    typed("verify must give", verdict := said["verify"], Verdict, "a Verdict")
    if verdict.error not in (None, *task.ERRORS) or (verdict.error is None) != verdict.correct:
        known = ", ".join(task.ERRORS)
        raise DataError(f"{name}: verify gave the error {verdict.error!r} where ERRORS has {known}, and None is for a right answer")
    return rows


def fingerprint(task: ModuleType, source: str | None) -> str:
    """What the data is of, as text that equal data shares: it becomes part of a result's identity.

    >>> fingerprint(get("countdown"), "procedural:numbers=3,low=1,high=9,target_low=1,target_high=40")
    'procedural:numbers=3,low=1,high=9,target_low=1,target_high=40'
    """
    source = getattr(task, "DEFAULT_SOURCE", None) if source is None else source
    if source is None:
        return "built-in"
    if source.startswith("procedural:"):
        return source
    if (path := Path(source)).is_file():
        return f"sha256:{_sha256(path)}"
    from rrr_utils.tasks import rowfiles, sources

    if path.suffix in rowfiles.SUFFIXES:
        raise DataError(f"no file {source} (looked in {path.parent.absolute()})")
    revision = sources.recorded(source)
    return f"hub:{source}@{revision}" if revision else f"hub:{source}"


def _from_module(name: str) -> ModuleType:
    dotted = f"{__name__}.{name}" if "." not in name else name
    try:
        return importlib.import_module(dotted)
    except ModuleNotFoundError as error:
        # a module that the task itself imports may be missing too: that is another complaint
        if error.name and not (dotted == error.name or dotted.startswith(f"{error.name}.")):
            raise DataError(f"task '{name}' cannot be imported: {error}") from None
        hint = nearest(name, [path.stem for path in Path(__file__).parent.glob("[a-z]*.py")])
        raise DataError(f"unknown task '{name}'{hint}; a dotted module or a path to a .py file will do as well") from None
    except Exception as error:  # the module is someone's program, as a file is
        raise DataError(f"task '{name}' cannot be imported: {_one_line(error)}") from error


def _from_file(path: Path) -> ModuleType:
    """The module that a file holds. Its `__name__` is the file's stem, wherever it lies."""
    if not path.is_file():
        raise DataError(f"no file {path} (looked in {path.parent.absolute()}): give the path of a task's .py file")
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickle look a module up by its name; a module of that name from elsewhere is left alone
    if path.stem not in sys.modules or getattr(sys.modules[path.stem], "__file__", None) == spec.origin:
        sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the file is someone's program: whatever it raises, the complaint names the file
        raise DataError(f"{path} cannot be loaded: {_one_line(error)}") from error
    return module


def _needs() -> str:
    return ", ".join([*NAMES, *FUNCTIONS])


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
