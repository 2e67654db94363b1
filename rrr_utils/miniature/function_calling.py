"""The corpus of the embedded model for function calling (notebook A1).

From these documents alone the model learns to answer queries with calls, to write several kinds of reflection, and to
use what a reflection says. Two kinds help: `values` works out every argument, `tool` says which of two look-alikes
fits; neither writes a call. The shares were fixed before any figure of dev was seen, and before any reinforcement
learning. All queries come from the *pretrain* split; failed attempts hold no call of dev or test.
"""

import functools
import json
import random
from collections.abc import Callable
from typing import Any

from rrr_utils import conversation, tasks
from rrr_utils.miniature.documents import Document, asked, said
from rrr_utils.tasks import function_calling, toolbox
from rrr_utils.tasks import function_calling_rows as rows
from rrr_utils.tasks.function_calling_rows import Call, Chain, Problem
from rrr_utils.tasks.procedural import HELD_OUT

TASK = function_calling
STEPS = 4600  # of the pre-training
#: share of problems with two calls: more than the rows have, since they are what is hard (results/tiny/RECIPE.md)
TWO_CALLS = 0.5
#: share of documents by kind
MIXTURE = {
    "answer": 0.28, "own": 0.30, "blind": 0.05, "generic": 0.03, "other": 0.02, "masked": 0.02, "cut": 0.02,
    "worked": 0.20, "drill": 0.08,
}  # fmt: skip
KINDS = {"empty": 0.25, "form": 0.20, "echo": 0.20, "tool": 0.17, "values": 0.18}  # share of reflections
#: lessons: first chunk (of `pretraining.CHUNK` documents), share of practice, its sort
LESSONS = ((0, 0.85, "parts"), (6, 0.50, "parts"), (14, 0.20, "parts"), (22, 0.45, "answers"))
PARTS = {"parts": {"drill": 0.25, "worked": 0.75}, "answers": {"answer": 0.70, "own": 0.30}}  # practice by lesson
RIGHT = {"answer": 0.95, "retry": 0.55, "values": 0.98}  # right answers: direct, on a retry, after the values
REPEATED = 0.3  # share of retries where the repeated question is learnt too: a drill in copying
EMPTY = ("I should be more careful.", "I made a mistake and will try again.", "I will read the query again.")
FORM = ("I must write a JSON array of calls.", "I must write the calls and nothing else.")
DRILL = "Write down some sums."
WORKED = "Write down the values of the arguments first."


def clauses(call: Call) -> list[str]:
    """How each argument of a call comes about, in the order of its parameters.

    >>> clauses(example().calls[0])
    ['item is stove', 'today is day 41', 'today is 4 days after the parade', '41 - 4 = 37', 'day is 37']
    """
    told = []
    for name, value in call.arguments.items():
        told += worked_out(call.chains[name]) if name in call.chains else []
        told.append(f"{name} is {value}")
    return told


def worked_out(chain: Chain) -> list[str]:
    """Where a chain begins, and each of its sums after the fact that it rests on, word for word."""
    facts = rows.facts_of(chain)
    told, before = facts[:1], chain.start
    for fact, step in zip(facts[1:], chain.steps, strict=True):
        told += [fact, f"{before} {step.op} {step.by} = {step.made}"]
        before = step.made
    return told


def values(problem: Problem) -> str:
    """The reflection that works out every argument.

    >>> values(example())
    'Values: item is stove; today is day 41; today is 4 days after the parade; 41 - 4 = 37; day is 37.'
    """
    return f"Values: {'; '.join(clause for call in problem.calls for clause in clauses(call))}."


def tool(problem: Problem) -> str:
    """The reflection that says which of two look-alike tools fits.

    >>> tool(example())
    'Tool: day is before today; price_history fits; price_forecast does not.'
    """
    told = []
    for call in problem.calls:
        if call.twin:
            told.append(f"{call.kind['turns_on']} is {toolbox.sides(call.kind)[call.name == call.kind['other']]}")
        told.append(f"{call.name} fits")
        told += [f"{call.twin} does not"] if call.twin else []
    return f"Tool: {'; '.join(told)}."


def echo(calls: list[dict]) -> str:
    """The failed calls in words."""
    parts = [
        f"{call['name']} with {' and '.join(f'{name} {value}' for name, value in call['arguments'].items())}"
        for call in calls
    ]
    return f"I called {', then '.join(parts)}."


@functools.cache
def example() -> Problem:
    """A problem that stands for all: "price of a stove on the day of the parade"."""
    kind = next(kind for kind in toolbox.KINDS if "price_history" in kind["names"])
    step = rows.Step("parade", "-", 4, 37, "today is 4 days after the parade")
    chain = Chain("day", "today", 41, (step,))
    call = Call("price_history", "price_forecast", kind, {"item": "stove", "day": 37}, {"day": chain})
    return Problem((call,), 41, rows.row_of(random.Random(0), [call], 41))


def written(calls: list[dict]) -> str:
    """Calls as an answer writes them."""
    return json.dumps(calls)


def wrong(problem: Problem, rng: random.Random, same_tools: bool = False) -> list[dict]:
    """Calls as a model gets them wrong: a number that is worked out wrongly, most of all. Nothing held out is in them.

    `same_tools`: the tools are the gold ones.
    """
    gold = [call.plain for call in problem.calls]
    while True:
        calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in problem.calls]
        k = rng.randrange(len(calls))
        call, source, what = calls[k], problem.calls[k], rng.random()
        if source.chains and what < 0.68:
            name = rng.choice(sorted(source.chains))
            call["arguments"][name] = missed(source.chains[name], rng)
            if not same_tools and rng.random() < 0.7:
                call["name"] = toolbox.fitting(source.kind, call["arguments"], problem.today)
        elif source.twin and what < 0.9 and not same_tools:
            call["name"] = source.twin
        elif len(calls) == 2 and what < 0.95 and not same_tools:
            del calls[k]
        elif words := [name for name in call["arguments"] if name not in source.chains]:
            name = rng.choice(words)
            call["arguments"][name] = rng.choice(toolbox.WORDS[name])
        if calls != gold and not any(rows.split_of(rows.call_key(c)) in HELD_OUT for c in calls):
            return calls


def missed(chain: Chain, rng: random.Random) -> int:
    """A number near that of a chain: a step left out or taken the other way, or a sum missed by a little."""
    off = chain.value + rng.choice((-3, -2, -1, 1, 2, 3))
    if chain.steps and rng.random() < 0.7:
        k = rng.randrange(len(chain.steps))
        sums = [(step.op, step.by) for step in chain.steps]
        turned = {"+": "-", "-": "+", "*": "+"}[sums[k][0]]
        sums[k : k + 1] = [(turned, sums[k][1])] if rng.random() < 0.5 else []
        off = chain.start
        for op, by in sums:
            off = rows.result(off, op, by)
    return min(max(off, 1), rows.LARGEST)


def answer(problem: Problem, after: str, rng: random.Random) -> dict[str, str]:
    """An answer that is right with the probability `RIGHT[after]`; after `tool` the tools always are."""
    if rng.random() < RIGHT.get(after, RIGHT["retry"]):
        return said(written([call.plain for call in problem.calls]))
    return said(written(wrong(problem, rng, after == "tool")))


def reflection(kind: str, problem: Problem, failed: list[dict], rng: random.Random) -> str:
    """A reflection of a kind."""
    if kind in ("empty", "form"):
        return rng.choice(EMPTY if kind == "empty" else FORM)
    return echo(failed) if kind == "echo" else tool(problem) if kind == "tool" else values(problem)


def drill(rng: random.Random) -> str:
    """Ten sums; none goes on with the result of the one before it."""
    facts, last = [], None
    while len(facts) < 10:
        op = rng.choice("++++----*")
        a, by = rng.randint(1, rows.LARGEST), rng.randint(2, 3) if op == "*" else rng.randint(1, 9)
        a = a // by if op == "*" else a
        made = rows.result(a, op, by)
        if 1 <= made <= rows.LARGEST and a != last:
            facts.append(f"{a} {op} {by} = {made}")
            last = made
    return f"Sums: {'; '.join(facts)}."


def problems() -> Callable[[random.Random], Problem]:
    """A function that draws the corpus's next problem."""

    def draw(rng: random.Random) -> Problem:
        calls = 2 if rng.random() < TWO_CALLS else 1
        return rows.draw_problem(rng, "pretrain", (calls, calls), (0, 3))

    return draw


def document(draw: Callable[[random.Random], Problem], rng: random.Random, chunk: int | None = None) -> Document:
    """A document of a chunk of the training (`LESSONS`); None: of `MIXTURE` alone."""
    begun = [lesson for lesson in LESSONS if chunk is not None and lesson[0] <= chunk]
    _, share, sort = begun[-1] if begun else (0, 0.0, "")
    shares = PARTS[sort] if rng.random() < share else MIXTURE
    return of_kind(rng.choices(list(shares), list(shares.values()))[0], draw, rng)


def of_kind(kind: str, draw: Callable[[random.Random], Problem], rng: random.Random) -> Document:
    """A document of a kind; an own reflection is returned under its kind (`own_values`)."""
    if kind == "drill":
        return kind, asked(DRILL, drill(rng)), [False, True]
    problem = draw(rng)
    row = problem.row
    if kind == "worked":
        if rng.random() < 0.7:
            return kind, [*conversation.outright(TASK, row, WORKED), said(values(problem))], [False, True]
        messages = conversation.after_outright(TASK, row, WORKED, values(problem))
        return kind, [*messages, answer(problem, "values", rng)], [False, True, rng.random() < REPEATED, True]
    if kind == "answer":
        return kind, [*conversation.attempt(TASK, row), answer(problem, "answer", rng)], [False, True]
    failed = wrong(problem, rng)
    if kind == "blind":
        messages = conversation.blind_retry(TASK, row, written(failed))
        return kind, [*messages, answer(problem, "retry", rng)], [False, False, rng.random() < REPEATED, True]
    which, after = rng.choices(list(KINDS), list(KINDS.values()))[0], "retry"
    if kind == "own":
        text, kind, after = reflection(which, problem, failed, rng), f"own_{which}", which
    elif kind == "generic":
        text = TASK.GENERIC
    elif kind == "other":  # a reflection on another problem
        theirs = draw(rng)
        text = reflection(which, theirs, wrong(theirs, rng), rng)
    elif kind == "masked":  # one that helps, without its numbers
        text = TASK.mask(reflection(rng.choice(("values", "values", "tool")), problem, failed, rng), row)
    else:
        text = tasks.cut(TASK, values(problem), row)
    learnt = [False, False, False, kind.startswith("own"), rng.random() < REPEATED, True]
    return kind, [*conversation.retry(TASK, row, written(failed), text), answer(problem, after, rng)], learnt


def lessons(tokenizer: Any) -> dict:
    """No lesson learns a part of a message."""
    return {}
