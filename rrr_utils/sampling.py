"""Sampling from a policy: many conversations at a time, sorted by length, the prefill shared between samples of one."""

from typing import NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rrr_utils import runs
from rrr_utils.conversation import Messages
from rrr_utils.policy import Policy, end_tokens, load_base, load_tokenizer
from rrr_utils.settings import Settings


class Completion(NamedTuple):
    """A text, whether the token limit cut it off, and its length in tokens (with the end of turn)."""

    text: str
    truncated: bool
    tokens: int


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, conversations: list[Messages], begin: str = "") -> list[list[int]]:
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
    return tokenizer([text + begin for text in texts], add_special_tokens=False)["input_ids"] if texts else []


class HFSampler:
    """Generates with transformers; `batch` sequences at a time, halved for good when memory runs out. A sampled text
    depends on the seed, on the conversations in its batch, and on `batch`; a greedy one on its conversation alone."""

    def __init__(self, policy: Policy, batch: int = 64, progress: bool = True):
        self.policy, self.batch, self.progress = policy, batch, progress

    def sample(
        self,
        conversations: list[Messages],
        n: int,
        max_tokens: int,
        temperature: float,
        seed: int,
        desc: str = "generating",
        begin: str = "",
    ) -> list[list[Completion]]:
        """`n` completions of each conversation, in the order that they were given; temperature 0 is greedy.

        `begin`: the first words of each completion, put there for the model; they are in its text, not in its tokens.
        The caller's random state is left as it was. Shape: `len(conversations)` lists of `n`. Raises
        torch.OutOfMemoryError where not even one conversation fits.
        """
        ids = _prompt_ids(self.policy.tokenizer, conversations, begin)
        order = sorted(range(len(ids)), key=lambda k: -len(ids[k]))  # longest first: memory runs out at once or never
        results: list[list[Completion]] = [[] for _ in ids]
        bar = tqdm(total=len(ids), desc=desc, unit="text", disable=not self.progress, leave=False)
        place = 0
        devices = [self.policy.model.device] if self.policy.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            torch.manual_seed(seed)
            while place < len(order):
                chunk = order[place : place + max(1, self.batch // n)]
                state = torch.random.get_rng_state()
                try:
                    completions = self._generate([ids[k] for k in chunk], n, max_tokens, temperature)
                except torch.OutOfMemoryError:
                    if self.batch <= n:
                        raise
                    self.batch = max(n, self.batch // 2)
                    torch.random.set_rng_state(state)
                    torch.cuda.empty_cache()
                    continue
                for k, own in zip(chunk, completions, strict=True):
                    results[k] = [c._replace(text=begin + c.text) for c in own] if begin else own
                place += len(chunk)
                bar.update(len(chunk))
        bar.close()
        return results

    def _generate(self, prompts: list[list[int]], n: int, max_tokens: int, heat: float) -> list[list[Completion]]:
        model, pad = self.policy.model, self.policy.tokenizer.pad_token_id
        ends = end_tokens(self.policy)
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
            **(warm if heat > 0 else {"do_sample": False}),
        )
        cache = None
        if n > 1:  # one prefill for all samples of a prompt; the last token is fed again, once a sample
            seen = {"attention_mask": mask[:, :-1], "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, :-1]}
            cache = model(ids[:, :-1], **seen, use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(n)
            ids, mask = ids.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, past_key_values=cache)
        completions = [self._completion(row, ends) for row in out[:, width:].tolist()]
        return [completions[k : k + n] for k in range(0, len(completions), n)]

    def _completion(self, ids: list[int], ends: list[int]) -> Completion:
        length = next((k for k, token in enumerate(ids) if token in ends), None)
        kept = ids[:length]
        text = self.policy.tokenizer.decode(kept, skip_special_tokens=True)
        return Completion(text, length is None, len(kept) + (length is not None))


class VLLMSampler:
    """The same over vLLM 0.32 (CUDA, the `[vllm]` extra), for the base model only. Not run by us."""

    def __init__(self, path: str, revision: str | None, settings: Settings):
        from vllm import LLM

        self.tokenizer = load_tokenizer(path, revision)
        quantization = "bitsandbytes" if settings.load_in_4bit else None
        self.model = LLM(model=path, revision=revision, dtype=settings.dtype, quantization=quantization)

    def sample(
        self, conversations: list[Messages], n: int, max_tokens: int, temperature: float, seed: int, desc: str = ""
    ) -> list[list[Completion]]:
        """As `HFSampler.sample`."""
        from vllm import SamplingParams, TokensPrompt

        ids = _prompt_ids(self.tokenizer, conversations)
        plain = {"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
        params = SamplingParams(n=n, max_tokens=max_tokens, temperature=temperature, seed=seed, **plain)
        outputs = self.model.generate([TokensPrompt(prompt_token_ids=one) for one in ids], params, use_tqdm=True)
        return [
            [Completion(o.text.strip(), o.finish_reason == "length", len(o.token_ids)) for o in one.outputs]
            for one in outputs
        ]


def make_sampler(settings: Settings) -> HFSampler | VLLMSampler:
    """A sampler over the base model, by the engine that the settings name."""
    if settings.engine == "hf":
        return HFSampler(load_base(settings), settings.sample_batch)
    path, revision = runs.model_path(settings)
    return VLLMSampler(path, revision, settings)
