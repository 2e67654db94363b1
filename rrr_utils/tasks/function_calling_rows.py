"""Made-up rows of function calling: queries whose arguments are copied or worked out in up to three sums.

    Facts: today is 4 days after the parade; today is day 41. Please: price of a stove on the day of the parade.
    ->  [{"name": "price_history", "arguments": {"item": "stove", "day": 37}}]

Their shape is APIGen's (query, tools, answers), the words are data/toolbox.yaml's. Which of two look-alike tools fits
turns on what is worked out. The splits share no call (name and arguments) and no chain of sums: a chain is what it
begins with and its steps, whatever their order. What is one sum (41 - 4 = 37) is shared by all splits.
"""

import functools
import hashlib
import itertools
import json
import random
from collections.abc import Sequence
from typing import NamedTuple

from rrr_utils.errors import DataError
from rrr_utils.tasks import procedural
from rrr_utils.tasks.calls import cluster_of
from rrr_utils.tasks.procedural import HELD_OUT
from rrr_utils.tasks.toolbox import KINDS, QUANTITIES, SCHEMAS, WORDS, fitting

#: what the embedded model is made for: one call or two, whose arguments take up to three sums together
DEFAULT = "procedural:calls=1-2,sums=0-3"
#: how what a source asks for is written
FORMS = {
    "calls": (r"[12]|1-2", "1, 2 or 1-2"), "sums": (r"[0-3]|0-[1-3]|1-[23]|2-3", "0 to 3, or a range such as 2-3"),
}  # fmt: skip
SUMS = (0.12, 0.18, 0.20, 0.50)  # share of rows by number of sums
TWO_CALLS = 0.2  # share of rows with two calls
TIMES = 0.2  # share of multiplications where there are any
LARGEST = 120  # largest number
OFFERED = 4  # most tools a row
OPENERS = ("Please: ", "I need: ", "Now: ")


class Step(NamedTuple):
    """One sum: what it makes of the number before, which is that of an entity, and the fact that says so."""

    entity: str
    op: str
    by: int
    made: int
    told: str


class Chain(NamedTuple):
    """How a quantity is worked out. `base` is None where the question says the number itself."""

    quantity: str
    base: str | None
    start: int
    steps: tuple[Step, ...]

    @property
    def value(self) -> int:
        """What comes out."""
        return self.steps[-1].made if self.steps else self.start


class Call(NamedTuple):
    """A gold call: its tool's name, the name of the look-alike (or None), arguments, and how numbers are worked out."""

    name: str
    twin: str | None
    kind: dict
    arguments: dict[str, str | int]
    chains: dict[str, Chain]

    @property
    def plain(self) -> dict:
        """The call as an answer holds it."""
        return {"name": self.name, "arguments": self.arguments}


class Problem(NamedTuple):
    """A row and what it was made of."""

    calls: tuple[Call, ...]
    today: int
    row: dict


#: the split of a call or of a chain, written as text; most are asked for again and again
split_of = functools.lru_cache(maxsize=1 << 17)(procedural.split_of)


def call_key(call: dict) -> str:
    """A call as text, whatever the order of its arguments."""
    return json.dumps(call, sort_keys=True)


def chain_keys(chain: Chain) -> list[str]:
    """The chain as text, whatever the order of its steps, and every run of two steps or more in it; the whole first.

    >>> steps = (Step("parade", "-", 4, 37, "today is 4 days after the parade"), Step("fair", "+", 3, 40, "..."))
    >>> chain_keys(Chain("day", "today", 41, steps))
    ['41 +3 -4']
    """
    keys = []
    for length in range(len(chain.steps), 1, -1):
        for first in range(len(chain.steps) - length + 1):
            start = chain.steps[first - 1].made if first else chain.start
            steps = sorted(f"{step.op}{step.by}" for step in chain.steps[first : first + length])
            keys.append(" ".join([str(start), *steps]))
    return keys


def belongs(call: Call, split: str) -> bool:
    """Whether a call and its chains are the split's own, and hold nothing out that the split may not hold."""
    if split_of(call_key(call.plain)) != split:
        return False
    for chain in call.chains.values():
        whole, *parts = chain_keys(chain) or [None]
        if whole and split_of(whole) != split:
            return False
        if split not in HELD_OUT and any(split_of(part) in HELD_OUT for part in parts):
            return False
    return True


def result(a: int, op: str, by: int) -> int:
    """The value of a sum."""
    return a + by if op == "+" else a - by if op == "-" else a * by


def draw_chain(rng: random.Random, quantity: str, sums: int, today: int, entities: list[str]) -> Chain:
    """A chain of so many sums; its entities are taken from the list."""
    spec = QUANTITIES[quantity]
    low, high = spec["least"], spec["most"]
    if sums == 0:
        if "base" in spec and rng.random() < 0.2:
            return Chain(quantity, spec["base"], today, ())
        return Chain(quantity, None, rng.randint(low - 5, high + 24), ())
    base = spec.get("base") or f"the {entities.pop(0)}"
    names = [entities.pop(0) for _ in range(sums)]
    while True:
        value = start = today if "base" in spec else rng.randint(low, high)
        steps, before = [], base
        for name in names:
            op = "*" if spec.get("times") and rng.random() < TIMES else rng.choice("+-")
            by = rng.randint(2, 3) if op == "*" else rng.randint(1, 9)
            value = result(value, op, by)
            steps.append(Step(name, op, by, value, f"{before} {relation(rng, spec, op, by)} {name}"))
            before = f"the {name}"
        if all(1 <= step.made <= LARGEST for step in steps):
            return Chain(quantity, base, start, tuple(steps))


def relation(rng: random.Random, spec: dict, op: str, by: int) -> str:
    """How a fact says what a step does, as "is 4 days after the": what is named next is the one to work out."""
    if op == "*":
        return f"goes {by} times into the"
    return f"{spec['link']} {by} {rng.choice(spec['up' if op == '+' else 'down'])}"


def draw_call(rng: random.Random, sums: int, today: int, entities: dict[str, list[str]]) -> Call:
    """A call whose numbers take so many sums together."""
    while True:
        kind = rng.choice(KINDS)
        numbers = [p for p in kind["parameters"] if p in QUANTITIES]
        if numbers or not sums:
            break
    shares = dict.fromkeys(numbers, 0)
    for _ in range(sums):
        shares[rng.choice(numbers)] += 1
    chains = {name: draw_chain(rng, name, share, today, entities[name]) for name, share in shares.items()}
    arguments = {p: chains[p].value if p in chains else rng.choice(WORDS[p]) for p in kind["parameters"]}
    name = fitting(kind, arguments, today)
    twin = next((other for other in kind["names"] if other != name), None)
    return Call(name, twin, kind, arguments, chains)


def facts_of(chain: Chain) -> list[str]:
    """The facts that a chain rests on, in its order."""
    if chain.base is None:
        return []
    return [f"{chain.base} {QUANTITIES[chain.quantity]['starts']} {chain.start}", *(step.told for step in chain.steps)]


def asked_of(chain: Chain) -> str:
    """How the question says a quantity."""
    spec = QUANTITIES[chain.quantity]
    if chain.base is None:
        return f"{spec.get('at', '')}{chain.value}"
    return f"{spec['as']}{chain.steps[-1].entity}" if chain.steps else chain.base


def query_of(rng: random.Random, calls: Sequence[Call], today: int) -> str:
    """The query: facts, each chain's in its order, then what is asked."""
    facts = [fact for call in calls for chain in call.chains.values() for fact in facts_of(chain)]
    if any("day" in call.chains for call in calls):  # look-alikes turn on today
        facts.insert(0, f"today {QUANTITIES['day']['starts']} {today}")
    facts = list(dict.fromkeys(facts))
    asked = []
    for call in calls:
        words = {p: asked_of(call.chains[p]) if p in call.chains else call.arguments[p] for p in call.arguments}
        asked.append(rng.choice(call.kind["says"]).format(**words))
    told = f"Facts: {'; '.join(facts)}. " if facts else ""
    return f"{told}{rng.choice(OPENERS)}{', then '.join(asked)}."


def draw_problem(rng: random.Random, split: str, calls: tuple[int, int], sums: tuple[int, int]) -> Problem:
    """A problem of a split, with so many calls and sums (fewest, most)."""
    count = 2 if calls == (1, 2) and rng.random() < TWO_CALLS else calls[0]
    span = range(sums[0], sums[1] + 1)
    total = rng.choices(span, [SUMS[k] for k in span])[0]
    today = rng.randint(QUANTITIES["day"]["least"], QUANTITIES["day"]["most"])
    shares = [0] * count
    for _ in range(total):
        shares[rng.randrange(count)] += 1
    entities = {name: rng.sample(spec["entities"], len(spec["entities"])) for name, spec in QUANTITIES.items()}
    drawn: list[Call] = []
    for share in shares:
        while True:
            mine = {name: list(left) for name, left in entities.items()}
            call = draw_call(rng, share, today, mine)
            if belongs(call, split) and apart([*drawn, call]):
                break
        entities = mine
        drawn.append(call)
    return Problem(tuple(drawn), today, row_of(rng, drawn, today))


def apart(calls: Sequence[Call]) -> bool:
    """Whether calls and their chains cannot be mistaken for each other: no two of one kind, no two chains from
    today on, and none that seems to go on with the result of one before it."""
    chains = [chain for call in calls for chain in call.chains.values() if chain.steps]
    pairs = itertools.combinations(chains, 2)
    mixed = any(one.value == other.start or one.base == other.base for one, other in pairs)
    return not mixed and len({id(call.kind) for call in calls}) == len(calls)


def row_of(rng: random.Random, calls: Sequence[Call], today: int) -> dict:
    """The task's row: query, the tools that are offered, gold calls."""
    needed = [name for call in calls for name in (call.name, call.twin) if name]
    offered = rng.randint(len(needed), OFFERED)
    names = needed + rng.sample(sorted(SCHEMAS.keys() - {*needed}), offered - len(needed))
    tools = [SCHEMAS[name] for name in rng.sample(names, offered)]
    query, answers = query_of(rng, calls, today), [call.plain for call in calls]
    content = json.dumps([query, tools, answers])
    id_ = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {"id": id_, "cluster": cluster_of(answers), "query": query, "tools": tools, "answers": answers}


def parse(source: str) -> dict[str, tuple[int, int]]:
    """How many calls and sums a procedural source asks for: fewest and most.

    >>> parse("procedural:sums=2-3")
    {'calls': (1, 2), 'sums': (2, 3)}
    """
    given = procedural.given(DEFAULT, FORMS) | procedural.given(source, FORMS)
    ends = {name: value.partition("-") for name, value in given.items()}
    return {name: (int(low), int(high or low)) for name, (low, _, high) in ends.items()}


def draw(split: str, n: int | None, seed: int, source: str) -> list[dict]:
    """`n` different rows of a split, in an order that the seed decides. Drawing ends after 20,000 draws without one."""
    if n is None:
        raise DataError(f"source '{source}' has rows without end: ask for a number of rows")
    return list(_drawn(split, n, seed, source))


@functools.lru_cache(maxsize=8)  # of dev one draw in a hundred fits, and a stage asks for its rows more than once
def _drawn(split: str, n: int, seed: int, source: str) -> tuple[dict, ...]:
    rng, spec = random.Random(f"{split}-{seed}"), parse(source)
    found: dict[str, dict] = {}
    misses = 0
    while len(found) < n and misses < 20_000:
        row = draw_problem(rng, split, spec["calls"], spec["sums"]).row
        misses = misses + 1 if row["id"] in found else 0
        found.setdefault(row["id"], row)
    return tuple(found.values())
