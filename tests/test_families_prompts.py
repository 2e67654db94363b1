"""Every family of the paper, and Qwen3: one prompt for all engines, by the tokenizer alone. Its own markers of turns with a
tokenizer of ours; the real one where ../shared is there.
"""

from __future__ import annotations

import datetime
from types import SimpleNamespace

import helpers_families as families
import pytest
from helpers_families_prompts import TASK, WARMTH, asked, own_cache, wants  # noqa: F401
from transformers.utils import chat_template_utils
from trl import GRPOTrainer

from rrr_utils import conversation, tokens, training
from rrr_utils.sampling import completion
from rrr_utils.settings import ROOT, load

#: Llama-3.1's template knows one date, Llama-3.2's asks what day it is; else they are one
FIXED, TODAY = 'date_string = "26 Jul 2024"', 'date_string = strftime_now("%d %b %Y")'


# ---------------------------------------------------------------- prompts, by the tokenizer alone


@pytest.fixture(scope="module", params=[wants(name) for name in families.NAMES])
def spoken(request, tmp_path_factory):
    """A family and its tokenizer as the policy loads it."""
    family = families.FAMILIES[request.param.split(", ")[0]]
    folder = families.save_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)
    tokenizer = tokens.load(str(folder))
    tokenizer.pad_token = tokens.safe_pad(tokenizer, tokenizer.convert_tokens_to_ids(list(family.ends)))
    return family, tokenizer


def by_trl(tokenizer, prompts):
    """The ids that trl makes of prompts, by its own code, with what our configuration gives it."""
    config = training.grpo_config(load("tiny"), ROOT)
    given = {"processing_class": tokenizer, "chat_template_kwargs": config.chat_template_kwargs, "tools": None}
    rest = dict.fromkeys(("chat_template", "environment_factories", "_is_vlm"))
    return GRPOTrainer._tokenize_prompts(SimpleNamespace(**given, **rest), prompts)[0]


def test_given_first_words_stay_as_they_were_given(spoken):
    """Of a text that goes on in its middle, Phi's tokenizer would drop the first space."""
    _, tokenizer = spoken
    ids = tokenizer("Aim for 31 now", add_special_tokens=False)["input_ids"]
    first = tokenizer("Aim", add_special_tokens=False)["input_ids"]
    assert ids[: len(first)] == first
    assert completion(tokenizer, ids[len(first) :], [], begin="Aim").text == "Aim for 31 now"


@pytest.mark.parametrize("task", families.SAID)
def test_trl_and_the_engines_make_the_same_ids_of_a_prompt(spoken, task):
    _, tokenizer = spoken
    prompts = asked(task)
    ids = conversation.prompt_ids(tokenizer, prompts)
    assert by_trl(tokenizer, prompts) == ids and len({len(one) for one in ids}) > 3
    [begun] = conversation.prompt_ids(tokenizer, prompts[:1], begin="Aim at")
    assert begun[: len(ids[0])] == ids[0] and tokenizer.decode(begun[len(ids[0]) :]) == "Aim at"


def test_a_prompt_begins_once_ends_in_the_answer_s_place_and_has_no_padding_in_it(spoken):
    family, tokenizer = spoken
    bos = tokenizer.bos_token_id
    assert (bos is None) == (family.own["bos_token"] is None)
    for prompt, ids in zip(asked(), conversation.prompt_ids(tokenizer, asked()), strict=True):
        assert family.begins == ids[:1].count(bos) == ids.count(bos)
        assert tokenizer.pad_token_id not in ids
        shown = tokenizer.decode(ids)
        assert prompt[-1]["content"] in shown.rpartition(family.turn)[0] and family.turn.strip() in shown[-60:]


def test_the_pad_token_is_neither_an_end_nor_in_the_template(spoken):
    family, tokenizer = spoken
    assert tokenizer.pad_token not in {tokenizer.eos_token, tokenizer.bos_token, *family.ends}
    assert tokenizer.pad_token not in tokenizer.chat_template and tokenizer.pad_token in tokenizer.get_vocab()
    assert tokenizer.decode([tokenizer.pad_token_id], skip_special_tokens=True) == ""


def test_a_text_is_read_back_as_it_was_said(spoken):
    """Llama's files ask for a clean-up that drops spaces: of an argument's value, too."""
    family, tokenizer = spoken
    ends = tokenizer.convert_tokens_to_ids(list(family.ends))
    for text in (
        "I was wrong . Was n't it 's , no ?",
        '[{"name": "a", "arguments": {"b": "x , y !"}}]',
        "1 .\n\n\t2  3",
    ):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for end in ends:
            assert completion(tokenizer, [*ids, end, *ids], ends) == (text, False, len(ids) + 1)
        assert completion(tokenizer, ids, ends) == (text, True, len(ids))


class Leap(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2031, 2, 3)


def test_the_ids_are_the_same_on_two_dates(spoken, monkeypatch):
    family, tokenizer = spoken
    monkeypatch.setattr(tokenizer, "chat_template", tokenizer.chat_template.replace(FIXED, TODAY))
    prints_the_date = "strftime_now" in tokenizer.chat_template
    assert prints_the_date == (family.kind == "Llama")
    untold, ours, theirs = (
        tokenizer.apply_chat_template(asked()[0], tokenize=False),
        conversation.prompt_ids(tokenizer, asked()),
        by_trl(tokenizer, asked()),
    )
    monkeypatch.setattr(chat_template_utils, "datetime", Leap)
    assert (
        tokenizer.apply_chat_template(asked()[0], tokenize=False) != untold
    ) == prints_the_date  # the clock did move
    assert conversation.prompt_ids(tokenizer, asked()) == ours == theirs == by_trl(tokenizer, asked())


def test_no_model_is_asked_to_think(spoken):
    family, tokenizer = spoken
    [ids] = conversation.prompt_ids(tokenizer, asked()[:1])
    ending = tokenizer.decode(ids[-12:])
    assert ending.endswith("</think>\n\n") if family.kind == "Qwen3" else "think" not in ending
