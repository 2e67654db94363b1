"""Function calling: what the gate gives and forces, what it checks, and what the model card says."""

from rrr_utils.miniature.function_calling import EMPTY, FORM, TASK
from rrr_utils.tasks import toolbox

#: see countdown_checks.py
GIVEN = {"empty": EMPTY[0], "form": FORM[0]}
BEGIN = {"echo": "I called ", "tool": "Tool:", "values": "Values:"}
CHECKS = {
    "valid_json": "first tries that are valid JSON", "right_tool": "right tools in tool reflections",
    "stated_right": "values reflections that state all gold values and nothing wrong",
}  # fmt: skip
LEAST = {"valid_json": 0.95, "stated_right": 0.85}
DEV = 500
NAME = "function calling"
CAN = "answer queries for the tools of data/toolbox.yaml, in the kit's own prompts; a tool's line is one token to it"
HELD_OUT = (
    "Queries come from the pretrain split alone. No call of dev or test, and no chain of two sums or more of theirs, "
    "is in a document, not in a failed attempt nor as a part of a longer chain; single sums (41 - 4 = 37) are shared "
    "by all splits. What follows a useless reflection is right as often as what follows none."
)


def checked(given: list[dict], attempts: list[str], failed: list[dict], reflections: dict[str, list[str]]) -> dict:
    """The shares of CHECKS."""
    valid = [
        TASK.verify(text, row).error not in ("no_json", "bad_json") for text, row in zip(attempts, given, strict=True)
    ]
    tools = [chooses(text, row) for text, row in zip(reflections["tool"], failed, strict=True)]
    stated = [states(text, row) for text, row in zip(reflections["values"], failed, strict=True)]
    shares = {"valid_json": valid, "right_tool": tools, "stated_right": stated}
    return {name: sum(oks) / max(1, len(oks)) for name, oks in shares.items()}


def states(text: str, row: dict) -> bool:
    """Whether a values reflection states every gold argument, no other value of its name, and no wrong sum.

    >>> from rrr_utils.miniature.function_calling import example, values
    >>> states(values(example()), example().row), states("Values: item is stove; day is 35.", example().row)
    (True, False)
    """
    said_ = [clause.split(" is ") for clause in text.removeprefix("Values: ").removesuffix(".").split("; ")]
    names = {name for call in row["answers"] for name in call["arguments"]}
    found = [(parts[0], parts[1]) for parts in said_ if len(parts) == 2 and parts[0] in names]
    gold = [(name, str(value)) for call in row["answers"] for name, value in call["arguments"].items()]
    return sorted(found) == sorted(gold) and not TASK.wrong_in(text, row)


def chooses(text: str, row: dict) -> bool:
    """Whether a tool reflection says of exactly the gold calls' tools that they fit.

    >>> from rrr_utils.miniature.function_calling import example, tool
    >>> chooses(tool(example()), example().row)
    True
    """
    fitting = [clause.removesuffix(" fits") for clause in text.removeprefix("Tool: ").removesuffix(".").split("; ")]
    names = [name for name in fitting if name in toolbox.SCHEMAS]
    return sorted(names) == sorted(call["name"] for call in row["answers"])
