"""What every second try is shown and how it counts, with a sampler that notes what it is asked."""

from __future__ import annotations

import pytest
from small import small

from rrr_utils import controls, conversation, evaluation, files, runs, samples, tasks
from rrr_utils.sampling import Completion
from rrr_utils.settings import CONTROLS
from rrr_utils.tasks import countdown

ROWS = [
    {"id": "a", "cluster": "3-4-9", "nums": [3, 9, 4], "target": 31},
    {"id": "b", "cluster": "3-4-9", "nums": [4, 9, 3], "target": 23},
    {"id": "c", "cluster": "2-6-6", "nums": [6, 6, 2], "target": 24},
    {"id": "d", "cluster": "1-2-3", "nums": [1, 2, 3], "target": 6},
]
FIND = "Aim 31 ; 9 * 3 = 27 and 4 : + 31 31 yes ."
RIGHT = {"a": "( 9 * 3 ) + 4", "b": "( 9 * 3 ) - 4", "c": "( 6 + 6 ) * 2", "d": "( 1 + 2 ) + 3"}


class Noting:
    """Answers wrongly (but `d` at first rightly), reflects with a search, and notes who was asked what and how."""

    def __init__(self):
        self.asked = []

    def sample(self, conversations, n, max_tokens, temperature, seed, desc, begin="", adapter=True):
        self.asked += [(desc, messages, temperature, seed, begin, not adapter) for messages in conversations]
        return [[self.say(messages, begin)] for messages in conversations]

    def say(self, messages, begin):
        if messages[-1]["content"] == countdown.REFLECT or "outright" in messages[-1]["content"]:
            return Completion(f"{begin} 1 ; 9 * 3 = 27 and 4 ." if begin else FIND, False, 40)
        right = "1, 2, 3" in messages[0]["content"] and len(messages) == 1
        return Completion(f"<answer> {RIGHT['d'] if right else '1'} </answer>", False, 9)

    def of(self, what):
        return [one for one in self.asked if what in one[0]]


def lines_of(tmp_path, policy="trained", decoding="greedy", given=None, **overrides):
    seed = None if policy == "vanilla" else 0
    every = {"forced_words": "Aim", "outright_request": "Do it outright.", "controls": list(CONTROLS)}
    settings = small(tmp_path, seed=seed, **{**every, **overrides})
    noting = Noting()
    voice = controls.Voice(settings, lambda: noting, policy, decoding, 0)
    return evaluation.tries(voice, ROWS, given or [None] * len(ROWS)), noting


def put(noting, what):
    """The texts that stand where the reflection stands, in the retries of a control."""
    return [messages[-2]["content"] for _, messages, *_ in noting.of(f"retry ({what})")]


def test_every_retry_is_the_same_conversation_with_another_text_in_the_place_of_the_reflection(tmp_path):
    lines, noting = lines_of(tmp_path)
    wrong = "<answer> 1 </answer>"
    for what in ("own", "generic", "swapped", "masked", "cut"):
        for row, (_, messages, *_), text in zip(ROWS[:3], noting.of(f"retry ({what})"), put(noting, what), strict=True):
            assert messages == conversation.retry(countdown, row, wrong, text)
        assert put(noting, what) == [line["second"][what]["reflection"] for line in lines[:3]]
    assert put(noting, "own") == [FIND] * 3 and put(noting, "generic") == [countdown.GENERIC] * 3
    assert all("27" not in text and "?" in text for text in put(noting, "masked"))
    assert put(noting, "cut") == [tasks.cut(countdown, FIND, row) for row in ROWS[:3]]
    assert "27" not in put(noting, "cut")[0] and put(noting, "cut")[1] == FIND  # it states an answer of `a` alone
    assert [messages for _, messages, *_ in noting.of("blind retry")] == [
        conversation.blind_retry(countdown, row, wrong) for row in ROWS[:3]
    ]


def test_a_swapped_reflection_is_another_cluster_s_and_says_whose(tmp_path):
    lines, _ = lines_of(tmp_path)
    assert [line["second"]["swapped"]["donor"] for line in lines[:3]] == ["c", "c", "a"]


def test_only_always_and_outright_are_there_where_the_first_try_is_right(tmp_path):
    lines, noting = lines_of(tmp_path)
    assert [set(line["second"]) for line in lines] == [set(CONTROLS[:8])] * 3 + [{"always"}]
    assert all(line["second"]["always"] == line["second"]["own"] for line in lines[:3])  # the same try, not a new one
    asked = noting.of("retry (always)")
    assert len(asked) == 1 and asked[0][1] == conversation.retry(countdown, ROWS[3], lines[3]["attempt"], FIND)
    assert lines[3]["second"]["always"]["verdict"]["correct"] is False


def test_forced_and_outright_are_the_base_model_s_alone_and_say_what_they_are_told(tmp_path):
    lines, noting = lines_of(tmp_path, "vanilla")
    assert list(lines[0]["second"]) == list(CONTROLS) and list(lines[3]["second"]) == ["always", "outright"]
    assert {begin for *_, begin, _ in noting.of("reflection (forced)")} == {"Aim"}
    assert {begin for *_, begin, _ in noting.of("reflection (own)")} == {""}
    first, then = noting.of("asked outright")[0][1], noting.of("answer (outright)")[0][1]
    assert [m["content"] for m in first] == [f"Do it outright. {conversation.question(countdown, ROWS[0])}"]
    assert then == [*first, {"role": "assistant", "content": FIND}, *conversation.attempt(countdown, ROWS[0])]
    none, _ = lines_of(tmp_path, "vanilla", forced_words=None, outright_request=None)
    assert list(none[0]["second"]) == list(CONTROLS[:8])


def test_fresh_tries_are_new_first_tries_for_the_tokens_of_the_own_second_try(tmp_path):
    lines, noting = lines_of(tmp_path)
    fresh, own = lines[0]["second"]["fresh"], lines[0]["second"]["own"]
    assert own["reflection_tokens"] + own["retry_tokens"] == 49 and fresh["tokens"] == 45 == 9 * len(fresh["tries"])
    asked = noting.of("fresh try")
    assert len(asked) == 15 and all(heat == 0.9 for _, _, heat, *_ in asked)  # sampled, whatever the decoding
    assert asked[0][1] == conversation.attempt(countdown, ROWS[0])
    assert len({seed for _, _, _, seed, *_ in asked}) == 5


def test_the_reflector_s_adapter_is_on_while_it_reflects_and_off_in_all_else(tmp_path):
    _, noting = lines_of(tmp_path, "reflector")
    on = {desc.split(": ")[1] for desc, *_, off in noting.asked if not off}
    assert on == {"reflection (own)", "reflection (always)"}


def test_one_more_control_generates_nothing_of_what_is_there(tmp_path):
    before, _ = lines_of(tmp_path, controls=["own", "blind", "fresh"])
    lines, noting = lines_of(tmp_path, given=before, controls=["own", "blind", "fresh", "masked"])
    assert {desc.split(": ")[1] for desc, *_ in noting.asked} == {"retry (masked)"}
    assert list(lines[0]["second"]) == ["own", "blind", "masked", "fresh"]
    fewer, noting = lines_of(tmp_path, given=lines, controls=["own"])
    assert not noting.asked and [list(line["second"]) for line in fewer] == [["own"]] * 3 + [[]]


def test_a_task_without_texts_for_a_control_goes_without_it(tmp_path, monkeypatch):
    for name in ("GENERIC", "mask", "answers_in"):
        monkeypatch.delattr(countdown, name)
    lines, _ = lines_of(tmp_path)
    assert list(lines[0]["second"]) == ["own", "blind", "swapped", "fresh", "always"]


def test_verdicts_given_again_keep_what_a_right_first_try_has(tmp_path):
    lines, _ = lines_of(tmp_path, "vanilla")
    for line in lines:
        assert samples.verify_again(countdown, line, "strict") == line
    wrong_now = samples.verify_again(countdown, lines[3] | {"attempt": "<answer> 1 </answer>"}, "strict")
    assert list(wrong_now["second"]) == ["always", "outright"] and not wrong_now["verdict"]["correct"]
    right_now = samples.verify_again(countdown, lines[0] | {"attempt": f"<answer> {RIGHT['a']} </answer>"}, "strict")
    assert list(right_now["second"]) == ["always", "outright"]


def test_a_first_try_that_is_no_longer_right_gets_all_second_tries_and_always_is_a_copy_again(tmp_path):
    lines, _ = lines_of(tmp_path)
    changed = [samples.verify_again(countdown, line | {"attempt": "<answer> 1 </answer>"}, "strict") for line in lines]
    again, noting = lines_of(tmp_path, given=changed)
    assert list(again[3]["second"]) == list(CONTROLS[:8]) and again[3]["second"]["always"] == again[3]["second"]["own"]
    assert {desc.split(": ")[1] for desc, messages, *_ in noting.asked if messages[0] != noting.asked[0][1][0]} == {
        "retry (swapped)"
    }  # of the others only what the others lend their reflections to
    assert [line["second"]["swapped"]["donor"] for line in again] == ["c", "c", "d", "a"]


def test_of_older_lines_the_fullest_is_taken_and_nothing_that_would_be_shown_otherwise_now(tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ("evaluate-vanilla-1", "evaluate-vanilla-2", "evaluate-vanilla-3")]
    for folder, names in zip(folders, (CONTROLS, CONTROLS[:2], ()), strict=True):
        lines, _ = lines_of(tmp_path, "vanilla", controls=["own", *names[1:]])
        words = {"generic": "older" if names else "newer", "forced_words": "Aim", "outright_request": "Do it outright."}
        begun = {"stage": "evaluate", "settings": {}, "read": {}, "identity": {"versions": {"stage": 2}, **words}}
        folder.mkdir()
        files.write_json(folder / "begun.json", begun)
        files.write_jsonl(folder / "samples.jsonl", lines)
    there = [runs.Run(folder, files.read_json(folder / "begun.json"), None, None) for folder in folders]
    monkeypatch.setattr(runs, "listed", lambda root: there)
    monkeypatch.setattr(countdown, "mask", lambda reflection, row: "hidden")
    found = samples.older(small(tmp_path, seed=None), folders[2])
    assert list(found["vanilla", "greedy", "a"]["second"]) == [c for c in CONTROLS if c not in ("generic", "masked")]
    assert found["vanilla", "greedy", "a"]["from"] == "evaluate-vanilla-1"
    there[0].begun["identity"]["versions"] = {"stage": 1}
    assert list(samples.older(small(tmp_path, seed=None), folders[2])["vanilla", "greedy", "a"]["second"]) == [
        "own",
        "blind",
    ]


def test_tokens_are_counted_once(tmp_path):
    lines, _ = lines_of(tmp_path, controls=["own", "always"])
    assert evaluation.generated_tokens(lines) == 4 * 9 + 3 * 49 + 49


@pytest.mark.parametrize("second", [["blind"], ["own", "own"], ["own", "shouting"]])
def test_wrong_lists_of_controls_are_refused(tmp_path, second):
    with pytest.raises(Exception, match="controls"):
        small(tmp_path, controls=second)
