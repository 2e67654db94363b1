"""What the model is asked, word for word."""

from __future__ import annotations

from rrr_utils import conversation
from rrr_utils.tasks import countdown

ROW = {"nums": [3, 9, 4], "target": 31}


def test_a_retry_holds_task_attempt_reflection_and_the_task_again():
    messages = conversation.retry(countdown, ROW, "tried", "thought")
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    question = conversation.question(countdown, ROW)
    assert [m["content"] for m in messages] == [question, "tried", countdown.REFLECT, "thought", question]
    assert messages[:3] == conversation.reflect(countdown, ROW, "tried")
    assert messages[:1] == conversation.attempt(countdown, ROW)


def test_a_blind_retry_asks_the_same_question_without_a_reflection():
    messages = conversation.blind_retry(countdown, ROW, "tried")
    assert [m["role"] for m in messages] == ["user", "assistant", "user"]
    assert messages[-1]["content"].endswith(conversation.question(countdown, ROW))


def test_a_chain_of_thought_is_asked_for_in_every_question_or_in_none():
    for chain in (False, True):
        asked = [
            *conversation.retry(countdown, ROW, "tried", "thought", chain),
            *conversation.blind_retry(countdown, ROW, "tried", chain),
        ]
        questions = [m["content"] for m in asked if "31" in m["content"]]
        assert len(questions) == 4
        assert all(
            (conversation.THINK in text) == chain and (conversation.DIRECT in text) != chain for text in questions
        )
