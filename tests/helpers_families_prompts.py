"""What the tests of families share: which are here, a cache of their own, and prompts."""

from __future__ import annotations

import helpers_families as families
import pytest

from rrr_utils import conversation, tasks

TASK, WARMTH = "function_calling", 0.9
#: Llama-3.1's template knows one date, Llama-3.2's asks what day it is; else they are one
FIXED, TODAY = 'date_string = "26 Jul 2024"', 'date_string = strftime_now("%d %b %Y")'


def wants(name: str, slow: bool = False):
    marks = [pytest.mark.skipif(not families.present(name), reason=f"no {families.REAL}")]
    return pytest.param(name, marks=[*marks, *([pytest.mark.slow] if slow else [])])


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RRR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def asked(task_name: str = TASK) -> list[list[dict]]:
    """Every kind of prompt, of six problems that were answered wrongly."""
    task, found = tasks.get(task_name), []
    for row, said in zip([task.EXAMPLE] * 6, ["no", *families.SAID[task_name], " spaces, \n\n lines\n"], strict=False):
        found += [conversation.attempt(task, row), conversation.reflect(task, row, said)]
        found += [conversation.retry(task, row, said, "I was wrong ."), conversation.blind_retry(task, row, said)]
    return found
