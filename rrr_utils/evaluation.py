"""Evaluation: first try, own-reflection second try and its controls, for each policy and decoding; every text kept.

The same 4-bit base, the unmerged adapter, the same prompts and token budgets before and after training. Block by block
of items is generated and appended to `samples.jsonl`, so that a killed run goes on where it was.
`python -m rrr_utils.report --rescore DIR` makes verdicts and cells again from the kept texts, without torch.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rrr_utils import conversation, files, runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.settings import Settings

if TYPE_CHECKING:
    from rrr_utils.policy import Policy

#: items generated and appended at a time
BLOCK = 1024
#: most blind retries that the token budget of a reflection is spent on
MOST_RETRIES = 32


def generate(settings: Settings) -> None:
    """Every try of the untrained model (`seed` none), or of a trained one under each of its policies, into `samples.jsonl`."""
    if runs.done(settings, "evaluate"):
        return
    from rrr_utils.failures import load_rows  # torch only where something is generated
    from rrr_utils.policy import load_policy

    for above, stage in runs.upstream(settings, "evaluate"):
        if not runs.done(above, stage):
            raise ResultsError(f"no finished '{stage}' result in {runs.stage_dir(above, stage)}: run its notebook first")
    task = tasks.get(settings.task)
    rows = load_rows(task, settings, "test", settings.test_items)  # first: a hub set's identity is known once it was read
    path = runs.open_stage(settings, "evaluate") / "samples.jsonl"
    trained = None if settings.seed is None else runs.stage_dir(settings, "train") / "adapter"
    policy = load_policy(settings, trained)
    vanilla = {} if trained is None else vanilla_samples(settings)
    done = {(s["policy"], s["decoding"], s["id"]) for s in read_samples(path)}
    for name in ("vanilla",) if trained is None else settings.policies:
        for decoding in settings.decodings:
            for start in range(0, len(rows), BLOCK):
                block = [row for row in rows[start : start + BLOCK] if (name, decoding, row["id"]) not in done]
                if not block:
                    continue
                first = [vanilla[decoding, row["id"]] for row in block] if name == "reflector" else None
                files.append_jsonl(path, tries(task, settings, policy, block, name, decoding, start, first))


def finish(settings: Settings) -> dict:
    """Write the stage's result; returns it."""
    if (result := runs.done(settings, "evaluate")) is not None:
        return result
    path = runs.stage_dir(settings, "evaluate") / "samples.jsonl"
    samples = read_samples(path)
    if not samples:
        raise ResultsError(f"{path} holds nothing: generate first")
    summary = {"items": len({s["id"] for s in samples}), "tokens": generated_tokens(samples)}
    return runs.finish(settings, "evaluate", [path], summary, runs.began(path.parent))


def tries(
    task: ModuleType,
    settings: Settings,
    policy: Policy,
    rows: list[dict],
    name: str,
    decoding: str,
    seed: int,
    first: list[dict] | None = None,
) -> list[dict]:
    """Lines of `samples.jsonl` for a block of rows under one policy and decoding.

    `first`: the untrained model's own lines of the same rows, whose attempts and blind retries the `reflector` shares,
    since it is the untrained model but for its reflections.
    """
    from rrr_utils.sampling import HFSampler

    temperature = 0.0 if decoding == "greedy" else settings.temperature
    label = f"{name}, {decoding}: "
    sampler = HFSampler(policy, settings.sample_batch)

    def say(conversations: list, what: str, max_tokens: int, salt: int, heat: float = temperature) -> list:
        return [own[0] for own in sampler.sample(conversations, 1, max_tokens, heat, 101 * seed + salt, label + what)]

    def verdict(text: str, row: dict) -> dict:
        return task.verify(text, row)._asdict()

    def speaker():  # who attempts and retries
        from contextlib import nullcontext

        return policy.adapter_off() if name == "reflector" else nullcontext()

    cot = settings.chain_of_thought
    if first is None:
        attempts = say([conversation.attempt(task, row, cot) for row in rows], "first try", settings.attempt_tokens, 1)
        lines = [
            {"id": row["id"], "cluster": row["cluster"], "row": row, "policy": name, "seed": settings.seed, "decoding": decoding,
             "attempt": a.text, "attempt_tokens": a.tokens, "verdict": verdict(a.text, row), "second": {}}
            for row, a in zip(rows, attempts, strict=True)
        ]  # fmt: skip
    else:
        lines = [{**line, "policy": name, "seed": settings.seed, "second": {}} for line in first]
    key = "correct" if settings.verdict == "strict" else "lenient"
    failed = [k for k, line in enumerate(lines) if not line["verdict"][key]]
    told = [(lines[k]["row"], lines[k]["attempt"]) for k in failed]

    reflections = say([conversation.reflect(task, row, a, cot) for row, a in told], "reflection", settings.reflection_tokens, 2)
    with speaker():
        again = [conversation.retry(task, row, a, r.text, cot) for (row, a), r in zip(told, reflections, strict=True)]
        own = say(again, "retry", settings.attempt_tokens, 3)
        blind_asked = [conversation.blind_retry(task, row, a, cot) for row, a in told]
        if first is None:
            blind = [{"reflection": "", "retry": b.text, "verdict": verdict(b.text, row), "retry_tokens": b.tokens}
                     for (row, _), b in zip(told, say(blind_asked, "blind retry", settings.attempt_tokens, 4), strict=True)]  # fmt: skip
        else:
            blind = [first[k]["second"]["blind"] for k in failed]
        budgets = [r.tokens + o.tokens for r, o in zip(reflections, own, strict=True)]
        spent = [{"retries": [b["retry"]], "verdicts": [b["verdict"]], "verdict": b["verdict"], "tokens": b["retry_tokens"]} for b in blind]
        for number in range(1, MOST_RETRIES):  # as many sampled blind retries as the reflection's tokens buy, best of them
            left = [i for i, s in enumerate(spent) if s["tokens"] + s["tokens"] / len(s["retries"]) <= budgets[i]]
            if not left:
                break
            more = say(
                [blind_asked[i] for i in left], f"blind retry {number + 1}", settings.attempt_tokens, 10 + number, settings.temperature
            )
            for i, completion in zip(left, more, strict=True):
                one = verdict(completion.text, told[i][0])
                spent[i]["retries"].append(completion.text)
                spent[i]["verdicts"].append(one)
                spent[i]["tokens"] += completion.tokens
                if one[key] and not spent[i]["verdict"][key]:
                    spent[i]["verdict"] = one
    for i, k in enumerate(failed):
        line, row = lines[k], told[i][0]
        line["second"] = {
            "own": {"reflection": reflections[i].text, "retry": own[i].text, "verdict": verdict(own[i].text, row),
                    "reflection_tokens": reflections[i].tokens, "retry_tokens": own[i].tokens},
            "blind": blind[i],
            "blind_budget": spent[i],
        }  # fmt: skip
    return lines


def show(settings: Settings, row: dict) -> str:
    """One problem in words: the untrained model's attempt, then reflection and retry before and after training (greedy).

    The attempt is the untrained model's, so that both reflect on the same failure. A row that the task cannot read ends in a sentence.
    """
    from rrr_utils.policy import load_policy

    task = tasks.get(settings.task)
    policy = load_policy(settings, None if settings.seed is None else runs.stage_dir(settings, "train") / "adapter")
    with policy.adapter_off():
        before = tries(task, settings, policy, [row], "vanilla", "greedy", 0)
    lines = [f"task         {task.prompt(row)}", f"attempt      {before[0]['attempt']}   {_mark(before[0]['verdict'])}"]
    if not before[0]["second"]:
        return "\n".join([*lines, "The first try is right: there is nothing to reflect on."])
    after = [] if settings.seed is None else tries(task, settings, policy, [row], "reflector", "greedy", 0, before)
    for name, samples in (("untrained", before), ("trained", after)):
        for own in (sample["second"]["own"] for sample in samples):
            lines += ["", f"{name}", f"reflection   {own['reflection']}", f"retry        {own['retry']}   {_mark(own['verdict'])}"]
    return "\n".join(lines)


def _mark(verdict: dict) -> str:
    return "right" if verdict["correct"] else f"wrong ({verdict['error']})"


def vanilla_samples(settings: Settings) -> dict[tuple[str, str], dict]:
    """The untrained model's lines, by decoding and id."""
    untrained = settings.model_copy(update={"seed": None})
    return {(s["decoding"], s["id"]): s for s in read_samples(runs.stage_dir(untrained, "evaluate") / "samples.jsonl")}


def read_samples(path: Path) -> list[dict]:
    """The lines of `samples.jsonl`; none where it was not begun."""
    return files.read_jsonl(path) if path.exists() else []


def generated_tokens(samples: list[dict]) -> int:
    """Tokens that the lines took, all tries together."""
    seconds = [s["second"] for s in samples if s["second"]]
    own = sum(second["own"]["reflection_tokens"] + second["own"]["retry_tokens"] for second in seconds)
    return own + sum(s["attempt_tokens"] for s in samples) + sum(second["blind_budget"]["tokens"] for second in seconds)
