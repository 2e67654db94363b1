"""The reward of a reflection: the model retries, and the retry is verified. Plain GRPO's: the answer is verified."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import trl.trainer.grpo_trainer as grpo  # Unsloth patches names in this module: look them up here, at use
from accelerate.utils import gather_object

from rrr_utils import conversation, tasks
from rrr_utils.files import append_jsonl
from rrr_utils.policy import Policy
from rrr_utils.sampling import Completion, HFSampler
from rrr_utils.settings import Settings

if TYPE_CHECKING:
    from trl import GRPOTrainer


class RetryReward:
    """The reward of a reflection: does the retry that follows it verify? Mean over `retries_per_reflection` retries.
    With objective `answer` the completion is the first try, and the reward is whether it verifies.

    trl calls it with a batch of completions and the columns of the data set: where several processes train, with this
    one's share of the batch, and all of them log as one. `trainer` is set after construction.
    """

    __name__ = "retry"  # trl names its metrics after it

    def __init__(self, settings: Settings, log: Path | None = None):
        self.settings, self.task, self.log = settings, tasks.get(settings.task), log
        self.trainer: GRPOTrainer | None = None
        self.generated_tokens = 0  # of reflections and retries of all processes, since the start
        self.scored: list[dict] = []  # this process's texts of the last scoring
        self.called = (-1, -1)  # the step, and which call in it, from 0: a step may generate in several parts

    def __call__(
        self,
        prompts: list,
        completions: list,
        completion_ids: list[list[int]],
        *,
        id: list[str],
        row: list[str],
        attempt: list[str],
        trainer_state,
        log_extra: Callable,
        log_metric: Callable,
        **_,
    ) -> list[float]:
        """One reward in 0..1 for each completion."""
        texts = [c[0]["content"] if isinstance(c, list) else c for c in completions]
        rows = [json.loads(text) for text in row]
        generated = sum(map(len, completion_ids))
        if self.settings.objective == "answer":
            rewards = [float(self.right(text, one)) for text, one in zip(texts, rows, strict=True)]
            logged = {"id": id, "row": rows, "attempt": texts, "reward": rewards}
        else:
            step, call = trainer_state.global_step, self.called[1]
            self.called = (step, call + 1 if step == self.called[0] else 0)
            retries = self.retry(rows, attempt, texts, *self.called)
            generated += sum(c.tokens for own in retries for c in own)
            verdicts = [[self.right(c.text, one) for c in own] for own, one in zip(retries, rows, strict=True)]
            rewards, firsts = [sum(own) / len(own) for own in verdicts], [own[0].text for own in retries]
            logged = {"id": id, "row": rows, "attempt": attempt, "reflection": texts, "retry": firsts}
            logged["reward"] = rewards
            log_extra("retry", firsts)
        log_metric("retry_correct", sum(rewards) / len(rewards))
        self.generated_tokens += sum(gather_object([generated]))
        columns, step = zip(*logged.values(), strict=True), trainer_state.global_step + 1
        lines = gather_object([{"step": step, **dict(zip(logged, line, strict=True))} for line in columns])
        if self.log is not None and self.trainer.accelerator.is_main_process:
            append_jsonl(self.log, lines)  # the first process's share comes first, as in the batch
        return rewards

    def score(self, dev: list[dict], temperature: float) -> tuple[float, float]:
        """On dev, the share that is right (of retries; with objective `answer` of first tries), and the mean length in
        tokens of what is trained. `dev`: lines of `dev_failures.jsonl`, or rows for first tries; each process takes
        a share."""
        s, task, base = self.settings, self.task, self.settings.retry_policy == "base"
        dev = dev[self.trainer.accelerator.process_index :: self.trainer.accelerator.num_processes]
        if s.objective == "answer":
            asked = [conversation.attempt(task, one["row"], s.chain_of_thought) for one in dev]
            said = answers = self.generate(asked, 1, s.attempt_tokens, temperature, 0)
        else:
            pairs = [(one["row"], one["attempt"]) for one in dev]
            asked = [conversation.reflect(task, *pair, s.chain_of_thought) for pair in pairs]
            said = self.generate(asked, 1, s.reflection_tokens, temperature, 0)
            told = zip(pairs, said, strict=True)
            again = [conversation.retry(task, *pair, own[0].text, s.chain_of_thought) for pair, own in told]
            answers = self.generate(again, 1, s.attempt_tokens, temperature, 1, base=base)
        right = [self.right(own[0].text, one["row"]) for own, one in zip(answers, dev, strict=True)]
        texts = [{"reflection": own[0].text, "retry": last[0].text} for own, last in zip(said, answers, strict=True)]
        self.scored = [{**one, **text, "right": ok} for one, text, ok in zip(dev, texts, right, strict=True)]
        scored = gather_object([(ok, own[0].tokens) for ok, own in zip(right, said, strict=True)])
        return tuple(sum(column) / len(scored) for column in zip(*scored, strict=True))

    def right(self, completion: str, row: dict) -> bool:
        """Whether a completion is right, by the verdict that the settings choose."""
        return tasks.is_right(tasks.verify(self.task, completion, row), self.settings.verdict)

    def retry(
        self, rows: list[dict], attempts: list[str], reflections: list[str], step: int, call: int = 0
    ) -> list[list[Completion]]:
        """The retries after the reflections, `retries_per_reflection` each, in one batch, decoded as in training. The
        step and the call in it seed them, so that a training that goes on from a checkpoint makes the same."""
        s = self.settings
        conversations = [
            conversation.retry(self.task, row, attempt, reflection, s.chain_of_thought)
            for row, attempt, reflection in zip(rows, attempts, reflections, strict=True)
        ]
        n, temperature = (s.retries_per_reflection, s.temperature) if s.retry_decoding == "sampled" else (1, 0.0)
        seed = (s.seed or 0) * 1_000_003 + step + 104_729 * call
        return self.generate(conversations, n, s.attempt_tokens, temperature, seed, base=s.retry_policy == "base")

    def generate(
        self, conversations: list, n: int, max_tokens: int, temperature: float, seed: int, base: bool = False
    ) -> list[list[Completion]]:
        """Sample from the model in training, in eval mode: train mode with checkpointing silently gives wrong text.
        Each process samples by a seed of its own."""
        trainer, seed = self.trainer, seed + 7919 * self.trainer.accelerator.process_index
        deepspeed3 = getattr(trainer.args, "ds3_gather_for_generation", True)
        unwrap = grpo.unwrap_model_for_generation
        with unwrap(trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=deepspeed3) as model:
            was_training = model.training
            model.eval()
            try:
                speaker = Policy(model, trainer.processing_class)
                sampler = HFSampler(speaker, self.settings.sample_batch, progress=False)
                return sampler.sample(conversations, n, max_tokens, temperature, seed, adapter=not base)
            finally:
                model.train(was_training)
