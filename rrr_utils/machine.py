"""What a run is begun with on this machine: backend, engine and sizes instead of `auto` and ceilings, said in one line.

`runs.begin` keeps it in the run's folder, and a run goes on with it. Torch is not needed for any of it.
"""

from typing import Any, NamedTuple

from rrr_utils import backends, engines, fit, gpus, models, runs
from rrr_utils.errors import PLAIN, SettingsError, one_line
from rrr_utils.settings import Settings


class Fitted(NamedTuple):
    """What a stage would be begun with here: settings without `auto`, why these, the model's config, and the tokens of
    the longest question."""

    settings: Settings
    why: str
    config: Any
    question: int


def fitted(settings: Settings, stage: str) -> Fitted:
    """The settings of a stage ("failures", "train" or "evaluate") on this machine; nothing is loaded but config and
    tokenizer. Raises SettingsError where what they ask for cannot run here, or the config cannot be read."""
    from transformers import AutoConfig

    refuse(settings, stage)
    path, revision = runs.model_path(settings)
    try:
        config, question = AutoConfig.from_pretrained(path, revision=revision), fit.question_tokens(settings, stage)
    except (OSError, ValueError, AttributeError) as error:
        if isinstance(error, PLAIN):
            raise
        text = f"cannot read config and tokenizer of model '{settings.model}': {one_line(str(error), 200)}"
        why = "is the name right, is there a network, and for a gated model HF_TOKEN?"
        raise SettingsError(f"{text} ({why})") from None
    (engine, why_engine), (backend, why_backend) = engines.choose(settings, stage), backends.choose(settings, stage)
    settings = settings.model_copy(update={"engine": engine, "backend": backend})
    settings = settings.model_copy(update=fit.sizes(settings, config, gpus.total_bytes(), stage, question))
    why = f"{backend} ({why_backend})" if stage == "train" else f"{engine} ({why_engine})"
    return Fitted(settings, why, config, question)


def resolve(settings: Settings, stage: str) -> Settings:
    """The settings that a stage's folder is begun with, said in a line. Raises as `fitted` does."""
    s, why, *_ = fitted(settings, stage)
    passes = f", {s.micro_batch} reflections a pass" if stage == "train" else ""
    print(f"{stage}: by {why}, {s.sample_batch} conversations at a time{passes}, {s.dtype}", flush=True)
    return s


def refuse(settings: Settings, stage: str) -> None:
    """Raise SettingsError where model, backend or engine cannot be had here, before anything is loaded."""
    reasons = [models.refusal(settings), engines.refusal(settings, stage)]
    reasons += [backends.refusal(settings)] if stage == "train" else []
    if why := next(filter(None, reasons), None):
        raise SettingsError(why)
