"""Strict papermill: python -m rrr_utils.launch NOTEBOOK [--profile tiny] [-p NAME=VALUE ...]

NOTEBOOK is a stage (failures, train, evaluate, tables), a stem such as 02_train_reflection, or a path. Names, types and
what the stage needs are checked before anything runs; the executed notebook gets its name only when it is whole.
Exit status: 0 done (result.json says so), 1 the stage failed, 2 refused before anything ran. The last line on stderr
says what went wrong; RRR_TRACEBACK=1 puts the traceback before it.
"""

import argparse
import ast
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rrr_utils import backup, gpus, needs, runs
from rrr_utils.errors import PLAIN, SettingsError, nearest, one_line
from rrr_utils.files import is_disk_error, no_space, write_json
from rrr_utils.identity import NOTEBOOKS
from rrr_utils.settings import PARAMETERS, ROOT, Settings, from_notebook


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    settings = None
    try:
        given = _parse(arguments)
        notebook, stage = find(given.notebook)
        parameters, settings = check(notebook, given.profile, given.p)
        backup.exchange(settings, stage)
        found = runs.done(settings, stage)  # complains of an unknown task, missing data, or a model that is not there
        if not found:
            needs.check(settings, stage)
    except PLAIN as error:
        if settings and "RRR_GRID" in os.environ:  # a table of several rows says why one of them is not there
            with contextlib.suppress(*PLAIN, OSError):
                _note_failure(settings, stage, str(error))
        return _complain(str(error), 2)
    return _report(settings, stage, found) if found else run(notebook, stage, parameters, settings)


def find(name: str) -> tuple[Path, str]:
    """The notebook and the stage that a stage's name, a stem or a path stands for. Raises SettingsError.

    >>> find("train")[0].name, find("02_train_reflection")[1]
    ('02_train_reflection.ipynb', 'train')
    """
    stem = NOTEBOOKS.get(name) or Path(name).name.removesuffix(".ipynb")
    stage = next((stage for stage, known in NOTEBOOKS.items() if known == stem), None)
    if stage is None:
        raise SettingsError(f"no stage has a notebook '{name}'{nearest(stem, [*NOTEBOOKS, *NOTEBOOKS.values()])}")
    return Path(name).absolute() if name.endswith(".ipynb") else ROOT / "notebooks" / f"{stem}.ipynb", stage


def check(notebook: Path, profile: str | None, assignments: list[str]) -> tuple[dict[str, Any], Settings]:
    """What papermill is to inject, and the settings that the notebook will make of it. Raises SettingsError."""
    defaults = parameters_of(notebook)
    known = [*defaults, *Settings.model_fields]
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
        raise SettingsError(f"{notebook.name} has no parameter 'overrides', which {next(iter(overrides))} would need")
    parameters = {name: value for name, value in values.items() if name in defaults}
    settings = from_notebook({**defaults, **parameters, **overrides})
    checked = settings.model_dump(mode="json")
    if overrides:
        parameters["overrides"] = {**(parameters.get("overrides") or {}), **overrides}
    for name in parameters.get("overrides") or {}:  # the values as they were understood: 1e-5 is a float by now
        parameters["overrides"][name] = checked[name]
    for name in ("profile", "task", "model"):  # paths count from where the user is, and the kernel is elsewhere
        if parameters.get(name) is not None:
            parameters[name] = checked[name]
    return parameters, settings


def parameters_of(notebook: Path) -> dict[str, Any]:
    """Names and defaults of the cell tagged `parameters`. Raises SettingsError."""
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
        raise SettingsError(f"{notebook} cannot be read: {one_line(error)}") from None


def parse_value(name: str, text: str) -> Any:
    """A value from the command line; its type is checked with the settings.

    >>> parse_value("learning_rate", "1e-5"), parse_value("seed", "none"), parse_value("rounds", "1,3")
    (1e-05, None, [1, 3])
    """
    if text.lower() in ("none", "null"):
        return None
    field = Settings.model_fields.get(name)
    kind = str(field.annotation) if field else ""
    if kind.startswith("tuple") and not text.startswith("["):
        return [parse_value("", part.strip()) for part in text.split(",")]
    if kind in ("<class 'str'>", "str | None"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def run(notebook: Path, stage: str, parameters: dict[str, Any], settings: Settings) -> int:
    """Run a stage's notebook; what it prints goes to stdout and stderr at once. Launchers of one stage wait in line."""
    seed = "" if settings.seed is None or stage in ("failures", "tables") else f" seed {settings.seed}"
    prefix, folder = f"{stage}{seed}: ", runs.stage_dir(settings, stage)
    part, failure = folder / ".run.part.ipynb", None
    try:
        with runs.hold(folder, ".launch.lock", f"{prefix}another process runs this stage: waiting for it"):
            if found := runs.done(settings, stage):
                return _report(settings, stage, found)
            sys.modules.setdefault("rfc3987_syntax", None)  # takes seconds, and jsonschema can do without
            from rrr_utils import kernel  # papermill: only when something is to run

            with runs.hold(folder):  # by now nobody works in the folder: no JupyterLab, no kernel of a killed launcher
                _environment(settings, stage)
            taken = gpus.take(settings.gpus if stage == "train" else 1, prefix) if stage != "tables" else []
            print(f"{prefix}running {notebook.name}; files go to {folder}", flush=True)
            plain = "RRR_PLAIN_LOG" in os.environ or not sys.stderr.isatty()
            failure = kernel.execute(notebook, part, parameters, ROOT, prefix if plain else "", plain)
            for lease in taken:
                lease.release()
            found = runs.done(settings, stage)
            if part.exists():
                part.rename(folder / ("run.ipynb" if found else "failed.ipynb"))
            for name in ("failed.ipynb", "failed.json") if found else ():
                (folder / name).unlink(missing_ok=True)
            return _end(settings, stage, found, failure, notebook, prefix)
    except PLAIN as error:
        return _complain(f"{prefix}{error}", 1)
    except OSError as error:
        return _complain(f"{prefix}{no_space(error.filename or folder, error)}", 1)


def _end(settings: Settings, stage: str, found: Any, failure: Any, notebook: Path, prefix: str) -> int:
    """Say how the stage ended; leave failed.json where it failed."""
    folder = runs.stage_dir(settings, stage)
    if failure and failure.traceback and os.environ.get("RRR_TRACEBACK") == "1":
        print(failure.traceback, file=sys.stderr)
    if found and failure:
        text = f"cell {failure.cell} of {notebook.name} failed later: {failure.error}"
        print(f"{prefix}the result is whole, but {text}", file=sys.stderr)
    if found:
        return _report(settings, stage, found)
    text = one_line(_explain(failure, notebook, folder), 2000)
    if not failure or failure.error != "KeyboardInterrupt":
        _note_failure(settings, stage, text)
    return _complain(prefix + text, 1)


def _note_failure(settings: Settings, stage: str, text: str) -> None:
    folder, when = runs.stage_dir(settings, stage), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "failed.json", {"stage": stage, "error": text, "when": when})


def _explain(failure: Any, notebook: Path, folder: Path) -> str:
    """What failed, where, and what to do."""
    again = "What was computed stays: the same command goes on from the last checkpoint"
    if failure is None:
        return f"{notebook.name} ran to its end but left no result.json of these settings in {folder}"
    where = f"in cell {failure.cell} of {notebook.name}" if failure.cell else f"in {notebook.name}"
    if failure.error == "DeadKernelError":
        return f"the kernel was killed {where} (out of memory?). {again}"
    if failure.error == "KeyboardInterrupt":
        return f"stopped {where}. {again}"
    if failure.error in [kind.__name__ for kind in PLAIN]:
        return f"{failure.text} ({where})"
    if is_disk_error(failure.text):
        text = f"no space left on the device ({where}; files go to {folder})"
        return f"{text}: free some or set results_dir elsewhere. {again}"
    see = f"see {folder / 'failed.ipynb'}, or repeat with RRR_TRACEBACK=1"
    return f"{failure.error}: {failure.text} ({where}; {see}). {again}"


def _environment(settings: Settings, stage: str) -> None:
    """What the kernel inherits."""
    if settings.threads:
        os.environ["OMP_NUM_THREADS"] = str(settings.threads)
    if settings.preset == "cpu":
        os.environ["TORCHDYNAMO_DISABLE"] = "1"  # else bitsandbytes imports torch's compiler, which takes seconds
    os.environ["OMP_WAIT_POLICY"] = "passive"  # idle threads sleep: two runs side by side do not slow each other down
    os.environ["RRR_COMMAND"] = needs.command(settings, stage)
    os.environ.setdefault(
        "TQDM_MININTERVAL", "1" if sys.stderr.isatty() else "10"
    )  # seconds between two lines of a bar
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


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
            raise SettingsError(f"{message}; usage: {__doc__.splitlines()[0].removeprefix('Strict papermill: ')}")

    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m rrr_utils.launch", description=__doc__, formatter_class=formatter)
    parser.add_argument("notebook", metavar="NOTEBOOK", help="failures, train, evaluate, tables, a stem or a path")
    parser.add_argument("--profile", help="a name in data/profiles, or a .yaml file (default: the notebook's own)")
    parser.add_argument("-p", metavar="NAME=VALUE", action="append", default=[], help="a parameter or any setting")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
