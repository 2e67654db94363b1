"""The grid whole: small models by two tasks, run unbroken, and broken off again and again to the same table."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import helpers_grid as grids
import pandas as pd
import pytest
import torch
from helpers_grid import SOURCE, TASK
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, AutoTokenizer

from rrr_utils import conversation, evaluation, failures, files, runs, tasks, training
from rrr_utils.miniature import countdown as countdown_corpus
from rrr_utils.miniature import pretraining
from rrr_utils.settings import DATA, ROOT, load


def speakers(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    """Copies of the embedded model that have also been shown the letters of sorting_task.py, each with small noise of its own."""
    home = DATA / "embedded" / "countdown"
    tokenizer, made = AutoTokenizer.from_pretrained(home), {}
    model = AutoModelForCausalLM.from_pretrained(home, dtype=torch.float32)
    _show_letters(model, tokenizer)
    learnt = {name: weight.clone() for name, weight in model.state_dict().items()}
    for number, name in enumerate(names):
        torch.manual_seed(number)
        noisy = {key: weight + 0.02 * weight.std() * torch.randn_like(weight) for key, weight in learnt.items()}
        model.load_state_dict(noisy)
        made[name] = folder / name
        model.to(torch.bfloat16).save_pretrained(made[name])
        tokenizer.save_pretrained(made[name])
        shutil.copy(home / "generation_config.json", made[name])
        model.to(torch.float32)
    return made


def _show_letters(model, tokenizer, steps: int = 35) -> None:
    """Some optimiser steps on first and second answers to sorting_task.py, half of them right."""
    torch.manual_seed(0)
    task, rng = tasks.get(str(TASK)), random.Random(0)
    words = [row for split in ("train", "dev", "test") for row in task.load(split, None, 0, SOURCE)]
    answers = sorted({row["cluster"] for row in words})
    tokenizer.add_tokens([AddedToken(answer, normalized=False) for answer in answers])  # a token each: soon learnt
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(steps):
        documents = []
        for number, row in enumerate(rng.sample(words, 8)):
            failed, said = rng.choice(answers), row["cluster"] if rng.random() < 0.5 else rng.choice(answers)
            again = conversation.retry(task, row, failed, "I should be more careful .")
            asked = conversation.attempt(task, row) if number % 2 else again
            documents.append(
                ("letters", [*asked, {"role": "assistant", "content": said}], [False] * len(asked) + [True])
            )
        encoded = pretraining.encode(countdown_corpus, tokenizer, documents)
        width = max(len(ids) for ids, _ in encoded)
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row, _ in encoded])
        learnt = torch.tensor([mask + [False] * (width - len(mask)) for _, mask in encoded])
        model(ids, labels=ids.masked_fill(~learnt, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def cells_of(results_dir: Path, profile: Path) -> pd.DataFrame:
    return pd.read_csv(results_dir / "tables" / profile.stem / "cells.csv")


def broken_off(words: list[str], results_dir: Path, done: int, kernel: bool) -> None:
    """Start Snakemake, kill a training's kernel if asked to, and Snakemake once so many stages are done."""
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 600
    while process.poll() is None and (kernel or len(grids.finished(results_dir)) < done):
        assert time.monotonic() < limit
        begun = [path.parent for path in results_dir.glob("*/*/train-*/training.jsonl")]
        if kernel and any(not (folder / "result.json").exists() for folder in begun):
            for one in grids.kernels(results_dir, "train"):
                one.kill()
                kernel = False
                break
        time.sleep(0.05)
    assert process.poll() is None, "it was to be killed before its end"
    process.kill()
    process.wait()


def unbroken(profile: Path, results_dir: Path) -> None:
    """Every stage of every row by its functions, one after the other in this process."""
    for one in runs.asked(load(str(profile), {"results_dir": str(results_dir), "seeds": [0, 1]})):
        if one.seed is not None:
            failures.sample(one)
            failures.finish(one)
            training.train(one)
            training.finish(one)
        evaluation.generate(one)
        evaluation.finish(one)


def spoilt(model: Path, folder: Path) -> Path:
    """A copy of a model under the same name, whose weights cannot be read."""
    copy = shutil.copytree(model, folder / model.name)
    (copy / "model.safetensors").write_bytes(b"\x10" + bytes(20))  # its header is longer than the file
    return copy


@pytest.mark.slow
def test_a_grid_that_is_broken_off_ends_where_an_unbroken_one_ends(tmp_path):
    """Four models by two tasks by two seeds: Snakemake killed twice, a kernel once, and one row cannot be."""
    made = speakers(tmp_path / "models", ("ant", "bee", "cat", "dog"))
    rows = grids.both_tasks(made.values())
    profile, whole, broken = grids.write_profile(tmp_path / "grid.yaml", rows), tmp_path / "whole", tmp_path / "broken"
    unbroken(profile, whole)
    assert len(grids.finished(whole)) == 8 * 6
    for expected, limit in ((["tables"], 120), ([], 30)):  # all that is left is the table, and then nothing
        began = time.monotonic()
        found = grids.run(grids.snakemake(profile, whole))
        assert found.returncode == 0 and grids.ran(found.stdout) == expected, found.stderr[-3000:]
        assert time.monotonic() - began < limit and bool(found.stdout.strip()) == bool(expected)

    rows[3]["model"] = str(spoilt(made["bee"], tmp_path / "spoilt"))
    words = grids.snakemake(grids.write_profile(profile, rows), broken)
    broken_off(words, broken, 6, kernel=False)
    broken_off(words, broken, 16, kernel=True)
    why = [files.read_json(path)["error"] for path in broken.glob("*/*/train-*/failed.json")]
    assert len(why) == 1 and "kernel was killed" in why[0], why
    last = grids.run(words, timeout=900)
    assert last.returncode != 0 and "bee" in last.stderr
    assert len(grids.finished(broken)) == 7 * 6
    same_but_for_the_spoilt(profile, whole, broken)
    alike(whole, broken)


def same_but_for_the_spoilt(profile: Path, whole: Path, broken: Path) -> None:
    """The tables of a whole run and of one that lacks a row, which says why."""
    one, other = cells_of(whole, profile), cells_of(broken, profile)
    lost = (one["task"] == "sorting_task") & (one["model"] == "bee")
    assert lost.any() and one[~lost].reset_index(drop=True).equals(other)
    report = (broken / "tables" / profile.stem / "report.md").read_text()
    assert re.search(r"sorting_task\S*bee.*failed: \w+", report), report
    for _, group in one[one["attempt"] == "second"].groupby("task"):  # rows that say something
        assert group["accuracy"].nunique() > 1 and group["accuracy"].max() > 0


def alike(whole: Path, broken: Path) -> None:
    """Texts, logs and weights of two runs of a grid are the same, one stage at a time."""
    for folder in grids.finished(broken):
        twin = whole / folder.relative_to(broken)
        for name in ("samples", "failures", "reflections", "dev"):
            if (twin / f"{name}.jsonl").exists():
                assert untimed(folder / f"{name}.jsonl") == untimed(twin / f"{name}.jsonl"), folder
        if (twin / "adapter").exists():
            name = "adapter/adapter_model.safetensors"
            assert (folder / name).read_bytes() == (twin / name).read_bytes(), folder


def untimed(path: Path) -> list[dict]:
    return [{name: value for name, value in line.items() if name != "seconds"} for line in files.read_jsonl(path)]
