"""A model's tokenizer: loaded as all engines need it, a token to pad with that no text contains, the ends of a turn."""

from collections.abc import Collection

from transformers import AutoTokenizer, GenerationConfig
from transformers import PreTrainedTokenizerBase as Tokenizer

from rrr_utils import conversation
from rrr_utils.errors import SettingsError


def load(path: str, revision: str | None = None) -> Tokenizer:
    """The tokenizer as saved, padding on the left as generation needs it. SettingsError if it has no chat template."""
    tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
    tokenizer.padding_side = "left"
    tokenizer.clean_up_tokenization_spaces = False  # Llama's files ask for it, and it drops spaces of a text
    if tokenizer.chat_template is None:
        raise SettingsError(f"the tokenizer of {path} has no chat template: choose an instruct model")
    return tokenizer


def safe_pad(tokenizer: Tokenizer, ends: Collection[int] = ()) -> str:
    """The token to pad with: the tokenizer's own if no prompt and no end of a turn contains it, else a reserved one.

    Unsloth's loss takes every pad token for padding, wherever it stands. `ends`: ids that end a turn, besides eos.
    Raises SettingsError where the tokenizer reserves no token.
    """
    turns = [{"role": role, "content": ""} for role in ("user", "assistant", "user")]
    [shown] = conversation.prompt_ids(tokenizer, [turns])  # a template may put its marks together
    used = {None, tokenizer.eos_token, tokenizer.bos_token, *tokenizer.convert_ids_to_tokens([*ends, *shown])}
    special = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    own, written = tokenizer.pad_token, tokenizer.chat_template
    idle = [token for token in (own, *special) if token not in used and token not in written]
    if own in idle:
        return own
    for word in ("pad", "placeholder", "reserved", "unused", "dummy"):  # Llama 3 and Qwen; Phi-3; others
        if found := next((token for token in idle if word in token.lower()), None):
            return found
    raise SettingsError(
        f"the tokenizer of {tokenizer.name_or_path} has no token to pad with that texts cannot contain (pad token: "
        f"{own}): choose another model, or save this one with a pad token of its own"
    )


def ends(generation: GenerationConfig, tokenizer: Tokenizer) -> list[int]:
    """Every token that ends a turn, the model's and the tokenizer's."""
    ids = generation.eos_token_id
    ids = [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
    own = tokenizer.eos_token_id
    return ids if own is None or own in ids else [*ids, own]
