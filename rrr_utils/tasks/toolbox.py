"""The tools that made-up rows of function calling offer, and the words and quantities of their arguments.

All of it is data/toolbox.yaml's. Which of two look-alikes fits turns on a quantity: a day on today, others on LIMIT.
"""

from typing import Any

import yaml

from rrr_utils.profiles import DATA

LIMIT = 51  # where look-alikes that turn on no day change over

TOOLBOX: dict[str, Any] = yaml.safe_load((DATA / "toolbox.yaml").read_text(encoding="utf-8"))
QUANTITIES: dict[str, dict] = TOOLBOX["quantities"]
WORDS: dict[str, list[str]] = TOOLBOX["words"]


def kinds() -> list[dict]:
    """Every tool, look-alikes as one: names, parameters, and how it is asked for."""
    pairs = [
        {**pair, "names": [pair["below"], pair["other"]], "parameters": [pair["of"], pair["turns_on"]]}
        for pair in TOOLBOX["look_alikes"]
    ]
    return pairs + [{**tool, "names": [tool["name"]]} for tool in TOOLBOX["tools"]]


def schemas() -> dict[str, dict]:
    """Every tool as a row offers it, by name.

    >>> schemas()["price_history"]["description"]
    'what an item costs, day before today'
    """
    made = {}
    for kind in KINDS:
        for k, name in enumerate(kind["names"]):
            when = f", {kind['turns_on']} {sides(kind)[k]}" if len(kind["names"]) == 2 else ""
            types = {p: {"type": "int" if p in QUANTITIES else "str"} for p in kind["parameters"]}
            made[name] = {"name": name, "description": kind["about"] + when, "parameters": types}
    return made


def sides(kind: dict) -> tuple[str, str]:
    """On which sides of its limit the quantity of two look-alikes is."""
    return ("before today", "today or later") if kind["turns_on"] == "day" else (f"below {LIMIT}", f"{LIMIT} or more")


def fitting(kind: dict, arguments: dict, today: int) -> str:
    """Which of a kind's tools fits the arguments."""
    if len(kind["names"]) == 1:
        return kind["names"][0]
    limit = today if kind["turns_on"] == "day" else LIMIT
    return kind["below"] if arguments[kind["turns_on"]] < limit else kind["other"]


KINDS = kinds()
SCHEMAS = schemas()
