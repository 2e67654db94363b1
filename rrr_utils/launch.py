"""Strict papermill: python -m rrr_utils.launch NOTEBOOK [--profile tiny] [-p NAME=VALUE ...]

NOTEBOOK is a stage (failures, train, evaluate, tables), a stem such as 02_train_reflection, or a path. Names and types are
checked before anything runs; the executed notebook gets its name only when it is whole; whether the stage is done is
judged by its result.json alone. Exit status: 0 done, 1 the stage failed, 2 refused before anything ran. The last line on
stderr says what went wrong; RRR_TRACEBACK=1 puts the traceback before it.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rrr_utils import runs
from rrr_utils.errors import DataError, ResultsError, SettingsError, nearest
from rrr_utils.settings import PARAMETERS, ROOT, Settings, from_notebook, load

NOTEBOOKS = {"failures": "01_collect_failures", "train": "02_train_reflection", "evaluate": "03_evaluate", "tables": "04_paper_tables"}
REFUSED = (SettingsError, DataError, ResultsError)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    try:
        given = _parse(arguments)
        notebook, stage = find(given.notebook)
        parameters, settings = check(notebook, given.profile, given.p)
        runs.identity(settings, stage)  # complains of an unknown task, missing data or a model that is not there
        if settings.gpus > 1 and settings.gpus > len(gpus()):
            raise SettingsError(f"gpus is {settings.gpus} but this machine shows {len(gpus())}: set gpus lower")
        found = runs.done(settings, stage)
        if not found and settings.profile != "tiny":
            _refuse_missing(settings, stage)
    except REFUSED as error:
        return _complain(str(error), 2)
    return _report(settings, stage, found) if found else run(notebook, stage, parameters, settings)


def find(name: str) -> tuple[Path, str]:
    """The notebook and the stage that a stage's name, a stem or a path stands for.

    >>> find("train")[0].name, find("02_train_reflection")[1]
    ('02_train_reflection.ipynb', 'train')
    """
    stem = NOTEBOOKS.get(name) or Path(name).name.removesuffix(".ipynb")
    stage = next((stage for stage, known in NOTEBOOKS.items() if known == stem), None)
    if stage is None:
        raise SettingsError(f"'{name}' is no stage's notebook{nearest(stem, [*NOTEBOOKS, *NOTEBOOKS.values()])}")
    return Path(name).absolute() if name.endswith(".ipynb") else ROOT / "notebooks" / f"{stem}.ipynb", stage


def check(notebook: Path, profile: str | None, assignments: list[str]) -> tuple[dict[str, Any], Settings]:
    """What papermill is to inject, and the settings that the notebook will make of it. Raises for a wrong name or type."""
    defaults = parameters_of(notebook)
    known = [*defaults, *Settings.model_fields, "preset"]
    values: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise SettingsError(f"-p {assignment}: write -p NAME=VALUE")
        if name not in known:
            raise SettingsError(f"unknown parameter '{name}'{nearest(name, known)}")
        values[name] = parse_value(name, text)
    if profile is not None:
        values["profile"] = profile
    overrides = {name: value for name, value in values.items() if name not in defaults}
    if overrides and "overrides" not in defaults:
        raise SettingsError(f"{notebook.name} has no parameter '{next(iter(overrides))}'{nearest(next(iter(overrides)), list(defaults))}")
    parameters = {name: value for name, value in values.items() if name in defaults}
    if overrides:
        parameters["overrides"] = {**(parameters.get("overrides") or {}), **overrides}
    settings = from_notebook({**defaults, **parameters})
    checked = settings.model_dump(mode="json")
    for name in parameters.get("overrides") or {}:  # the values as they were understood: 1e-5 is a float by now
        parameters["overrides"][name] = checked.get(name, parameters["overrides"][name])
    return parameters, settings


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Names and defaults of the cell tagged `parameters`."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        source = next("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
        body = ast.parse(source).body
        return {line.targets[0].id: ast.literal_eval(line.value) for line in body if isinstance(line, ast.Assign)}
    except FileNotFoundError:
        raise SettingsError(f"no notebook {notebook}") from None
    except StopIteration:
        raise SettingsError(f"{notebook} has no cell tagged 'parameters': {', '.join(PARAMETERS)}") from None
    except (OSError, ValueError, KeyError, SyntaxError, AttributeError) as error:
        raise SettingsError(f"{notebook} cannot be read: {type(error).__name__}: {error}") from None


def parse_value(name: str, text: str) -> Any:
    """A value from the command line; its type is checked with the settings.

    >>> parse_value("learning_rate", "1e-5"), parse_value("seed", "none"), parse_value("model", "7"), parse_value("rounds", "1,3")
    (1e-05, None, '7', [1, 3])
    """
    if text.lower() in ("none", "null"):
        return None
    field = Settings.model_fields.get(name)
    kind = str(field.annotation) if field else ""
    if kind.startswith("tuple") and not text.startswith("["):
        return [parse_value("", part.strip()) for part in text.split(",")]
    if kind in ("<class 'str'>", "str | None"):
        return _path(name, text)
    try:
        return json.loads(text)
    except ValueError:
        return text


def _path(name: str, text: str) -> str:
    """A task's, model's or data's file that is named from where the user stands, when that is not the repository."""
    here = Path(text).expanduser()
    return str(here.absolute()) if name in ("task", "model", "source") and here.exists() and not (ROOT / here).exists() else text


def command(settings: Settings, stage: str) -> str:
    """The command that makes a stage's result; what equals the profile is left out.

    >>> command(load("tiny", {"seed": 1, "steps": 5}), "train")
    'python -m rrr_utils.launch train --profile tiny -p seed=1 -p steps=5'
    """
    base = load(settings.profile).model_dump(mode="json")
    own = settings.model_dump(mode="json")
    ignored = {"failures": ("profile", "seed"), "tables": set(own) - {"results_dir"}}.get(stage, ("profile",))
    changed = {name: value for name, value in own.items() if value != base[name] and name not in ignored}
    options = []
    for name, value in changed.items():
        options += ["-p", f"{name}={value if isinstance(value, str) else 'none' if value is None else json.dumps(value)}"]
    return shlex.join(["python", "-m", "rrr_utils.launch", stage, "--profile", settings.profile, *options])


def missing(settings: Settings, stage: str) -> list[tuple[Settings, str]]:
    """What the stage reads and is not there. For the tables any finished evaluation will do."""
    if stage == "tables" and runs.evaluations(settings.profile, settings.results_dir):
        return []
    return [(above, name) for above, name in runs.upstream(settings, stage) if not runs.done(above, name)]


def ensure(settings: Settings, stage: str) -> None:
    """For notebooks: make what the stage reads and misses, in the tiny profile; else say which command makes it."""
    for above, name in missing(settings, stage):
        if settings.profile != "tiny":
            _refuse_missing(settings, stage)
        line = command(above, name)
        print(f"{stage} reads the result of {name}, which is not there yet. Making it: {line}", flush=True)
        environment = {**os.environ, "RRR_PLAIN_LOG": "1"}
        words = [sys.executable, *shlex.split(line)[1:]]
        with subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            last = ""
            for last in process.stdout:
                print(last, end="", flush=True)
        if process.returncode:
            raise ResultsError(f"{name}, which {stage} reads, could not be made: {last.strip() or line}")


def _refuse_missing(settings: Settings, stage: str) -> None:
    for above, name in missing(settings, stage):
        raise SettingsError(f"{stage} reads the result of {name}, which is not there: make it with   {command(above, name)}")


def run(notebook: Path, stage: str, parameters: dict[str, Any], settings: Settings) -> int:
    """Run a stage's notebook while no other process runs it; what it says goes to stdout and stderr as it is said."""
    prefix = f"{stage}{'' if settings.seed is None or stage in ('failures', 'tables') else f' seed {settings.seed}'}: "
    folder = runs.stage_dir(settings, stage)
    part, pid_file = folder / ".run.part.ipynb", folder / ".kernel.pid"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".launch.lock", f"{prefix}another process runs this stage: waiting for it"):
            if found := runs.done(settings, stage):
                return _report(settings, stage, found)
            from rrr_utils import files, kernel  # papermill: only when something is to run

            if pid_file.exists():  # of a launcher that was killed; its kernel ends by itself within a second or two
                kernel.end(int(pid_file.read_text() or 0), patience=10)
            runs.open_stage(settings, stage)
            _environment(settings, stage)
            taken = _take_gpus(settings.gpus if stage == "train" else 1, prefix) if stage != "tables" else []
            print(f"{prefix}running {notebook.name}; files go to {folder}", flush=True)
            plain = "RRR_PLAIN_LOG" in os.environ or not sys.stderr.isatty()
            failure = kernel.execute(notebook, part, parameters, ROOT, pid_file, prefix if plain else "", plain)
            for gpu in taken:
                gpu.release()
            found = runs.done(settings, stage)
            if part.exists():
                part.rename(folder / ("run.ipynb" if found else "failed.ipynb"))
            if found:
                (folder / "failed.ipynb").unlink(missing_ok=True)
    except REFUSED as error:
        return _complain(f"{prefix}{error}", 1)
    except OSError as error:
        return _complain(f"{prefix}{files.no_space(error.filename or folder, error)}", 1)
    if failure and failure.traceback and os.environ.get("RRR_TRACEBACK") == "1":
        print(failure.traceback, file=sys.stderr)
    if found:
        if failure:
            print(f"{prefix}the result is whole, but cell {failure.cell} of {notebook.name} failed later: {failure.error}", file=sys.stderr)
        return _report(settings, stage, found)
    return _complain(_explain(failure, prefix, notebook, folder), 1)


def _explain(failure: Any, prefix: str, notebook: Path, folder: Path) -> str:
    """One line: what failed, where, what to do."""
    again = "What was computed stays: the same command goes on from the last checkpoint"
    if failure is None:
        return f"{prefix}{notebook.name} ran to its end but left no result.json of these settings in {folder}: does it call its stage?"
    where = f"in cell {failure.cell} of {notebook.name}" if failure.cell else f"in {notebook.name}"
    if failure.error == "DeadKernelError":
        return f"{prefix}the kernel was killed {where} (out of memory?). {again}"
    if failure.error == "KeyboardInterrupt":
        return f"{prefix}stopped {where}. {again}"
    text = " ".join(failure.text.split())
    if "No space left on device" in text and failure.error == "OSError":
        return f"{prefix}no space left on the device ({where}; files go to {folder}): free some or set results_dir elsewhere. {again}"
    if failure.error in [kind.__name__ for kind in REFUSED]:
        return f"{prefix}{text} ({where})"
    return f"{prefix}{failure.error}: {text} ({where}; see {folder / 'failed.ipynb'}, or repeat with RRR_TRACEBACK=1). {again}"


def _environment(settings: Settings, stage: str) -> None:
    """What the kernel inherits."""
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    os.environ["OMP_WAIT_POLICY"] = "passive"  # idle threads sleep: two runs side by side do not slow each other down
    os.environ["RRR_COMMAND"] = command(settings, stage)
    for name, value in {
        "TQDM_MININTERVAL": "1" if sys.stderr.isatty() else "10",  # seconds between two lines of a progress bar
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


def _lock(path: Path, message: str) -> Any:
    """A lock that ends with the process that holds it, however that ends."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(message, file=sys.stderr, flush=True)
        return lock.acquire()


def gpus() -> list[str]:
    """GPUs that this process may use, found without torch; none where there is no NVIDIA driver."""
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return visible.split(",")
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def _take_gpus(number: int, prefix: str) -> list[FileLock]:
    """Where there are several GPUs, as many as asked for that no other launcher has. The locks end with this process."""
    choices, said = gpus(), False
    while len(choices) > 1:
        taken: dict[str, FileLock] = {}
        for gpu in choices:
            lock = FileLock(Path(tempfile.gettempdir()) / f"rrr-gpu-{gpu}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
                taken[gpu] = lock
            except (Timeout, PermissionError):
                continue
            if len(taken) == number:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
                return list(taken.values())
        for lock in taken.values():  # not enough: nobody waits while holding some
            lock.release()
        if not said:
            print(f"{prefix}all {len(choices)} GPUs are in use: waiting", file=sys.stderr, flush=True)
            said = True
        time.sleep(2)
    return []


def _report(settings: Settings, stage: str, found: dict[str, Any]) -> int:
    print(f"done: {stage} {runs.stage_dir(settings, stage)} {found['identity_hash']}", flush=True)
    return 0


def _complain(text: str, status: int) -> int:
    sys.stdout.flush()
    print(" ".join(text.split("\n")), file=sys.stderr, flush=True)
    return status


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> None:
            raise SettingsError(f"{message}; usage: python -m rrr_utils.launch NOTEBOOK [--profile tiny] [-p NAME=VALUE ...]")

    parser = Parser(prog="python -m rrr_utils.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", metavar="NOTEBOOK", help="failures, train, evaluate, tables, a stem or a path")
    parser.add_argument("--profile", help="what runs: a file in data/profiles (default: the notebook's own, tiny)")
    parser.add_argument("-p", metavar="NAME=VALUE", action="append", default=[], help="a parameter, or any other setting")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
