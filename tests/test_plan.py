"""The plan of a grid: offline and fast, counted by hand, for cards that are and are not here, with what was measured."""

from __future__ import annotations

import math
import os
import resource
import subprocess
import sys

import pytest
from small import SMALL

from rrr_utils import fit, forecast, gpus, models, plan, runs, tasks
from rrr_utils.errors import SettingsError
from rrr_utils.settings import ROOT, load

SHARED = ROOT.parent / "shared" / "data"
#: a grid of two trained models, one of them gated, and of one that is only evaluated
GRID = """
preset: auto
source: procedural:numbers=3-4,low=1,high=99,target_low=1,target_high=100
train_queries: 10
dev_items: 4
test_items: 100
rounds: [1]
attempt_tokens: 10
reflection_tokens: 20
steps: 2
dev_every: 1
failures_per_step: 2
reflections_per_failure: 4
decodings: [greedy]
controls: [own]
policies: [trained]
rows:
  - {task: countdown, model: Qwen/Qwen2.5-1.5B-Instruct}
  - {task: countdown, model: meta-llama/Llama-3.2-3B-Instruct}
  - {task: countdown, model: Qwen/Qwen2.5-72B-Instruct, policies: []}
  - {task: countdown, model: Palmyra X4, policies: []}
"""


@pytest.fixture
def grid(monkeypatch, tmp_path):
    """Settings of GRID with overrides; this machine shows no GPU, no vLLM, no token, and knows no measured rates."""
    monkeypatch.setattr(forecast, "RATES", tmp_path / "rates.csv")
    monkeypatch.setattr(gpus, "visible", lambda: [])
    monkeypatch.setattr(gpus, "card", lambda: None)
    monkeypatch.setenv("RRR_VLLM_PYTHON", "/nowhere")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "grid.yaml").write_text(GRID)
    rest = {"results_dir": str(tmp_path / "runs"), "seed": 0, "seeds": [0, 1]}
    return lambda **changes: load(str(tmp_path / "grid.yaml"), {**rest, **changes})


def planned(settings, card: str | None = None):
    return plan.jobs(plan.rows_on(settings, plan.card_of(card)), plan.card_of(card))


OFFLINE = """
import socket, sys
def refuse(*_, **__):
    raise AssertionError("somebody asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
from rrr_utils import plan
status = plan.main(sys.argv[1:])
assert not {"torch", "transformers"} & sys.modules.keys()
sys.exit(status)
"""


def command(tmp_path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    env = unset | {"HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": "", "RRR_VLLM_PYTHON": "/nowhere", **environment}
    words = [sys.executable, "-c", OFFLINE, *arguments]
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)


def test_the_paper_s_plan_is_made_offline_in_seconds_and_names_every_row(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    overrides = f'{{"results_dir": "{tmp_path}"}}'
    made = command(tmp_path, "--profile", "paper", "--seeds", "0,1,2", "--overrides", overrides, "--jobs")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert made.returncode == 0, made.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10
    said = made.stdout.splitlines()
    assert said[0].startswith("Plan of profile paper, 19 rows, on one H100 (assumed, since no GPU is here")
    assert said[0].endswith("seeds 0, 1, 2, 93 runs, 0 of them done")
    table = said.index("")
    head = "\n".join(said[:table])
    [never] = [line for line in said[:table] if line.startswith("Not run: ") and line.endswith(": no public weights")]
    assert {"countdown:Palmyra 1.7B", "countdown:Palmyra X4", "function_calling:Palmyra X4"} == set(
        never.removeprefix("Not run: ").removesuffix(": no public weights").split(", ")
    )
    for gated in ("Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.2-3B"):
        assert head.count(f"First: meta-llama/{gated}-Instruct is gated: accept its licence") == 1
    assert head.count("Salesforce/xlam-function-calling-60k is gated") == 1
    for name, one in models.listed().items():
        for task, (role, _) in one.get("paper", {}).items() if one["parameters"] else ():
            [line] = [x for x in said[table:] if x.startswith(f"{task} ") and f" {name.split('/')[1]} " in x]
            assert role in line and ("gated" in line) == one["gated"]
            assert line.split(role)[1].split()[:2] == ["1" if role == "untrained" else "8", "0"]
    folders = [line.split()[0] for line in said if "/failures-" in line or "/train-" in line or "/evaluate-" in line]
    assert len(folders) == len(set(folders)) == 93
    assert max(map(len, said[table : said.index("", table + 1)])) <= 130


def test_tokens_are_those_that_are_counted_by_hand(grid):
    frame, without = planned(grid())
    assert without == {"countdown:Palmyra X4": "no public weights"}
    one = frame[frame["model"] == "Qwen/Qwen2.5-1.5B-Instruct"].set_index(["stage", "seed"])["tokens"]
    asked = 96 + 10 + fit.REQUEST_TOKENS  # a question, an attempt, the request to reflect
    first, reflection, retry = 96 + 10, asked + 20, asked + 20 + 96 + 10
    of_failures, of_evaluation = 10 * first + 4 * 4 * first, 100 * first + 70 * (reflection + retry)
    of_training = 2 * 8 * (2 * reflection + retry) + 2 * 3 * 4 * (reflection + retry)  # written, read again; dev
    assert [*one] == [of_evaluation, of_failures, of_training, of_evaluation, of_training, of_evaluation]
    assert [seed for _, seed in one.index if seed == seed] == [0, 0, 1, 1]  # of the base model and of failures none
    assert len(frame[frame["model"].str.contains("72B")]) == 1 and len(frame) == 13


def test_the_least_is_less_and_a_faster_card_takes_less(grid):
    hours = {}
    for card in ("T4", "L4", "A100", "H100", "H200"):
        frame, _ = planned(grid(rows="countdown:1.5B"), card)
        assert (0 < frame["least"]).all() and (frame["least"] < frame["hours"]).all()
        assert (frame["smallest"] <= frame["memory"]).all() and frame["memory"].max() < forecast.cards()[card]["gib"]
        hours[card] = frame["hours"].sum()
    assert sorted(hours, key=hours.get, reverse=True) == [*hours]
    assert plan.card_of("RTX 4090") == plan.card_of("4090") == plan.card_of("GeForce-RTX4090")
    assert plan.card_of("a100-80GB").total_bytes == 80 * plan.GIB == 2 * plan.card_of("A100").total_bytes
    assert {row.dtype for row in plan.rows_on(grid(), plan.card_of("T4"))} == {"float16"}
    assert {row.dtype for row in plan.rows_on(grid(), plan.card_of("h200"))} == {"bfloat16"}
    with pytest.raises(SettingsError, match="no line 'H10'; known: T4, .*H100"):
        plan.card_of("H10")


def test_what_a_card_cannot_hold_says_which_could(grid):
    frame, _ = planned(grid(), "L4")
    assert [*frame["hours"].isna()] == [False] * 12 + [True] and [*frame["least"].isna()] == [*frame["hours"].isna()]
    said = plan.report(grid(), "L4").splitlines()
    assert said[0].startswith("Plan of profile grid, 4 rows, on one L4: seeds 0, 1, 13 runs")
    [large] = [line for line in said if "72B" in line]
    assert large.endswith("no: A100 80GB") and " - " in large  # 41 GiB of weights in 4 bits
    [sums] = [line for line in said if line.startswith("sum of yes")]
    assert sums.split()[3] == "12" and [line for line in said if line.startswith("of it gated")][0].split()[3] == "6"
    whole = plan.report(grid(lora_rank=0, rows="countdown:Llama-3.2"), "H100")
    assert "yes, gated" in whole  # 3.2 billion weights of 20 bytes
    assert "no: 159 GiB" in plan.report(
        grid(lora_rank=0, rows="countdown:Llama-3.2", model="Qwen/Qwen2.5-7B-Instruct"), "H200"
    )


def test_runs_that_are_done_take_nothing_more_and_nothing_is_written(grid, tmp_path):
    frame, _ = planned(grid())
    folder = tmp_path / "runs" / frame["folder"][0]
    assert not folder.parent.exists()
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    again, _ = planned(grid())
    assert [*again["done"]] == [True] + 12 * [False] and again["hours"].equals(frame["hours"])
    said = plan.report(grid(), "H100", each=True).splitlines()
    assert said[0].endswith("13 runs, 1 of them done")
    assert [line.split()[1:5] for line in said if line.startswith(frame["folder"][0])] == [["True", "0", "0", "0"]]
    assert [path.name for path in (tmp_path / "runs").rglob("*") if path.is_file()] == ["result.json"]


def test_a_row_that_cannot_be_planned_is_said_and_stops_no_other(grid, tmp_path):
    (tmp_path / "empty").mkdir()
    text = GRID.replace("Palmyra X4, ", f"{tmp_path / 'empty'}, ").replace(
        "meta-llama/Llama-3.2-3B-Instruct", "some/thing"
    )
    (tmp_path / "grid.yaml").write_text(text)
    frame, without = planned(grid())
    assert len(frame) == 7 and "no saved model" in without["countdown:empty"]
    assert "the shape of model 'some/thing' is not known here" in without["countdown:some/thing"]


def test_vllm_where_it_is_asked_for_and_can_serve(grid, tmp_path, monkeypatch):
    frame, without = planned(grid(engine="vllm"))
    assert (
        "engine is vllm, which cannot serve Qwen/Qwen2.5-72B-Instruct on a H100"
        in without["countdown:Qwen/Qwen2.5-72B-Instruct"]
    )
    assert set(frame["engine"][frame["stage"] != "train"]) == {"vllm"} and set(
        frame["engine"][frame["stage"] == "train"]
    ) == {"hf"}
    usual, _ = planned(grid())
    assert set(usual["engine"]) == {"hf"} and frame["hours"].sum() < usual["hours"].sum()
    more = (
        (frame["download"] - usual["download"][:12]).groupby(frame["model"]).max()
    )  # a plain copy, of each model once
    assert [*more] == pytest.approx([2 * 1.5437e9 / plan.GIB, 2 * 3.2127e9 / plan.GIB], rel=0.001)
    (tmp_path / "python").touch()
    monkeypatch.setenv("RRR_VLLM_PYTHON", str(tmp_path / "python"))
    auto, without = planned(grid())
    assert set(auto["engine"]) == {"hf", "vllm"} and [*without] == ["countdown:Palmyra X4"]
    assert set(planned(grid(), "T4")[0]["engine"]) == {"hf"}


def test_hours_are_those_of_the_notebooks_forecast(grid, tmp_path, monkeypatch):
    tiny = load("tiny", {"task": "countdown", "results_dir": str(tmp_path), "seed": 0, "seeds": [0], **SMALL})
    question = fit.question_tokens(tiny, "train")
    monkeypatch.setitem(forecast.QUESTIONS, "countdown", (question, question))
    found = plan.hours(tiny)
    assert len(found) == 4
    vanilla = tiny.model_copy(update={"seed": None})
    for one, stage in ((tiny, "failures"), (tiny, "train"), (vanilla, "evaluate"), (tiny, "evaluate")):
        folder = runs.stage_dir(one, stage).relative_to(tmp_path).as_posix()
        assert found[folder] == pytest.approx(sum(forecast.parts(one, stage).values()) / 3600, rel=0.02)
    said = plan.report(tiny)
    assert said.startswith("Plan of profile tiny, 1 row, on one CPU: seeds 0, 4 runs") and "H100" not in said


def test_measured_rates_are_read_as_the_benchmark_writes_them(grid, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    import bench_rates

    monkeypatch.setattr(gpus, "card", lambda: gpus.Card("NVIDIA H100 80GB HBM3", 80 * plan.GIB, 9.0))
    phases = [{"phase": "log-probabilities", "seconds": 3.0, "tokens": 90, "versions": "{}"}]
    phases += [{"phase": "backward", "seconds": 1.0, "tokens": 200, "versions": "{}"}]
    lines = bench_rates.lines(bench_rates.QWEN2_15B, phases, {32: 0.5, 1024: 1.0})
    assert {line["model"] for line in lines} == {"Qwen/Qwen2-1.5B-Instruct", "Qwen/Qwen2.5-1.5B-Instruct"}
    other = [{**line, "hardware": "Tesla T4", "rate": "9"} for line in lines]
    bench_rates.keep(tmp_path / "rates.csv", other)
    before, _ = planned(grid(), "H100")
    bench_rates.keep(tmp_path / "rates.csv", [{**line, "rate": "7"} for line in lines])
    bench_rates.keep(tmp_path / "rates.csv", lines)
    assert len((tmp_path / "rates.csv").read_text().splitlines()) == 1 + 6 + 6  # measured again: in its place
    frame, _ = planned(grid(), "H100")
    is_measured = frame["model"] == "Qwen/Qwen2.5-1.5B-Instruct"
    assert [*frame["measured"]] == [*is_measured] and not before["measured"].any()
    assert frame["least"].equals(before["least"]) and frame["hours"][~is_measured].equals(before["hours"][~is_measured])
    assert (frame["hours"][is_measured] > 2 * before["hours"][is_measured]).all()
    assert "measured on this card (results/rates.csv), which comes first: Qwen/Qwen2.5-1.5B-Instruct" in plan.report(
        grid()
    )
    row = plan.rows_on(grid(), plan.card_of())[0].model_copy(update={"engine": "hf", "backend": "transformers"})
    costs = forecast.planned(row, *forecast.machine())
    assert costs.rates == {"decode_32": 0.5, "decode_1024": 1.0, "train_tokens": 50}
    assert costs.step(40, 300) == 0.5 and costs.step(2000, 300) == 1.0 < costs.step(8192, 300)
    assert costs.learn(5) == pytest.approx(5 * sum(costs.lengths["trained"]) / 50)


@pytest.mark.slow
def test_the_benchmark_measures_decoding_steps(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "benchmarks")
    import bench_rates

    small = {
        "vocab_size": 700,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    tokens = {"prompt": 150, "reflection": 16, "retry": 16}
    found = bench_rates.decoding({**bench_rates.QWEN2_15B, **small}, tokens, (4, 8), {"preset": "cpu"})
    assert [*found] == [4, 8] and all(0 < seconds < 1 for seconds in found.values())


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="no real queries and tokenizers beside this repository")
def test_questions_have_the_lengths_that_are_counted(monkeypatch, tmp_path):
    from rrr_utils import conversation, tokens

    monkeypatch.setenv("RRR_CACHE", str(tmp_path))
    sources = {"countdown": "procedural:numbers=3-4,low=1,high=99,target_low=1,target_high=100"}
    sources["function_calling"] = str(SHARED / "bfcl_as_apigen.jsonl")
    for name, source in sources.items():
        task = tasks.get(name)
        asked = [conversation.attempt(task, row) for row in tasks.load(task, "train", 200, source)]
        lengths = [*map(len, conversation.prompt_ids(tokens.load(str(SHARED / "tokenizers" / "qwen2.5")), asked))]
        assert (round(sum(lengths) / 200), max(lengths) * 5 // 4) == forecast.QUESTIONS[name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--profile", "papr"], "unknown profile 'papr'"), (["--card", "B1"], "data/cards.yaml has no line 'B1'"),
     (["--overrides", "[1]"], "--overrides takes a JSON object"), (["--seeds", "a"], "--seeds numbers such as 0,1,2"),
     (["--rows", "chess"], "has no row 'chess'"),
     (["--rows", "countdown:Palmyra X4"], "no row of profile paper can be run. Not run: countdown:Palmyra X4: no public weights"),
     (["--overrides", '{"stps": 1}'], "unknown setting 'stps'")],
)  # fmt: skip
def test_what_cannot_be_understood_is_one_line(arguments, said, capsys):
    assert plan.main(arguments) == 2
    assert said in (err := capsys.readouterr().err) and err.startswith("plan: ") and err.count("\n") == 1


def test_numbers_have_two_figures_and_words_stand_to_the_left():
    frame = plan.pd.DataFrame({"task": ["a", "longer"], "runs": [1, 20], "hours": [1234.5, math.nan]})
    assert plan._shown(frame).split("\n") == ["task   runs hours", "a         1  1200", "longer   20     -"]
