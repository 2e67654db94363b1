"""What a run is begun with on this machine: backend, engine and sizes instead of `auto` and ceilings, said in one line.

`runs.begin` keeps it in the run's folder, and a run goes on with it. Torch is not needed for any of it.
"""

from rrr_utils import backends, engines, fit, gpus, models, runs
from rrr_utils.errors import SettingsError, one_line
from rrr_utils.settings import Settings


def resolve(settings: Settings, stage: str) -> Settings:
    """The settings that a stage's folder ("failures", "train" or "evaluate") is begun with.

    Raises SettingsError where what they ask for cannot run here, or the model's config cannot be read.
    """
    from transformers import AutoConfig

    refuse(settings, stage)
    path, revision = runs.model_path(settings)
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
        question = fit.question_tokens(settings, stage)
    except (OSError, ValueError) as error:
        text = f"cannot read config and tokenizer of model '{settings.model}': {one_line(str(error), 200)}"
        raise SettingsError(f"{text} (is the name right, is there a network?)") from None
    engine, why_engine = engines.choose(settings, stage)
    backend, why_backend = backends.choose(settings, stage)
    settings = settings.model_copy(update={"engine": engine, "backend": backend})
    chosen = fit.sizes(settings, config, gpus.total_bytes(), stage, question)
    by = f"{backend} ({why_backend})" if stage == "train" else f"{engine} ({why_engine})"
    sizes = f"{chosen['sample_batch']} conversations at a time"
    if stage == "train":
        sizes += f", {chosen['micro_batch']} reflections a pass"
    print(f"{stage}: by {by}, {sizes}, {settings.dtype}", flush=True)
    return settings.model_copy(update=chosen)


def refuse(settings: Settings, stage: str) -> None:
    """Raise SettingsError where model, backend or engine cannot be had here, before anything is loaded."""
    reasons = [models.refusal(settings), engines.refusal(settings, stage)]
    reasons += [backends.refusal(settings)] if stage == "train" else []
    if why := next(filter(None, reasons), None):
        raise SettingsError(why)
