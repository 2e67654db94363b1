"""How far a running grid is: a line each time another run is done, with the hours that are left."""

import datetime
import sys
import threading
import time
from pathlib import Path

from rrr_utils import runs
from rrr_utils.errors import PLAIN
from rrr_utils.files import read_json
from rrr_utils.settings import Settings

#: seconds before hours are looked up, which costs one or two: a grid that is done by then needs none
SOON = 60.0


def watch(settings: Settings, folders: list[str], at_once: int, every: float = 5.0) -> threading.Thread:
    """Look at the runs every so many seconds, in a thread that ends with them or with the process.

    `folders`: of all runs, under results_dir; `at_once`: how many run at a time."""
    before = _done(runs.root(settings), folders)
    thread = threading.Thread(target=_look, args=(settings, folders, before, at_once, every), daemon=True)
    thread.start()
    return thread


def _look(settings: Settings, folders: list[str], before: set[str], at_once: int, every: float) -> None:
    root, began, hours, done = runs.root(settings), time.time(), {}, before
    while len(done) < len(folders):
        time.sleep(every)
        if len(now := _done(root, folders)) > len(done):
            hours = hours or (_planned(settings) if time.time() - began > SOON else {})
            pace = _pace(root, now - before, hours, began)
            left = remaining([one for one in folders if one not in now], hours, pace, at_once)
            print(f"{len(now)} of {len(folders)} runs done{left}", file=sys.stderr, flush=True)
        done = now


def _done(root: Path, folders: list[str]) -> set[str]:
    return {folder for folder in folders if (root / folder / "result.json").is_file()}


def _planned(settings: Settings) -> dict[str, float]:
    from rrr_utils import plan  # pandas and more: once, and not while the process starts

    try:
        return plan.hours(settings)
    except PLAIN:  # what is wrong with a row is said by its own run
        return {}


def _pace(root: Path, new: set[str], hours: dict[str, float], began: float) -> float:
    """Times what was planned that runs took, of those that were begun and done under this watch; 1 without any."""
    took = planned = 0.0
    for folder in new & hours.keys():
        made = (read_json(root / folder / "result.json") or {}).get("provenance", {})
        if made and datetime.datetime.fromisoformat(made["start"]).timestamp() > began - 1:
            took, planned = took + made["seconds"] / 3600, planned + hours[folder]
    return took / planned if planned else 1.0


def remaining(left: list[str], hours: dict[str, float], pace: float, at_once: int) -> str:
    """The time that is left, in words; empty where the plan does not know one of the runs. A table takes none.

    >>> remaining(["a", "b", "c", "tables/tiny"], {"a": 10.0, "b": 20.0, "c": 1.0}, 2.0, at_once=2)
    ', about 31 h left'
    """
    todo = [folder for folder in left if not folder.startswith("tables/")]
    if not todo or not all(folder in hours for folder in todo):
        return ""
    value = pace * sum(hours[folder] for folder in todo) / min(at_once, len(todo))
    return (
        f", about {float(f'{value:.2g}'):g} h left" if value >= 1 else f", about {max(1, round(60 * value))} min left"
    )
