"""Generation on a CPU by transformers' own loop, with less work for the same bits: equal prompts are read once, the
cache is not copied at every token, freed memory is kept, and texts that have ended are left out of the forward pass.

A batch is generated until its longest text ends, and on a CPU every row costs. A row's numbers do not depend on the
rows beside it, as long as there are some (LEAST): with fewer, other kernels multiply. The loop around it still draws
random numbers for every row, so that the sampled texts are the same too.
"""

import contextlib
import ctypes
import functools
import weakref
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.generation import GenerationMode

#: rows that a forward pass keeps at least, and the share that it may fall to before the cache is copied
LEAST, SHARE = 8, 0.75


class RoomyLayer(DynamicLayer):
    """A layer of the cache with room for all tokens of a generation from the start. Shapes as in DynamicLayer:
    (rows, heads, tokens, head size)."""

    def __init__(self, room: int, layer: DynamicLayer):
        super().__init__()
        self.room, self.places = room, []
        if layer.is_initialized:
            self.lazy_initialization(layer.keys, layer.values)
            self.keys, self.values = layer.keys, layer.values

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_, **__) -> tuple[torch.Tensor, ...]:
        """Adds the new tokens' keys and values; returns those of all tokens."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        used, length = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if not self.places or length > self.places[0].shape[-2] or self.keys.data_ptr() != self.places[0].data_ptr():
            rows, heads, _, size = key_states.shape
            old = self.keys, self.values
            self.places = [key_states.new_empty(rows, heads, max(self.room, length), size) for _ in old]
            for place, before in zip(self.places, old, strict=True):
                if used:
                    place[:, :, :used] = before
        for place, new in zip(self.places, (key_states, value_states), strict=True):
            place[:, :, used:length] = new
        self.keys, self.values = (place[:, :, :length] for place in self.places)
        return self.keys, self.values


class Rows:
    """Which rows of a generation are still computed: `kept`, and all of them while it is None."""

    def __init__(self, cache: DynamicCache, ends: list[int]):
        self.cache, self.ends = weakref.ref(cache), torch.tensor(ends)  # the cache goes when generation ends
        self.kept = self.ended = None

    def leave_out(self, last: torch.Tensor) -> None:
        """Drop what has ended, by each row's last token; at the first token nothing has."""
        if self.ended is None:
            self.ended = torch.zeros(len(last), dtype=torch.bool)
            return
        self.ended |= torch.isin(last, self.ends)
        before = torch.arange(len(last)) if self.kept is None else self.kept
        stays = ~self.ended[before]
        if stays.sum() < LEAST:  # with some that have ended
            stays[self.ended[before].nonzero()[: LEAST - stays.sum(), 0]] = True
        if stays.sum() < SHARE * len(before):
            self.cache().batch_select_indices(stays.nonzero()[:, 0])
            self.kept = before[stays]


def _distinct(ids: torch.Tensor, cache: DynamicCache) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Of prompts of which equal ones stand side by side, as trl has a group's: one of each, and which of these each row
    is. None where nothing would be saved, or where something was read before."""
    if cache.get_seq_length():
        return None
    _, back, counts = torch.unique_consecutive(ids, dim=0, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - counts, back) if LEAST <= len(counts) < len(ids) else None


def _of_rows(given: dict, which: torch.Tensor) -> dict:
    """What a forward pass is given, for some of its rows."""
    size = given["input_ids"].shape[:1]
    of_rows = {name for name, value in given.items() if torch.is_tensor(value) and value.shape[:1] == size}
    return {name: value[which] if name in of_rows else value for name, value in given.items()}


def keep_memory() -> None:
    """Let glibc keep freed memory: it gives large blocks back at once, and Linux fills each new one with zeros."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc, trim_threshold, mmap_max = ctypes.CDLL(None), -1, -4  # malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def less_work(model: PreTrainedModel) -> None:
    """Let a model on a CPU generate in the quick way, where its cache is the plain one. Nothing else changes."""
    if model.device.type != "cpu":
        return
    keep_memory()
    prepare, forward, now = model._prepare_cache_for_generation, model.forward, {"rows": None}

    def prepared(config: Any, inputs: dict, mode: Any, batch: int, length: int) -> None:
        prepare(config, inputs, mode, batch, length)
        cache, now["rows"] = inputs.get("past_key_values"), None
        one_by_one = mode in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE) and not config.prefill_chunk_size
        plain = isinstance(cache, DynamicCache) and {type(layer) for layer in cache.layers} == {DynamicLayer}
        if one_by_one and plain:
            cache.layers = [RoomyLayer(length, layer) for layer in cache.layers]
            ends = config.eos_token_id
            now["rows"] = Rows(cache, ends if isinstance(ends, list) else [] if ends is None else [ends])

    @functools.wraps(forward)  # generate looks at its parameters
    def forwarded(*args: Any, **given: Any) -> Any:
        rows, cache = now["rows"], given.get("past_key_values")
        if rows is None or cache is None or cache is not rows.cache():
            return forward(*args, **given)
        ids = given["input_ids"]
        rows.leave_out(ids[:, -1])
        if (distinct := _distinct(ids, cache)) is not None:
            which, back = distinct
            out = forward(*args, **_of_rows(given, which))
            cache.batch_select_indices(back)
            out.logits = out.logits[back]
            return out
        if rows.kept is None:
            return forward(*args, **given)
        out = forward(*args, **_of_rows(given, rows.kept))
        logits = out.logits.new_zeros(len(ids), *out.logits.shape[1:])
        logits[rows.kept] = out.logits
        out.logits = logits
        return out

    model._prepare_cache_for_generation, model.forward = prepared, forwarded
