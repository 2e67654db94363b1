"""A line each time another run of a grid is done: how many are, and the hours that are left."""

from __future__ import annotations

import datetime
import json
import time

import pytest
from small import small

from rrr_utils import plan, progress

NAMES = ["countdown/m/failures-1", "countdown/m/train-seed0-2", "countdown/m/evaluate-seed0-3", "tables/tiny"]
HOURS = dict(zip(NAMES, (2.0, 30.0, 4.0), strict=False))


def finish(root, folder: str, hours: float = 0.0, began: float | None = None) -> None:
    """A run's result.json, as far as it is looked at."""
    start = datetime.datetime.fromtimestamp(began or time.time(), datetime.UTC).isoformat(timespec="seconds")
    (root / folder).mkdir(parents=True)
    (root / folder / ".result.json").write_text(json.dumps({"provenance": {"start": start, "seconds": 3600 * hours}}))
    (root / folder / ".result.json").rename(root / folder / "result.json")


def wait_for(capsys, number: int) -> list[str]:
    """The lines so far, once there are so many."""
    said, end = [], time.time() + 10
    while len(said) < number and time.time() < end:
        time.sleep(0.01)
        said += capsys.readouterr().err.splitlines()
    return said


@pytest.fixture
def planned(monkeypatch):
    """The plan's hours are HOURS, and asked for at once; the times that they are asked for."""
    asked = []
    monkeypatch.setattr(plan, "hours", lambda settings: asked.append(settings) or dict(HOURS))
    monkeypatch.setattr(progress, "SOON", -1.0)
    return asked


def test_each_run_that_ends_is_a_line_with_the_time_that_is_left_at_the_pace_so_far(tmp_path, planned, capsys):
    thread = progress.watch(small(tmp_path), NAMES, 2, every=0.01)
    assert wait_for(capsys, 0) == []
    finish(tmp_path, NAMES[0], 3.0)  # half as long again as was planned
    assert wait_for(capsys, 1) == ["1 of 4 runs done, about 26 h left"]  # 1.5 x (30 + 4) / 2
    finish(tmp_path, NAMES[1], 31.0)
    assert wait_for(capsys, 1) == ["2 of 4 runs done, about 4.2 h left"]  # 4 x 34 / 32, one run alone
    finish(tmp_path, NAMES[2], 4.0)
    assert wait_for(capsys, 1) == ["3 of 4 runs done"]  # tables take no time
    finish(tmp_path, NAMES[3])
    assert wait_for(capsys, 1) == ["4 of 4 runs done"] and len(planned) == 1
    thread.join(5)
    assert not thread.is_alive()


def test_runs_of_before_and_runs_that_go_on_say_nothing_of_the_pace(tmp_path, planned, capsys):
    finish(tmp_path, NAMES[0], 500.0)
    progress.watch(small(tmp_path), NAMES[:3], 1, every=0.01)
    finish(tmp_path, NAMES[1], 900.0, began=time.time() - 3_240_000)  # begun weeks ago, and gone on with now
    assert wait_for(capsys, 1) == ["2 of 3 runs done, about 4 h left"]
    finish(tmp_path, NAMES[2])  # ends the thread
    wait_for(capsys, 1)


def test_a_grid_that_is_done_in_a_minute_is_not_planned(tmp_path, planned, capsys, monkeypatch):
    monkeypatch.setattr(progress, "SOON", 60.0)
    progress.watch(small(tmp_path), NAMES, 2, every=0.01)
    for number, name in enumerate(NAMES, 1):
        finish(tmp_path, name)
        assert wait_for(capsys, 1) == [f"{number} of 4 runs done"]
    assert planned == []


def test_without_the_hours_of_a_run_none_are_told():
    assert progress.remaining(NAMES[:2], {NAMES[0]: 1.0}, 1.0, 1) == ""
    assert progress.remaining(NAMES[:1], HOURS, 1.0, 8) == ", about 2 h left"
    assert progress.remaining(NAMES[:1], {NAMES[0]: 0.001}, 1.0, 8) == ", about 1 min left"
    assert progress.remaining(NAMES[:2], HOURS, 100.0, 1) == ", about 3200 h left"
    assert progress.remaining(NAMES[3:], HOURS, 1.0, 1) == ""


def test_the_real_plan_knows_the_hours_of_every_run(tmp_path):
    settings = small(tmp_path, seeds=[0, 1])
    hours = progress._planned(settings)
    assert len(hours) == 6 and all(0 < value < 1 for value in hours.values())
    assert progress.remaining([*hours], hours, 1.0, 2).endswith(" min left")
    assert progress._planned(small(tmp_path, model=str(tmp_path))) == {}  # no model is there
