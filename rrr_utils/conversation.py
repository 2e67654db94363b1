"""The prompts of the method as chat messages: attempt, reflect, retry, and the controls of the retry.

Everything that a model sees is made here, for collecting, training and evaluating alike, so that no stage asks in
other words than another. The history is passed on as messages, never as rendered text: no template sees it twice.
"""

from __future__ import annotations

from types import ModuleType

Messages = list[dict[str, str]]

#: appended to the task's question; the paper asks for no chain of thought
DIRECT = "Reply with the answer only."
THINK = "Think step by step first, then give the answer."

#: the control without a reflection: the same second chance and the same question, no words of the model's own
BLIND = "That answer is wrong. Try again."


def question(task: ModuleType, row: dict, chain_of_thought: bool = False) -> str:
    """The user's message: the task's prompt and how to reply."""
    return f"{task.prompt(row)} {THINK if chain_of_thought else DIRECT}"


def attempt(task: ModuleType, row: dict, chain_of_thought: bool = False) -> Messages:
    """The question alone: the model's first try answers it."""
    return [{"role": "user", "content": question(task, row, chain_of_thought)}]


def reflect(task: ModuleType, row: dict, attempt_text: str, chain_of_thought: bool = False) -> Messages:
    """The failed attempt and the request to reflect: GRPO's prompt, and its completion is the reflection."""
    return attempt(task, row, chain_of_thought) + [
        {"role": "assistant", "content": attempt_text},
        {"role": "user", "content": task.REFLECT},
    ]


def retry(task: ModuleType, row: dict, attempt_text: str, reflection: str, chain_of_thought: bool = False) -> Messages:
    """The question again, after the failed attempt and the reflection, in the same conversation."""
    return reflect(task, row, attempt_text, chain_of_thought) + [
        {"role": "assistant", "content": reflection},
        {"role": "user", "content": question(task, row, chain_of_thought)},
    ]


def blind_retry(task: ModuleType, row: dict, attempt_text: str, chain_of_thought: bool = False) -> Messages:
    """The question again after the failed attempt, without a reflection."""
    return attempt(task, row, chain_of_thought) + [
        {"role": "assistant", "content": attempt_text},
        {"role": "user", "content": f"{BLIND} {question(task, row, chain_of_thought)}"},
    ]
