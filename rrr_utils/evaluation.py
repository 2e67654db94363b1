"""Evaluation: first try, second try after the own reflection and each control (controls.py), by policy and decoding.

The same 4-bit base, the unmerged adapter, the same prompts and token limits before and after training. Every text is
kept in `samples.jsonl`, a block of items at a time, so a killed run goes on where it was; what an older evaluation has
already is taken over (`samples.py`). Cells are counted in `report/`.
"""

import functools
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrr_utils import backends, bar, controls, conversation, forecast, gpus, machine, runs, samples, tasks
from rrr_utils.bar import Planned, Progress, Told
from rrr_utils.controls import Voice
from rrr_utils.errors import ResultsError
from rrr_utils.files import append_jsonl, read_log, write_jsonl
from rrr_utils.settings import EVERY_ITEM, Settings

if TYPE_CHECKING:
    from rrr_utils.engines import Sampler

#: items generated and appended at a time
BLOCK = 1024
#: from so many items on, the embedded model's policies and decodings are shared out over the cores
SEVERAL = 500
#: in a process that generates: where its parent hears how far it is
_HEARD: list = []


def generate(settings: Settings) -> None:
    """Every try of the base model (`seed` none), or of a trained one under each policy, into `samples.jsonl`."""
    if runs.already(settings, "evaluate"):
        return
    rows = test_rows(settings)  # before the folder is begun: bad data leaves none
    with runs.begin(settings, "evaluate", machine.resolve) as (folder, settings):
        parts = [(name, decoding) for name in _policies(settings) for decoding in settings.decodings]
        _gather(folder, rows, parts)  # what an interrupted run has left
        with bar.whole(settings, folder, len(rows), parts) as (planned, told):
            try:
                if (number := _processes(settings, len(rows), len(parts))) > 1:
                    _in_processes(settings, folder, rows, parts, number, planned, told)
                else:
                    _write(settings, folder, rows, parts, folder / "samples.jsonl", planned, told)
            finally:
                _kept_sampler.cache_clear()
        _gather(folder, rows, parts)


def _write(
    settings: Settings,
    folder: Path,
    rows: list[dict],
    parts: list[tuple[str, str]],
    path: Path,
    planned: Planned,
    told: Told | None = None,
) -> None:
    """Append the missing lines of these policies and decodings to a file, a block of items at a time."""
    there = {samples.key(line) for one in {path, folder / "samples.jsonl"} for line in read_log(one)}
    older, vanilla = samples.older(settings, folder), samples.vanilla(settings)
    sampler = functools.partial(_kept_sampler, settings)  # loaded only if there is something to say
    for name, decoding in parts:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            if all((name, decoding, row["id"]) in there for row in block):
                continue
            given = [samples.given(name, decoding, row, older, vanilla) for row in block]
            progress = Progress(
                f"{name}, {decoding}", planned.get((name, decoding), {}), told or _tell_parent, len(block)
            )
            voice = Voice(settings, sampler, name, decoding, start, progress)
            first = (name, decoding, start) == (_policies(settings)[0], settings.decodings[0], 0)
            begun = len(block) / len(rows) if first and not (there or older) else 0
            with forecast.timed(settings, "evaluate", begun):
                lines = tries(voice, block, given)
            append_jsonl(path, [line for line in lines if samples.key(line) not in there])


def _processes(settings: Settings, items: int, parts: int) -> int:
    """How many processes generate. Several only for the embedded model, which each of them loads, on a CPU; and not for
    the base model's evaluation, which runs beside a training."""
    if settings.model != "embedded" or settings.seed is None or items < SEVERAL or gpus.visible():
        return 1
    return min(parts, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _in_processes(
    settings: Settings,
    folder: Path,
    rows: list[dict],
    parts: list[tuple[str, str]],
    number: int,
    planned: Planned,
    told: Told,
) -> None:
    """The same texts by several processes, each with a file of its own for a policy and decoding. Raises ResultsError
    where one was killed."""
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([backends.__name__, "rrr_utils.policy"])  # imported once, not by each of them
    heard, over = context.SimpleQueue(), threading.Event()

    def listen() -> None:
        while not heard.empty() or not over.wait(0.2):
            while not heard.empty():
                told(*heard.get())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        with ProcessPoolExecutor(number, context, _begin_process, (heard,)) as pool:
            try:
                paths = [folder / f"samples-{'-'.join(part)}.part.jsonl" for part in parts]
                each = zip(parts, paths, strict=True)
                given = [(settings, folder, rows, [part], path, planned) for part, path in each]
                for written in [pool.submit(_write, *one) for one in given]:
                    written.result()
            except KeyboardInterrupt:  # else the pool would wait for what it has begun
                for child in multiprocessing.active_children():
                    child.kill()
                raise
    except BrokenProcessPool:
        raise ResultsError("a process that generates was killed (out of memory?): the same command goes on") from None
    finally:
        over.set()
        listener.join(2)  # no longer: a process that was killed may have left half of what it told


def _begin_process(heard: Any) -> None:
    _HEARD.append(heard)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends this process
    backends.end_with_parent()


def _tell_parent(seconds: float, what: str) -> None:
    _HEARD[0].put((seconds, what))


def _gather(folder: Path, rows: list[dict], parts: list[tuple[str, str]]) -> None:
    """Bring what processes have written into `samples.jsonl`, in the order that one process has."""
    path, left = folder / "samples.jsonl", sorted(folder.glob("samples-*.part.jsonl"))
    if left:
        lines = {samples.key(line): line for one in [path, *left] for line in read_log(one)}
        places = {(*part, row["id"]): k for k, (part, row) in enumerate((p, row) for p in parts for row in rows)}
        write_jsonl(path, [lines[key] for key in sorted(lines, key=lambda key: places.get(key, len(places)))])
        for one in left:
            one.unlink()


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
    with runs.begin(settings, "evaluate", machine.resolve) as (folder, settings):
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


def sampler_of(settings: Settings) -> "Sampler":
    """A sampler over the base model, or over the trained one of a seed."""
    from rrr_utils import engines

    adapter = None if settings.seed is None else runs.stage_dir(settings, "train") / "adapter"
    return engines.make_sampler(settings, adapter)


@functools.lru_cache(maxsize=1)
def _kept_sampler(settings: Settings) -> "Sampler":
    """The sampler of this process, which may write several policies and decodings: loaded once."""
    return sampler_of(settings)


def tries(voice: Voice, rows: list[dict], given: list[dict | None]) -> list[dict]:
    """Lines of `samples.jsonl` for a block of rows; what `given` holds of a line already is not generated again."""
    s, task = voice.settings, tasks.get(voice.settings.task)
    lines = [dict(line) if line else {"id": row["id"]} for row, line in zip(rows, given, strict=True)]
    new = [k for k, line in enumerate(lines) if "attempt" not in line]
    asked = [conversation.attempt(task, rows[k], s.chain_of_thought) for k in new]
    with voice.trying("first", len(asked)):
        firsts = voice.say(asked, "first try", s.attempt_tokens, 1)
    for k, said in zip(new, firsts, strict=True):
        row = rows[k]
        verdict = tasks.verify(task, said.text, row)._asdict()
        lines[k] |= {"cluster": row["cluster"], "row": row, "attempt": said.text, "attempt_tokens": said.tokens}
        lines[k] |= {"verdict": verdict, "second": {}}
    who = {"policy": voice.policy, "seed": s.seed, "decoding": voice.decoding}
    lines = [{"id": line["id"], **who, **{k: v for k, v in line.items() if k not in who}} for line in lines]
    failed, wanted = [line for line in lines if not tasks.is_right(line["verdict"], s.verdict)], controls.chosen(s)
    for line in failed:
        if "own" not in line["second"]:  # it was right before: `always` is a copy of what comes now
            line["second"].pop("always", None)
    for control in [name for name in wanted if name not in EVERY_ITEM]:
        if left := [line for line in failed if control not in line["second"]]:
            with voice.trying(control, len(left)):  # donors are of the whole block
                controls.ADD[control](voice, task, failed if control == "swapped" else left)
    for control in [name for name in wanted if name in EVERY_ITEM]:
        left = [line for line in lines if control not in line["second"]]
        with voice.trying(control, len(left)):
            controls.ADD[control](voice, task, left)
    for line in lines:  # always in the same order, whatever was given
        line["second"] = {control: line["second"][control] for control in wanted if control in line["second"]}
    return lines


def generated_tokens(lines: list[dict]) -> int:
    """Tokens of all tries together; `always` of a failed item is its own try, counted once."""
    tokens = sum(line["attempt_tokens"] for line in lines)
    for second in (line["second"] for line in lines):
        for entry in [second[name] for name in second if name != "always" or "own" not in second]:
            tokens += sum(entry.get(name, 0) for name in ("reflection_tokens", "retry_tokens", "tokens"))
    return tokens
