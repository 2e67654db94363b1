"""vLLM itself, on a CPU (slow): the texts of `hf`, the adapter on and off, and a kill.

It wants vLLM's environment: `make vllm`, or RRR_VLLM_PYTHON. tests/data/reflector is an adapter that the tiny profile
trained on the embedded model (seed 0).
"""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from rrr_utils import controls, engines, evaluation, failures, files, runs, settings
from rrr_utils.errors import ResultsError
from rrr_utils.report.statistics import wilson
from rrr_utils.settings import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(engines.vllm_python() is None, reason="vLLM's environment is not there: make vllm"),
]

ADAPTER, ITEMS = ROOT / "tests" / "data" / "reflector", 1000
ENGINES = ("hf", "vllm")


@pytest.fixture(scope="module")
def tries(tmp_path_factory):
    """By engine and kind, the reflector's lines: first tries and retries by the base model, reflections adapted.

    Sampled ones come three times: the items are the same, so that this noise is then well below what 1,000 items tell.
    """
    where = {"results_dir": str(tmp_path_factory.mktemp("runs")), "controls": ["own"], "test_items": ITEMS}
    made = {}
    for name in ENGINES:
        given = settings.load("tiny", {**where, "engine": name})
        rows = failures.load_rows(given, "test", ITEMS)
        sampler = engines.make_sampler(given, ADAPTER)
        for decoding, seeds in (("greedy", (0,)), ("sampled", (0, 1, 2))):
            voices = [controls.Voice(given, lambda one=sampler: one, "reflector", decoding, seed) for seed in seeds]
            made[name, decoding] = [line for one in voices for line in evaluation.tries(one, rows, [None] * len(rows))]
        getattr(sampler, "close", lambda: None)()
    return made


def rates(lines: list[dict]) -> tuple[float, float]:
    """Of ITEMS, how many first tries are right, and how many are right after a second one."""
    first = sum(line["verdict"]["correct"] for line in lines)
    second = first + sum(line["second"]["own"]["verdict"]["correct"] for line in lines if line["second"])
    return first * ITEMS / len(lines), second * ITEMS / len(lines)


def test_greedy_texts_are_the_same_in_99_of_100(tries):
    hf, vllm = (tries[name, "greedy"] for name in ENGINES)
    assert len(hf) == len(vllm) == ITEMS
    attempts = sum(one["attempt"] == other["attempt"] for one, other in zip(hf, vllm, strict=True))
    wholes = sum(one == other for one, other in zip(hf, vllm, strict=True))  # reflection, retry, tokens, verdicts too
    print(f"same: {attempts} first tries and {wholes} lines of {ITEMS}; right: {rates(hf)} {rates(vllm)}")
    assert attempts >= 0.99 * ITEMS and wholes >= 0.99 * ITEMS
    first, second = rates(vllm)
    assert second > first + 0.2 * ITEMS  # the adapter reflects


def test_sampled_accuracies_lie_in_each_others_intervals(tries):
    for one, other in (ENGINES, ENGINES[::-1]):
        for right, theirs in zip(rates(tries[one, "sampled"]), rates(tries[other, "sampled"]), strict=True):
            low, high = wilson(right, ITEMS)
            print(f"{one} {right:.1f}, {other} {theirs:.1f} of {ITEMS}, interval {low:.3f} to {high:.3f}")
            assert low <= theirs / ITEMS <= high
    texts = [{line["attempt"] for line in tries[name, "sampled"]} for name in ENGINES]
    assert min(map(len, texts)) > 0.9 * max(map(len, texts))  # as varied
    again = [[line["attempt"] for line in tries["vllm", "sampled"][k * ITEMS :][:ITEMS]] for k in range(3)]
    assert again[0] != again[1] != again[2]


def collected(folder) -> settings.Settings:
    few = {"train_queries": 600, "dev_items": 8, "rounds": [1, 4], "failures_wanted": 3000, "failures_per_query": 4}
    return settings.load("tiny", {"results_dir": str(folder), "engine": "vllm", **few})


def test_a_killed_worker_is_one_line_and_the_same_call_goes_on(tmp_path, monkeypatch):
    whole, broken = collected(tmp_path / "whole"), collected(tmp_path / "broken")
    failures.sample(whole)
    made, make = [], engines.make_sampler
    monkeypatch.setattr(engines, "make_sampler", lambda *given: made.append(make(*given)) or made[-1])
    log = runs.stage_dir(broken, "failures") / "attempts.jsonl"

    def kill() -> None:
        while not log.is_file():
            time.sleep(0.01)
        os.kill(made[0].process.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ResultsError, match=r"vLLM's worker was killed \(signal 9\)") as error:
        failures.sample(broken)
    killer.join()
    assert "\n" not in str(error.value)
    before = len(files.read_jsonl(log))
    failures.sample(broken)
    assert 0 < before < len(files.read_jsonl(log)) and len(made) == 2
    results = [failures.finish(one)["summary"] for one in (whole, broken)]
    assert results[0]["attempts"] == results[1]["attempts"]
    lines = [files.read_jsonl(runs.stage_dir(one, "failures") / "attempts.jsonl") for one in (whole, broken)]
    same = sum(one == other for one, other in zip(*lines, strict=True))
    assert same >= 0.99 * len(lines[0])  # seeded by place, whatever was generated beside it
    made[-1].close()
