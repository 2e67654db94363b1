"""What reflections state and whether the retry is that: hand-made reflections with known counts."""

from __future__ import annotations

import pandas as pd
import pytest

from rrr_utils.report import diagnosis, text

ROW = {"nums": [3, 9, 4], "target": 31}
HIT = "Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes ."
RIGHT, SAME, OTHER = "<answer> ( 9 * 3 ) + 4 </answer>", "<answer> 4 + 3 * 9 </answer>", "<answer> 9 * 4 - 5 </answer>"
FIVE = {"nums": [9, 3, 4, 1], "target": 31}  # 9 * 3 + 4 * 1, and ( 9 * 3 + 4 ) / 1


def line(
    id: str, reflection: str | None, retry: str = OTHER, right: bool = False, policy: str = "trained", seed: int = 0,
    decoding: str = "greedy", row: dict = ROW, truncated: bool = False, tokens: int = 10,
) -> dict:  # fmt: skip
    """A line of samples.jsonl; without a reflection, one that was right at first."""
    verdict = {"correct": right, "error": None if right else "missed_target", "lenient": True}
    own = {"reflection": reflection, "reflection_tokens": tokens, "truncated": truncated, "retry": retry}
    second = {"always": {"retry": retry, "verdict": verdict}}
    if reflection is not None:
        second["own"] = own | {"retry_tokens": 9, "verdict": verdict}
    place = {"id": id, "cluster": id, "policy": policy, "seed": seed, "decoding": decoding, "row": row}
    return {**place, "attempt": "", "verdict": {**verdict, "correct": reflection is None}, "second": second}


LINES = [
    line("a", HIT, RIGHT, True, tokens=20),
    line("b", HIT, SAME, True, seed=1, tokens=30),  # the same equation
    line("c", f"{HIT} So ( 9 * 3 ) + 4", OTHER, False),  # found, and lost
    line("d", "9 * 3 + 4 - 1 + 1 = 31 . 9 * 3 + 4 * 1 = 31 .", "<answer> (9*3+4)/1 </answer>", True, row=FIVE),
    line("e", "I should be more careful .", RIGHT, True),  # right without
    line("f", "I could start with 9 * 3 = 28 .", truncated=True),  # wrong
    line("g", "I could start with 9 * 4 = 36 .", truncated=True),  # as "f" but for numbers
    line("h", "9 - 3 = 6 ; 9 - 4 = 5; 9  - 3 = 6", tokens=40),  # a row twice
    line("i", "No , no , no . 3.5 and 3.5"),  # neither a clause twice
    line("i", "No , no , no . 3.5 and 3.5", seed=1),  # the same problem of another seed
    line("j", None),
    line("a", "9 * 3 = 28", policy="vanilla", seed=None),  # of other policies and decodings: no duplicate
    line("k", "9 * 4 = 36 .", decoding="sampled"),
    line("l", "I could start with 9 * 4 = 36 .", decoding="sampled"),
]


def row_of(frame: pd.DataFrame, policy: str, decoding: str) -> dict:
    [found] = frame[(frame["policy"] == policy) & (frame["decoding"] == decoding)].to_dict("records")
    return found


def test_each_column_of_hand_made_reflections():
    frame = diagnosis.table("countdown", iter(LINES))
    assert frame[["policy", "decoding", "n"]].values.tolist() == [
        ["vanilla", "greedy", 1], ["trained", "greedy", 10], ["trained", "sampled", 2]
    ]  # fmt: skip
    assert list(frame.columns[3:]) == list(diagnosis.COLUMNS)
    told = row_of(frame, "trained", "greedy")
    wanted = {
        "recovered": 4 / 10, "stated": 4 / 10, "copied": 2 / 4, "recovered_stated": 3 / 4, "recovered_unstated": 1 / 6,
        "wrong": 1 / 10, "repeated": 1 / 10, "truncated": 2 / 10, "duplicate": 2 / 10, "tokens": 16.0,
    }  # fmt: skip
    assert {name: told[name] for name in wanted} == pytest.approx(wanted)
    vanilla = row_of(frame, "vanilla", "greedy")
    assert pd.isna(vanilla["copied"]) and pd.isna(vanilla["recovered_stated"])  # shares of nothing
    assert (vanilla["wrong"], vanilla["duplicate"], vanilla["recovered_unstated"]) == (1, 0, 0)


def test_the_verdict_that_counts_is_the_one_asked_for():
    told = row_of(diagnosis.table("countdown", LINES, "lenient"), "trained", "greedy")
    assert (told["recovered"], told["recovered_unstated"], told["copied"]) == (1, 1, pytest.approx(2 / 10))


def test_a_column_is_not_there_where_the_task_lacks_its_name(tmp_path):
    (tmp_path / "words.py").write_text(
        "from rrr_utils.tasks import Verdict\nVERSION, REFLECT, ERRORS = 1, 'Reflect.', ('wrong',)\n"
        "def load(split, n, seed, source=None):\n    return []\n"
        "def prompt(row):\n    return ''\ndef verify(completion, row):\n    return Verdict(True, None, True)\n"
    )
    plain = ["policy", "decoding", "n", "recovered", "repeated", "truncated", "duplicate", "tokens"]
    name = str(tmp_path / "words.py")
    assert list(diagnosis.table(name, LINES).columns) == plain
    assert list(diagnosis.table(name, []).columns) == plain
    with open(name, "a") as file:
        file.write("def answers_in(reflection, row):\n    return []\n")
    stated = {"stated", "recovered_stated", "recovered_unstated"}
    assert set(diagnosis.table(name, LINES).columns) == {*plain, *stated}


def test_in_words_every_measure_is_a_line_in_per_cent():
    printed = diagnosis.in_words(diagnosis.table("countdown", LINES))
    lines = dict(zip(printed[""], printed["trained, greedy"], strict=True))
    assert lines["failures"] == "10" and lines["tokens in a reflection (mean)"] == "16.0"
    assert lines["retry right"] == "40.0" and lines["of right retries, those that are this answer"] == "50.0"
    assert "nan" not in text.markdown(printed)


def test_the_bars_show_what_share_is_the_stated_answer(tmp_path):
    frame = diagnosis.table("countdown", LINES)
    path = diagnosis.figure(frame, tmp_path / "diagnosis")
    drawn = pd.read_csv(path.with_suffix(".csv"))
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert row_of(drawn, "trained", "greedy") | {"policy": "", "decoding": "", "n": 0} == pytest.approx(
        {"policy": "", "decoding": "", "n": 0, "right, answer stated": 0.3, "right, not stated": 0.1, "wrong": 0.6}
    )
    assert drawn[list(diagnosis.PARTS)].sum(axis=1).tolist() == pytest.approx([1, 1, 1])
    svg = path.with_suffix(".svg").read_text()
    assert "75% trained" in svg and "nan" not in svg and "(10 failures)" in svg
