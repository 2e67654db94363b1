"""The data set of failures: rounds, caps, duplicates, resuming; and evaluation: what policies share, budgets, resuming."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from small import small

from rrr_utils import engines, evaluation, failures, files, live, policy, runs, samples, tasks, training
from rrr_utils.errors import ResultsError
from rrr_utils.report import cells
from rrr_utils.sampling import HFSampler
from rrr_utils.tasks import countdown


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with every stage of seed 0 done."""
    folder = tmp_path_factory.mktemp("runs")
    settings = small(folder, retry_policy="base")
    untrained = settings.model_copy(update={"seed": None})
    for stage, long_step, finish in (
        (settings, failures.sample, failures.finish),
        (settings, training.train, training.finish),
        (untrained, evaluation.generate, evaluation.finish),
        (settings, evaluation.generate, evaluation.finish),
    ):
        long_step(stage)
        finish(stage)
    return folder


def of(home, stage, **overrides):
    settings = small(home, retry_policy="base", **overrides)
    return settings, runs.stage_dir(settings, stage)


def test_failures_are_failures_and_no_query_has_too_many_or_one_twice(home):
    settings, folder = of(home, "failures")
    kept = files.read_jsonl(folder / "failures.jsonl")
    per_query = {}
    for line in kept:
        verdict = countdown.verify(line["attempt"], line["row"])
        assert not verdict.correct and verdict.error == line["error"]
        assert line["cluster"] == line["row"]["cluster"] and countdown.split_of(line["row"]["nums"]) == "train"
        assert 0 <= line["sample"] < line["sampled"] and line["solved"] <= line["sampled"] <= sum(settings.rounds)
        per_query.setdefault(line["id"], []).append(line["attempt"])
    assert all(len(set(own)) == len(own) <= settings.failures_per_query for own in per_query.values())
    dev = files.read_jsonl(folder / "dev_failures.jsonl")
    assert all(countdown.split_of(line["row"]["nums"]) == "dev" for line in dev) and len(dev) <= settings.dev_items
    log = files.read_jsonl(folder / "attempts.jsonl")
    enough = {r["id"] for r in log if r["round"] == 0 and len(r["failures"]) >= settings.failures_per_query}
    assert not enough & {r["id"] for r in log if r["round"] > 0}, "a query with enough failures is sampled no more"


def test_a_killed_collection_goes_on_to_the_same_result(home, tmp_path):
    _, folder = of(home, "failures")
    settings = small(tmp_path, retry_policy="base")
    with runs.begin(settings, "failures") as (again, _):
        pass
    lines = (folder / "attempts.jsonl").read_bytes().splitlines(keepends=True)
    first_round = [line for line in lines if b'"round": 0' in line or b'"round":0' in line]
    (again / "attempts.jsonl").write_bytes(b"".join(first_round) + lines[-1][:20])  # killed while it wrote a line
    failures.sample(settings)
    failures.finish(settings)
    for name in ("attempts", "failures", "dev_failures"):
        assert (again / f"{name}.jsonl").read_bytes() == (folder / f"{name}.jsonl").read_bytes()


def test_a_kill_inside_a_round_of_several_blocks_changes_no_random_number(tmp_path):
    whole, broken = (small(tmp_path / name, sample_batch=2) for name in ("whole", "broken"))  # blocks of 8 queries
    failures.sample(whole)
    folder = runs.stage_dir(whole, "failures")
    lines = (folder / "attempts.jsonl").read_bytes().splitlines(keepends=True)
    for cut in (11, 30):  # inside a block of the first round, and of the second
        with runs.begin(broken, "failures") as (again, _):
            (again / "attempts.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:9])
        failures.sample(broken)
        assert (again / "attempts.jsonl").read_bytes() == b"".join(lines), cut


def test_an_interrupted_collection_is_not_finished(home, tmp_path):
    _, folder = of(home, "failures")
    settings = small(tmp_path, retry_policy="base")
    lines = (folder / "attempts.jsonl").read_bytes().splitlines(keepends=True)
    with runs.begin(settings, "failures") as (again, _):
        pass
    for kept, what in ((1, "round 1"), (23, "round 1"), (len(lines) - 1, "round 2"), (len(lines), "the dev queries")):
        (again / "attempts.jsonl").write_bytes(b"".join(lines[:kept]))
        with pytest.raises(ResultsError, match=f"is not finished .{what}"):
            failures.finish(settings)
        assert not (again / "result.json").exists()


def test_a_finish_is_cheap_to_repeat(home, monkeypatch):
    """Snakemake deletes the result.json of a job that failed or was killed: it is written again without a model."""
    monkeypatch.setattr(policy, "load_base", lambda *a: pytest.fail("a model was loaded"))
    monkeypatch.setattr(training, "build_trainer", lambda *a: pytest.fail("a trainer was built"))
    monkeypatch.setattr(engines, "make_sampler", lambda *a: pytest.fail("a sampler was made"))
    settings = of(home, "failures")[0]
    for stage, one, work, finish in (
        ("failures", settings, failures.sample, failures.finish),
        ("train", settings, training.train, training.finish),
        ("evaluate", settings.model_copy(update={"seed": None}), evaluation.generate, evaluation.finish),
        ("evaluate", settings, evaluation.generate, evaluation.finish),
    ):
        before = runs.done(one, stage)
        (runs.stage_dir(one, stage) / "result.json").unlink()
        work(one)
        again = finish(one)
        assert (again["outputs"], again["summary"]) == (before["outputs"], before["summary"])


def test_duplicates_count_as_one_failure():
    records = [
        {
            "id": "a",
            "round": 0,
            "sampled": 2,
            "solved": 0,
            "failures": [{"attempt": "x", "error": "e", "sample": k} for k in (0, 1)],
        },
        {"id": "a", "round": 1, "sampled": 3, "solved": 2, "failures": [{"attempt": "x", "error": "e", "sample": 1}]},
    ]
    line = {"id": "a", "cluster": "c", "row": {"id": "a", "cluster": "c"}}
    assert failures.failures([line["row"]], records, 4) == [
        {**line, "attempt": "x", "error": "e", "sample": 0, "sampled": 5, "solved": 2}
    ]


def test_reflector_is_the_untrained_model_but_for_its_reflections(home):
    settings, folder = of(home, "evaluate")
    vanilla = samples.vanilla(settings)
    lines = [s for s in files.read_jsonl(folder / "samples.jsonl") if s["policy"] == "reflector"]
    assert len(lines) == settings.test_items * len(settings.decodings)
    for line in lines:
        before = vanilla["vanilla", line["decoding"], line["id"]]
        assert line["attempt"] == before["attempt"] and line["verdict"] == before["verdict"] and line["seed"] == 0
        assert line["second"].keys() == before["second"].keys()
        assert all(line["second"][name] == before["second"][name] for name in ("blind", "generic") if line["second"])


def test_fresh_tries_spend_what_the_reflection_took_and_no_more(home):
    _, folder = of(home, "evaluate")
    spent = [s["second"] for s in files.read_jsonl(folder / "samples.jsonl") if "own" in s["second"]]
    assert spent
    for second in spent:
        budget, many = second["own"]["reflection_tokens"] + second["own"]["retry_tokens"], second["fresh"]
        assert len(many["tries"]) == len(many["verdicts"]) >= 1
        longest = 16
        assert len(many["tries"]) == 1 or many["tokens"] <= budget + longest
        assert many["verdict"]["correct"] == any(v["correct"] for v in many["verdicts"])


def test_an_attempt_that_the_token_limit_cut_off_is_a_failure_like_any_other(tmp_path):
    settings = small(tmp_path, attempt_tokens=6)  # no answer fits
    failures.sample(settings)
    summary = failures.finish(settings)["summary"]
    kept = files.read_jsonl(runs.stage_dir(settings, "failures") / "failures.jsonl")
    assert kept and all(line["truncated"] and line["error"] == "no_answer" for line in kept)
    assert summary["cut_off"] >= len(kept) == summary["failures"] and summary["solved"] == 0


def test_a_killed_evaluation_keeps_what_it_has(home, tmp_path):
    settings, folder = of(home, "evaluate", seed=None)
    whole = files.read_jsonl(folder / "samples.jsonl")
    moved = small(tmp_path, seed=None, retry_policy="base")
    with runs.begin(moved, "evaluate") as (again, _):
        pass
    greedy = [line for line in whole if line["decoding"] == "greedy"]
    files.append_jsonl(again / "samples.jsonl", greedy)
    evaluation.generate(moved)
    assert files.read_jsonl(again / "samples.jsonl") == whole


def test_an_interrupted_evaluation_is_not_finished(home, tmp_path):
    _, folder = of(home, "evaluate", seed=None)
    lines = files.read_jsonl(folder / "samples.jsonl")
    moved = small(tmp_path, seed=None, retry_policy="base")
    with runs.begin(moved, "evaluate") as (again, _):
        pass
    for kept in (lines[:3], [line for line in lines if line["decoding"] == "greedy"], lines[:-1], []):
        files.write_jsonl(again / "samples.jsonl", kept)
        with pytest.raises(ResultsError, match=f"lacks {len(lines) - len(kept)} of {len(lines)} lines"):
            evaluation.finish(moved)


@pytest.fixture
def asked(monkeypatch):
    """How many conversations the model was given, by what they are for."""
    counts, sample = {}, HFSampler.sample

    def counted(self, conversations, *rest, **more):
        counts[rest[4]] = counts.get(rest[4], 0) + len(conversations)
        return sample(self, conversations, *rest, **more)

    monkeypatch.setattr(HFSampler, "sample", counted)
    return counts


def test_one_more_item_decoding_or_policy_generates_nothing_twice(tmp_path, asked):
    few = small(tmp_path, seed=None, test_items=8, decodings=["greedy"])
    evaluation.generate(few)
    evaluation.finish(few)
    before = {line["id"]: line for line in files.read_jsonl(runs.stage_dir(few, "evaluate") / "samples.jsonl")}
    asked.clear()
    more = few.model_copy(update={"test_items": 12, "decodings": ("greedy", "sampled")})
    evaluation.generate(more)
    result = evaluation.finish(more)
    assert (asked["vanilla, greedy: first try"], asked["vanilla, sampled: first try"]) == (4, 12)
    lines = files.read_jsonl(runs.stage_dir(more, "evaluate") / "samples.jsonl")
    for line in lines:
        if line["decoding"] == "greedy" and line["id"] in before:
            old = before[line["id"]]
            assert line.pop("from") == runs.stage_dir(few, "evaluate").name and line == old
    assert result["summary"]["adopted"] == [{"folder": runs.stage_dir(few, "evaluate").name, "lines": 8}]
    asked.clear()
    evaluation.generate(few.model_copy(update={"test_items": 10}))  # all of it is there by now
    assert asked == {}
    evaluation.generate(few.model_copy(update={"reflection_tokens": 20}))  # another limit: other texts
    assert asked["vanilla, greedy: first try"] == 8


def test_a_changed_verifier_rescores_and_generates_only_what_it_needs(tmp_path, asked, monkeypatch):
    settings = small(tmp_path, seed=None, decodings=["greedy"])
    evaluation.generate(settings)
    evaluation.finish(settings)
    old = files.read_jsonl(runs.stage_dir(settings, "evaluate") / "samples.jsonl")
    right, wrong = (next(line for line in old if line["verdict"]["correct"] == which) for which in (True, False))
    verify = countdown.verify

    def changed(text, row):
        """One item that was right is wrong now, and one that was wrong is right."""
        if row["id"] == right["id"]:
            return tasks.Verdict(False, "missed_target", False)
        return tasks.Verdict(True, None, True) if row["id"] == wrong["id"] else verify(text, row)

    monkeypatch.setattr(countdown, "verify", changed)
    monkeypatch.setattr(countdown, "VERSION", 2)
    asked.clear()
    evaluation.generate(settings)
    new = {line["id"]: line for line in files.read_jsonl(runs.stage_dir(settings, "evaluate") / "samples.jsonl")}
    assert "vanilla, greedy: first try" not in asked and asked["vanilla, greedy: reflection (own)"] == 1
    assert [line["attempt"] for line in old] == [new[line["id"]]["attempt"] for line in old]
    assert new[wrong["id"]]["verdict"]["correct"] and new[wrong["id"]]["second"] == {}
    assert not new[right["id"]]["verdict"]["correct"] and set(new[right["id"]]["second"]) == set(settings.controls)


def test_edited_samples_are_not_taken_over(tmp_path, asked):
    few = small(tmp_path, seed=None, test_items=8, decodings=["greedy"])
    evaluation.generate(few)
    evaluation.finish(few)
    path = runs.stage_dir(few, "evaluate") / "samples.jsonl"
    path.write_text(path.read_text().replace("<answer>", "<answer> 1 +", 1))
    asked.clear()
    evaluation.generate(few.model_copy(update={"test_items": 9}))
    assert asked["vanilla, greedy: first try"] == 9


def test_rescoring_without_torch_gives_the_same_cells(home):
    _, folder = of(home, "evaluate")
    code = (
        "import sys; sys.path.insert(0, 'tests'); import torch_free; sys.meta_path.insert(0, torch_free.Blocked)\n"
        "import runpy; sys.argv = ['report', '--rescore', sys.argv[1]]; runpy.run_module('rrr_utils.report', run_name='__main__')"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    rescored = cells.rescore(folder)
    written = cells.of_evaluation(of(home, "evaluate")[0])
    for column in ("policy", "decoding", "attempt", "n", "correct"):
        assert list(rescored[column]) == list(written[column])


def test_of_a_test_problem_what_the_evaluation_holds_is_shown_and_no_model_is_loaded(home, monkeypatch):
    settings, folder = of(home, "evaluate")
    monkeypatch.setattr(engines, "make_sampler", lambda *a: pytest.fail("a model was loaded"))
    lines = files.read_jsonl(folder / "samples.jsonl")
    line = next(x for x in lines if (x["policy"], x["decoding"]) == ("reflector", "greedy") and x["second"])
    text, own = live.one_problem(settings, line["row"]), line["second"]["own"]
    assert all(said in text for said in (line["attempt"], own["reflection"], own["retry"]))
    with pytest.raises(pytest.fail.Exception, match="a model was loaded"):  # another problem of this id
        live.one_problem(settings, {**line["row"], "target": line["row"]["target"] + 1})


def test_a_problem_of_ones_own_is_shown_before_and_after(home):
    settings, _ = of(home, "evaluate")
    text = live.one_problem(settings, {"id": "y", "cluster": "y", "nums": [3, 7, 12], "target": 43})
    assert "attempt" in text and (
        "nothing to reflect on" in text or ("base model" in text and "after training" in text and "retry" in text)
    )
    for odd in ({"nums": [3, 7, 12], "target": 47}, {"nums": ["x"], "target": 1}, {"target": 3}):
        assert live.one_problem(settings, {"id": "y", "cluster": "y", **odd}).startswith(
            "This problem cannot be posed: "
        )
