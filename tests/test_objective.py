"""What a training is for and by what it is judged: rates of its steps, dev in two decodings, plain GRPO on the answer."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from small import small

from rrr_utils import conversation, evaluation, failures, files, runs, tasks, training
from rrr_utils.errors import SettingsError
from rrr_utils.report import figures
from rrr_utils.tasks import countdown


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the failures stage done."""
    settings = small(tmp_path_factory.mktemp("runs"))
    failures.sample(settings)
    failures.finish(settings)
    return runs.root(settings)


def run(settings):
    training.train(settings)
    folder = runs.stage_dir(settings, "train")
    return training.finish(settings), *(files.read_jsonl(folder / f"{name}.jsonl") for name in ("training", "dev"))


@pytest.mark.parametrize("warmup, first", [(0.0, None), (0.25, 1.0), (0.5, 0.5)])
def test_no_step_runs_at_rate_0(home, warmup, first):
    _, lines, _ = run(small(home, warmup=warmup, seed=11, learning_rate=1e-3))
    rates = [line["learning_rate"] / 1e-3 for line in lines]
    assert len(rates) == 4 and all(rate > 0.05 for rate in rates) and max(rates) <= 1
    if first is None:  # a cosine over five steps, of which the first, at the peak, is left out
        assert rates == pytest.approx([(1 + math.cos(math.pi * k / 5)) / 2 for k in (1, 2, 3, 4)])
    else:
        assert rates[0] == pytest.approx(first)


def test_dev_is_scored_greedily_and_sampled_and_the_best_mean_is_kept(home, monkeypatch):
    said = {0: (0.2, 0.2), 2: (0.6, 0.1), 4: (0.5, 0.4)}  # greedy alone would keep step 2
    steps = iter(step for step in said for _ in range(2))
    heats = []

    def score(self, dev, temperature):
        heats.append(temperature)
        return said[next(steps)][temperature > 0], 7.0

    monkeypatch.setattr(training.RetryReward, "score", score)
    result, _, dev = run(small(home, seed=12))
    assert [(line["greedy"], line["sampled"]) for line in dev] == list(said.values()) and heats == [0.0, 0.9] * 3
    assert [line["best"] for line in dev] == [True, True, True] and result["summary"]["best_step"] == 4
    assert result["summary"]["dev_best"] == pytest.approx(0.45) == dev[-1]["score"]


def test_plain_grpo_trains_first_tries_on_every_query_and_is_judged_by_them(home):
    settings = small(home, objective="answer", policies=["trained"], steps=2, learning_rate=1e-3)
    train_on, dev = training.examples(settings)
    assert len(train_on) == settings.train_queries and len(dev) == 4 * settings.dev_items  # solved ones too
    config = training.grpo_config(settings, runs.root(settings))
    assert config.max_completion_length == settings.attempt_tokens < settings.reflection_tokens  # as it is judged
    [example] = training.dataset(settings, train_on[:1])
    assert example["prompt"] == conversation.attempt(countdown, train_on[0]["row"])
    result, lines, scored = run(settings)
    logged = files.read_jsonl(runs.stage_dir(settings, "train") / "reflections.jsonl")
    assert len(logged) == 2 * 8 and all("reflection" not in line and "retry" not in line for line in logged)
    for line in logged:
        assert line["reward"] == tasks.verify(countdown, line["attempt"], line["row"]).correct
    assert [line["retry_correct"] for line in lines] == [
        sum(one["reward"] for one in logged[k : k + 8]) / 8 for k in (0, 8)
    ]
    assert sum(line["generated_tokens"] for line in lines) == result["summary"]["generated_tokens"] <= 16 * 16
    assert scored[0]["n"] == settings.dev_items == 6
    greedy = [row["row"] for row in dev[:6]]
    base = settings.model_copy(update={"seed": None})
    voice = evaluation.Voice(base, lambda: evaluation.sampler_of(base), "vanilla", "greedy", 0)
    right = [line["verdict"]["correct"] for line in evaluation.tries(voice, greedy, [None] * 6)]
    assert scored[0]["greedy"] == sum(right) / 6  # the untrained model's first tries


def test_the_curve_of_plain_grpo_is_its_reward_alone(home, tmp_path):
    """Notebooks 02 and 04 draw it: first tries are of no kind of reflection."""
    settings = small(home, objective="answer", policies=["trained"], steps=2, learning_rate=1e-3)
    run(settings)
    folder = runs.stage_dir(settings, "train")
    figures.training_curves(settings.task, {0: folder}, tmp_path / "curve")
    drawn = pd.read_csv(tmp_path / "curve.csv")
    assert list(drawn.columns) == ["seed", "step", "reward", "n"]
    assert drawn["reward"].tolist() == [line["reward"] for line in files.read_jsonl(folder / "training.jsonl")]


def test_plain_grpo_has_no_reflector(tmp_path):
    with pytest.raises(SettingsError, match="no reflections for a reflector"):
        small(tmp_path, objective="answer")
