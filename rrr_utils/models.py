"""What is known of hub models before one is downloaded (`data/models.yaml`): size, licence, the paper's use of it.

No model and no network is needed for it. A model that is not in the file works all the same.
"""

import functools
from pathlib import Path
from typing import Any

import yaml

from rrr_utils.settings import DATA, Settings


@functools.cache
def listed() -> dict[str, dict[str, Any]]:
    """The file's lines by hub id (of models without public weights, by name), in its order."""
    return yaml.safe_load((DATA / "models.yaml").read_text(encoding="utf-8"))


def known(hub_id: str) -> dict[str, Any] | None:
    """A model's line, with `download`: its 16-bit weights in bytes. None for a model, or a folder, that is not listed.

    >>> one = known("Qwen/Qwen2.5-1.5B-Instruct")
    >>> one["memory_4bit"], one["download"], one["gated"], one["paper"]
    (1.12, 3087428608, False, {'countdown': ['trained', 'S']})
    """
    one = listed().get(hub_id)
    return one and {"paper": {}, **one, "download": one["parameters"] and 2 * one["parameters"]}


def unpublished(model: str) -> str | None:
    """Why nobody outside can run a model of the paper; None where its weights are public, or nothing is known of it.

    >>> unpublished("Palmyra X4")
    'no public weights'
    """
    one = listed().get(model)
    return one["licence"] if one and one["parameters"] is None else None


def refusal(settings: Settings) -> str | None:
    """Why the settings' model cannot be had, in one line: it has no public weights, or it is gated, not in the hub's
    cache, and there is no token.

    None where nothing speaks against it. Whether the token's account has access only the hub knows.
    """
    if why := unpublished(settings.model):
        return f"{settings.model}: {why}"
    from huggingface_hub import get_token  # slow to import

    if not (known(settings.model) or {}).get("gated") or get_token() or cached(settings.model):
        return None
    page = f"https://huggingface.co/{settings.model}"
    return f"{settings.model} is gated: accept its licence at {page} and set HF_TOKEN to a token of that account"


def cached(hub_id: str) -> Path | None:
    """The config.json of a model in the hub's cache, of whatever commit; None where it has none."""
    from huggingface_hub import constants

    copies = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "snapshots"
    return next(iter(sorted(copies.glob("*/config.json"))), None)


def table() -> str:
    """The listed models as a Markdown table."""
    lines = ["| model | size | 4 bits, GiB | licence | the paper |", "|---|---|---|---|---|"]
    for name, one in listed().items():
        size, memory = (f"{one['parameters'] / 1e9:.1f}B", f"{one['memory_4bit']:.1f}") if one["parameters"] else "--"
        roles = [f"{task.replace('_', ' ')}: {role} ({sure})" for task, (role, sure) in one.get("paper", {}).items()]
        licence = one["licence"] + (", gated" if one["gated"] else "")
        lines.append(f"| {name} | {size} | {memory} | {licence} | {'; '.join(roles) or 'not in it'} |")
    return "\n".join(lines)
