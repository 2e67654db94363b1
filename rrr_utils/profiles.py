"""Profiles as files: which there are, their rows of task and model, and paths in them. `settings.load` reads them."""

import functools
from pathlib import Path
from typing import Any

import yaml

from rrr_utils.errors import SettingsError, nearest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"


def profiles() -> list[str]:
    """Names of the profiles in the repository."""
    return sorted(path.stem for path in (DATA / "profiles").glob("*.yaml"))


def path_of(profile: str) -> Path:
    """The file of a profile: a name in data/profiles, or the path of a YAML file. Raises SettingsError."""
    path = DATA / "profiles" / f"{profile}.yaml"
    if str(profile).endswith(".yaml"):
        path = Path(local("profile", profile))
        if path.stem in profiles():
            raise SettingsError(f"profile {path} is called like a built-in one, '{path.stem}': rename the file")
    if not path.is_file():
        raise SettingsError(f"unknown profile '{profile}'{nearest(str(profile), profiles())}")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    """What a profile's file says, once for each of its rows. Raises SettingsError."""
    shared = dict(read_yaml(path))
    shared.pop("why", None)  # the reasons for its values, for the listed deviations
    lines = shared.pop("rows", [{}])
    if not isinstance(lines, list) or not lines or not all(isinstance(line, dict) for line in lines):
        raise SettingsError(f"{path}: rows must be a list of lines such as - {{task: countdown, model: owner/name}}")
    every = [{**shared, **row} for row in lines]
    names = [(row.get("task"), row.get("model")) for row in every]
    if len(lines) > 1 and (None in sum(names, ()) or len(set(names)) < len(names)):
        raise SettingsError(f"{path}: each of its rows needs a task and a model of its own, and no two the same")
    return every


def with_row(path: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """A profile's values with those of one row: of the task and model asked for, else of the task, else the first."""
    every = rows(path)

    def same(row: dict[str, Any], *names: str) -> bool:
        return all(local(n, str(row.get(n))) == local(n, str(overrides[n])) for n in names if n in overrides)

    found = [row for row in every if same(row, "task", "model")] or [row for row in every if same(row, "task")]
    return dict((found or every)[0])


def local(name: str, value: str) -> str:
    """The absolute path of a file or folder that is there, seen from the user's or the repository's folder."""
    if value.startswith("procedural:") or (name == "task" and not value.endswith(".py")) or value == "embedded":
        return value
    for folder in (Path.cwd(), ROOT):
        here = folder / Path(value).expanduser()
        if here.is_dir() if name == "model" else here.is_file():
            return str(here.resolve())
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """What a YAML file of names and values says. Raises SettingsError."""
    return _parsed(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _parsed(path: Path, changed: int) -> dict[str, Any]:
    """A YAML file's values, read once until the file's time changes."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must hold 'name: value' lines")
    return values
