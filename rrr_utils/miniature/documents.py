"""Documents of a corpus of chats: what they are, for every embedded model."""

from rrr_utils import conversation

#: kind, messages, and what of each message is learnt: all, nothing, or a part that the corpus's `lessons` name
Document = tuple[str, conversation.Messages, list[bool | str]]


def said(text: str) -> dict[str, str]:
    """An assistant's message."""
    return {"role": "assistant", "content": text}


def asked(question: str, reply: str) -> conversation.Messages:
    """A question and its answer."""
    return [{"role": "user", "content": question}, said(reply)]
