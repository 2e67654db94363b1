"""Sampling from a policy: many conversations at a time, sorted by length, the prefill shared between samples of one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedTokenizerBase

from rrr_utils.conversation import Messages
from rrr_utils.policy import Policy, end_tokens, load_base, load_tokenizer, model_path
from rrr_utils.settings import Settings


class Completion(NamedTuple):
    """What the model said: the text, whether the token limit cut it off, and its length in tokens."""

    text: str
    truncated: bool
    tokens: int


class HFSampler:
    """Generates with transformers; `batch` sequences at a time, halved for good when memory runs out.

    A sampled text depends on the seed, on the conversations that are asked for together, and on `batch`; a greedy one
    only on the conversation (up to rounding).
    """

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

        `begin`: words put into the model's mouth; the completion's text begins with them, its tokens count without.
        The caller's random state is left as it was. Shape: `len(conversations)` lists of `n`.
        """
        tokenizer = self.policy.tokenizer
        texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) + begin for c in conversations]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
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

    def _generate(self, prompts: list[list[int]], n: int, max_tokens: int, temperature: float) -> list[list[Completion]]:
        model, pad = self.policy.model, self.policy.tokenizer.pad_token_id
        ends = end_tokens(self.policy)
        width = max(map(len, prompts))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
        config = GenerationConfig(
            max_new_tokens=max_tokens, eos_token_id=ends, pad_token_id=pad, repetition_penalty=1.0, use_cache=True,
            do_sample=temperature > 0, **({"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}),
        )  # fmt: skip
        cache = None
        if n > 1:  # one prefill for all samples of a prompt; the last token is fed again, once a sample
            position = (mask.cumsum(-1) - 1).clamp(min=0)
            cache = model(
                ids[:, :-1], attention_mask=mask[:, :-1], position_ids=position[:, :-1], use_cache=True, logits_to_keep=1
            ).past_key_values
            cache.batch_repeat_interleave(n)
            ids, mask = ids.repeat_interleave(n, 0), mask.repeat_interleave(n, 0)
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, past_key_values=cache)[:, width:].tolist()
        completions = [self._completion(row, ends) for row in out]
        return [completions[k : k + n] for k in range(0, len(completions), n)]

    def _completion(self, ids: list[int], ends: list[int]) -> Completion:
        length = next((k for k, token in enumerate(ids) if token in ends), None)
        kept = ids if length is None else ids[:length]
        return Completion(self.policy.tokenizer.decode(kept, skip_special_tokens=True), length is None, len(kept) + (length is not None))


class VLLMSampler:
    """The same interface over vLLM (CUDA; the `[vllm]` extra), which batches by itself and caches shared prefixes.

    Written to vLLM 0.32's interface and not run by us. It takes base weights only: adapters are evaluated with
    `HFSampler`, on the same 4-bit weights that they were trained on.
    """

    def __init__(self, path: str, tokenizer: PreTrainedTokenizerBase, four_bit: bool, dtype: str):
        from vllm import LLM

        self.tokenizer = tokenizer
        self.model = LLM(model=path, dtype=dtype, enable_prefix_caching=True, quantization="bitsandbytes" if four_bit else None)

    def sample(
        self, conversations: list[Messages], n: int, max_tokens: int, temperature: float, seed: int, desc: str = "generating"
    ) -> list[list[Completion]]:
        """As `HFSampler.sample`."""
        from vllm import SamplingParams, TokensPrompt

        texts = [self.tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]]
        params = SamplingParams(n=n, max_tokens=max_tokens, temperature=temperature, seed=seed, top_k=0, top_p=1.0, repetition_penalty=1.0)
        outputs = self.model.generate(prompts, params, use_tqdm=True)
        return [[Completion(o.text.strip(), o.finish_reason == "length", len(o.token_ids)) for o in one.outputs] for one in outputs]


def make_sampler(settings: Settings) -> HFSampler | VLLMSampler:
    """A sampler over the untrained model: the engine that the settings name."""
    if settings.engine == "hf":
        return HFSampler(load_base(settings), settings.sample_batch)
    path = model_path(settings)
    return VLLMSampler(path, load_tokenizer(path), settings.load_in_4bit, settings.dtype)
