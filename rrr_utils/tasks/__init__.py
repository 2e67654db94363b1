"""Tasks: what is asked, and how an answer is verified.

A task is a module (or your own .py file) with VERSION, REFLECT, ERRORS, `load`, `prompt` and `verify`. Nothing is
registered: `get` finds a task by its name. `countdown.py` is the one to copy from. Optional are EXAMPLE (a row that
stands for all prompts in a result's identity), DEFAULT_SOURCE, GENERIC (one fixed hint in the place of a reflection),
KINDS with `kind` (what a reflection does), `mask` (a reflection without numbers or values), `answers_in` (its passages,
word for word, that state a right answer), `answer_of` (the answer that a completion or such a passage states: equal for
equal answers), `wrong_in` (passages that state something false) and `flaw` (what is wrong with a problem that a reader
typed in). The stages call this module's functions: when a task fails there, the error names task and row.
"""

import importlib
import importlib.util
import inspect
import itertools
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rrr_utils.errors import PLAIN, DataError, nearest, one_line
from rrr_utils.files import file_hash
from rrr_utils.tasks.rowfiles import SUFFIXES

#: names of a task, each with its type or, for a function, with its first parameters
NEEDED: dict[str, type | tuple[str, ...]] = {
    "VERSION": int, "REFLECT": str, "ERRORS": tuple,
    "load": ("split", "n", "seed", "source"), "prompt": ("row",), "verify": ("completion", "row"),
}  # fmt: skip
OPTIONAL: dict[str, type | tuple[str, ...]] = {
    "EXAMPLE": dict, "DEFAULT_SOURCE": str, "GENERIC": str, "KINDS": tuple,
    "kind": ("reflection", "row"), "mask": ("reflection", "row"), "answers_in": ("reflection", "row"),
    "answer_of": ("text", "row"), "wrong_in": ("reflection", "row"), "flaw": ("row",),
}  # fmt: skip
#: optional functions that read a text, and what they must give
_PASSAGES = "a list of passages of the text"
READS = {"kind": "one of KINDS", "mask": "text", "answer_of": "text", "answers_in": _PASSAGES, "wrong_in": _PASSAGES}

_ANY = (Exception, SystemExit)  # what a task's own code may raise
_HALF = re.compile("[\ud800-\udfff]")  # half of a surrogate pair: text with it cannot be written as UTF-8
_HUB = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([0-9a-f]{40}))?", re.ASCII)


class Verdict(NamedTuple):
    """What the verifier says about a completion. `error` is one of the task's ERRORS, None if `correct`."""

    correct: bool
    error: str | None
    lenient: bool  # right in substance, whatever the form; True whenever `correct` is


def is_right(verdict: Verdict | dict, which: str = "strict") -> bool:
    """Whether a verdict (or one read from a file) counts as right: `which` is "strict" or "lenient"."""
    stored = verdict if isinstance(verdict, dict) else verdict._asdict()
    return bool(stored["lenient" if which == "lenient" else "correct"])


def get(name: str) -> ModuleType:
    """The task with that name: a built-in one, a dotted module, or a path to a .py file. DataError if it is incomplete.

    >>> get("countdown").ERRORS
    ('no_answer', 'not_an_equation', 'wrong_numbers', 'missed_target')
    """
    return check(_from_file(Path(name).expanduser()) if name.endswith(".py") else _from_module(name), name)


def check(module: ModuleType, name: str) -> ModuleType:
    """The module itself if it has what a task needs; else a DataError that names the first thing missing or wrong."""
    for attribute, kind in (NEEDED | OPTIONAL).items():
        value, is_function = getattr(module, attribute, None), isinstance(kind, tuple)
        signature = f"{attribute}({', '.join(kind)})".replace("source", "source=None") if is_function else attribute
        if value is None and attribute in NEEDED:
            raise DataError(f"task '{name}' has no {signature}: it needs {', '.join(NEEDED)}")
        if value is None:
            continue
        if not (callable(value) if is_function else isinstance(value, kind) and not isinstance(value, bool)):
            wanted = f"a function {signature}" if is_function else f"of type {kind.__name__}"
            raise DataError(f"task '{name}': {attribute} must be {wanted}, not {type(value).__name__}")
        if is_function:
            try:
                inspect.signature(value).bind(*kind)
            except (TypeError, ValueError) as error:
                raise DataError(f"task '{name}': {attribute} must take {signature}: {error}") from None
    if not all(isinstance(error, str) for error in module.ERRORS):
        raise DataError(f"task '{name}': ERRORS must hold names of errors, like ('no_answer', 'wrong')")
    if hasattr(module, "KINDS") and not hasattr(module, "kind"):
        raise DataError(f"task '{name}' has KINDS, so it also needs kind(reflection, row)")
    return module


def _from_module(name: str) -> ModuleType:
    dotted = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(dotted)
        if "." in name or hasattr(module, "verify"):  # the other modules of this package are not tasks
            return module
    except ModuleNotFoundError as error:
        if error.name and not (dotted == error.name or dotted.startswith(f"{error.name}.")):  # an import of the task's
            raise DataError(f"task '{name}' cannot be imported: {error}") from None
    except _ANY as error:
        raise DataError(f"task '{name}' cannot be imported: {one_line(error)}") from error
    here = [path.stem for path in Path(__file__).parent.glob("[a-z]*.py")]
    built_in = [stem for stem in here if hasattr(importlib.import_module(f"{__name__}.{stem}"), "verify")]
    raise DataError(f"unknown task '{name}'{nearest(name, built_in)}; a dotted module or a .py file works too")


def _from_file(path: Path) -> ModuleType:
    """The module in a file. Its `__name__` is the file's stem, wherever the file is."""
    if not path.is_file():
        raise DataError(f"no file {path} (looked in {path.parent.absolute()}): give the path of a task's .py file")
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    module = importlib.util.module_from_spec(spec)
    # dataclasses and pickle look a module up by its name; another module with that name stays where it is
    if path.stem not in sys.modules or getattr(sys.modules[path.stem], "__file__", None) == spec.origin:
        sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except _ANY as error:
        raise DataError(f"{path} cannot be loaded: {one_line(error)}") from error
    return module


def load(task: ModuleType, split: str, n: int | None, source: str | None = None, max_bad_rows: float = 0.01) -> list:
    """`n` checked rows of a split (None: all). DataError if the task fails or gives rows that the stages cannot use.

    `max_bad_rows` (a share) reaches tasks with a parameter of that name. A task that is not built in loads twice:
    rows that change between two calls would mix up a run that is resumed.
    """
    more = {"max_bad_rows": max_bad_rows} if "max_bad_rows" in inspect.signature(task.load).parameters else {}
    loaded = []
    for _ in range(1 if _is_built_in(task) else 2):
        try:
            rows = task.load(split, n, 0, source, **more)
        except PLAIN:
            raise
        except _ANY as error:
            raise _complaint(task, f"load raised {one_line(error)} for split '{split}'") from error
        loaded.append(check_rows(task, split, rows))
    for row, again in itertools.zip_longest(loaded[0], loaded[-1]):
        if row != again:
            raise _complaint(task, f"split '{split}' has other rows when load is called again", row or again)
    return loaded[0]


def prompt(task: ModuleType, row: dict) -> str:
    """The task's prompt for a row; DataError, with task and row named, if the task fails or gives no usable text."""
    try:
        text = task.prompt(row)
    except _ANY as error:
        raise _complaint(task, f"prompt raised {one_line(error)}", row) from error
    if not isinstance(text, str):
        raise _complaint(task, f"prompt must give text, not {type(text).__name__}", row)
    if _HALF.search(text):
        raise _complaint(task, "the prompt is not UTF-8: it has half of a surrogate pair", row)
    return text


def verify(task: ModuleType, completion: str, row: dict) -> Verdict:
    """The task's verdict; DataError, with task and row named, if the task fails or the verdict breaks its rules."""
    try:
        verdict = task.verify(completion, row)
    except _ANY as error:
        raise _complaint(task, f"verify raised {one_line(error)}", row) from error
    if not isinstance(verdict, Verdict):
        raise _complaint(task, f"verify must give a Verdict, not {type(verdict).__name__}", row)
    correct, error, lenient = verdict
    if type(correct) is not bool or type(lenient) is not bool or correct > lenient:
        wanted = "correct and lenient must be True or False, and lenient is True where correct is"
        raise _complaint(task, f"verify gave {one_line(repr(verdict))}: {wanted}", row)
    if (error is None) != correct or (not correct and error not in task.ERRORS):
        wanted = f"one of ERRORS ({', '.join(task.ERRORS)}), or None for a right answer"
        raise _complaint(task, f"verify gave the error {error!r}: it must be {wanted}", row)
    return verdict


def told(task: ModuleType, name: str, text: str, row: dict) -> str | list[str] | None:
    """What one of the task's READS says of a text; DataError, with task and row named, if it fails or breaks its rules.

    Only `answer_of` may say None.
    """
    try:
        value = getattr(task, name)(text, row)
    except _ANY as error:
        raise _complaint(task, f"{name} raised {one_line(error)}", row) from error
    if READS[name] == _PASSAGES:
        fine = isinstance(value, list) and all(isinstance(part, str) and part and part in text for part in value)
    else:
        fine = isinstance(value, str) or (value is None and name == "answer_of")
    if not fine or (name == "kind" and value not in task.KINDS):
        raise _complaint(task, f"{name} gave {one_line(repr(value), 60)}: it must be {READS[name]}", row)
    return value


def cut(task: ModuleType, reflection: str, row: dict) -> str:
    """The reflection without the passages of `answers_in`, until it has none; two spaces that meet become one.

    >>> cut(get("countdown"), "Aim 31 ; 9 - 3 = 6 ; 9 * 3 = 27 : + 31 yes .", {"nums": [3, 9, 4], "target": 31})
    'Aim 31 ; 9 - 3 = 6 .'
    """
    while passages := told(task, "answers_in", reflection, row):
        kept, rest = "", reflection
        for passage in [*passages, None]:
            before, found, after = (rest, None, "") if passage is None else rest.partition(passage)
            if passage is None or found:
                kept, rest = kept + before[kept.endswith(" ") and before.startswith(" ") :], after
        reflection = kept
    return reflection


def check_rows(task: ModuleType, split: str, rows: list[dict]) -> list[dict]:
    """The rows themselves if the stages can work with them; else a DataError, before any model is loaded.

    `prompt`, `verify` and READS are tried on the first three rows, which they must not change.
    """
    seen: set[str] = set()
    if not isinstance(rows, list):
        raise _complaint(task, f"load must give a list of rows, not {type(rows).__name__}")
    if not rows:
        raise _complaint(task, f"has no rows of split '{split}'")
    for row in rows:
        if not isinstance(row, dict):
            raise _complaint(task, f"load must give rows that are dicts, not {type(row).__name__}")
        for key in ("id", "cluster"):
            if not isinstance(value := row.get(key), str):
                what = f"a row of split '{split}' has {one_line(repr(value), 60)} as its '{key}'"
                raise _complaint(task, f"{what}: every row needs text as 'id' and as 'cluster'")
            if _HALF.search(row[key]):
                raise _complaint(task, f"'{key}' is not UTF-8: it has half of a surrogate pair", row)
        if row["id"] in seen:
            raise _complaint(task, f"two rows of split '{split}' have this id", row)
        seen.add(row["id"])
        try:
            copy = json.loads(json.dumps(row))
        except (TypeError, ValueError, RecursionError) as error:
            raise _complaint(task, f"cannot be written as JSON: {one_line(error)}", row) from None
        if copy != row:
            raise _complaint(task, "changes when written as JSON and read again: use lists, and text as keys", row)
        if len(seen) <= 3:
            for completion in ("", prompt(task, row)):
                verify(task, completion, row)
                for name in (name for name in READS if hasattr(task, name)):
                    told(task, name, completion, row)
            if copy != row:
                raise _complaint(task, "prompt or verify changes the row", row)
    return rows


def disjoint(task: ModuleType, splits: dict[str, list[dict]]) -> None:
    """DataError where the same id is in two of the splits ({"train": rows, ...})."""
    seen: dict[str, str] = {}
    for split, rows in splits.items():
        for row in rows:
            if (other := seen.setdefault(row["id"], split)) != split:
                raise _complaint(task, f"is in two splits, {other} and {split}", row)


def _complaint(task: ModuleType, text: str, row: object = None) -> DataError:
    """The error in one line, whatever the id holds."""
    which = f", row {row['id']!r}" if isinstance(row, dict) and "id" in row else ""
    return DataError(f"task '{task.__name__}'{which}: {text}")


def hub_source(task: ModuleType, source: str | None) -> str | None:
    """The hub id of the data (of `source`, else DEFAULT_SOURCE) if its commit is still to be looked up.

    None for procedural and local data, and for owner/name@<40 hex>. DataError for a mistyped source.
    """
    source = getattr(task, "DEFAULT_SOURCE", None) if source is None else source
    if source is None or source.startswith("procedural:") or os.path.isfile(source):
        return None
    hub, commit = hub_parts(source)
    return None if commit else hub


def hub_parts(source: str) -> tuple[str, str | None]:
    """Hub id and commit (None if not named) of a hub source; DataError if it cannot be one."""
    if (match := _HUB.fullmatch(source)) and Path(source).suffix not in SUFFIXES:
        return match[1], match[2]
    raise DataError(f"no file {source} (looked in {Path(source).parent.absolute()}), and no hub id such as owner/name")


def fingerprint(task: ModuleType, source: str | None) -> str:
    """What the data is, as text that equal data shares: part of a result's identity.

    "built-in", "procedural:...", "sha256:..." of a local file, or "hub:owner/name@<commit>".
    DataError for a mistyped source, or a hub source without a commit.

    >>> fingerprint(get("countdown"), "procedural:numbers=3,low=1,high=9,target_low=1,target_high=40")
    'procedural:numbers=3,low=1,high=9,target_low=1,target_high=40'
    """
    if hub := hub_source(task, source):
        raise DataError(f"{hub}: its commit is not known, so results could not say which data they are from")
    source = getattr(task, "DEFAULT_SOURCE", None) if source is None else source
    if source is None or source.startswith("procedural:"):
        return source or "built-in"
    return f"sha256:{file_hash(Path(source))}" if os.path.isfile(source) else f"hub:{source}"


def content_hash(name: str, task: ModuleType) -> str | None:
    """sha256 of the task's file; None for a built-in task, where VERSION says as much."""
    if _is_built_in(task):
        return None
    if not getattr(task, "__file__", None):
        raise DataError(f"task '{name}' has no source file, so results could not say which version of it they are from")
    return file_hash(Path(task.__file__))


def _is_built_in(task: ModuleType) -> bool:
    return task.__name__.startswith(f"{__name__}.")
