"""Tools, calls and spellings of them, for the tests of function calling."""

from __future__ import annotations

import json
import random

from rrr_utils.tasks import Verdict

TOOLS = [
    {"name": "weather", "description": "The weather.", "parameters": {
        "city": {"description": "Where.", "type": "str"},
        "days": {"description": "How long.", "type": "int, optional", "default": 1},
        "units": {"description": "Of what.", "type": "str, optional", "default": "metric"}}},
    {"name": "play", "description": "Play a list.", "parameters": {
        "ids": {"description": "Which.", "type": "List[float]"},
        "loud": {"description": "How.", "type": "bool"}}},
]  # fmt: skip
OSLO = {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}
PLAY = {"name": "play", "arguments": {"ids": [1.0, 2.5], "loud": True}}
ROW = {"id": "1", "cluster": "weather", "query": "Weather in Oslo for 2 days?", "tools": TOOLS, "answers": [OSLO]}
PAIR = {**ROW, "cluster": "play|weather", "answers": [OSLO, PLAY]}
GOLD = json.dumps([OSLO])
RIGHT = Verdict(True, None, True)


def written(value, rng: random.Random) -> str:
    """JSON in random key order and spacing, numbers and characters in random notation."""

    def space() -> str:
        return rng.choice(["", "", " ", "\n", "\t ", "\r\n"])

    if isinstance(value, dict):
        pairs = [
            f"{space()}{written(key, rng)}{space()}:{space()}{written(item, rng)}{space()}"
            for key, item in value.items()
        ]
        rng.shuffle(pairs)
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{space()}{written(item, rng)}{space()}" for item in value) + "]"
    if type(value) is int and rng.random() < 0.3 and abs(value) < 2**53:
        return json.dumps(float(value))
    if type(value) is float and value.is_integer() and rng.random() < 0.3:
        return str(int(value))
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)
