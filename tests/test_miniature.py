"""The embedded model: what its corpus holds and must not hold, how pre-training resumes, its gate and its card."""

from __future__ import annotations

import collections
import dis
import itertools
import random
import re

import pytest
import torch

from rrr_utils import files, settings
from rrr_utils.miniature import countdown as corpus
from rrr_utils.miniature import gate, pretraining
from rrr_utils.miniature.tokenizer import build_tokenizer
from rrr_utils.settings import DATA, ROOT
from rrr_utils.tasks import countdown, countdown_kinds


@pytest.fixture(scope="module")
def documents():
    rng = random.Random(1)
    return [corpus.document(corpus.problems(), rng) for _ in range(6000)]


@pytest.fixture(scope="module")
def lessons():
    """Documents of every lesson, by sort."""
    rng = random.Random(7)
    return {sort: [corpus.practice(corpus.problems(), rng, sort) for _ in range(1500)] for _, _, sort in corpus.LESSONS}


def test_held_out_multisets_occur_in_no_document(documents, lessons):
    for _, messages, _ in itertools.chain(documents, *lessons.values()):
        for message in messages:
            for numbers in re.findall(r"numbers ([\d, ]+), write", message["content"]):
                nums = [int(n) for n in numbers.split(", ")]
                assert max(nums) > 15 or countdown.split_of(nums) == "pretrain"  # no problem holds numbers above 15


def test_lessons_are_true_and_learnt_where_they_should_be(lessons):
    tokenizer = build_tokenizer("countdown")
    for sort, docs in lessons.items():
        some = docs[:300]
        for (_, messages, learn), (ids, learnt) in zip(some, pretraining.encode(corpus, tokenizer, some), strict=True):
            words = {tokenizer.decode([token]).strip() for token, here in zip(ids, learnt, strict=True) if here}
            assert words
            if sort == "left":
                nums = [int(n) for n in re.search(r"numbers ([\d, ]+), write", messages[0]["content"])[1].split(", ")]
                rows = re.findall(r"(\d+) [-+*/] (\d+) = \d+ and (\d+)", messages[1]["content"])
                assert len(rows) == 10 and all(sorted(map(int, row)) == sorted(nums) for row in rows)
                assert words == {left for _, _, left in rows}
            elif sort == "verdicts" and len(messages) == 2:
                assert learn == [False, corpus.VERDICTS] and words <= {"yes", *";.+-*/"}
                for value, target, yes in re.findall(r"[-+*/] (\d+) (\d+)( yes)?", messages[1]["content"]):
                    assert (value == target) == bool(yes)


def test_drills_never_chain_two_steps():
    rng = random.Random(2)
    for _ in range(2000):
        text = corpus.drill(rng).removeprefix("Sums : ").removesuffix(" .")
        facts = [re.split(r" = | : ", fact) for fact in text.split(" ; ")]
        for (_, made), (following, _) in itertools.pairwise(facts):
            results, operands = set(re.findall(r"\d+", made)), set(re.findall(r"\d+", following))
            assert not results & operands


def test_arithmetic_in_documents_is_right(documents):
    rng = random.Random(3)
    for text in [corpus.drill(rng) for _ in range(300)]:
        for a, op, b, c in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text):
            a, b = int(a), int(b)
            assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[op] == int(c)
        for c, d, rest in re.findall(r"(\d+) and (\d+) :((?: [-+*/] \d+)+)", text):
            stated = [(op, int(value)) for op, value in re.findall(r"([-+*/]) (\d+)", rest)]
            assert stated == corpus.second_steps(int(c), int(d))


def test_every_kind_of_reflection_is_there_under_the_right_name(documents):
    counts = collections.Counter(kind for kind, _, _ in documents)
    for kind, share in corpus.KINDS.items():
        expected = share * corpus.MIXTURE["own"] * len(documents)
        assert abs(counts[f"own_{kind}"] - expected) < 5 * expected**0.5
    rng = random.Random(4)
    for kind in corpus.KINDS:
        for _ in range(60):
            row = rng.choice(corpus.problems())
            rows = corpus.steps(row["nums"])
            text, found = corpus.reflection(kind, row, rows, corpus.wrong(rows, row["target"], rng)[1], rng)
            content = countdown_kinds.classify(text, row)
            if content.expressions > 1 or kind != "search":
                assert content.kind == kind, text
            assert content.hits == (found is not None)
            assert found is None or countdown.verify(found, row).correct


def test_a_search_may_end_without_a_hit_and_then_claims_none():
    rng, endings = random.Random(5), collections.Counter()
    for _ in range(1500):
        row = rng.choice(corpus.problems())
        text, found = corpus.reflection("search", row, corpus.steps(row["nums"]), 0, rng)
        assert ("yes" in text) == (found is not None)
        endings[found is not None] += 1
    assert endings[False] > 150


def test_answers_are_right_as_often_as_stated(documents):
    def share(kind):
        chosen = [messages for k, messages, _ in documents if k == kind]
        rows = [(m[-1]["content"], row_of(m[0]["content"])) for m in chosen]
        return sum(countdown.verify(text, row).correct for text, row in rows) / len(rows)

    def row_of(text):
        numbers, target = re.search(r"numbers ([\d, ]+), write one equation that equals (\d+)", text).groups()
        return {"nums": [int(n) for n in numbers.split(", ")], "target": int(target)}

    assert abs(share("answer") - corpus.RIGHT["answer"]) < 0.05
    assert abs(share("own_empty") - corpus.RIGHT["retry"]) < 0.06
    assert abs(share("blind") - corpus.RIGHT["retry"]) < 0.1  # an empty reflection is no worse than none


def test_only_the_assistants_words_are_learnt_and_failed_attempts_are_not(documents):
    for kind, messages, learnt in documents:
        assert len(messages) == len(learnt) and learnt[-1]
        assert all(m["role"] == "assistant" for m, learn in zip(messages, learnt, strict=True) if learn)
        if kind not in ("answer", "drill", "worked"):
            assert not learnt[1]


def test_documents_follow_the_chat_template_without_unknown_words(documents):
    tokenizer = build_tokenizer("countdown")
    some = documents[:400]
    for (_, messages, _), (ids, learnt) in zip(some, pretraining.encode(corpus, tokenizer, some), strict=True):
        assert list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)) == ids
        assert len(ids) == len(learnt) <= 224
        assert not any(i < 256 and tokenizer.decode([i]) not in (",", "I") for i in ids), "a word is spelt in bytes"


def test_pretraining_resumes_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "CHUNK", 64)
    size = {"steps_total": 6, "save_every": 2, "tokens": 600, "hidden": 32, "layers": 1, "log_every": 1}
    pretraining.pretrain("countdown", tmp_path / "whole", **size)
    for stop in (1, 5, None):  # the first run has saved no state, the second one has logged a step after its last save
        pretraining.pretrain("countdown", tmp_path / "twice", **size, stop=stop)
    one, other = (tmp_path / name / "model.safetensors" for name in ("whole", "twice"))
    assert one.read_bytes() == other.read_bytes()
    assert [line["step"] for line in files.read_jsonl(tmp_path / "twice/pretraining.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_muon_in_fp32_takes_torch_s_steps():
    """Up to the rounding of torch's own steps, which are in bf16."""
    torch.manual_seed(0)
    for shape in ((128, 512), (512, 128), (64, 64)):
        ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
        settings_of = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.01}
        steps = pretraining.Muon([ours], **settings_of), torch.optim.Muon([theirs], **settings_of)
        for _ in range(3):
            ours.grad = torch.randn(shape)
            theirs.grad = ours.grad.clone()
            for one in steps:
                one.step()
        moved = (theirs.detach() - 1).abs().max()
        assert moved > 0.002 and (ours - theirs).abs().max() < 0.1 * moved


@pytest.mark.parametrize(
    ("task", "passes", "best"), [("countdown", "arithmetic", "search"), ("function_calling", "valid_json", "values")]
)
def test_the_embedded_model_on_its_gate_and_its_card(tmp_path, task, passes, best):
    folder = DATA / "embedded" / task
    gates = files.read_json(folder / "gate.json")
    assert gate.card(task, folder, gates, seed=0) == (folder / "README.md").read_text(encoding="utf-8")
    assert "`notebooks/A1_embedded_model.ipynb`, seed 3." in gate.card(task, folder, gates, seed=3)
    assert all(figures["best_kind"] == best and figures["passed"]["spread"] for figures in gates.values())
    few = gate.gate(settings.load("tiny", {"task": task, "results_dir": str(tmp_path)}), "greedy", 60)
    assert few.keys() == gates["greedy"].keys() and few["rescued"].keys() == gates["greedy"]["rescued"].keys()
    assert few["passed"].keys() == gates["greedy"]["passed"].keys() and few["passed"][passes]
    assert few["best_kind"] == best and few["spread"] > 0.15
    assert 0.15 < few["first_try"] < 0.55 and few["failures"] == round(60 * (1 - few["first_try"]))


def test_the_settings_cell_of_a1_can_run_again_after_the_other_cells():
    cells = files.read_json(ROOT / "notebooks/A1_embedded_model.ipynb")["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"][2:]
    made = dis.get_instructions(compile("\n".join(code), "A1", "exec"))  # not symtable: 3.13 adds loops inside brackets
    names = {one.argval for one in made if one.opname == "STORE_NAME"}
    assert {"folder", "gates"} <= names and not names & {*settings.PARAMETERS, "smoke"}
    again = settings.from_notebook({"profile": "tiny", "settings": settings.load("tiny"), **dict.fromkeys(names, {})})
    assert again == settings.load("tiny")
