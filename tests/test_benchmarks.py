"""The benchmarks run and print what they should. No test checks how fast anything is."""

from __future__ import annotations

import pytest

from rrr_utils.settings import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import bench
    import bench_rates

    return bench, bench_rates


def test_rates_without_a_gpu_are_refused_in_a_line(modules, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert modules[0].main(["--gpu-rates"]) == 2
    assert capsys.readouterr().err == "bench: --gpu-rates needs a CUDA GPU, and torch finds none here\n"


@pytest.mark.slow
def test_every_variant_takes_a_step_with_its_phases_timed(modules, capsys):
    bench, _ = modules
    few = {"failures_per_step": 2, "reflections_per_failure": 4, "reflection_tokens": 16, "micro_batch": 8}
    rows = bench.tiny(2, few)
    assert list(rows) == list(bench.VARIANTS)
    for name, row in rows.items():
        parts = {phase: row[phase] for phase in bench.PHASES}
        assert 0.5 * row["seconds"] < sum(parts.values()) < 1.05 * row["seconds"], (name, row)
        assert all(parts[phase] > 0 for phase in ("generation", "log-probabilities", "backward")) and row["tokens"] >= 8
        assert (parts["retries"] > 0.01) == (name != "stock trl, no retries")
    said = bench.table(rows).splitlines()
    assert len(said) == 5 and said[1].endswith("x 1.00") and len({len(line) for line in said[1:]}) == 1


@pytest.mark.slow
def test_rates_of_a_random_model_of_any_shape(modules, capsys):
    _, rates = modules
    small = {"vocab_size": 700, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    shape = {**rates.QWEN2_15B, **small, "num_hidden_layers": 2}
    tokens = {"prompt": 150, "reflection": 16, "retry": 8}
    few = {"preset": "cpu", "failures_per_step": 2, "micro_batch": 4}
    rows = rates.rates(shape, tokens, 2, few)
    assert [row["phase"] for row in rows] == ["step", "generation", "retries", "log-probabilities", "backward"]
    assert all(row["seconds"] > 0 and row["weights"] == "NF4" and row["reflections"] == 16 for row in rows)
    assert rows[0]["tokens"] == 16 * (16 + 8) and rows[1]["tokens"] == 16 * 16


def test_the_verifiers_benchmark_prints_its_table(modules, monkeypatch, capsys):
    verifiers = modules[0].bench_verifiers
    monkeypatch.setattr(verifiers, "SIZES", (1000, 2000))
    verifiers.main()
    assert len(capsys.readouterr().out.splitlines()) == 3 + len(verifiers.ORDINARY) + len(verifiers.LONG)
