"""The embedded models' tokenizers: a token for each number, word and fixed sentence of the corpus, else bytes."""

from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Tokenizer

from rrr_utils import miniature

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def build_tokenizer(task: str) -> Qwen2Tokenizer:
    """A lossless tokenizer with a chat template.

    `AutoTokenizer` makes a `Qwen2Tokenizer` of any folder with a Qwen2 model, so this is one: a byte alphabet without
    merges, and every piece as an added token.
    """
    alphabet = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    ends = {"unk_token": "<|pad|>", "pad_token": "<|pad|>", "eos_token": "<|end|>"}
    tokenizer = Qwen2Tokenizer(vocab=alphabet, merges=[], **ends, padding_side="left", model_max_length=512)
    roles = [f"<|{role}|>" for role in ("user", "assistant", "system")]
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in roles])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in miniature.module(task, "words").pieces()])
    tokenizer.chat_template = TEMPLATE
    return tokenizer
