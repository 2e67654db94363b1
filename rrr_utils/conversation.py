"""The prompts of the method as chat messages: attempt, reflect, retry, and those of its controls.

Everything that a model sees is made here, for collecting, training and evaluating alike, so that no two stages ask in
different words. The history is passed on as messages, never as rendered text: no chat template sees it twice.
"""

from types import ModuleType
from typing import TYPE_CHECKING

from rrr_utils import tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]

#: what every chat template is given, here and by trl: Llama's prints today's date unless it is told one, so that
#: prompts of training and of evaluation would differ, and Qwen3's asks it to think. A template ignores other names.
TEMPLATE = {"date_string": "26 Jul 2024", "enable_thinking": False}

#: appended to the task's question; the paper asks for no chain of thought
DIRECT = "Reply with the answer only."
THINK = "Think step by step first, then give the answer."

#: the control without a reflection: a second chance at the same question
BLIND = "That answer is wrong. Try again."


def question(task: ModuleType, row: dict, chain_of_thought: bool = False) -> str:
    """The user's message: the task's prompt and how to reply."""
    return f"{tasks.prompt(task, row)} {THINK if chain_of_thought else DIRECT}"


def attempt(task: ModuleType, row: dict, chain_of_thought: bool = False) -> Messages:
    """The question alone: the model's first try answers it."""
    return [{"role": "user", "content": question(task, row, chain_of_thought)}]


def reflect(task: ModuleType, row: dict, attempt_text: str, chain_of_thought: bool = False) -> Messages:
    """The failed attempt and the request to reflect: GRPO's prompt, and its completion is the reflection."""
    failed = {"role": "assistant", "content": attempt_text}
    return [*attempt(task, row, chain_of_thought), failed, {"role": "user", "content": task.REFLECT}]


def retry(task: ModuleType, row: dict, attempt_text: str, reflection: str, chain_of_thought: bool = False) -> Messages:
    """The question again, after the failed attempt and the reflection, in the same conversation."""
    said = {"role": "assistant", "content": reflection}
    again = {"role": "user", "content": question(task, row, chain_of_thought)}
    return [*reflect(task, row, attempt_text, chain_of_thought), said, again]


def blind_retry(task: ModuleType, row: dict, attempt_text: str, chain_of_thought: bool = False) -> Messages:
    """The question again after the failed attempt, without a reflection."""
    failed = {"role": "assistant", "content": attempt_text}
    again = {"role": "user", "content": f"{BLIND} {question(task, row, chain_of_thought)}"}
    return [*attempt(task, row, chain_of_thought), failed, again]


def outright(task: ModuleType, row: dict, request: str, chain_of_thought: bool = False) -> Messages:
    """What a reflection does, asked for before anything was tried."""
    return [{"role": "user", "content": f"{request} {question(task, row, chain_of_thought)}"}]


def after_outright(task: ModuleType, row: dict, request: str, said: str, chain_of_thought: bool = False) -> Messages:
    """The question, after what the model said to `outright`."""
    told = {"role": "assistant", "content": said}
    return [*outright(task, row, request, chain_of_thought), told, *attempt(task, row, chain_of_thought)]


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", asked: list[Messages], begin: str = "") -> list[list[int]]:
    """Token ids of conversations as every engine takes them, each followed by the first words of its completion.

    The template writes the one token that begins a text (BOS), if the model has one.
    """
    texts = [tokenizer.apply_chat_template(c, tokenize=False, add_generation_prompt=True, **TEMPLATE) for c in asked]
    return tokenizer([text + begin for text in texts], add_special_tokens=False)["input_ids"] if texts else []
