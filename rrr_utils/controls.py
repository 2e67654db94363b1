"""Second tries: after the own reflection, and every control of it. Each is added to lines of `samples.jsonl`.

A control that the task has no text for, or that is not this policy's, is left out (`chosen`).
"""

import contextlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from rrr_utils import conversation, tasks
from rrr_utils.settings import CONTROLS, Settings

if TYPE_CHECKING:
    from rrr_utils.bar import Progress
    from rrr_utils.engines import Sampler
    from rrr_utils.sampling import Completion


class Voice(NamedTuple):
    """Who speaks in a block of tries, and how."""

    settings: Settings
    sampler: Callable[[], "Sampler"]
    policy: str
    decoding: str
    seed: int  # of the block; every kind of text adds its own salt
    progress: "Progress | None" = None

    def trying(self, kind: str, items: int) -> contextlib.AbstractContextManager:
        """A context for one kind of try of so many items."""
        return self.progress.trying(kind, items) if self.progress else contextlib.nullcontext()

    def say(
        self,
        asked: list,
        what: str,
        tokens: int,
        salt: int,
        heat: float | None = None,
        reflecting: bool = False,
        begin: str = "",
    ) -> "list[Completion]":
        """A completion of each conversation, its first words given by `begin`. The reflector's adapter is on only while
        it reflects, and vanilla has none."""
        if not asked:
            return []
        if heat is None:
            heat = 0.0 if self.decoding == "greedy" else self.settings.temperature
        sampler, label = self.sampler(), f"{self.policy}, {self.decoding}: {what}"
        if self.progress:
            sampler.told = self.progress.texts
        base = self.policy == "vanilla" or (self.policy == "reflector" and not reflecting)
        said = sampler.sample(asked, 1, tokens, heat, 101 * self.seed + salt, label, begin, adapter=not base)
        return [own[0] for own in said]


def chosen(settings: Settings) -> tuple[str, ...]:
    """The second tries that are made: those of the settings that the task, and who speaks, can do."""
    task, base = tasks.get(settings.task), settings.seed is None
    can = {
        "generic": hasattr(task, "GENERIC"), "masked": hasattr(task, "mask"), "cut": hasattr(task, "answers_in"),
        "forced": base and settings.forced_words is not None,
        "outright": base and settings.outright_request is not None,
    }  # fmt: skip
    return tuple(name for name in CONTROLS if name in settings.controls and can.get(name, True))


def _entry(voice: Voice, task: ModuleType, line: dict, retry: "Completion", reflection: str, **more: Any) -> dict:
    """A second try as it is kept."""
    verdict = tasks.verify(task, retry.text, line["row"])._asdict()
    return {"reflection": reflection, **more, "retry": retry.text, "retry_tokens": retry.tokens, "verdict": verdict}


def _reflected(voice: Voice, task: ModuleType, lines: list[dict], control: str, salt: int, begin: str = "") -> None:
    """Adds the second try after a reflection by who speaks, whose first words may be put there."""
    s, cot, pairs = voice.settings, voice.settings.chain_of_thought, [(x["row"], x["attempt"]) for x in lines]
    asked = [conversation.reflect(task, *pair, cot) for pair in pairs]
    thoughts = voice.say(asked, f"reflection ({control})", s.reflection_tokens, salt, begin=begin, reflecting=True)
    again = [conversation.retry(task, *pair, own.text, cot) for pair, own in zip(pairs, thoughts, strict=True)]
    retries = voice.say(again, f"retry ({control})", s.attempt_tokens, salt + 1)
    for line, own, retry in zip(lines, thoughts, retries, strict=True):
        told = {"reflection_tokens": own.tokens, "truncated": own.truncated}
        line["second"][control] = _entry(voice, task, line, retry, own.text, **told)


def _own(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """After the model's own reflection: the method."""
    _reflected(voice, task, lines, "own", 2)


def _forced(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """After a reflection whose first words are put into the base model's mouth: the skill without the training."""
    _reflected(voice, task, lines, "forced", 20, begin=voice.settings.forced_words)


def _always(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """After the own reflection, whether the first try was right or wrong: the method without a verifier."""
    for line in lines:
        if "own" in line["second"]:
            line["second"]["always"] = dict(line["second"]["own"])
    _reflected(voice, task, [line for line in lines if "always" not in line["second"]], "always", 22)


def _blind(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """Asked to try again, without a reflection."""
    s = voice.settings
    asked = [conversation.blind_retry(task, line["row"], line["attempt"], s.chain_of_thought) for line in lines]
    for line, said in zip(lines, voice.say(asked, "blind retry", s.attempt_tokens, 4), strict=True):
        line["second"]["blind"] = _entry(voice, task, line, said, "")


def _after(voice: Voice, task: ModuleType, lines: list[dict], control: str, salt: int, texts: list[str]) -> None:
    """Adds the second try after given texts in the place of the reflection."""
    s = voice.settings
    asked = [
        conversation.retry(task, line["row"], line["attempt"], text, s.chain_of_thought)
        for line, text in zip(lines, texts, strict=True)
    ]
    retries = voice.say(asked, f"retry ({control})", s.attempt_tokens, salt)
    for line, text, retry in zip(lines, texts, retries, strict=True):
        line["second"][control] = _entry(voice, task, line, retry, text)


def _generic(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """After one fixed sentence of the task."""
    _after(voice, task, lines, "generic", 5, [task.GENERIC] * len(lines))


def _swapped(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """After the reflection on another problem, the next failed one of another cluster (an empty text if none is)."""
    donors = [_donor(lines, k) for k in range(len(lines))]
    _after(voice, task, lines, "swapped", 6, [d["second"]["own"]["reflection"] if d else "" for d in donors])
    for line, donor in zip(lines, donors, strict=True):
        line["second"]["swapped"]["donor"] = donor["id"] if donor else None


def _donor(lines: list[dict], k: int) -> dict | None:
    others = (lines[(k + step) % len(lines)] for step in range(1, len(lines)))
    return next((line for line in others if line["cluster"] != lines[k]["cluster"]), None)


def _masked(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """After the own reflection with its numbers or values hidden."""
    _after(voice, task, lines, "masked", 7, [tasks.told(task, "mask", _said(line), line["row"]) for line in lines])


def _cut(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """After the own reflection without the words that state a right answer."""
    _after(voice, task, lines, "cut", 8, [tasks.cut(task, _said(line), line["row"]) for line in lines])


def _said(line: dict) -> str:
    return line["second"]["own"]["reflection"]


def _fresh(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """The best of new first tries, sampled, as many as cost the tokens of the own second try (but one in any case)."""
    s, left = voice.settings, list(lines)
    for line in lines:
        line["second"]["fresh"] = {"tries": [], "verdicts": [], "verdict": None, "tokens": 0}
    for number in range(s.fresh_tries):
        asked = [conversation.attempt(task, line["row"], s.chain_of_thought) for line in left]
        said = voice.say(asked, f"fresh try {number + 1}", s.attempt_tokens, 40 + number, s.temperature)
        for line, completion in zip(left, said, strict=True):
            spent, verdict = line["second"]["fresh"], tasks.verify(task, completion.text, line["row"])._asdict()
            spent["tries"].append(completion.text)
            spent["verdicts"].append(verdict)
            spent["tokens"] += completion.tokens
            if spent["verdict"] is None or tasks.is_right(verdict, s.verdict) > tasks.is_right(
                spent["verdict"], s.verdict
            ):
                spent["verdict"] = verdict  # the first that is right, else the first
        left = [line for line in left if _buys_one_more(**line["second"])]


def _buys_one_more(own: dict, fresh: dict, **_: dict) -> bool:
    spent = fresh["tokens"]
    return spent + spent / len(fresh["tries"]) <= own["reflection_tokens"] + own["retry_tokens"]


def _outright(voice: Voice, task: ModuleType, lines: list[dict]) -> None:
    """What a reflection does, asked for at once: the skill as a first try, with no failure, verifier or training."""
    s, cot, request = voice.settings, voice.settings.chain_of_thought, voice.settings.outright_request
    asked = [conversation.outright(task, line["row"], request, cot) for line in lines]
    thoughts = voice.say(asked, "asked outright", s.reflection_tokens, 24)
    again = [
        conversation.after_outright(task, line["row"], request, own.text, cot)
        for line, own in zip(lines, thoughts, strict=True)
    ]
    retries = voice.say(again, "answer (outright)", s.attempt_tokens, 25)
    for line, own, retry in zip(lines, thoughts, retries, strict=True):
        told = {"reflection_tokens": own.tokens, "truncated": own.truncated}
        line["second"]["outright"] = _entry(voice, task, line, retry, own.text, **told)


#: how each second try is added to lines, in the order of CONTROLS
_TRIES = (_own, _blind, _generic, _swapped, _masked, _cut, _fresh, _always, _forced, _outright)
ADD = dict(zip(CONTROLS, _TRIES, strict=True))
