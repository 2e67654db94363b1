"""The embedded model's tokenizer: a token for each number, word and fixed sentence of the corpus, else bytes."""

from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Tokenizer

from rrr_utils import conversation
from rrr_utils.miniature.corpus import DRILL, EMPTY, GENERIC, LARGEST_NUMBER, worked_question
from rrr_utils.tasks import countdown

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def fixed_sentences() -> list[str]:
    """The parts of the prompts that never change: as one token each, a prompt costs a dozen."""
    row = {"nums": [7777, 7777, 7777], "target": 7777}
    messages = conversation.retry(countdown, row, "", "") + conversation.blind_retry(countdown, row, "")
    messages += conversation.attempt(countdown, row, chain_of_thought=True)
    texts = [m["content"] for m in messages if m["role"] == "user"] + [worked_question(row), DRILL]
    parts = {part for text in texts for part in text.split(" 7777")}
    return sorted(parts - {"", ","}, key=len, reverse=True)


def words() -> list[str]:
    """Every word of the corpus with the space before it, and without it where it can begin a text."""
    sentences = (
        *EMPTY, *GENERIC, "My result was 1 but the target is 1 : too low by high", "I could start with 1 * 1 = 1 .",
        "I must use each of 1 , 1 exactly once .", "Aim 1 ; 1 * 1 = 1 and 1 : + 1 yes . ? - * / ( )", "Sums :",
        "<answer> ( 1 + 1 ) </answer>",
    )  # fmt: skip
    first = {text.split()[0] for text in sentences} | {","}
    rest = {f" {word}" for text in sentences for word in text.split()[1:]}
    numbers = [f" {i}" for i in range(LARGEST_NUMBER + 1)]
    return sorted(first) + sorted(rest - set(numbers)) + numbers


def build_tokenizer() -> Qwen2Tokenizer:
    """A lossless tokenizer with a chat template.

    `AutoTokenizer` makes a `Qwen2Tokenizer` of any folder with a Qwen2 model, so this is one: a byte alphabet without
    merges, and every word as an added token that includes the space before it.
    """
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    ends = {"unk_token": "<|pad|>", "pad_token": "<|pad|>", "eos_token": "<|end|>"}
    tokenizer = Qwen2Tokenizer(vocab=alphabet, merges=[], **ends, padding_side="left", model_max_length=512)
    roles = [f"<|{role}|>" for role in ("user", "assistant", "system")]
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in roles])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in [*fixed_sentences(), *words()]])
    tokenizer.chat_template = TEMPLATE
    return tokenizer
