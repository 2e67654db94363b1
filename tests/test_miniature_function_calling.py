"""The corpus of the embedded model for function calling: what it holds and must not hold, its words, its checks."""

from __future__ import annotations

import collections
import json
import random
import re

import pytest

from rrr_utils import conversation, tasks
from rrr_utils.miniature import function_calling as corpus
from rrr_utils.miniature import function_calling_checks as checks
from rrr_utils.miniature import function_calling_words, pretraining
from rrr_utils.miniature.tokenizer import build_tokenizer
from rrr_utils.tasks import calls, function_calling, procedural, toolbox
from rrr_utils.tasks import function_calling_rows as rows


@pytest.fixture(scope="module")
def documents():
    rng, draw = random.Random(1), corpus.problems()
    return [corpus.document(draw, rng) for _ in range(4000)]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer("function_calling")


@pytest.fixture(scope="module")
def problems():
    rng, draw = random.Random(2), corpus.problems()
    return [draw(rng) for _ in range(300)]


def held_out(documents) -> set[str]:
    """The splits of all calls in documents, and of all chains that any text works out or any query asks for."""
    splits = set()
    for _, messages, _ in documents:
        for message in messages:
            text = message["content"]
            if message["role"] == "assistant":
                found = calls.find(text) or []
                splits |= {rows.split_of(rows.call_key(call)) for call in found}
                splits |= {rows.split_of(key) for key in chains(text)}
    return splits


def chains(text: str) -> list[str]:
    """The keys of the chains of sums in a text, and of their parts."""
    found, run = [], []
    for a, op, by, made in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text):
        run = (
            [*run, (int(a), op, int(by), int(made))]
            if run and run[-1][3] == int(a)
            else [(int(a), op, int(by), int(made))]
        )
        for first in range(len(run) - 1):
            found.append(" ".join([str(run[first][0]), *sorted(f"{op}{by}" for _, op, by, _ in run[first:])]))
    return found


def test_no_call_and_no_chain_of_dev_or_test_is_in_a_document(documents):
    rng, draw = random.Random(8), corpus.problems()
    kinds = {kind for shares in corpus.PARTS.values() for kind in shares}
    practised = [corpus.of_kind(kind, draw, rng) for kind in sorted(kinds) for _ in range(300)]
    own = [one for one in documents if one[0] not in ("drill", "other")]
    assert held_out([*own, *practised]) <= {"pretrain", "train"}


@pytest.mark.slow
def test_a_hundred_thousand_documents_hold_nothing_of_dev_or_test():
    rng, draw = random.Random(9), corpus.problems()
    forbidden = {"call": set(), "chain": set()}
    for split in procedural.HELD_OUT:
        for problem in (rows.draw_problem(random.Random(f"{split}-{k}"), split, (1, 2), (0, 3)) for k in range(3000)):
            forbidden["call"] |= {rows.call_key(call.plain) for call in problem.calls}
            forbidden["chain"] |= {
                k for c in problem.calls for chain in c.chains.values() for k in rows.chain_keys(chain)[:1]
            }
    for number in range(100_000):
        _, messages, _ = corpus.document(draw, rng, number % 60)
        for text in (m["content"] for m in messages if m["role"] == "assistant"):
            assert not {rows.call_key(call) for call in calls.find(text) or []} & forbidden["call"]
            assert not {*chains(text)} & forbidden["chain"]


def test_useful_reflections_are_true_and_none_writes_a_call(problems):
    rng = random.Random(3)
    for problem in problems:
        row, failed = problem.row, corpus.wrong(problem, rng)
        assert not function_calling.verify(json.dumps(failed), row).correct
        for kind in corpus.KINDS:
            text = corpus.reflection(kind, problem, failed, rng)
            assert "{" not in text and "[" not in text and not function_calling.wrong_in(text, row)
            assert "\n" not in text and text.endswith(".")
        values, tool = corpus.values(problem), corpus.tool(problem)
        assert checks.states(values, row) and checks.chooses(tool, row)
        assert not any(name in values for name in toolbox.SCHEMAS)  # the tool is left to the retry
        for call in problem.calls:
            said = f"{call.name} fits" in tool and (call.twin is None or f"{call.twin} does not" in tool)
            assert said and all(f"{name} is {value}" in values for name, value in call.arguments.items())


def test_kinds_are_told_by_content(problems):
    """`values` and `tool` by their own names; the failed call in words is a `call`, or names its tool at least."""
    rng, told = random.Random(4), collections.defaultdict(collections.Counter)
    for problem in problems:
        failed = corpus.wrong(problem, rng)
        for kind in corpus.KINDS:
            told[kind][
                tasks.told(function_calling, "kind", corpus.reflection(kind, problem, failed, rng), problem.row)
            ] += 1
    assert all(told[kind].keys() == {kind} for kind in ("empty", "form", "tool", "values"))
    assert told["echo"].keys() <= {"call", "tool"} and told["echo"]["call"] > 200


def test_states_and_chooses_are_not_fooled(problems):
    for problem in problems[:100]:
        text, row = corpus.values(problem), problem.row
        name, value = next(iter(problem.calls[-1].arguments.items()))
        other = value + 1 if isinstance(value, int) else next(w for w in toolbox.WORDS[name] if w != value)
        assert not checks.states(text.replace(f"{name} is {value}", f"{name} is {other}"), row)
        assert not checks.states(text.replace(f"{name} is {value}; ", "").replace(f"{name} is {value}.", "."), row)
        assert not checks.states("Values:", row) and not checks.chooses("", row)
        if problem.calls[0].twin:
            wrong = corpus.tool(problem).replace(f"{problem.calls[0].name} fits", f"{problem.calls[0].twin} fits")
            assert not checks.chooses(wrong, row)
        for a, op, by, made in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text)[:1]:
            assert not checks.states(text.replace(f"{a} {op} {by} = {made}", f"{a} {op} {by} = {int(made) + 1}"), row)


def test_answers_are_right_as_often_as_stated(documents):
    rng, draw = random.Random(5), corpus.problems()

    def share(kind):
        right = []
        for _ in range(400):
            problem = draw(rng)
            right.append(function_calling.verify(corpus.answer(problem, kind, rng)["content"], problem.row).correct)
        return sum(right) / len(right)

    for kind, expected in {**corpus.RIGHT, "tool": corpus.RIGHT["retry"], "empty": corpus.RIGHT["retry"]}.items():
        assert abs(share(kind) - expected) < 0.09, kind
    counts = collections.Counter(kind for kind, _, _ in documents)
    for kind, part in corpus.KINDS.items():
        expected = part * corpus.MIXTURE["own"] * len(documents)
        assert abs(counts[f"own_{kind}"] - expected) < 5 * expected**0.5


def test_after_a_tool_reflection_the_tools_are_right():
    rng, draw = random.Random(6), corpus.problems()
    for _ in range(300):
        problem = draw(rng)
        said = json.loads(corpus.answer(problem, "tool", rng)["content"])
        assert [call["name"] for call in said] == [call.name for call in problem.calls]


def test_what_is_learnt(documents):
    """Assistants' words but not failed attempts; at times the repeated question, as a drill in copying."""
    repeated = collections.Counter()
    for kind, messages, learnt in documents:
        assert len(messages) == len(learnt) and learnt[-1]
        users = [learn for m, learn in zip(messages, learnt, strict=True) if m["role"] == "user"]
        assert not any(users[:1]) and (len(users) < 3 or not users[1])
        if kind not in ("answer", "drill", "worked"):
            assert not learnt[1]
            repeated[bool(users[-1])] += 1
    assert 0.2 < repeated[True] / repeated.total() < 0.4


def test_documents_are_lossless_short_and_spelt_in_no_bytes(documents, tokenizer):
    assert 600 < len(tokenizer) < 1000
    some = documents[:1500]
    whole = {piece for piece in function_calling_words.pieces() if len(piece) == 1}
    for (_, messages, _), (ids, learnt) in zip(some, pretraining.encode(corpus, tokenizer, some), strict=True):
        assert list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)) == ids
        assert len(ids) == len(learnt) <= 320
        for message in messages:
            own = tokenizer(message["content"], add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(own) == message["content"]
        assert not any(i < 256 and tokenizer.decode([i]) not in whole for i in ids), "a word is spelt in bytes"


def test_prompts_of_test_and_of_every_control_are_spelt_in_no_bytes(tokenizer):
    whole = {piece for piece in function_calling_words.pieces() if len(piece) == 1}
    for row in rows.draw("test", 200, 0, rows.DEFAULT):
        asked = [*conversation.retry(function_calling, row, json.dumps(row["answers"]), function_calling.GENERIC)]
        asked += conversation.blind_retry(function_calling, row, "")
        asked += conversation.outright(function_calling, row, corpus.WORKED)
        ids = tokenizer([m["content"] for m in asked], add_special_tokens=False)["input_ids"]
        assert not any(i < 256 and tokenizer.decode([i]) not in whole for some in ids for i in some)


def test_kinds_can_be_forced_by_their_first_words(problems, tokenizer):
    """What the gate gives as first words ends where a token does, so that what follows is what was pre-trained."""
    rng = random.Random(7)
    for problem in problems[:100]:
        failed = corpus.wrong(problem, rng)
        for kind, begin in checks.BEGIN.items():
            text = corpus.reflection(kind, problem, failed, rng)
            ids, first = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (text, begin))
            assert ids[: len(first)] == first
        useless = [corpus.reflection(kind, problem, failed, rng) for kind in ("empty", "form", "echo")]
        assert len({tokenizer(text, add_special_tokens=False)["input_ids"][0] for text in useless}) == 1


def test_values_and_words_share_their_token_in_prose_and_json(tokenizer):
    problem = corpus.example()
    values, answer = corpus.values(problem), json.dumps([call.plain for call in problem.calls])
    prose, code, query = (
        tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])
        for text in (values, answer, problem.row["query"])
    )
    for word in ("stove", "37"):
        assert word in prose and word in code
    assert "stove" in query and "parade" in query and "parade" in prose
