"""Why a reward is flat: every cause is found in logs that hold it, with its setting, and none where nothing is wrong."""

from __future__ import annotations

import random

import pytest

from rrr_utils import files, runs, settings
from rrr_utils.errors import ResultsError
from rrr_utils.report import flat_reward

ROW = {"id": "3-4-9:31", "cluster": "3-4-9", "nums": [3, 9, 4], "target": 31}
RIGHT, MISSED, NOTHING = "<answer> 3 * 9 + 4 </answer>", "<answer> 3 * 9 - 4 </answer>", "I do not know."
LENIENT = "<answer> 3 * 9 + 4 = 31 </answer>"
#: retries of a group of four
MIXED, WRONG = (RIGHT, RIGHT, MISSED, MISSED), (MISSED,) * 4


def logs(groups: list[tuple[str, ...]], rising: bool = True, answer: bool = False, texts: int = 9, **line) -> tuple:
    """Lines of training.jsonl and reflections.jsonl: in each of 16 steps one group for each tuple of retries."""
    training, logged, draw = [], [], random.Random(0)
    for step in range(1, 17):
        spread = [len({retry == RIGHT for retry in group}) > 1 for group in groups]
        reward = 0.2 + 0.02 * step if rising else 0.3 + draw.uniform(-0.02, 0.02)
        told = {"step": step, "reward": reward, "zero_variance": spread.count(False) / len(spread), "truncated": 0.02}
        training.append(told | {"kl": 0.01, "grad_norm": 0.1} | line)
        for number, group in enumerate(groups):
            for k, retry in enumerate(group):
                told = {"step": step, "id": f"p{number}", "row": ROW, "reward": float(retry == RIGHT)}
                more = (
                    {"attempt": retry} if answer else {"attempt": "8", "reflection": f"try {k % texts}", "retry": retry}
                )
                logged.append(told | more)
    return training, logged


def found(one: settings.Settings, training: list, logged: list, kept: list | None = None) -> str:
    kept = [{"solved": 1}] * 3 + [{"solved": 0}] if kept is None else kept
    return flat_reward.in_words(one, training, flat_reward.measure(one, training, logged, kept))


def test_nothing_wrong_is_said_plainly_with_the_measures():
    said = found(settings.load("tiny"), *logs([MIXED, MIXED, WRONG]))
    assert "first and last quarter of 16 steps: 0.25, 0.49; it rose." in said
    assert "groups without spread      33% (all wrong 33%, all right 0%)" in said
    assert "truncated reflections      2%" in said and "KL from the base model     0.0100 nats a token" in said
    assert "retries without an answer  0%\nerrors, of all retries     missed_target 67%\n" in said
    assert "failures never solved      25%" in said
    assert said.endswith("Nothing here keeps the reward from rising.") and "- " not in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("changed", "what", "line", "setting"),
    [
        ({}, [WRONG, WRONG, MIXED], {}, "67% of the groups have no spread and teach nothing, too hard: choose easier data"),
        ({}, [(RIGHT,) * 4, (RIGHT,) * 4, MIXED], {}, "too easy: choose harder data (source), or lower failures_per_query"),
        ({"retry_decoding": "greedy"}, [WRONG, MIXED, WRONG], {}, "set retry_decoding to 'sampled'"),
        ({}, [MIXED], {"texts": 1}, "In 100% of the groups all reflections are one text: raise temperature (0.9)"),
        ({}, [MIXED], {"truncated": 0.6}, "60% of the reflections end at the token limit: raise reflection_tokens (96)"),
        ({}, [(RIGHT, NOTHING, NOTHING, MISSED)], {}, "50% of the retries hold no answer that can be read: raise attempt"),
        ({}, [(RIGHT, LENIENT, MISSED, MISSED)], {}, "25% of the retries are right but for their form: set verdict to"),
        ({}, [MIXED], {"grad_norm": None}, "100% of the steps had no finite gradient: set dtype (float32)"),
        ({}, [MIXED], {"rising": False, "kl": 2.0}, "far from its base: lower learning_rate (0.003) or raise beta (0.001)"),
        ({}, [MIXED], {"rising": False, "kl": 0.0}, "The model has hardly moved: raise learning_rate (0.003)"),
    ],
)  # fmt: skip
def test_each_cause_is_named_alone_with_the_setting_to_change(changed, what, line, setting):
    said = found(settings.load("tiny", changed), *logs(what, **line))
    head, _, causes = said.partition("\n- ")
    assert setting in causes and "\n- " not in causes, said
    assert head.endswith("What can keep it flat:" if "rising" in line else "make it rise faster:")


def test_failures_that_no_sample_solved_are_too_hard():
    said = found(settings.load("tiny"), *logs([MIXED]), kept=[{"solved": 0}] * 9 + [{"solved": 2}])
    assert "90% of the failures are of queries that no sample solved, too hard: choose easier data (source)" in said


def test_a_flat_reward_without_a_cause_and_few_steps_are_said_too():
    training, logged = logs([MIXED], rising=False)
    assert found(settings.load("tiny"), training, logged).endswith("Give it more steps or another learning_rate.")
    few = found(settings.load("tiny"), training[:4], [line for line in logged if line["step"] <= 4])
    assert "too few to tell" in few and few.endswith("Nothing here keeps the reward from rising.")
    assert "beta is 0" in found(settings.load("tiny", {"beta": 0}), training, logged)


def test_only_the_newer_half_of_the_steps_counts():
    training, logged = logs([MIXED])
    old = [line | {"zero_variance": 1.0, "truncated": 1.0} if line["step"] <= 8 else line for line in training]
    said = [line | {"retry": NOTHING, "reward": 0.0} if line["step"] <= 8 else line for line in logged]
    assert found(settings.load("tiny"), old, said) == found(settings.load("tiny"), training, logged)


def test_plain_grpo_s_first_tries_stand_for_both():
    one = settings.load("tiny", {"objective": "answer", "policies": ["trained"], "retry_decoding": "greedy"})
    said = found(one, *logs([(NOTHING,) * 4, (NOTHING,) * 4, MIXED], answer=True, truncated=0.5), kept=[])
    assert "truncated attempts         50%" in said and "raise attempt_tokens (16)" in said
    assert "attempts without an answer 67%" in said and "never solved" not in said
    assert "retry_decoding" not in said and "reflection_tokens" not in said


def test_it_reads_the_logs_of_the_run_and_says_so_where_there_are_none(given):
    _, load = given
    one = load()
    with pytest.raises(ResultsError, match="holds no training step yet"):
        flat_reward.why(one)
    training, logged = logs([MIXED, WRONG])
    folder = runs.stage_dir(one, "train")
    files.write_jsonl(folder / "training.jsonl", training)
    files.write_jsonl(folder / "reflections.jsonl", logged)
    files.write_jsonl(runs.stage_dir(one, "failures") / "failures.jsonl", [{"solved": 0}])
    assert "failures never solved      100%" in flat_reward.why(one)
