"""How a profile differs from the paper's recipe, in sentences: the numbered list in results/<profile>/README.md.

`data/paper_recipe.yaml` holds the recipe as far as it is known, setting by setting, each with its certainty; a
profile's `why` holds the reasons for what it does otherwise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from rrr_utils import grid, runs, tasks
from rrr_utils.errors import SettingsError
from rrr_utils.report.text import safe
from rrr_utils.settings import DATA, Settings

OWN = "the kit's own"


def recipe() -> dict[str, Any]:
    """`settings`: what is known of each of them; `others`: sentences on what no setting says."""
    return yaml.safe_load((DATA / "paper_recipe.yaml").read_text(encoding="utf-8"))


def why(profile: str) -> dict[str, str]:
    """A profile's reasons, by setting. Raises SettingsError if they are not a mapping."""
    path = Path(profile) if profile.endswith(".yaml") else DATA / "profiles" / f"{profile}.yaml"
    reasons = yaml.safe_load(path.read_text(encoding="utf-8")).get("why") or {}
    if not isinstance(reasons, dict):
        raise SettingsError(f"{path}: why must hold 'setting: reason' lines")
    return reasons


def standing(settings: Settings, name: str, known: Any) -> str:
    """Where a setting stands to the paper's, its entry in the recipe: `same`, `differs`, `unknown`, `the kit's own`.

    >>> standing(Settings(beta=0.02), "beta", {"paper": 0.001, "sure": "S"})
    'differs'
    """
    if "paper" not in known:
        return OWN if known == OWN else "unknown"
    if (theirs := _theirs(settings, known)) is None:
        return OWN
    batch = settings.failures_per_step * settings.reflections_per_failure
    counted = {"rounds": sum(settings.rounds), "failures_per_step": batch, "model": Path(settings.model).name}
    ours, relation = counted.get(name, _ours(settings, name)), known.get("relation")
    if relation == "between":
        return "same" if theirs[0] <= ours <= theirs[1] else "differs"
    return "same" if (ours in theirs if relation == "one of" else ours == theirs) else "differs"


def deviations(settings: Settings, why: dict[str, str]) -> list[str]:
    """A sentence for each setting that is not the paper's or whose value there is unknown; then what no setting says,
    the kit's own settings, and last those that are the paper's. `why`: reasons, by setting."""
    lines, names, listed = [], {"same": [], OWN: []}, recipe()
    for name, known in listed["settings"].items():
        if (where := standing(settings, name, known)) in names:
            names[where].append(f"`{name}`")
            continue
        if where == "unknown":
            noted = known["unknown"] if isinstance(known, dict) else ""
            told, reason = "not known", f"{noted} {why.get(name, '')}"
        else:
            value = f"{known.get('relation', '')} {_printed(_theirs(settings, known))}"
            told, reason = f"{known.get('said', value)} ({known['sure']})", why.get(name, "No reason is given.")
        lines.append(safe(f"`{name}` is {_printed(_ours(settings, name))}; in the paper {told}. {reason}"))
    own = f"Settings with no counterpart in the paper: {', '.join(names[OWN])}."
    return [*lines, *map(safe, listed["others"]), own, f"As in the paper: {', '.join(names['same'])}."]


def part(rows: Sequence[Settings]) -> str:
    """The generated part: the deviations of a profile's first row, numbered, and how its other rows differ."""
    first = rows[0]
    *lines, same = deviations(first, why(first.profile))
    numbered = "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))
    others = "".join(f"\n\n{between(first, row)}" for row in rows[1:])
    return f"Profile `{safe(runs.profile_name(first))}`, {grid.title(first)}. {same}\n\n{numbered}{others}"


def between(first: Settings, row: Settings) -> str:
    """What a row of a profile has otherwise than its first one.

    >>> one, other = Settings(steps=4), Settings(steps=5, model="a/b")
    >>> between(one, other)
    'countdown:a/b is as countdown:embedded but for: `steps` 5 (not 4).'
    """
    names = [n for n in Settings.model_fields if n not in ("task", "model", "overridden")]
    found = [
        f"`{name}` {_printed(_ours(row, name))} (not {_printed(_ours(first, name))})"
        for name in names
        if getattr(row, name) != getattr(first, name)
    ]
    return safe(f"{grid.title(row)} is as {grid.title(first)} but for: {'; '.join(found) or 'nothing'}.")


def _theirs(settings: Settings, known: dict[str, Any]) -> Any:
    """The paper's value for the settings' task; None where the paper has no such task."""
    by_task = known["paper"]
    return by_task.get(runs.task_name(settings)) if isinstance(by_task, dict) else by_task


def _ours(settings: Settings, name: str) -> Any:
    value = getattr(settings, name)
    return getattr(tasks.get(settings.task), "DEFAULT_SOURCE", None) if name == "source" and value is None else value


def _printed(value: Any) -> str:
    """A value as profiles write it; of a file, its name.

    >>> _printed((5e-7, 15000, False, "/home/me/rows.csv"))
    '5e-7, 15,000, false, rows.csv'
    """
    if isinstance(value, list | tuple):
        return ", ".join(map(_printed, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else str(value)
    return text.lower() if isinstance(value, bool) else Path(text).name if text.startswith("/") else text
