"""Sampling from a policy: many conversations at a time, sorted by length, the prefill shared between samples of one."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, GenerationConfig

from rrr_utils import fit, tokens
from rrr_utils.conversation import Messages, prompt_ids
from rrr_utils.policy import Policy, Tokenizer


class Completion(NamedTuple):
    """A text, whether the token limit cut it off, and its length in tokens (with the end of turn)."""

    text: str
    truncated: bool
    tokens: int


class HFSampler:
    """Generates with transformers; `batch` sequences at a time, halved for good when memory runs out. A sampled text
    depends on the seed, on the conversations in its batch, and on `batch`; a greedy one on its conversation alone."""

    def __init__(self, policy: Policy, batch: int = 64, progress: bool = True):
        self.policy, self.batch, self.progress = policy, batch, progress
        in_parts = policy.model.device.type == "cuda" and not hasattr(policy.model, "for_training")  # Unsloth cannot
        self.told: Callable[[int], None] | None = None  # hears of every few texts that are done, instead of a bar
        self.prefill_tokens = fit.PREFILL_TOKENS if in_parts else None

    def sample(
        self,
        conversations: list[Messages],
        n: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        desc: str = "generating",
        begin: str = "",
        adapter: bool = True,
    ) -> list[list[Completion]]:
        """`n` completions of each conversation, in the order that they were given; temperature 0 is greedy.

        `begin`: the first words of each completion, put there for the model; they are in its text, not in its tokens.
        `adapter`: false lets the base model speak.
        The caller's random state is left as it was. Shape: `len(conversations)` lists of `n`. Raises
        torch.OutOfMemoryError where not even one sequence fits.
        """
        ids = prompt_ids(self.policy.tokenizer, conversations, begin)
        order = sorted(range(len(ids)), key=lambda k: -len(ids[k]))  # longest first: memory runs out at once or never
        results: list[list[Completion]] = [[] for _ in ids]
        bar = tqdm(
            total=len(ids), desc=desc, unit="text", disable=not self.progress or self.told is not None, leave=False
        )
        place = 0
        devices = [self.policy.model.device] if self.policy.model.device.type == "cuda" else []
        speaker = contextlib.nullcontext() if adapter else self.policy.adapter_off()
        with speaker, torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            while place < len(order):
                chunk = order[place : place + max(1, self.batch // n)]
                samples = min(self.batch, n - len(results[chunk[0]]))  # fewer than n where they do not fit at a time
                state = [torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]
                try:
                    completions = self._generate([ids[k] for k in chunk], samples, max_tokens, temperature, begin)
                except torch.OutOfMemoryError:
                    if self.batch == 1:
                        raise
                    completions = None
                if completions is None:  # out here, since the error holds what lies on the card until it is handled
                    self.batch //= 2
                    torch.set_rng_state(state[0])  # the texts are as if this batch had been tried at once
                    for device, before in zip(devices, state[1:], strict=True):
                        torch.cuda.set_rng_state(before, device)
                    torch.cuda.empty_cache()
                    continue
                for k, own in zip(chunk, completions, strict=True):
                    results[k] += own
                done = len(chunk) if len(results[chunk[0]]) == n else 0
                place += done
                bar.update(done)
                if self.told:
                    self.told(done)
        bar.close()
        return results

    def _generate(
        self, prompts: list[list[int]], n: int, max_tokens: int, heat: float, begin: str
    ) -> list[list[Completion]]:
        model, pad = self.policy.model, self.policy.tokenizer.pad_token_id
        ends = tokens.ends(model.generation_config, self.policy.tokenizer)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        warm = {"do_sample": True, "temperature": heat, "top_k": 0, "top_p": 1.0}
        config = GenerationConfig(
            max_new_tokens=max_tokens,
            eos_token_id=ends,
            pad_token_id=pad,
            repetition_penalty=1.0,
            use_cache=True,
            prefill_chunk_size=self.prefill_tokens if n == 1 else None,
            **(warm if heat > 0 else {"do_sample": False}),
        )
        cache = None
        if n > 1:  # one prefill for all samples of a prompt; the last token is fed again, once a sample
            seen = {"attention_mask": mask[:, :-1], "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, :-1]}
            cache = model(ids[:, :-1], **seen, use_cache=True, logits_to_keep=1).past_key_values
            cache = DynamicCache(cache) if isinstance(cache, tuple) else cache  # Unsloth gives a tuple
            cache.batch_repeat_interleave(n)
            ids, mask = ids.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, past_key_values=cache)
        completions = [completion(self.policy.tokenizer, row, ends, begin) for row in out[:, width:].tolist()]
        return [completions[k : k + n] for k in range(0, len(completions), n)]


def completion(tokenizer: Tokenizer, ids: list[int], ends: list[int], begin: str = "") -> Completion:
    """The first words that were given, and what was generated, until the first token that ends a turn."""
    length = next((k for k, token in enumerate(ids) if token in ends), None)
    kept = ids[:length]
    first = tokenizer(begin, add_special_tokens=False)["input_ids"] if begin else []
    text = tokenizer.decode([*first, *kept], skip_special_tokens=True)  # alone, Phi's would lose the space before it
    text = begin + text[len(tokenizer.decode(first)) :] if begin else text
    return Completion(text, length is None, len(kept) + (length is not None))
