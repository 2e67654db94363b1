"""What notebook 02 shows of a training: the curve, a group's coloured tokens, before and after; and how a stage stops."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as xml

import pytest
from IPython.core.interactiveshell import InteractiveShell
from small import small

from rrr_utils import errors, files, live, runs, tokens, training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from rrr_utils import failures

    settings = small(tmp_path_factory.mktemp("live"), reflections_per_failure=8, micro_batch=8)
    failures.sample(settings)
    failures.finish(settings)
    training.train(settings)
    return settings


def log(settings, name: str) -> list[dict]:
    return files.read_jsonl(runs.stage_dir(settings, "train") / f"{name}.jsonl")


def test_the_curve_has_each_step_and_each_score_in_its_place():
    steps = [{"step": 1, "reward": 0.0}, {"step": 2, "reward": 1.0}]
    picture = xml.fromstring(live.curve(steps, [{"step": 0, "score": 0.5}, {"step": 4, "score": 1.0}], 4))
    name = "{http://www.w3.org/2000/svg}"
    line = [tuple(map(float, point.split(","))) for point in picture.find(f"{name}polyline").get("points").split()]
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in picture.iter(f"{name}circle")]
    assert line[0][0] < line[1][0] < dots[1][0] and dots[0][0] == live.LEFT
    assert line[0][1] > dots[0][1] > line[1][1] == dots[1][1] == 10  # upwards is less
    assert all(0 <= x <= live.WIDTH and 0 <= y <= live.HEIGHT for x, y in [*line, *dots])
    assert "step 2 of 4" in picture.findall(f"{name}text")[-1].text
    assert "<svg" in live.curve([], [], 4)  # before the first step


def test_the_page_shows_the_newest_sample_and_hides_no_markup(trained):
    page, last = live.page(trained), log(trained, "reflections")[-1]
    assert html.escape(last["attempt"]) in page and "<answer>" not in page and f"of step {last['step']} (" in page


def test_the_colours_are_those_of_the_mask_and_of_the_advantage(trained, tmp_path):
    group = live.mixed_group(log(trained, "reflections"))
    page = live.rewarded_tokens(trained)
    if not group:
        assert page.startswith("No group")
        pytest.fail("no group of this training is mixed: choose other settings for this test")
    tokenizer = tokens.load(*runs.model_path(trained))
    rows = re.findall(r"<div>(\w+): (.*?)</div>", page)
    assert [name for name, _ in rows] == ["task", "attempt", "reflection", "retry"] * 2
    right, wrong = (next(x for x in group if x["reward"] == r) for r in (1, 0))
    for line, own in ((right, rows[:4]), (wrong, rows[4:])):
        for name, spans in own[1:]:
            colours = set(re.findall("background:(#[0-9a-f]+)", spans))
            shown = [html.unescape(text) for text in re.findall("<span[^>]*>([^<]*)</span>", spans)]
            assert colours == {live.READ if name != "reflection" else live.MORE if line["reward"] else live.LESS}
            assert len(shown) == len(tokenizer(line[name], add_special_tokens=False)["input_ids"])
    assert len(group) == 8 and f"{sum(x['reward'] for x in group) / 8:.2f}" in page


def test_before_and_after_are_one_problem_s_texts_and_the_first_that_was_mended(trained):
    texts, best = log(trained, "dev_texts"), runs.done(trained, "train") or training.finish(trained)
    kept = best["summary"]["best_step"]
    old, new = ([line for line in texts if line["step"] == step] for step in (0, kept))
    assert len(old) == len(new) == trained.dev_items and [x["id"] for x in old] == [x["id"] for x in new]
    greedy = {line["step"]: line["greedy"] for line in log(trained, "dev")}
    for step in greedy:
        own = [line["right"] for line in texts if line["step"] == step]
        assert sum(own) / len(own) == greedy[step]
    mended = [k for k, (x, y) in enumerate(zip(old, new, strict=True)) if not x["right"] and y["right"]]
    place = mended[0] if mended else 0
    said = live.before_and_after(trained)
    for line in (old[place], new[place]):
        assert line["reflection"] in said and line["retry"] in said
    assert f"{sum(x['right'] for x in old)} were right before and {sum(x['right'] for x in new)} are after" in said


def test_a_notebook_s_view_follows_the_logs_and_what_is_done_says_so(trained, monkeypatch, capsys):
    shown = []

    class Handle:
        def update(self, page):
            shown.append(page.data)

    monkeypatch.setattr(live, "get_ipython", object)
    monkeypatch.setattr(live, "display", lambda page, display_id: Handle())
    with live.watched(trained, every=0.01):
        training.train(trained)
    assert shown and shown[-1] == live.page(trained)
    assert "already" in capsys.readouterr().out
    monkeypatch.setattr(live, "get_ipython", lambda: None)
    shown.clear()
    with live.watched(trained, every=0.01):
        pass
    assert not shown


def test_any_interrupted_cell_is_one_line(capsys):
    shell = InteractiveShell.instance()
    try:
        errors.stops_in_one_line()
        for code, line in (
            ("raise KeyboardInterrupt", "Stopped: what was computed stays, run it again to go on"),
            ("raise KeyboardInterrupt('saved at step 3')", "Stopped: saved at step 3"),
        ):
            capsys.readouterr()
            assert not shell.run_cell(code).success
            assert [*capsys.readouterr().out.strip().splitlines()] == [line]
    finally:
        InteractiveShell.clear_instance()


def test_the_last_whole_line_of_a_growing_log(tmp_path):
    path = tmp_path / "log.jsonl"
    assert files.last_line(path) is None
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": 3')
    assert files.last_line(path) == {"a": 2}
    path.write_text('{"a": 1}')
    assert files.last_line(path) is None
    path.write_text('{"a": "' + "x" * 70_000 + '"}\n')
    assert files.last_line(path) is None  # longer than what is looked at
