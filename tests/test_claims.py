"""The paper's claims against rows with hand-known numbers: true, false, open, not run, not comparable."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import synthetic

from rrr_utils.errors import DataError
from rrr_utils.report import cells, claims, paper, tables, text
from rrr_utils.settings import load

SMALL, LARGE = "Qwen/Qwen2.5-1.5B-Instruct", "Qwen/Qwen2.5-72B-Instruct"
CALLS = ["Qwen2-1.5B-Instruct", "Qwen2-7B-Instruct", "Llama-3.1-8B-Instruct", "Phi-3.5-mini-instruct"]
OURS = [f"Qwen2.5-{size}-Instruct" for size in ("1.5B", "3B", "7B")] + [
    "Llama-3.1-8B-Instruct",
    "Llama-3.2-3B-Instruct",
]
COUNTDOWN = [*OURS, "Palmyra 1.7B"]
#: every claim that is known: question, task, models, points, how sure
KNOWN = [
    ("gain", "countdown", COUNTDOWN[:1], 34.7, "V"),
    ("gain", "function_calling", CALLS[:1], 18.1, "V"),
    ("gain", "function_calling", CALLS[1:2], None, "V"),
    ("gain", "countdown", COUNTDOWN[2:3], None, "V"),
    ("gain", "function_calling", CALLS[2:3], None, "I"),
    ("gain", "countdown", COUNTDOWN[3:4], None, "I"),
    ("gain", "function_calling", CALLS, 9.0, "S"),
    ("gain", "countdown", COUNTDOWN, 16.0, "S"),
    ("lift_untrained", "function_calling", CALLS, 4.5, "S"),
    ("lift_untrained", "countdown", COUNTDOWN, 5.3, "S"),
    ("lift_trained", "function_calling", CALLS, 4.7, "S"),
    ("lift_trained", "countdown", COUNTDOWN, 8.6, "S"),
    ("shorter", "function_calling", CALLS, None, "S, V"),
    ("shorter", "countdown", COUNTDOWN, None, "S, V"),
    ("parameters", "function_calling", CALLS[1:3], None, "S"),
    ("numbers", "countdown", COUNTDOWN, None, "S"),
    ("missed", "countdown", COUNTDOWN[:1], 15.8, "S"),
]


def tries(policy: str, seed: int | None, said: list[str], own: str = "", tokens: int = 20) -> list[dict]:
    """Lines of samples.jsonl, a problem each: `said` is "right", "again" (right on the retry) or the kind of error."""
    lines = []
    for k, what in enumerate(said):
        right, again = what == "right", what == "again"
        verdict = {"correct": right, "error": None if right else "missed_target" if again else what, "lenient": right}
        retry = {"correct": again, "error": None if again else own or what, "lenient": again}
        second = {} if right else {"own": {"reflection_tokens": tokens, "verdict": retry}}
        place = {"id": f"p{k:03}", "cluster": f"c{k // 2}", "policy": policy, "seed": seed, "decoding": "greedy"}
        lines.append(place | {"verdict": verdict, "second": second})
    return lines


def row(model: str, lines: list[dict], task: str = "countdown", n: int = 15_000, data: str | None = None) -> tables.Row:
    """A row of the table that says it has so many problems of such data."""
    source = f"hub:{paper.TEST_SETS.get(task, ('', 0))[0]}@0123" if data is None else data
    averaged = pd.DataFrame([{"n": n, "data": source}])
    frame = cells.outcomes(lines)
    settings = load("tiny", {"task": task, "decodings": ["greedy"]})
    return tables.Row(settings, [], task, model, lines, frame, frame, averaged, [])


def lifted(model: str = SMALL, before: int = 4, after: tuple[int, ...] = (18, 20), of: int = 40, **more) -> tables.Row:
    """A row whose base model gets `before` problems right on the second try alone, and its seeds `after`."""
    lines = tries("vanilla", None, ["again"] * before + ["wrong_numbers"] * (of - before))
    for seed, right in enumerate(after):
        lines += tries("trained", seed, ["again"] * right + ["wrong_numbers"] * (of - right))
    return row(model, lines, **more)


def line_of(rows: list[tables.Row], number: int) -> dict:
    return claims.table(rows).iloc[number].to_dict()


def test_the_file_holds_what_is_known_and_no_more():
    questions, listed = claims.load()
    assert [(x["question"], x["task"], x["models"], x.get("points"), x["sure"]) for x in listed] == KNOWN
    assert [x.get("against") for x in listed[2:6]] == ["Qwen2-72B-Instruct", "Qwen2.5-72B-Instruct"] + 2 * [
        "Llama-3.1-70B-Instruct"
    ]
    assert {one for x in listed for one in [x["question"]]} == set(questions)
    assert CALLS == paper.TRAINED["function_calling"] and COUNTDOWN == paper.TRAINED["countdown"]
    value = paper.load().set_index(["task", "model", "cell"])["value"]
    for task, model, said in (
        ("countdown", OURS[0], "45.0 - 10.2 = +34.8"),
        ("function_calling", CALLS[0], "+18.1 = 52.9 - 34.8"),
    ):
        a, b = (value[task, model, cell] for cell in ("trained_second", "vanilla_second"))
        told = next(x["said"] for x in listed if x["models"] == [model])
        assert said in told and f"{a} - {b}" in told and f"+{a - b:.1f}" in told
    assert listed[2]["said"].startswith("77.3 against 76.6")
    assert value["function_calling", CALLS[1], "trained_second"] == 77.3
    assert value["function_calling", "Qwen2-72B-Instruct", "vanilla_second"] == 76.6


def test_the_headline_is_true_where_the_papers_number_lies_in_the_interval():
    found = line_of([lifted()], 0)
    assert (found["before"], found["after"], found["difference"]) == pytest.approx((10.0, 47.5, 37.5))
    assert found["ci_low"] < 34.7 < found["ci_high"] and found["direction"] == "true"
    half = (found["ci_high"] - found["ci_low"]) / 2
    assert found["number"] == f"true, within +-{half:.1f}"
    sure = line_of([lifted(before=40, after=(400,), of=1000)], 0)
    assert sure["difference"] == pytest.approx(36.0) and sure["number"].startswith("true")
    low = line_of([lifted(before=40, after=(140,), of=1000)], 0)
    assert (low["direction"], low["number"]) == ("true", "false: ours is below")
    high = line_of([lifted(before=40, after=(800,), of=1000)], 0)
    assert high["number"] == "false: ours is above"


@pytest.mark.parametrize(
    ("more", "why"),
    [({"data": "procedural:x"}, "not comparable: other data"), ({"n": 2000}, "not comparable: 2000 items, not 15000")],
)
def test_the_number_needs_the_papers_data_and_items_the_direction_does_not(more, why):
    found = line_of([lifted(**more)], 0)
    assert (found["direction"], found["number"]) == ("true", why)


def test_directions():
    assert line_of([lifted(after=(4, 4))], 0)["direction"] == "open"  # the very same
    assert line_of([lifted(after=(3, 6))], 0)["direction"] == "open"
    assert line_of([lifted(before=20, after=(3, 4))], 0)["direction"] == "false"


def test_what_lacks_is_named():
    found = claims.table([])
    assert len(found) == len(KNOWN) and found["direction"].str.startswith("not run: ").all()
    assert found["direction"][2] == "not run: Qwen2-7B-Instruct, Qwen2-72B-Instruct"
    base = row(SMALL, tries("vanilla", None, ["right"] * 4))
    assert line_of([base], 0)["direction"] == "not run: Qwen2.5-1.5B-Instruct (trained)"
    assert "Palmyra" not in "".join(found["direction"])  # nobody can run it
    assert (found["number"] == "").all() and found["difference"].isna().all()


def test_a_trained_model_against_a_larger_untrained_one():
    large = row(LARGE, tries("vanilla", None, ["again"] * 10 + ["wrong_numbers"] * 30))
    found = line_of([lifted("Qwen/Qwen2.5-7B-Instruct", after=(19, 19)), large], 3)
    assert (found["before"], found["after"], found["direction"], found["number"]) == (25.0, 47.5, "true", "")
    larger = large._replace(samples=tries("vanilla", None, ["again"] * 38 + ["wrong_numbers"] * 2))
    assert line_of([lifted("Qwen/Qwen2.5-7B-Instruct"), larger], 3)["direction"] == "false"
    others = large._replace(samples=tries("vanilla", None, ["again"] * 39))
    found = line_of([lifted("Qwen/Qwen2.5-7B-Instruct"), others], 3)
    assert found["direction"] == "not comparable: evaluated on different problems" and pd.isna(found["difference"])


def test_a_mean_is_over_the_models_that_anyone_can_run():
    rows = [lifted(f"a/{name}", after=(18 + 2 * k, 20 + 2 * k)) for k, name in enumerate(OURS)]
    found = line_of(rows, 7)
    assert found["difference"] == pytest.approx(np.mean([37.5, 42.5, 47.5, 52.5, 57.5]))
    assert (found["models"], found["direction"]) == ("5 of 5", "true")
    assert found["number"] == "not comparable: a model has no public weights"
    assert line_of(rows[1:], 7)["direction"] == "not run: Qwen2.5-1.5B-Instruct"
    calls = [
        lifted(f"a/{name}", before=10, after=(10 + k,), task="function_calling", n=12_000)
        for k, name in enumerate(CALLS)
    ]
    calls[0] = lifted(f"a/{CALLS[0]}", before=10, after=(10, 10, 10), task="function_calling", n=12_000)
    found = line_of(calls, 6)
    assert found["difference"] == pytest.approx(100 * 1.5 / 40) and found["models"] == "3 of 4"
    assert found["number"] == "true, within +-5.3"  # 3.75, and 9.0 is in reach of so few problems


def test_reflections_get_shorter_by_their_mean_over_failures():
    lines = tries("vanilla", None, ["right"] * 10 + ["again"] * 30, tokens=90)
    lines += tries("trained", 0, ["right"] * 20 + ["again"] * 20, tokens=30)
    found = claims.of_rows([row("x/y", lines)]).set_index("claim").loc["reflections get shorter"]
    assert (found["before"], found["after"], found["difference"], found["unit"]) == (90, 30, -60, "tokens")
    assert found["direction"] == "true" and found["model"] == "x/y, not the paper's"
    back = [line | {"policy": "vanilla" if line["policy"] == "trained" else "trained",
                    "seed": None if line["policy"] == "trained" else 0} for line in lines]  # fmt: skip
    found = claims.of_rows([row("x/y", back)]).set_index("claim").loc["reflections get shorter"]
    assert found["difference"] == 60 and found["direction"] == "false"


def test_kinds_of_errors():
    kinds = ["wrong_numbers"] * 50 + ["missed_target"] * 14 + ["no_answer"] * 36
    after = ["right"] * 40 + ["wrong_numbers"] * 10 + ["missed_target"] * 15 + ["no_answer"] * 35
    rows = [row(SMALL, tries("vanilla", None, kinds) + tries("trained", 0, after))]
    found = claims.of_rows(rows).set_index("claim")
    numbers, missed = (found.loc[name] for name in found.index if "wrong numbers" in name or "miss the target" in name)
    assert (numbers["difference"], numbers["direction"]) == (pytest.approx(-40.0), "true")
    assert (missed["before"], missed["after"]) == pytest.approx((14.0, 25.0))
    assert line_of(rows, 16)["number"].startswith(("true, within", "false"))
    kinds = ["wrong_numbers"] * 50 + ["no_answer"] * 50
    after = ["right"] * 20 + ["wrong_numbers"] * 30 + ["right"] * 40 + ["no_answer"] * 10
    rows = [row(SMALL, tries("vanilla", None, kinds) + tries("trained", 0, after))]
    numbers = claims.of_rows(rows).set_index("claim").loc["training mostly makes wrong numbers rarer"]
    assert numbers["difference"] == pytest.approx(-20.0) and numbers["direction"] == "false: no answer -40.0"
    calls = tries("vanilla", None, ["wrong_argument_values"] * 30 + ["wrong_argument_names"] * 30 + ["no_json"] * 40)
    calls += tries("trained", 0, ["right"] * 60 + ["no_json"] * 40)
    names = [f"a/{name}" for name in CALLS[1:3]]
    found = line_of([row(name, calls, "function_calling", 12_000) for name in names], 14)
    assert (found["difference"], found["direction"], found["models"]) == (pytest.approx(-60.0), "true", "2 of 2")


def test_intervals_are_those_of_the_comparisons_and_of_resampled_ratios(tmp_path):
    [one], _ = tables.gather(synthetic.made(tmp_path, (0, 1), 60))
    found = claims.of_rows([one]).set_index("claim")
    gain = cells.comparisons(one.outcomes, one.task, one.model).iloc[0]
    assert gain["question"] == "training improves the second try"
    mine = found.loc["training lifts the second try"]
    for name in ("difference", "ci_low", "ci_high"):
        assert mine[name] == pytest.approx(100 * gain[name])
    base = claims.tries(one).query("policy == 'vanilla'")
    values = claims._values(claims.Seen(one, claims.tries(one)), "vanilla", "tokens", [])
    low, high = claims._interval(values, base.set_index("id")["cluster"].sort_index())
    rng, by_cluster, means = np.random.default_rng(0), [group for _, group in base.groupby("cluster")], []
    sums = np.array([[g["tokens"].sum(), (~g["first"]).sum()] for g in by_cluster])
    for _ in range(4000):
        means.append(np.divide(*sums[rng.integers(len(sums), size=len(sums))].sum(axis=0)))
    assert values.mean() == pytest.approx(base["tokens"].sum() / (~base["first"]).sum())
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.1 * (high - low))


def test_a_task_of_ones_own_is_asked_what_fits_it(tmp_path):
    path = tmp_path / "sorting.py"
    path.write_text('VERSION = 1\nREFLECT = "?"\nERRORS = ("wrong",)\n\n\ndef load(split, n, seed, source=None):\n    return []\n'
                    '\n\ndef prompt(row):\n    return ""\n\n\ndef verify(completion, row):\n    return False, "wrong", False\n')  # fmt: skip
    one = lifted("embedded")._replace(task="sorting", settings=load("tiny", {"task": str(path)}))
    found = claims.of_rows([one])
    assert (
        len(found) == 4 and set(found["task"]) == {"sorting"} and set(found["model"]) == {"embedded, not the paper's"}
    )
    assert claims.table([one])["direction"].str.startswith("not run").all()


def test_they_are_printed_in_straight_words():
    rows = [lifted(), lifted("embedded")]
    said = claims.said(claims.table(rows))
    assert "+34.7; by its rounded cells 45.0 - 10.2 = +34.8 (S) (V)" in " ".join(said.split()) and "nan" not in said
    assert said.startswith("- countdown, Qwen2.5-1.5B-Instruct: training lifts the second try: true; the paper")
    assert max(map(len, said.splitlines())) <= 118 and "not run: Qwen2-7B-Instruct" in said
    assert "nan" not in text.markdown(claims.in_words(claims.table(rows)))
    own = claims.in_words(claims.of_rows(rows[1:]))
    assert list(own.columns) == ["task", "of", "claim", "ours", "direction"] and "ours 10.0 to 47.5" in claims.said(
        claims.of_rows(rows[1:])
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("question: shorter", "question: shortr"),
        ("task: countdown", "task: count_down"),
        ("points: 34.7", "points: much"),
        ("[trained, tokens]", "[trained, words]"),
        ("claims:\n", "claim:\n"),
        ("questions:\n", "questions: [\n"),
        ("against: Qwen2-72B-Instruct", "models: []"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, old, new):
    path = tmp_path / "claims.yaml"
    path.write_text(claims.PATH.read_text().replace(old, new, 1))
    with pytest.raises(DataError) as refused:
        claims.table([], path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
