"""Run folders: begun under a lock, done once `result.json` is there and its outputs are whole. Re-exports identity.py.

The tables of a profile are derived (results/runs/tables/<profile>/): no hash, made again when what they read changes.
Not covered: what the stages compute (failures.py, training.py, evaluation.py) and how files are written (files.py).
"""

# ruff: noqa: I001
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from rrr_utils import backup, grid, models, tasks
from rrr_utils.errors import PLAIN, ResultsError
from rrr_utils.files import file_hash, no_space, read_json, write_json
from rrr_utils.identity import (  # noqa: F401
    NOTEBOOKS, STAGES, VERSIONS, home, identity, identity_hash, model_name, model_path, offline, profile_name, root,
    source_of, stage_dir, task_name, upstream,
)  # fmt: skip
from rrr_utils.provenance import provenance
from rrr_utils.settings import DATA, KEPT_FIELDS, ROOT, STAGE_FIELDS, Settings
from rrr_utils.tasks import sources

#: what folders were begun with before there was a choice
_BEFORE = {"backend": "transformers", "generation_batch": 4096}


@contextlib.contextmanager
def begin(settings: Settings, stage: str, resolve: Callable | None = None) -> Iterator[tuple[Path, Settings]]:
    """The stage's folder, locked while the block runs, and the settings that its run goes on with.

    What a folder was begun with (KEPT_FIELDS) it goes on with, since these can change single texts. `resolve(settings,
    stage)` gives the settings that a new folder is begun with: without `auto`, and sizes that fit this machine.
    Raises ResultsError where a stage before it is not done, or is another one than this run began with.
    """
    folder, now = stage_dir(settings, stage), identity(settings, stage)
    with hold(folder):
        clear_damage(folder)
        (folder / "failed.json").unlink(missing_ok=True)
        read = {}
        for one, name in upstream(settings, stage):
            if (result := done(one, name)) is None:
                text = f"no finished '{name}' result in {stage_dir(one, name)}"
                raise ResultsError(f"{text}: run notebook {NOTEBOOKS[name]} first")
            read |= {f"{stage_dir(one, name).name}/{file}": digest for file, digest in result["outputs"].items()}
        begun = read_json(folder / "begun.json")
        wished = {name: getattr(settings, name) for name in KEPT_FIELDS}
        if begun is None:
            settings = resolve(settings, stage) if resolve else settings
            begun = {"stage": stage, "identity": now, "identity_hash": identity_hash(now)}
            begun |= {"settings": settings.model_dump(mode="json"), "wished": wished}
            begun |= {"read": read, "started": time.time()}
            write_json(folder / "begun.json", begun)
        if changed := sorted(name for name, _ in read.items() ^ begun["read"].items()):
            raise ResultsError(
                f"{folder} was begun with another {changed[0]} than is there now, so it cannot go on: "
                f"make runs DELETE={folder.name} removes it, and the same command begins it anew"
            )
        kept = {name: begun["settings"].get(name, _BEFORE.get(name)) for name in KEPT_FIELDS}
        then = begun.get("wished", kept)
        for name in [name for name, wish in wished.items() if wish not in (then.get(name, wish), kept[name])]:
            print(f"{folder.name} goes on with {name} {kept[name]}, as it was begun, not {wished[name]}", flush=True)
        yield folder, settings.model_copy(update=kept)


@contextlib.contextmanager
def hold(folder: Path, name: str = ".lock", waiting: str = "") -> Iterator[None]:
    """The folder, there and locked; waits for another process that works in it. The lock ends with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name, is_singleton=True)  # may be taken again by who has it
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(waiting or f"another process works in {folder}: waiting for it", file=sys.stderr, flush=True)
            lock.acquire()
    except OSError as error:
        raise no_space(folder, error) from None
    try:
        yield
    finally:
        lock.release()


def open_tables(settings: Settings) -> Path:
    """The folder of the profile's tables, there to be written to."""
    with hold(folder := stage_dir(settings, "tables")):
        return folder


def finish(
    settings: Settings, stage: str, outputs: list[Path], summary: dict[str, Any], started: float | None = None
) -> dict[str, Any]:
    """Write `result.json`, last of all; returns it. `outputs`: files, or folders whose files all count; `started`:
    seconds since the epoch, none for the time when the folder was begun."""
    folder = stage_dir(settings, stage)
    now = tables_identity(settings) if stage == "tables" else identity(settings, stage)
    begun = read_json(folder / "begun.json") or {"settings": settings.model_dump(mode="json"), "read": {}}
    inside = [file for path in outputs for file in (path.rglob("*") if path.is_dir() else [path])]
    result = {
        "stage": stage,
        "identity": now,
        "identity_hash": identity_hash(now),
        "settings": begun["settings"],
        "provenance": provenance(begun["started"] if started is None else started),
        "read": begun["read"],
        "outputs": {
            file.relative_to(folder).as_posix(): file_hash(file) for file in sorted(inside) if not file.is_dir()
        },
        "summary": summary,
    }
    write_json(folder / "result.json", result)
    backup.save(settings, folder)
    return result


def done(settings: Settings, stage: str) -> dict[str, Any] | None:
    """The stage's result where it is whole, else None. Damaged outputs set its `result.json` aside."""
    result = whole(stage_dir(settings, stage))
    if result is None or (stage == "tables" and result["identity"] != tables_identity(settings)):
        return None
    return result


def already(settings: Settings, stage: str) -> bool:
    """Whether the stage is done, which is then said."""
    if there := done(settings, stage) is not None:
        print(f"already done: {stage_dir(settings, stage)}", flush=True)
    return there


def whole(folder: Path) -> dict[str, Any] | None:
    """A folder's result, checked. One that is not as it was written is renamed to `result.damaged.json`."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    result = read_json(path)
    if not _well_formed(result):
        reason = "it is not a result of a stage"
    elif result["stage"] != "tables" and not folder.name.endswith(f"-{identity_hash(result['identity'])}"):
        reason = "it belongs to another folder"
    elif changed := [name for name, digest in result["outputs"].items() if _digest(folder / name) != digest]:
        reason = f"{changed[0]} is not as it was written"
    else:
        return result
    print(f"{path} is set aside as result.damaged.json: {reason}", file=sys.stderr, flush=True)
    with contextlib.suppress(FileNotFoundError):  # another reader was faster
        path.replace(folder / "result.damaged.json")
    return None


def _well_formed(result: Any) -> bool:
    parts = {"stage": str, "identity": dict, "settings": dict, "read": dict, "outputs": dict, "summary": dict}
    return isinstance(result, dict) and all(isinstance(result.get(name), kind) for name, kind in parts.items())


def _digest(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None


def clear_damage(folder: Path) -> list[str]:
    """Move the outputs that a damaged result names, and that are not as written, to `damaged/`; returns their names."""
    path, aside = folder / "result.damaged.json", folder / "damaged"
    if not path.exists():
        return []
    result = read_json(path)
    outputs = result["outputs"] if _well_formed(result) else {}
    moved = [name for name, digest in outputs.items() if _digest(folder / name) != digest]
    for name in [*(name for name in moved if (folder / name).exists()), path.name]:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).replace(aside / name)
    return moved


class Run(NamedTuple):
    """A stage's folder as it lies there: how it was begun, and its result or failure, if any. Nothing is checked."""

    folder: Path
    begun: dict[str, Any]
    result: dict[str, Any] | None
    failed: dict[str, Any] | None


def listed(results_dir: str | Path) -> list[Run]:
    """Every stage folder under a results_dir, by path."""
    runs = []
    for folder in sorted(path for path in (ROOT / Path(results_dir).expanduser()).glob("*/*/*-*") if path.is_dir()):
        result, failed = read_json(folder / "result.json"), read_json(folder / "failed.json")
        begun = read_json(folder / "begun.json") or result
        if isinstance(begun, dict) and {"stage", "identity", "settings", "read"} <= begun.keys():
            runs.append(Run(folder, begun, result if _well_formed(result) else None, failed))
    return runs


def asked(settings: Settings) -> list[Settings]:
    """Whose evaluations a table takes: for each row of the profile (grid.py) the base model's, then each seed's."""
    with offline():
        return [one for row in grid.rows_of(settings) for one in _of_row(row)]


def _of_row(settings: Settings) -> list[Settings]:
    """The base model's settings, then one for each seed of `seeds`. Empty `seeds` stand for every seed with a finished
    evaluation of these settings, or for `seed` where there is none."""
    seeds = settings.seeds
    if not settings.policies:  # the base model alone
        seeds = ()
    elif not seeds:
        names = [path.name.split("-")[1] for path in home(settings).glob("evaluate-seed*-*")]
        there = sorted({int(name.removeprefix("seed")) for name in names if name.removeprefix("seed").isdigit()})
        with contextlib.suppress(*PLAIN):  # what is wrong with a row is said where its results are asked for
            seeds = [seed for seed in there if done(settings.model_copy(update={"seed": seed}), "evaluate")]
        seeds = seeds or [0 if settings.seed is None else settings.seed]
    return [settings.model_copy(update={"seed": seed}) for seed in (None, *seeds)]


def tables_identity(settings: Settings) -> dict[str, Any]:
    """What the tables are made from: the evaluations that are there, and why others are not."""
    there, lacking = evaluated(settings)
    folders = [stage_dir(one, "evaluate").relative_to(root(settings)).as_posix() for one, _ in there]
    hashes = [identity_hash({"outputs": result["outputs"], "read": result["read"]}) for _, result in there]
    known = [DATA / name for name in ("paper.csv", "claims.yaml")]
    paper = identity_hash({path.name: file_hash(path) for path in known if path.is_file()})
    seeds = sorted({one.seed for one in asked(settings) if one.seed is not None})
    what = {"stage": "tables", "versions": VERSIONS["tables"], "paper": paper, "seeds": seeds}
    return {**what, "read": dict(zip(folders, hashes, strict=True)), "lacking": named(settings, lacking)}


def evaluated(settings: Settings) -> tuple[list[tuple[Settings, dict[str, Any]]], list[tuple[Settings, str]]]:
    """The evaluations that a table takes and that are there, with their results; and the others, with the reason."""
    there, lacking, everyone = [], [], asked(settings)
    with offline():
        for one in everyone:
            try:
                if not models.unpublished(one.model) and (result := done(one, "evaluate")):
                    there.append((one, result))
                else:
                    lacking.append((one, _lacks(one)))
            except PLAIN as error:  # a row that cannot be stops no other
                if not _several(everyone):
                    raise
                lacking.append((one, f"failed: {error}"))
    return there, lacking


def _lacks(settings: Settings) -> str:
    """Why an evaluation is not there; of a row that cannot be had here, since when nothing was run, that."""
    stands = "not run" if models.unpublished(settings.model) else status(settings, "evaluate")
    why = refusal(settings) if stands == "not run" else None
    return f"not run: {why}" if why else stands


def refusal(settings: Settings) -> str | None:
    """Why a row of the grid cannot be run here, in one line: its model or its data cannot be had. None otherwise."""
    if why := models.unpublished(settings.model):
        return why
    hub_id = tasks.hub_source(tasks.get(settings.task), settings.source)
    return (sources.refusal(hub_id) if hub_id else None) or models.refusal(settings)


def named(settings: Settings, lacking: list[tuple[Settings, str]]) -> dict[str, str]:
    """What `evaluated` lacks, by name: "seed 0", of several rows "countdown:owner/name, seed 0"."""
    several = _several(asked(settings))
    return {f"{grid.title(one)}, {who(one)}" if several else who(one): why for one, why in lacking}


def who(settings: Settings) -> str:
    """Whose evaluation it is: the base model's or a seed's."""
    return "base model" if settings.seed is None else f"seed {settings.seed}"


def _several(everyone: list[Settings]) -> bool:
    return len({grid.title(one) for one in everyone}) > 1


def status(settings: Settings, stage: str) -> str:
    """Where a stage stands: "done", "failed: why" (it, or a stage before it), "not finished" or "not run"."""
    folder = stage_dir(settings, stage)
    if whole(folder):
        return "done"
    if failed := read_json(folder / "failed.json"):
        return f"failed: {failed.get('error')}"
    before = [status(one, name) for one, name in upstream(settings, stage)]
    reason = next((one for one in before if one.startswith("failed")), None)
    return reason or ("not finished" if (folder / "begun.json").exists() else "not run")


def differing(settings: Settings, run: Run) -> dict[str, tuple[Any, Any]]:
    """What differs between a run and the run that these settings ask for: name -> (there, here), for the settings that
    bear on the stage or on one before it, and for data, model, prompts and versions."""
    stage, there = run.begun["stage"], run.begun["settings"]
    here, vanilla = settings.model_dump(mode="json"), stage == "evaluate" and there.get("seed") is None
    stages = (stage,) if vanilla else STAGES[: STAGES.index(stage) + 1]
    names = dict.fromkeys(name for one in stages for name in STAGE_FIELDS[one] if not (vanilla and name == "policies"))
    apart = {name: (there.get(name), here[name]) for name in names if there.get(name) != here[name]}
    with contextlib.suppress(*PLAIN):  # a hub model whose commit cannot be looked up has no identity yet
        one = settings.model_copy(update={"seed": there.get("seed")})
        now, then = identity(one, stage), run.begun["identity"]
        for name in ("data", "model_hash", "task_hash", "shown", "versions"):
            if then.get(name) != now[name]:
                apart[name] = (then.get(name), now[name])
    return apart
