"""The embedded model's tokenizer: one token for every number, word and fixed sentence of its corpus, bytes for the rest."""

from __future__ import annotations

from rrr_utils import conversation
from rrr_utils.miniature.corpus import DRILL, EMPTY, GENERIC, LARGEST_NUMBER, WORKED
from rrr_utils.tasks import countdown

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def fixed_sentences() -> list[str]:
    """The parts of the prompts that never change: each becomes one token, so that a task costs a dozen."""
    row = {"nums": [7777, 7777, 7777], "target": 7777}
    messages = conversation.retry(countdown, row, "", "") + conversation.blind_retry(countdown, row, "")
    messages += conversation.attempt(countdown, row, chain_of_thought=True)
    texts = [m["content"] for m in messages if m["role"] == "user"] + [f"{WORKED} {conversation.question(countdown, row)}", DRILL]
    parts = {part for text in texts for part in text.split(" 7777")}
    return sorted(parts - {"", ","}, key=len, reverse=True)


def words() -> list[str]:
    """Every word that the corpus can hold, with the space before it, and without where it can open a text."""
    sentences = (
        *EMPTY, *GENERIC, "My result was 1 but the target is 1 : too low by high", "I must use each of 1 , 1 exactly once .",
        "I could start with 1 * 1 = 1 .", "Aim 1 ; 1 * 1 = 1 and 1 : + 1 yes . ? - * / ( )", "Sums :", "<answer> ( 1 + 1 ) </answer>",
    )  # fmt: skip
    first = {text.split()[0] for text in sentences} | {","}
    rest = {f" {word}" for text in sentences for word in text.split()[1:]}
    numbers = [f" {i}" for i in range(LARGEST_NUMBER + 1)]
    return sorted(first) + sorted(rest - set(numbers)) + numbers


def build_tokenizer():
    """A lossless tokenizer with a chat template: one token for every number, word and fixed sentence, bytes for the rest.

    It is a `Qwen2Tokenizer`, since that is what `AutoTokenizer` makes of any folder that holds a Qwen2 model: a byte
    alphabet without merges, and every word an added token that carries the space before it.
    """
    from tokenizers import AddedToken, pre_tokenizers
    from transformers import Qwen2Tokenizer

    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(
        vocab=alphabet, merges=[], unk_token="<|pad|>", pad_token="<|pad|>", eos_token="<|end|>", padding_side="left", model_max_length=512,
    )  # fmt: skip
    tokenizer.add_tokens([AddedToken(f"<|{role}|>", special=True, normalized=False) for role in ("user", "assistant", "system")])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in [*fixed_sentences(), *words()]])
    tokenizer.chat_template = TEMPLATE
    return tokenizer
