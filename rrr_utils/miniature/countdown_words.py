"""Countdown: what is one token each to the embedded model."""

from rrr_utils import conversation
from rrr_utils.miniature.countdown import DRILL, EMPTY, GENERIC, LARGEST_NUMBER, worked_question
from rrr_utils.tasks import countdown


def pieces() -> list[str]:
    """What is one token each: the prompts' fixed sentences, and words with the space before them."""
    return [*fixed_sentences(), *words()]


def fixed_sentences() -> list[str]:
    """The parts of the prompts that never change: as one token each, a prompt costs a dozen."""
    row = {"nums": [7777, 7777, 7777], "target": 7777}
    messages = conversation.retry(countdown, row, "", "") + conversation.blind_retry(countdown, row, "")
    messages += conversation.attempt(countdown, row, chain_of_thought=True)
    texts = [m["content"] for m in messages if m["role"] == "user"] + [worked_question(row), DRILL]
    parts = {part for text in texts for part in text.split(" 7777")}
    return sorted(parts - {"", ","}, key=len, reverse=True)


def words() -> list[str]:
    """Every word of the corpus with the space before it, and without it where it can begin a text."""
    sentences = (
        *EMPTY, *GENERIC, "My result was 1 but the target is 1 : too low by high", "I could start with 1 * 1 = 1 .",
        "I must use each of 1 , 1 exactly once .", "Aim 1 ; 1 * 1 = 1 and 1 : + 1 yes . ? - * / ( )", "Sums :",
        "<answer> ( 1 + 1 ) </answer>",
    )  # fmt: skip
    first = {text.split()[0] for text in sentences} | {","}
    rest = {f" {word}" for text in sentences for word in text.split()[1:]}
    numbers = [f" {i}" for i in range(LARGEST_NUMBER + 1)]
    return sorted(first) + sorted(rest - set(numbers)) + numbers
