"""Copies of runs in another folder, for machines that come and go: Google Drive on Colab, or a disk of a cluster.

    backup_dir/<task>/<model>/<stage>-<hash>/    finished, whole; a training that goes on, with its newest checkpoint
    backup_dir/revisions.json                    the commits that folders are named by

Everything is written locally first; a copy replaces the one before it when it is whole. Not copied: what collecting or
evaluating has done before it is finished. Nothing is taken over where a run is begun here already.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from rrr_utils.errors import ResultsError, one_line
from rrr_utils.identity import home, root, stage_dir, upstream
from rrr_utils.settings import ROOT, Settings

#: where Colab mounts the user's Drive
DRIVE = Path("/content/drive/MyDrive")
#: what is not copied: leftovers, and what a checkpoint, a result or a lock stands for
_LEFT = ("damaged", "before", "*.part", "damaged-*", ".*", "checkpoints")


def folder(settings: Settings) -> Path | None:
    """Where this run's copies lie: `backup_dir` (a relative one counts from the repository), else on Colab a mounted
    Drive's `rrr`, else none are made."""
    if settings.backup_dir:
        return ROOT / Path(settings.backup_dir).expanduser()
    return DRIVE / "rrr" if "COLAB_RELEASE_TAG" in os.environ and DRIVE.is_dir() else None


def said() -> str:
    """One line for Colab's users."""
    if DRIVE.is_dir():
        return (
            f"Drive is mounted: results and checkpoints are copied to {DRIVE / 'rrr'}; a new session goes on from them"
        )
    return "Drive is not mounted: what is computed ends with this session. Files (left) > Mount Drive keeps it"


def save(settings: Settings, directory: Path, checkpoint: Path | None = None) -> None:
    """Copy a stage's folder, and of its checkpoints this one; an error becomes a printed line, and the run goes on."""
    if (place := folder(settings)) is None:
        return
    target = place / directory.relative_to(root(settings))
    part, old = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.old")
    try:
        _remove(part)
        shutil.copytree(directory, part, ignore=shutil.ignore_patterns(*_LEFT))
        if checkpoint:
            shutil.copytree(checkpoint, part / "checkpoints" / checkpoint.name)
        if (commits := root(settings) / "revisions.json").is_file():
            shutil.copyfile(commits, place / "revisions.json")
        _remove(old)
        if target.exists():
            target.rename(old)
        part.rename(target)
        _remove(old)
    except OSError as error:  # shutil's own error is one too
        print(f"{directory.name} could not be copied to {place} ({one_line(error)}); the run goes on", flush=True)


def exchange(settings: Settings, stage: str) -> None:
    """Before a stage: take from the copies what it reads or goes on with and what is not here; copy what was finished
    here without them. Raises ResultsError where a copy cannot be read."""
    if (place := folder(settings)) is None:
        return
    here = root(settings)
    try:
        here.mkdir(parents=True, exist_ok=True)
        with FileLock(here / ".backup.lock"):
            if (commits := place / "revisions.json").is_file() and not (here / commits.name).exists():
                shutil.copyfile(commits, here / commits.name)  # before any folder's name is known
            for directory in _wanted(settings, stage, place):
                copy = place / directory.relative_to(here)
                copy = copy if copy.exists() else copy.with_name(f"{copy.name}.old")
                if not (directory / "begun.json").exists() and (copy / "begun.json").is_file():
                    _take(copy, directory)
                elif (directory / "result.json").is_file() and not (copy / "result.json").is_file():
                    save(settings, directory)
    except OSError as error:
        text = f"the copies in {place} cannot be read: {one_line(error)}"
        raise ResultsError(f"{text}. Repair or remove them, or set backup_dir elsewhere") from None


def forget(settings: Settings, directory: Path, backup_dir: str | None) -> None:
    """Remove the copy of a run that is removed here; `backup_dir`: the one that it was begun with."""
    if place := folder(settings.model_copy(update={"backup_dir": backup_dir})):
        _remove(place / directory.relative_to(root(settings)))


def _wanted(settings: Settings, stage: str, place: Path) -> Iterator[Path]:
    """Local folders of a stage and of all that it reads; for tables, of everything of this task and model."""
    if stage == "tables":
        copies = (place / home(settings).relative_to(root(settings))).glob("*-*")
        names = {path.name.removesuffix(".old") for path in copies if path.suffix != ".part"}
        yield from (home(settings) / name for name in sorted(names))
        return
    for one, name in upstream(settings, stage):
        yield from _wanted(one, name, place)
    yield stage_dir(settings, stage)


def _take(copy: Path, directory: Path) -> None:
    """Copy a folder here; begun.json, which makes it one that goes on, comes last."""
    shutil.copytree(copy, directory, ignore=shutil.ignore_patterns("begun.json"), dirs_exist_ok=True)
    shutil.copyfile(copy / "begun.json", directory / "begun.json")
    print(f"{directory.name} was taken from {copy}", flush=True)


def _remove(path: Path) -> None:
    """Remove a folder. Its files are emptied first: Drive keeps what is deleted for a month, and counts it."""
    for file in path.rglob("*") if path.exists() else ():
        if file.is_file():
            with contextlib.suppress(OSError):
                os.truncate(file, 0)
    shutil.rmtree(path, ignore_errors=True)
