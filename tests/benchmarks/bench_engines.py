"""Tokens per second of each engine, side by side: first tries and reflections of the tiny profile's model."""

from __future__ import annotations

import statistics
import tempfile
import time

from rrr_utils import conversation, engines, failures, settings, tasks

ITEMS = 256


def rates(name: str, items: int = ITEMS, rounds: int = 3) -> dict[str, float]:
    """Seconds until the first token, and tokens a second of first tries and of reflections (medians of a few rounds)."""
    with tempfile.TemporaryDirectory() as folder:
        given = settings.load("tiny", {"engine": name, "results_dir": folder})
        task, rows = tasks.get(given.task), failures.load_rows(given, "test", items)
        asked = [conversation.attempt(task, row) for row in rows]
        began = time.perf_counter()
        sampler = engines.make_sampler(given)
        sampler.progress = False
        sampler.sample(asked[:1], 1, 1, 0.0, 0)
        found = {"start": time.perf_counter() - began}
        said = sampler.sample(asked, 1, given.attempt_tokens, 0.0, 0)
        pairs = zip(rows, said, strict=True)
        thoughts = [conversation.reflect(task, row, own.text) for row, [own] in pairs]
        kinds = {"first tries": (asked, given.attempt_tokens), "reflections": (thoughts, given.reflection_tokens)}
        for kind, (conversations, most) in kinds.items():
            found[kind] = statistics.median(speed(sampler, conversations, most, seed) for seed in range(rounds))
        getattr(sampler, "close", lambda: None)()
    return found


def speed(sampler: engines.Sampler, conversations: list, most: int, seed: int) -> float:
    """Sampled tokens a second; other seeds, so that nothing is taken from a cache but the prompts."""
    began = time.perf_counter()
    said = sampler.sample(conversations, 1, most, 0.9, seed)
    return sum(own.tokens for [own] in said) / (time.perf_counter() - began)


def main() -> None:
    """Print the table."""
    print(f"\n{'tokens a second, ' + str(ITEMS) + ' at once':38}{'first tries':>13}{'reflections':>13}{'start, s':>10}")
    for name in ("hf", "vllm"):
        if name == "vllm" and engines.vllm_python() is None:
            print(f"{name:38}  not installed: make vllm")
            continue
        row = rates(name)
        print(f"{name:38}{row['first tries']:13.0f}{row['reflections']:13.0f}{row['start']:10.1f}")


if __name__ == "__main__":
    main()
