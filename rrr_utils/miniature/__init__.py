"""The embedded models: corpora, tokenizers, pre-training and gate. Only notebook A1 and tests import it.

For each task there are three modules, found by its name: its corpus (`countdown.py`), the words that are one token each
(`countdown_words.py`), and what the gate does and checks and the model card says (`countdown_checks.py`).
"""

import importlib
from types import ModuleType


def module(task: str, part: str = "") -> ModuleType:
    """A task's corpus, or its `words` or `checks`.

    >>> module("countdown").DRILL
    'Write down some sums.'
    """
    return importlib.import_module(f"{__name__}.{task}{f'_{part}' if part else ''}")
