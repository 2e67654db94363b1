"""What a stage will cost on this machine, told before a model is loaded: time, memory, disk, download.

Arithmetic from the model's config, the settings and the card's data sheet (`data/cards.yaml`); rates that were measured
(`results/rates.csv`) come first. Texts are taken to reach their token limits, since a batch decodes until its longest
ends, and RIGHT of all tries to be right. Of a hub model config and tokenizer are downloaded, no weights; a plan of a
whole grid (plan.py) takes the same arithmetic with shapes from `data/models.yaml` and downloads nothing.
"""

import contextlib
import functools
import math
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import yaml

from rrr_utils import controls, fit, gpus, models, runs
from rrr_utils.machine import fitted
from rrr_utils.settings import DATA, ROOT, Settings

#: shares: of the data sheet's FLOPs that matrices of these sizes reach, and of all tries that are right
REACHED, RIGHT = 0.35, 0.3
#: bytes that move for a 4-bit weight in a decoding step: it is read, written in 16 bits, and read again
MOVED = 4.5
#: tokens of a task's questions where nobody counts them, the mean and, as `fit.question_tokens` has it, the longest: of
#: 200 problems of 3 or 4 numbers, and of 200 real queries in the form of APIGen's, with Qwen2.5's tokenizer
QUESTIONS, ANOTHER = {"countdown": (96, 125), "function_calling": (316, 1005)}, (256, 256)
#: columns hardware, model, engine, backend, what, rate, versions: `what` is `decode_<rows>`, with the seconds of a
#: decoding step of so many rows, or `train_tokens`, with the tokens of prompts and completions trained on a second
RATES = ROOT / "results" / "rates.csv"


@functools.cache
def cards() -> dict[str, dict[str, Any]]:
    """The lines of data/cards.yaml."""
    return yaml.safe_load((DATA / "cards.yaml").read_text(encoding="utf-8"))


@functools.cache
def line_of(name: str) -> str | None:
    """The line of cards.yaml that a card's own name stands for.

    >>> line_of("NVIDIA H100 80GB HBM3"), line_of("Quadro")
    ('H100', None)
    """
    return next((key for key in cards() if re.search(rf"\b{key}\b", name)), None)


def machine(card: gpus.Card | None = None) -> tuple[str, dict[str, Any]]:
    """The name of the card, else of the first visible GPU, else "CPU", and its line of cards.yaml; of one not listed, a
    smaller one's."""
    lines, card = cards(), card or gpus.card()
    name = card.name if card else "CPU"
    if key := line_of(name):
        return name, lines[key]
    smaller = {line["gib"]: key for key, line in lines.items() if line["gib"] * 2**30 <= card.total_bytes}
    return f"{name} (not listed: as {smaller[max(smaller)]})", lines[smaller[max(smaller)]]


class Costs(NamedTuple):
    """Seconds of what stages do. `card`: its line; `question`: tokens of the longest; `rates`: measured, by `what`.

    `tells`: "about"; "least", where every byte and FLOP of the data sheet is reached and nothing else costs time; or
    "tokens": not seconds, but the tokens that are read, written, and trained on."""

    settings: Settings
    shape: fit.Shape
    card: dict[str, Any]
    question: int
    rates: dict[str, float]
    tells: str = "about"

    def with_sizes(self, sizes: dict[str, int]) -> "Costs":
        """The costs with other batches."""
        return self._replace(settings=self.settings.model_copy(update=sizes))

    @property
    def lengths(self) -> dict[str, tuple[int, int]]:
        """Of each kind of text, tokens of its prompt and its own; `trained`: what training rewards."""
        s, asked = self.settings, self.question + self.settings.attempt_tokens + fit.REQUEST_TOKENS
        first, reflection = (self.question, s.attempt_tokens), (asked, s.reflection_tokens)
        retry, trained = asked + s.reflection_tokens + self.question, first if s.objective == "answer" else reflection
        return {"first": first, "reflection": reflection, "retry": (retry, s.attempt_tokens), "trained": trained}

    def compute(self, tokens: float, passes: float = 1) -> float:
        """Tokens through the model, so many times."""
        least = self.tells == "least"
        active = self.shape.linear + (0 if least else self.shape.vocabulary * self.shape.hidden)
        return 2 * passes * tokens * active / ((1 if least else REACHED) * self.card["tflops"] * 1e12)

    def step(self, rows: int, context: int) -> float:
        """A decoding step: as measured with about as many rows; or else by launches, bytes that move, and FLOPs, in the
        proportion of what was measured to what these say of it."""
        known = {int(what[7:]): rate for what, rate in self.rates.items() if what.startswith("decode_")}
        if known and self.tells == "about":
            near = min(known, key=lambda one: abs(math.log(one / rows)))
            close = 0.5 <= near / rows <= 2
            bare = self._replace(rates={})
            return known[near] * (1 if close else bare.step(rows, context) / bare.step(near, context))
        s, vllm, size = self.settings, self.settings.engine == "vllm", fit.BYTES[self.settings.dtype]
        least = self.tells == "least"
        moved = self.shape.linear * ((fit.NF4_BYTES if least else MOVED) if s.load_in_4bit and not vllm else size)
        moved += size * self.shape.vocabulary * self.shape.hidden + rows * context * size * self.shape.cache
        moving, computing = moved / (self.card["bandwidth"] * 1e9), self.compute(rows)
        if least:
            return max(moving, computing)
        launches = self.shape.layers * self.card["layer_ms"] * (0.1 if vllm else 1)  # vLLM replays captured graphs
        return launches / 1e3 + moving + computing

    def say(self, kind: str, texts: float, rows: int | None = None) -> float:
        """So many texts of a kind of `lengths`, `rows` at a time."""
        (prompt, new), texts = self.lengths[kind], math.ceil(texts)
        rows = max(1, min(rows or self.settings.sample_batch, texts))
        if self.tells == "tokens":
            return texts * (prompt + new)
        if self.tells == "least":  # the cache is half full on average; samples of a prompt, and vLLM, read it once
            read = 0 if kind == "first" or self.settings.engine == "vllm" else texts * prompt
            return texts / rows * new * self.step(rows, prompt + new // 2) + self.compute(read)
        return math.ceil(texts / rows) * new * self.step(rows, prompt + new) + self.compute(texts * prompt)

    def learn(self, texts: int) -> float:
        """Loss and gradient of so many completions."""
        s, tokens = self.settings, texts * sum(self.lengths["trained"])
        if self.tells == "tokens":
            return tokens
        if self.tells == "about" and "train_tokens" in self.rates:
            return tokens / self.rates["train_tokens"]
        passes = 2 + (s.lora_rank == 0) + s.gradient_checkpointing + (s.beta > 0)  # and back, and again, and reference
        launches = passes * math.ceil(texts / s.micro_batch) * self.shape.layers * self.card["layer_ms"]
        if self.tells == "least":
            return self.compute(tokens, passes)
        return self.compute(tokens, passes) + launches / 1e3


def parts(settings: Settings, stage: str) -> dict[str, float]:
    """Seconds of a stage's parts on this machine, in their order; what is there already counts too.

    Raises SettingsError where the model's config cannot be had or where the model does not fit."""
    return parts_of(_costs(settings, stage), stage)


def parts_of(costs: Costs, stage: str, worst: bool = False) -> dict[str, float]:
    """The same from what they cost. `worst`: collecting asks every query in every round."""
    return _collect(costs, worst) if stage == "failures" else {"train": _train, "evaluate": _evaluate}[stage](costs)


def _collect(costs: Costs, worst: bool) -> dict[str, float]:
    s, samples, found = costs.settings, 0, {}
    for number, n in enumerate(s.rounds):
        found[f"round {number + 1}"] = costs.say("first", s.train_queries * n)
        samples += n
        failures = min(s.failures_per_query, (1 - RIGHT) * samples)
        if not worst and (failures == s.failures_per_query or failures * s.train_queries >= s.failures_wanted):
            break
    return found | {"dev": costs.say("first", 4 * s.dev_items)}


def _train(costs: Costs) -> dict[str, float]:
    s, texts = costs.settings, _batch(costs.settings)
    step = costs.say("trained", texts, s.generation_batch) + costs.learn(texts)
    scored = math.ceil(s.dev_items / s.gpus)  # dev is shared out
    score = costs.say("trained", scored)
    if s.objective == "reflection":
        step += costs.say("retry", texts * s.retries_per_reflection)
        score += costs.say("retry", scored)
    scorings = 2 * (1 + math.ceil(s.steps / s.dev_every))  # greedy and sampled
    return {"steps": s.steps * step, "dev": scorings * score}


def _batch(s: Settings) -> int:
    return s.failures_per_step * s.reflections_per_failure // s.gpus


def _evaluate(costs: Costs) -> dict[str, float]:
    return {", ".join(part): sum(kinds.values()) for part, kinds in tries(costs).items()}


def tries_of(settings: Settings) -> dict[tuple[str, str], dict[str, float]]:
    """Seconds on this machine of each kind of try, by policy and decoding, as `tries` has them; empty where that cannot
    be told."""
    with contextlib.suppress(Exception):  # whatever it is, a forecast ends no run
        return tries(_costs(settings, "evaluate"))
    return {}


def tries(costs: Costs) -> dict[tuple[str, str], dict[str, float]]:
    """Seconds of the first tries (`first`) and of each control, by policy and decoding."""
    s, found = costs.settings, {}
    failed, right = s.test_items * (1 - RIGHT), s.test_items * RIGHT
    fresh = min(s.fresh_tries, 1 + s.reflection_tokens / s.attempt_tokens)  # for the tokens of the own second try
    retried = {"own": failed, "forced": failed, "always": right, "outright": s.test_items}
    seconds = {name: costs.say("reflection", n) + costs.say("retry", n) for name, n in retried.items()}
    seconds["fresh"] = fresh * costs.say("first", failed)
    for policy in ("vanilla",) if s.seed is None else s.policies:
        taken = ("blind", "generic") if policy == "reflector" else ()  # with its first tries, from the base model
        kinds = {} if taken else {"first": costs.say("first", s.test_items)}
        for name in [name for name in controls.chosen(s) if name not in taken]:
            kinds[name] = seconds.get(name, costs.say("retry", failed))
        found |= {(policy, decoding): kinds for decoding in s.decodings}
    return found


def forecast(settings: Settings, stage: str) -> pd.DataFrame:
    """What a whole stage costs: rows for time, memory, disk and download, with `value, unit, assumption`.

    Raises as `parts` does."""
    costs, (name, card) = _costs(settings, stage), machine()
    s, sheet = costs.settings, "{bandwidth} GB/s, {tflops} TFLOPS, {layer_ms} ms a layer and step".format(**card)
    rest = f"measured {', '.join(costs.rates)}" if costs.rates else sheet
    how = f"{name}: {rest}; {s.engine if stage != 'train' else s.backend}, {s.sample_batch} rows"
    how += f"; texts of the greatest length; {1 - RIGHT:.0%} of all tries fail"
    rows = {"time": (sum(parts_of(costs, stage).values()) / 60, "minutes", how)}
    if stage == "failures":
        worst = sum(parts_of(costs, stage, worst=True).values()) / 60
        rows["time, at worst"] = (worst, "minutes", "every query is asked in every round")
    if runs.done(settings, stage):
        rows = {"time": (0.0, "minutes", "the result is there already")}
    for name, (size, why) in bytes_of(costs, stage).items():
        rows[name] = (size / 2**30, "GiB", why)
    lines = [(name, float(f"{value:.2g}"), unit, why) for name, (value, unit, why) in rows.items()]
    frame = pd.DataFrame(lines, columns=["", "value", "unit", "assumption"], dtype=object)  # 14.0, not 14.0000
    return frame.set_index("")


def bytes_of(costs: Costs, stage: str) -> dict[str, tuple[float, str]]:
    """Bytes of `memory`, `disk` and `download`, and what they are of."""
    return {"memory": _memory(costs, stage), "disk": _disk(costs, stage), "download": _download(costs, stage)}


def planned(settings: Settings, name: str, card: dict[str, Any]) -> Costs:
    """The same without transformers, tokenizer and hub, for a card that need not be here: its name and its line. The
    settings' engine and backend are chosen, their sizes fitted or ceilings. Raises SettingsError as fit does."""
    _, longest = QUESTIONS.get(settings.task, ANOTHER)
    return Costs(settings, fit.known_shape(settings), card, longest, _rates(name, settings))


def corrected(settings: Settings, stage: str, seconds: float, share: float) -> str:
    """What the stage takes if `share` of its first part took `seconds`, in a line; empty where that cannot be told."""
    with contextlib.suppress(Exception):  # whatever it is, a forecast ends no run
        said = list(parts(settings, stage).values())
        first, rest = seconds / share, sum(said[1:])
        if stage != "evaluate":  # there the parts differ: greedy texts end early, sampled ones late
            rest *= first / said[0]
        told = [f"{float(f'{one / 60:.2g}'):g}" for one in (first + rest, sum(said))]  # 1300, not 1.3e+03
        return f"{stage}: about {told[0]} minutes in all by what its first part took; the forecast said {told[1]}"
    return ""


@contextlib.contextmanager
def timed(settings: Settings, stage: str, share: float) -> Iterator[None]:
    """Print the corrected forecast after the block, `share` of the stage's first part; 0 prints nothing."""
    began = time.time()
    yield
    if share and (line := corrected(settings, stage, time.time() - began, share)):
        print(line, flush=True)


def _costs(settings: Settings, stage: str) -> Costs:
    """With the engine, backend and sizes that a new folder would be begun with."""
    s, _, config, question = fitted(settings, stage)
    name, card = machine()
    return Costs(s, fit.shape(config), card, question, _rates(name, s))


def _rates(hardware: str, settings: Settings) -> dict[str, float]:
    """What was measured on this hardware (a card's name, or its line's for a card that is not here) with this model,
    engine and backend (an empty backend goes for both)."""
    if not RATES.is_file():
        return {}
    frame, known = pd.read_csv(RATES), (settings.model, settings.engine)
    same = frame["hardware"].map(lambda name: hardware in (name, line_of(name)))
    same &= (frame[["model", "engine"]] == known).all(axis=1)
    same &= frame["backend"].isna() | (frame["backend"] == settings.backend) | (settings.backend == "auto")
    return dict(zip(frame["what"][same], frame["rate"][same], strict=True))


def _memory(costs: Costs, stage: str) -> tuple[float, str]:
    s, one, size, length = costs.settings, costs.shape, fit.BYTES[costs.settings.dtype], costs.lengths
    unsloth, longest = stage == "train" and s.backend == "unsloth", "first" if stage == "failures" else "retry"
    most = s.sample_batch * fit.sampled_bytes(one, size, *length[longest], unsloth)
    if stage == "train":
        learnt, at_once = min(_batch(s), s.micro_batch), min(_batch(s), s.generation_batch)
        learnt *= fit.trained_bytes(one, size, *length["trained"], s.gradient_checkpointing)
        most = max(most, learnt, at_once * fit.sampled_bytes(one, size, *length["trained"], unsloth))
    why = f"of {gpus.total_bytes() / 2**30:.0f} on this machine: {s.sample_batch} rows at a time, weights and runtime"
    return fit.fixed_bytes(s, one, stage) + most + fit.RESERVE, why


def _disk(costs: Costs, stage: str) -> tuple[float, str]:
    s, one, weights = costs.settings, costs.shape, costs.shape.linear + costs.shape.embeddings
    asked, again = sum(costs.lengths["reflection"]), sum(costs.lengths["retry"])
    speakers = 1 if s.seed is None else len(s.policies)
    tries = s.test_items * len(s.decodings) * speakers * len(s.controls)
    tokens = {"failures": s.train_queries * sum(s.rounds) * s.attempt_tokens, "train": s.steps * _batch(s) * again}
    used, why = 4 * tokens.get(stage, tries * asked), "texts of 4 bytes a token"
    if stage == "train":  # two checkpoints with the optimiser's two moments, the fresh adapter, the best one
        used, why = used + 32 * (s.lora_rank * one.adapter or weights), f"{why}, the best adapter, two checkpoints"
    if s.engine == "vllm" and s.load_in_4bit:
        used, why = used + 2 * weights, f"{why}, once the 4-bit weights as a plain checkpoint"
    return used, why


def _download(costs: Costs, stage: str) -> tuple[float, str]:
    path, revision = runs.model_path(costs.settings)
    if revision is None:
        return 0.0, "the model is a local folder"
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "model.safetensors.index.json")
    if any(isinstance(try_to_load_from_cache(path, name, revision=revision), str) for name in names):
        return 0.0, "the model is in the hub's cache"
    size = (models.known(path) or {}).get("download") or 2 * (costs.shape.linear + costs.shape.embeddings)
    return size, "the model's 16-bit weights, once; their minutes are not in the time"
