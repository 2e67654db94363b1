"""Evaluation: first try, second try after the own reflection and after each control, by policy and decoding.

The same 4-bit base, the unmerged adapter, the same prompts and token limits before and after training. Every text is
kept in `samples.jsonl`, a block of items at a time, so a killed run goes on where it was; what an older evaluation has
already is taken over (`samples.py`). Cells are counted in `report/`.
"""

import contextlib
import functools
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from rrr_utils import conversation, runs, samples, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.files import append_jsonl, read_log
from rrr_utils.settings import CONTROLS, Settings

if TYPE_CHECKING:
    from rrr_utils.sampling import Completion, HFSampler

#: items generated and appended at a time
BLOCK = 1024
#: most blind retries that the tokens of a reflection are spent on
MOST_RETRIES = 32


def generate(settings: Settings) -> None:
    """Every try of the base model (`seed` none), or of a trained one under each policy, into `samples.jsonl`."""
    if runs.done(settings, "evaluate"):
        return
    rows = test_rows(settings)  # before the folder is begun: bad data leaves none
    with runs.begin(settings, "evaluate") as (folder, settings):
        path = folder / "samples.jsonl"
        there = {samples.key(line) for line in read_log(path)}
        older, vanilla = samples.older(settings, folder), samples.vanilla(settings)
        sampler = functools.cache(lambda: _sampler(settings))  # loaded once, and only if there is something to say
        for name in _policies(settings):
            for decoding in settings.decodings:
                for start in range(0, len(rows), BLOCK):
                    block = rows[start : start + BLOCK]
                    if all((name, decoding, row["id"]) in there for row in block):
                        continue
                    given = [samples.given(name, decoding, row, older, vanilla) for row in block]
                    voice = _Voice(settings, sampler, name, decoding, start)
                    lines = tries(voice, block, given)
                    append_jsonl(path, [line for line in lines if samples.key(line) not in there])


def test_rows(settings: Settings) -> list[dict]:
    """The rows of the test split; DataError where one of them is a row of train or dev too."""
    from rrr_utils import failures  # torch only where something is generated

    train, dev = failures.queries(settings)
    test = failures.load_rows(settings, "test", settings.test_items)
    tasks.disjoint(tasks.get(settings.task), {"train": train, "dev": dev, "test": test})
    return test


def finish(settings: Settings) -> dict:
    """Write the stage's result; returns it. Raises ResultsError where a line is missing."""
    if (result := runs.done(settings, "evaluate")) is not None:
        return result
    ids = [row["id"] for row in test_rows(settings)]
    with runs.begin(settings, "evaluate") as (folder, settings):
        path = folder / "samples.jsonl"
        lines = read_log(path)
        wanted = {(name, how, item) for name in _policies(settings) for how in settings.decodings for item in ids}
        if missing := wanted - {samples.key(line) for line in lines}:
            name, how, item = min(missing)
            raise ResultsError(
                f"{path} lacks {len(missing)} of {len(wanted)} lines ({name}, {how}, '{item}' is one): "
                "the evaluation is not finished, run evaluation.generate again"
            )
        summary = {"items": len(ids), "tokens": generated_tokens(lines), "adopted": samples.adopted(lines)}
        return runs.finish(settings, "evaluate", [path], summary)


def _policies(settings: Settings) -> tuple[str, ...]:
    return ("vanilla",) if settings.seed is None else settings.policies


def _sampler(settings: Settings) -> "HFSampler":
    from rrr_utils.policy import load_policy
    from rrr_utils.sampling import HFSampler

    adapter = None if settings.seed is None else runs.stage_dir(settings, "train") / "adapter"
    return HFSampler(load_policy(settings, adapter), settings.sample_batch)


class _Voice(NamedTuple):
    """Who speaks in a block of tries, and how."""

    settings: Settings
    sampler: Callable[[], "HFSampler"]
    policy: str
    decoding: str
    seed: int  # of the block; every kind of text adds its own salt

    def say(
        self, asked: list, what: str, tokens: int, salt: int, heat: float | None = None, reflecting: bool = False
    ) -> "list[Completion]":
        """A completion of each conversation. The reflector's adapter is on only while it reflects."""
        if not asked:
            return []
        if heat is None:
            heat = 0.0 if self.decoding == "greedy" else self.settings.temperature
        sampler, label = self.sampler(), f"{self.policy}, {self.decoding}: {what}"
        base = self.policy == "reflector" and not reflecting
        with sampler.policy.adapter_off() if base else contextlib.nullcontext():
            return [own[0] for own in sampler.sample(asked, 1, tokens, heat, 101 * self.seed + salt, label)]


def tries(voice: _Voice, rows: list[dict], given: list[dict | None]) -> list[dict]:
    """Lines of `samples.jsonl` for a block of rows; what `given` holds of a line already is not generated again."""
    s, task = voice.settings, tasks.get(voice.settings.task)
    lines = [dict(line) if line else {"id": row["id"]} for row, line in zip(rows, given, strict=True)]
    new = [k for k, line in enumerate(lines) if "attempt" not in line]
    asked = [conversation.attempt(task, rows[k], s.chain_of_thought) for k in new]
    for k, said in zip(new, voice.say(asked, "first try", s.attempt_tokens, 1), strict=True):
        row = rows[k]
        verdict = tasks.verify(task, said.text, row)._asdict()
        lines[k] |= {"cluster": row["cluster"], "row": row, "attempt": said.text, "attempt_tokens": said.tokens}
        lines[k] |= {"verdict": verdict, "second": {}}
    who = {"policy": voice.policy, "seed": s.seed, "decoding": voice.decoding}
    lines = [{"id": line["id"], **who, **{k: v for k, v in line.items() if k not in who}} for line in lines]
    failed = [line for line in lines if not tasks.is_right(line["verdict"], s.verdict)]
    for control, add in (("own", _own), ("blind", _blind), ("blind_budget", _blind_budget)):
        add(voice, task, [line for line in failed if control not in line["second"]])
    for line in failed:  # always in the same order, whatever was given
        line["second"] = {control: line["second"][control] for control in CONTROLS}
    return lines


def _own(voice: _Voice, task: ModuleType, lines: list[dict]) -> None:
    """Adds the second try after the model's own reflection."""
    s, cot = voice.settings, voice.settings.chain_of_thought
    asked = [conversation.reflect(task, line["row"], line["attempt"], cot) for line in lines]
    thoughts = voice.say(asked, "reflection", s.reflection_tokens, 2, reflecting=True)
    again = [
        conversation.retry(task, line["row"], line["attempt"], thought.text, cot)
        for line, thought in zip(lines, thoughts, strict=True)
    ]
    retries = voice.say(again, "retry", s.attempt_tokens, 3)
    for line, thought, retry in zip(lines, thoughts, retries, strict=True):
        verdict = tasks.verify(task, retry.text, line["row"])._asdict()
        texts = {"reflection": thought.text, "retry": retry.text, "verdict": verdict}
        line["second"] |= {"own": {**texts, "reflection_tokens": thought.tokens, "retry_tokens": retry.tokens}}


def _blind(voice: _Voice, task: ModuleType, lines: list[dict]) -> None:
    """Adds the second try without a reflection."""
    s = voice.settings
    asked = [conversation.blind_retry(task, line["row"], line["attempt"], s.chain_of_thought) for line in lines]
    for line, said in zip(lines, voice.say(asked, "blind retry", s.attempt_tokens, 4), strict=True):
        verdict = tasks.verify(task, said.text, line["row"])._asdict()
        entry = {"reflection": "", "retry": said.text, "verdict": verdict, "retry_tokens": said.tokens}
        line["second"] |= {"blind": entry}


def _blind_budget(voice: _Voice, task: ModuleType, lines: list[dict]) -> None:
    """Adds the best of as many sampled blind retries as cost the tokens of the own one; the blind one is first."""
    s = voice.settings
    for line in lines:
        first = line["second"]["blind"]
        entry = {"retries": [first["retry"]], "verdicts": [first["verdict"]], "verdict": first["verdict"]}
        line["second"] |= {"blind_budget": {**entry, "tokens": first["retry_tokens"]}}
    for number in range(1, MOST_RETRIES):
        left = [line for line in lines if _buys_one_more(**line["second"])]
        if not left:
            break
        asked = [conversation.blind_retry(task, line["row"], line["attempt"], s.chain_of_thought) for line in left]
        said = voice.say(asked, f"blind retry {number + 1}", s.attempt_tokens, 10 + number, s.temperature)
        for line, completion in zip(left, said, strict=True):
            spent = line["second"]["blind_budget"]
            verdict = tasks.verify(task, completion.text, line["row"])._asdict()
            spent["retries"].append(completion.text)
            spent["verdicts"].append(verdict)
            spent["tokens"] += completion.tokens
            if tasks.is_right(verdict, s.verdict) and not tasks.is_right(spent["verdict"], s.verdict):
                spent["verdict"] = verdict


def _buys_one_more(own: dict, blind_budget: dict, **_: dict) -> bool:
    spent = blind_budget["tokens"]
    return spent + spent / len(blind_budget["retries"]) <= own["reflection_tokens"] + own["retry_tokens"]


def show(settings: Settings, row: dict) -> str:
    """One problem in words, greedily: the base model's attempt, then reflection and retry before and after training."""
    task = tasks.get(settings.task)
    if why := getattr(task, "flaw", lambda row: None)(row):
        return f"This problem cannot be posed: {why}"
    sampler = functools.cache(lambda: _sampler(settings))
    base = settings.model_copy(update={"seed": None})
    with sampler().policy.adapter_off():
        [before] = tries(_Voice(base, sampler, "vanilla", "greedy", 0), [row], [None])
    mark = _mark(before["verdict"])
    lines = [f"task         {tasks.prompt(task, row)}", f"attempt      {before['attempt']}   {mark}"]
    if not before["second"]:
        return "\n".join([*lines, "The first try is right: there is nothing to reflect on."])
    after = []
    if settings.seed is not None:
        known = {**before, "second": {"blind": before["second"]["blind"]}}
        after = [("trained", *tries(_Voice(settings, sampler, "reflector", "greedy", 0), [row], [known]))]
    for name, line in [("base model", before), *after]:
        own, mark = line["second"]["own"], _mark(line["second"]["own"]["verdict"])
        lines += ["", name, f"reflection   {own['reflection']}", f"retry        {own['retry']}   {mark}"]
    return "\n".join(lines)


def _mark(verdict: dict) -> str:
    return "right" if verdict["correct"] else f"wrong ({verdict['error']})"


def generated_tokens(lines: list[dict]) -> int:
    """Tokens of all tries together."""
    seconds = [line["second"] for line in lines if line["second"]]
    own = sum(second["own"]["reflection_tokens"] + second["own"]["retry_tokens"] for second in seconds)
    spent = sum(second["blind_budget"]["tokens"] for second in seconds)
    return own + spent + sum(line["attempt_tokens"] for line in lines)
