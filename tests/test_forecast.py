"""Forecasts: the estimates that were made by hand, what the published runs really took, and no model loaded for it."""

from __future__ import annotations

import statistics
import time

import pandas as pd
import pytest
from small import small
from transformers import Qwen2Config

from rrr_utils import failures, files, fit, forecast, gpus, runs, settings
from rrr_utils.errors import SettingsError
from rrr_utils.settings import CONTROLS, ROOT

GIB = 2**30
#: Qwen2.5-1.5B-Instruct
QWEN = Qwen2Config(
    hidden_size=1536, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, intermediate_size=8960,
    vocab_size=151_936, tie_word_embeddings=True,
)  # fmt: skip
CARDS = {
    "T4": gpus.Card("Tesla T4", 15 * GIB, 7.5),
    "A10": gpus.Card("NVIDIA A10", 22 * GIB, 8.6),
    "H100": gpus.Card("NVIDIA H100 80GB HBM3", 80 * GIB, 9.0),
}


@pytest.fixture
def on(monkeypatch, tmp_path):
    """Makes this machine show one of CARDS, or none, and know no measured rates."""
    monkeypatch.setattr(forecast, "RATES", tmp_path / "rates.csv")
    monkeypatch.setattr(gpus, "visible", lambda: [])

    def show(name: str | None) -> None:
        monkeypatch.setattr(gpus, "card", lambda: CARDS.get(name))

    show(None)
    return show


def costs(one: settings.Settings, rates: dict | None = None) -> forecast.Costs:
    """Of Qwen2.5-1.5B on the card that is shown; questions of 60 tokens."""
    return forecast.Costs(one, fit.shape(QWEN), forecast.machine()[1], 60, rates or {})


def hours(one: settings.Settings, stage: str, worst: bool = False) -> float:
    return sum(forecast.parts_of(costs(one), stage, worst).values()) / 3600


#: worked out by hand for Qwen2.5-1.5B before there was this module, from the seconds of a decoding step: a GRPO step of
#: 256 reflections (s), 400 steps with dev, collecting with 4 samples and with 64, evaluating base and trained model (h)
BY_HAND = {
    "T4": (32, 4, (186, 22, 3.6, 57, 80)), "A10": (64, 8, (72, 9, 1.2, 18, 26)), "H100": (256, 32, (25, 3, 0.2, 3, 4.5)),
}  # fmt: skip


@pytest.mark.parametrize("card", BY_HAND)
def test_what_was_worked_out_by_hand_is_met_within_a_factor_of_one_and_a_half(on, card):
    on(card)
    rows, micro, wanted = BY_HAND[card]
    machine = {"preset": None, "dtype": "float16", "engine": "hf", "sample_batch": rows, "micro_batch": micro}
    machine |= {"test_items": 15_000, "fresh_tries": 32}
    one = settings.load("single_gpu", machine)
    whole = settings.load("single_gpu", machine | {"sample_batch": 256})  # a training's retries are one batch
    told = (
        forecast.parts_of(costs(whole), "train")["steps"] / whole.steps,
        hours(whole, "train"),
        hours(one, "failures"),
        hours(one, "failures", worst=True),
        hours(one, "evaluate") + hours(one.model_copy(update={"seed": None}), "evaluate"),
    )
    for said, by_hand in zip(told, wanted, strict=True):
        assert by_hand / 1.5 < said < by_hand * 1.5


def test_the_published_tiny_runs_took_what_is_forecast_within_a_factor_of_two(on):
    home, tiny = ROOT / "results" / "tiny" / "countdown" / "embedded", settings.load("tiny")
    vanilla = tiny.model_copy(update={"seed": None})
    asked = {"failures": ("failures", tiny), "train-seed*": ("train", tiny)}
    asked |= {"evaluate-vanilla": ("evaluate", vanilla), "evaluate-seed*": ("evaluate", tiny)}
    for pattern, (stage, one) in asked.items():
        took = [files.read_json(path)["provenance"]["seconds"] for path in home.glob(f"{pattern}/result.json")]
        said = sum(forecast.parts(one, stage).values())
        assert statistics.median(took) / 2 < said < statistics.median(took) * 2, pattern


def test_a_forecast_loads_no_model_and_says_what_each_row_rests_on(on, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    for stage in ("failures", "train", "evaluate"):
        frame = forecast.forecast(small(tmp_path), stage)
        assert [name for name in frame.index if name != "time, at worst"] == ["time", "memory", "disk", "download"]
        assert ("time, at worst" in frame.index) == (stage == "failures")
        assert frame["assumption"].str.len().min() > 10
        assert list(frame["unit"]) == ["minutes"] * (len(frame) - 3) + ["GiB"] * 3
        assert frame.loc["download", "value"] == 0 and 0 < frame.loc["time", "value"] < 5
        assert 1 < frame.loc["memory", "value"] < 4


def test_a_real_run_corrects_the_forecast_and_a_finished_one_costs_nothing(on, tmp_path, capsys):
    one = small(tmp_path)
    began = time.time()
    failures.sample(one)
    took, said = time.time() - began, capsys.readouterr().out
    failures.finish(one)
    [line] = [line for line in said.splitlines() if "its first part took" in line]
    minutes = float(line.split("about ")[1].split()[0])
    assert line.startswith("failures: about") and took / 60 / 10 < minutes < took / 60 * 10
    frame = forecast.forecast(one, "failures")
    assert frame.loc["time", "value"] == 0 and "there already" in frame.loc["time", "assumption"]


def test_the_correction_takes_the_first_part_s_rate_for_all_and_never_fails(on, tmp_path):
    one = small(tmp_path)
    said = forecast.parts(one, "train")
    total, first = sum(said.values()) / 60, said["steps"]
    assert f"about {3 * total:.2g} minutes" in forecast.corrected(one, "train", 3 * first * 0.25, 0.25)
    assert forecast.corrected(one.model_copy(update={"model": str(tmp_path)}), "train", 1.0, 0.5) == ""
    base = one.model_copy(update={"seed": None})  # its parts are decodings, of which greedy ends early
    greedy, *rest = forecast.parts(base, "evaluate").values()
    assert f"about {(0.1 * greedy + sum(rest)) / 60:.2g} minutes" in forecast.corrected(
        base, "evaluate", 0.1 * greedy, 1
    )


@pytest.mark.parametrize(
    ("name", "key"),
    [("Tesla T4", "T4"), ("NVIDIA A10G", "A10G"), ("NVIDIA A10", "A10"), ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"),
     ("NVIDIA GeForce RTX 3090", "3090"), ("NVIDIA GeForce RTX 4090", "4090"), ("NVIDIA A100-SXM4-40GB", "A100"),
     ("NVIDIA H100 PCIe", "H100 PCIe"), ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H200", "H200"),
     ("NVIDIA RTX A6000", "A6000")],
)  # fmt: skip
def test_cards_are_known_by_the_names_that_nvidia_smi_gives(on, monkeypatch, name, key):
    monkeypatch.setattr(gpus, "card", lambda: gpus.Card(name, 80 * GIB, 8.0))
    lines = forecast.yaml.safe_load((settings.DATA / "cards.yaml").read_text())
    assert forecast.machine() == (name, lines[key])


def test_a_card_that_is_not_listed_counts_as_a_smaller_one_and_says_so(on, monkeypatch):
    for gib, key in ((11, "CPU"), (23, "L4"), (30, "4090"), (300, "H200")):
        monkeypatch.setattr(gpus, "card", lambda gib=gib: gpus.Card("Quadro X", gib * GIB, 8.0))
        name, line = forecast.machine()
        assert "Quadro X (not listed" in name and line["gib"] <= gib, key


def test_a_measured_rate_comes_first_if_it_is_of_this_hardware_model_and_engine(on, tmp_path):
    on("H100")
    one = settings.load("single_gpu", {"engine": "hf", "backend": "unsloth"})
    columns = ["hardware", "model", "engine", "backend", "what", "rate", "versions"]
    name, model = CARDS["H100"].name, one.model
    lines = [
        (name, model, "hf", None, "decode_64", 0.05, ""), (name, model, "hf", None, "decode_512", 0.08, ""),
        (name, model, "hf", "unsloth", "train_tokens", 50_000, ""), (name, model, "hf", "transformers", "train_tokens", 20_000, ""),
        (name, model, "vllm", None, "decode_64", 0.001, ""), ("Tesla T4", model, "hf", None, "decode_256", 9.0, ""),
        (name, "another/model", "hf", None, "decode_256", 9.0, ""),
    ]  # fmt: skip
    pd.DataFrame(lines, columns=columns).to_csv(tmp_path / "rates.csv", index=False)
    rates = forecast._rates(name, one)
    assert rates == {"decode_64": 0.05, "decode_512": 0.08, "train_tokens": 50_000}
    known = costs(one, rates)
    assert known.step(100, 400) == 0.05 and known.step(500, 400) == 0.08
    assert known.learn(256) == pytest.approx(256 * sum(known.lengths["reflection"]) / 50_000)
    assert forecast._rates(name, one.model_copy(update={"backend": "transformers"}))["train_tokens"] == 20_000


def test_every_setting_that_costs_time_costs_time(on):
    on("A10")
    one = settings.load("single_gpu", {"engine": "hf"})

    def more(stage: str, **changes) -> float:
        return hours(one.model_copy(update=changes), stage) / hours(one, stage)

    assert more("train", steps=800) == pytest.approx(2, rel=0.1)
    assert more("train", lora_rank=0, load_in_4bit=False) > 1.05 and more("train", gradient_checkpointing=False) < 0.95
    assert more("train", reflection_tokens=512) > 1.5 and more("train", retries_per_reflection=4) > 1.3
    assert more("train", objective="answer") < 0.6 and more("train", generation_batch=32) > 1.2
    assert more("failures", train_queries=16_000) > 1.9 and more("failures", dev_items=1024) > 1.01
    assert more("failures", rounds=(1, 3), failures_per_query=9, failures_wanted=10**6) == pytest.approx(1)
    assert more("failures", engine="vllm") < 0.7
    base = one.model_copy(update={"seed": None, "forced_words": "Aim", "outright_request": "Think."})
    for control in CONTROLS[1:]:
        with_it = base.model_copy(update={"controls": ("own", control)})
        assert hours(with_it, "evaluate") > 1.05 * hours(with_it.model_copy(update={"controls": ("own",)}), "evaluate")
    assert more("evaluate", fresh_tries=1) < 0.95


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("stage", ["failures", "train", "evaluate"])
def test_memory_is_that_of_the_sizes_that_fit_the_card(on, card, stage):
    on(card)
    one = settings.load("single_gpu", {"preset": gpus.preset_for(CARDS[card]), "engine": "hf"})
    fits = one.model_copy(update=fit.sizes(one, QWEN, CARDS[card].total_bytes, stage, 60))
    used, why = forecast._memory(costs(fits), stage)
    assert 1.2 * GIB < used < CARDS[card].total_bytes and f"of {CARDS[card].total_bytes / GIB:.0f}" in why
    assert forecast._memory(costs(fits.model_copy(update={"load_in_4bit": False})), stage)[0] > used + GIB


def test_disk_and_download_are_those_of_the_adapter_and_of_the_weights(on, monkeypatch):
    on("A10")
    one = settings.load("single_gpu", {"engine": "hf"})
    used, why = forecast._disk(costs(one), "train")
    assert 8 * 4 * 64 * fit.shape(QWEN).adapter < used < 4 * GIB and "two checkpoints" in why
    plain, why = forecast._disk(costs(one.model_copy(update={"engine": "vllm"})), "evaluate")
    assert plain > forecast._disk(costs(one), "evaluate")[0] + 2.8 * GIB and "plain checkpoint" in why
    monkeypatch.setattr(runs, "model_path", lambda _: (one.model, 40 * "0"))
    assert forecast._download(costs(one), "train") == pytest.approx(
        (3_087_428_608, forecast._download(costs(one), "train")[1])
    )


def test_a_colab_session_is_long_enough_for_its_profile_on_a_t4(on):
    on("T4")
    one = settings.load("colab_t4", {"preset": "t4", "engine": "hf"})
    vanilla = one.model_copy(update={"seed": None})
    whole = sum(hours(*each) for each in ((one, "failures"), (one, "train"), (vanilla, "evaluate"), (one, "evaluate")))
    assert whole < 3


def test_a_config_that_cannot_be_read_is_one_line(on, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(SettingsError, match="cannot read config and tokenizer of model") as caught:
        forecast.forecast(settings.load("tiny", {"model": str(tmp_path)}), "failures")
    assert "\n" not in str(caught.value)
