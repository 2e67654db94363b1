"""Function calling: what is one token each to the embedded model."""

import json

from rrr_utils import conversation
from rrr_utils.miniature.function_calling import DRILL, EMPTY, FORM, TASK, WORKED
from rrr_utils.tasks import function_calling_rows as rows
from rrr_utils.tasks import toolbox


def pieces() -> list[str]:
    """What is one token each: prompts' fixed parts, tools' lines, values without spaces, and what is between them."""
    row = {"tools": [7777], "query": "7777."}
    messages = conversation.retry(TASK, row, "", "") + conversation.blind_retry(TASK, row, "")
    messages += conversation.attempt(TASK, row, chain_of_thought=True) + conversation.outright(TASK, row, WORKED)
    fixed = {part for m in messages if m["role"] == "user" for part in m["content"].split("7777")} - {"", "\n"}
    says = {part for kind in toolbox.KINDS for text in kind["says"] for part in parts(text)}
    quantities = toolbox.QUANTITIES.values()
    # how a fact goes on after its entity is one token: what comes next is then found by copying
    ways = {f" {q['link']} {by} {way} " for q in quantities for way in (*q["up"], *q["down"]) for by in range(1, 10)}
    ways |= {f" {q['starts']} " for q in quantities} | {f" goes {by} times into the " for by in (2, 3)}
    # without its number, as the masked control has it
    ways |= {f" {way} " for q in quantities for way in (*q["up"], *q["down"], q["link"])} | {
        " goes ",
        " times into the ",
    }
    bare = {word for some in toolbox.WORDS.values() for word in some} | {e for q in quantities for e in q["entities"]}
    bare |= {*toolbox.SCHEMAS, *toolbox.QUANTITIES, *toolbox.WORDS, *map(str, range(rows.LARGEST + 1))}
    bare |= {"today", "I", "?", ".", ";", " ", "\n", "Values:", "Tool:", "Sums:", "Facts: "}
    links = {" is ", "the ", "; ", ". ", ", then ", " - ", " + ", " * ", " = ", " fits", " does not", " called "}
    links |= {" with ", " and ", "below ", " or more"} | set(rows.OPENERS)
    links |= {side for kind in toolbox.KINDS if len(kind["names"]) == 2 for side in toolbox.sides(kind)}
    links |= {text.removeprefix("I") for text in (*EMPTY, *FORM)} | {q.get("at", "") for q in quantities}
    links |= {q["as"] for q in quantities} | ways
    json_ = {'[{"name": "', '", "arguments": {"', '": "', '": ', '", "', ', "', '"}}]', "}}]"}
    json_ |= {'"}}, {"name": "', '}}, {"name": "'}
    tools = {json.dumps(schema) for schema in toolbox.SCHEMAS.values()}
    return sorted(fixed | {TASK.GENERIC, DRILL} | tools) + sorted((says | bare | links | json_) - {""})


def parts(template: str) -> set[str]:
    """The parts of a template between its slots."""
    names = toolbox.QUANTITIES.keys() | toolbox.WORDS.keys()
    for name in names:
        template = template.replace(f"{{{name}}}", "\0")
    return set(template.split("\0"))
