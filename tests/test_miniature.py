"""The embedded model's corpus is honest: what it holds, what it never holds, and that its pre-training resumes."""

from __future__ import annotations

import collections
import itertools
import random
import re

import pytest

from rrr_utils.miniature import corpus
from rrr_utils.miniature.tokenizer import build_tokenizer
from rrr_utils.tasks import countdown, countdown_kinds


@pytest.fixture(scope="module")
def problems():
    return [row for row in countdown.load("pretrain", None, 0) if corpus.solvable(row)]


@pytest.fixture(scope="module")
def documents(problems):
    rng = random.Random(1)
    return [corpus.document(problems, rng) for _ in range(6000)]


@pytest.fixture(scope="module")
def lessons(problems):
    """Documents of every lesson, by its sort."""
    rng = random.Random(7)
    return {sort: [corpus.practice(problems, rng, sort) for _ in range(1500)] for _, _, sort in corpus.LESSONS}


def test_held_out_multisets_occur_in_no_document(documents, lessons):
    for _, messages, _ in itertools.chain(documents, *lessons.values()):
        for message in messages:
            for numbers in re.findall(r"numbers ([\d, ]+), write", message["content"]):
                nums = [int(n) for n in numbers.split(", ")]
                assert max(nums) > 15 or countdown.split_of(nums) == "pretrain"  # no problem holds numbers above 15


def test_lessons_state_what_is_so_and_are_learnt_where_they_say(lessons):
    from rrr_utils.miniature.pretraining import encode

    tokenizer = build_tokenizer()
    for sort, docs in lessons.items():
        for (_, messages, learn), (ids, learnt) in zip(docs[:300], encode(tokenizer, [d[1:] for d in docs[:300]]), strict=True):
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
            assert {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[op] == int(c)
        for c, d, rest in re.findall(r"(\d+) and (\d+) :((?: [-+*/] \d+)+)", text):
            stated = [(op, int(value)) for op, value in re.findall(r"([-+*/]) (\d+)", rest)]
            assert stated == corpus.second_steps(int(c), int(d))


def test_every_reflection_kind_is_there_and_is_what_its_name_says(documents, problems):
    counts = collections.Counter(kind for kind, _, _ in documents)
    for kind, share in corpus.KINDS.items():
        expected = share * corpus.MIXTURE["own"] * len(documents)
        assert abs(counts[f"own_{kind}"] - expected) < 5 * expected**0.5
    rng = random.Random(4)
    for kind in corpus.KINDS:
        for _ in range(60):
            row = rng.choice(problems)
            rows = corpus.steps(row["nums"])
            text, found = corpus.reflection(kind, row, rows, corpus.wrong(rows, row["target"], rng)[1], rng)
            content = countdown_kinds.classify(text, row)
            if content.expressions > 1 or kind != "search":
                assert content.kind == kind, text
            assert content.hits == (found is not None)
            assert found is None or countdown.verify(found, row).correct


def test_searches_may_end_without_a_hit_and_then_claim_none(problems):
    rng, endings = random.Random(5), collections.Counter()
    for _ in range(1500):
        row = rng.choice(problems)
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
    assert abs(share("blind") - corpus.RIGHT["retry"]) < 0.1  # an empty reflection is as good as none, no worse


def test_only_the_assistants_words_are_learnt_and_failed_attempts_are_not(documents):
    for kind, messages, learnt in documents:
        assert len(messages) == len(learnt) and learnt[-1]
        assert all(m["role"] == "assistant" for m, learn in zip(messages, learnt, strict=True) if learn)
        if kind not in ("answer", "drill", "worked"):
            assert not learnt[1]


def test_documents_are_the_chat_template_without_unknown_words(documents):
    from rrr_utils.miniature.pretraining import encode

    tokenizer = build_tokenizer()
    some = documents[:400]
    for (_, messages, _), (ids, learnt) in zip(some, encode(tokenizer, [d[1:] for d in some]), strict=True):
        assert list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)) == ids
        assert len(ids) == len(learnt) <= 224
        assert not any(i < 256 and tokenizer.decode([i]) not in (",", "I") for i in ids), "a word is spelt in bytes"


def test_pretraining_resumes_where_it_was(tmp_path, monkeypatch):
    from rrr_utils.miniature import pretraining
    from rrr_utils.miniature.pretraining import pretrain

    monkeypatch.setattr(pretraining, "CHUNK", 64)
    size = {"tokens": 600, "hidden": 32, "layers": 1, "log_every": 1}
    pretrain(tmp_path / "whole", steps_total=6, save_every=2, **size)
    pretrain(tmp_path / "twice", steps_total=6, save_every=2, **size, stop=5)
    pretrain(tmp_path / "twice", steps_total=6, save_every=2, **size)
    one, other = (tmp_path / name / "model.safetensors" for name in ("whole", "twice"))
    assert one.read_bytes() == other.read_bytes()
