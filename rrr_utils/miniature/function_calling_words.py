"""Function calling: what is one token each to the embedded model."""

import json

from rrr_utils import conversation
from rrr_utils.miniature.function_calling import DRILL, EMPTY, FORM, ORDER, TASK, WORKED
from rrr_utils.tasks import function_calling_rows as rows
from rrr_utils.tasks import toolbox


def pieces() -> list[str]:
    """What is one token each: prompts' fixed parts, tools' lines, values without spaces, and what is between them."""
    row = {"tools": [7777], "query": "7777."}
    messages = conversation.retry(TASK, row, "", "") + conversation.blind_retry(TASK, row, "")
    messages += conversation.attempt(TASK, row, chain_of_thought=True) + conversation.outright(TASK, row, WORKED)
    messages += conversation.outright(TASK, row, ORDER)
    fixed = {part for m in messages if m["role"] == "user" for part in m["content"].split("7777")} - {"", "\n"}
    says = {part for kind in toolbox.KINDS for text in kind["says"] for part in parts(text)}
    quantities = toolbox.QUANTITIES.values()
    ways = {f" {way} " for q in quantities for way in (*q["up"], *q["down"])}
    ways |= {f" {q[key]} " for q in quantities for key in ("starts", "link")} | {" goes ", " times into the "}
    bare = {word for some in toolbox.WORDS.values() for word in some} | {e for q in quantities for e in q["entities"]}
    bare |= {*toolbox.SCHEMAS, *toolbox.QUANTITIES, *toolbox.WORDS, *map(str, range(rows.LARGEST + 1))}
    bare |= {"today", "I", "?", ".", ";", " ", "\n", "Values:", "Tool:", "Sums:", "Order:", "Facts: "}
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
