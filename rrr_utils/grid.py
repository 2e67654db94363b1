"""A profile as a grid: its rows of task and model, which of them were chosen, and the settings of each."""

from pathlib import Path

from rrr_utils import profiles
from rrr_utils.errors import SettingsError, nearest
from rrr_utils.settings import Settings, load


def rows_of(settings: Settings) -> tuple[Settings, ...]:
    """The settings of each row of the profile, in its order, with what was given beyond the profile; of the chosen ones
    where `rows`, or a task and a model, choose some. Settings of no row stand alone. Raises SettingsError.

    >>> [row.model for row in rows_of(load("single_gpu", {"rows": "countdown:qwen2.5-1.5b", "seed": 1}))]
    ['Qwen/Qwen2.5-1.5B-Instruct']
    """
    every = names(settings)
    other = "task" in settings.overridden and settings.task not in dict(every)  # a task of one's own
    if len(every) == 1 or other or "model" in settings.overridden:
        return (settings,)
    given = {*settings.overridden, "seed", "seeds", "results_dir"} - {"task", "model"}
    changed, found = {name: getattr(settings, name) for name in given}, []
    lines = dict(zip(every, profiles.rows(profiles.path_of(settings.profile)), strict=True))
    for task, model in _chosen(settings, every):
        kept = {"policies"} if lines[task, model].get("policies") == [] else set()  # it stays evaluated only
        own = {name: value for name, value in changed.items() if name not in kept}
        found.append(load(settings.profile, {**own, "task": task, "model": model}))
    return tuple(found)


def names(settings: Settings) -> list[tuple[str, str]]:
    """Task and model of each row of the profile, as its settings have them; a profile without `rows` has one."""
    lines = profiles.rows(profiles.path_of(settings.profile))
    if len(lines) == 1:
        return [(settings.task, settings.model)]
    found = [(profiles.local("task", line["task"]), profiles.local("model", line["model"])) for line in lines]
    called = [_title(*one) for one in found]
    if twice := next((one for one in called if called.count(one) > 1), None):
        text = f"profile {settings.profile}: two rows would both be called {twice} in results"
        raise SettingsError(f"{text}: rename a folder or a file")
    return found


def _chosen(settings: Settings, every: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those rows that `rows` names, by task or task:model, where a part of the model's name will do; or of the task."""
    if settings.rows is None:
        return [one for one in every if "task" not in settings.overridden or one[0] == settings.task]
    found: set[tuple[str, str]] = set()
    for part in map(str.strip, settings.rows.split(",")):
        task, _, model = part.partition(":")
        fits = [(t, m) for t, m in every if Path(t).stem == Path(task).stem and model.lower() in m.lower()]
        if not fits:
            known = [f"{Path(t).stem}:{m}" for t, m in every]
            what = f"rows: profile {settings.profile} has no row '{part}'{nearest(part, known)}"
            raise SettingsError(f"{what}; it has {', '.join(known)}")
        found.update(fits)
    return [one for one in every if one in found]


def title(settings: Settings) -> str:
    """A row as it is printed: task and model, of files and folders the name alone.

    >>> title(load("tiny"))
    'countdown:embedded'
    """
    return _title(settings.task, settings.model)


def _title(task: str, model: str) -> str:
    return f"{Path(task).stem}:{Path(model).name if Path(model).is_absolute() else model}"
