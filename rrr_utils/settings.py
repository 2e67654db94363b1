"""Settings of a run: every knob, typed, with its unit, its reason, and the paper's value where it is known.

A *profile* (`data/profiles/*.yaml`) says what runs, of several tasks and models by its `rows` (grid.py); a *preset*
(`data/presets.yaml`) fits it to a machine and never changes the effective batch; *overrides* come last. Unknown names
are refused, with the nearest known one.
"""

import difflib
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rrr_utils import gpus
from rrr_utils.errors import SettingsError, nearest, stops_in_one_line
from rrr_utils.profiles import DATA, ROOT, local, path_of, profiles, read_yaml, with_row  # noqa: F401

#: who is evaluated: the base model; with the adapter everywhere (the paper's); with the adapter only while reflecting
POLICIES = ("vanilla", "trained", "reflector")
#: second tries; evaluation.py says what each is. Those of EVERY_ITEM are made where the first try is right too, and
#: `forced` and `outright` by the base model alone
CONTROLS = ("own", "blind", "generic", "swapped", "masked", "cut", "fresh", "always", "forced", "outright")
EVERY_ITEM = ("always", "outright")

Count = Annotated[int, Field(gt=0, le=10_000_000)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def _knob(default: Any, description: str, **bounds: Any) -> Any:
    return Field(default, description=description, **bounds)


class Settings(BaseModel):
    """One run of the method. `STAGE_FIELDS` says which fields decide a stage's result."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # what runs
    profile: str = _knob("tiny", "a name in data/profiles, or the path of a YAML file", min_length=1)
    rows: str | None = _knob(None, "which rows of the profile, as countdown:Qwen2.5-1.5B,function_calling; none: all")
    preset: str | None = _knob(None, "a name in data/presets.yaml; auto: the one of this machine's GPU")
    task: str = _knob("countdown", "countdown, function_calling, a dotted module, or the path of a .py file")
    model: str = _knob("embedded", "embedded, a hub id, or a folder with a saved model", min_length=1)
    seed: Seed | None = _knob(0, "training seed; none stands for the base model (vanilla)")
    seeds: tuple[Seed, ...] = _knob((), "seeds that the tables take; empty: all that were evaluated")
    results_dir: str = _knob("results/runs", "folder that runs write to", min_length=1)
    backup_dir: str | None = _knob(None, "folder that results are copied to; on Colab none is Drive's, where mounted")
    make_missing: bool = _knob(False, "a stage makes what it reads and lacks; the tiny profile always does")
    source: str | None = _knob(None, "hub id, local file or procedural:...; none is the task's default")
    max_bad_rows: float = _knob(0.01, "share of unreadable data rows that is tolerated", ge=0, le=1)
    chain_of_thought: bool = _knob(False, "ask for a chain of thought before the answer; the paper does not")
    verdict: Literal["strict", "lenient"] = _knob("strict", "which of the verifier's verdicts counts")

    # how many items (rows)
    train_queries: Count = _knob(1000, "queries of the train split that attempts are sampled for")
    dev_items: Count = _knob(256, "failures of the dev split that pick the best checkpoint")
    test_items: Count = _knob(1000, "rows of the test split; the paper: 15,000 and 12,000 (function calling)")

    # sampling
    temperature: float = _knob(0.9, "of sampled texts; the paper: 'like 0.9 ... a little lower'", gt=0, le=2)
    attempt_tokens: Count = _knob(128, "longest attempt and retry, in tokens")
    reflection_tokens: Count = _knob(256, "longest reflection, in tokens")
    rounds: tuple[Count, ...] = _knob((1, 3, 12, 48), "samples a query, by round; the paper: <= 64", min_length=1)
    failures_per_query: Count = _knob(4, "distinct failures kept of a query; with them it needs no more rounds")
    failures_wanted: Count = _knob(4000, "rounds end once there are this many failures")

    # weights
    load_in_4bit: bool = _knob(True, "NF4 base weights (bitsandbytes); the paper trains full weights")
    lora_rank: int = _knob(16, "rank of the adapter; 0 trains all weights, as the paper does", ge=0, le=4096)
    lora_alpha: Count = _knob(32, "scale of the adapter: alpha / rank")

    # training
    objective: Literal["reflection", "answer"] = _knob("reflection", "answer: plain GRPO on the first try, no retry")
    steps: Count = _knob(300, "optimiser steps; the paper: at most 1,750")
    failures_per_step: Count = _knob(32, "failures (groups) in an optimiser step")
    reflections_per_failure: int = _knob(8, "group size; the paper: 8 to 14, 256 in a batch", gt=1, le=10_000)
    retries_per_reflection: Count = _knob(1, "a reflection's reward is the mean over its retries")
    retry_decoding: Literal["sampled", "greedy"] = _knob("sampled", "greedy leaves more groups without spread")
    retry_policy: Literal["live", "base"] = _knob("live", "retries by the trained (the paper) or the base model")
    learning_rate: float = _knob(2e-5, "peak; the paper: 5e-7, for full weights", gt=0, le=1)
    learning_rate_schedule: Literal["cosine", "linear", "constant_with_warmup"] = _knob("cosine", "as the paper")
    warmup: float = _knob(0.03, "share of the steps; the paper: 0.03", ge=0, le=1)
    beta: float = _knob(0.001, "KL coefficient; the paper: 0.001", ge=0, le=1000)
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = _knob("dapo", "dapo: every token of a batch alike")
    max_grad_norm: float = _knob(1.0, "gradient clipping", gt=0, le=1e6)
    dev_every: Count = _knob(25, "steps between checkpoints; each is scored on dev")
    report_to: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = _knob("none", "trl's own logger")

    # evaluation; sampled is at the training temperature
    decodings: tuple[Literal["greedy", "sampled"], ...] = _knob(("greedy", "sampled"), "of all tries", min_length=1)
    policies: tuple[Literal["trained", "reflector"], ...] = _knob(("trained", "reflector"), "empty: no training")
    controls: tuple[Literal[CONTROLS], ...] = _knob(("own", "blind", "generic", "fresh"), "of a second try")
    fresh_tries: Count = _knob(32, "most new first tries in control `fresh`")
    forced_words: str | None = _knob(None, "first words of the base model's reflection in control `forced`")
    outright_request: str | None = _knob(None, "asks for what a reflection does, at once, in control `outright`")
    test_source: str | None = _knob(None, "other data for the test split, written like source; none is source")

    # how it fits the machine (presets); none of these changes what a result means
    dtype: Literal["float32", "bfloat16", "float16"] = _knob("bfloat16", "activations, unquantised weights")
    backend: Literal["auto", "transformers", "unsloth"] = _knob("auto", "trains; auto: unsloth where it can")
    engine: Literal["auto", "hf", "vllm"] = _knob("auto", "generates attempts and evaluations; auto: vllm where it can")
    threads: int = _knob(0, "CPU threads of torch; 0 leaves torch's choice", ge=0, le=1024)
    micro_batch: Count = _knob(8, "most reflections in one forward and backward pass of training")
    sample_batch: Count = _knob(64, "most conversations generated at a time; halved when memory runs out")
    generation_batch: Count = _knob(4096, "most reflections that trl generates at a time; the effective batch stays")
    gradient_checkpointing: bool = _knob(True, "less memory for a third more time")
    gpus: Count = _knob(1, "processes that train one model, a GPU each where there are GPUs; the batch stays")
    overridden: tuple[str, ...] = Field((), exclude=True, repr=False)  # names that were given beyond the profile

    def __eq__(self, other: object) -> bool:  # where a value comes from makes no difference
        return isinstance(other, Settings) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true and false are for settings that are switches")  # pydantic would read them as 1 and 0
        return value

    @field_validator("seeds", "decodings", "policies", "controls")
    @classmethod
    def _no_value_twice(cls, values: tuple, info: Any) -> tuple:
        if len(set(values)) < len(values):
            raise ValueError("a value is there twice")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        batch = self.failures_per_step * self.reflections_per_failure
        what = f"the batch of {batch} reflections (failures_per_step x reflections_per_failure)"
        if batch % self.gpus:
            raise ValueError(f"gpus {self.gpus} does not divide {what}: choose a divisor of {batch}")
        share = batch // self.gpus
        if share % min(self.micro_batch, share):
            each = "" if self.gpus == 1 else f", {share} on each of {self.gpus} GPUs"
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide {what}{each}: choose a divisor of {share}"
            )
        if "own" not in self.controls:
            raise ValueError("controls must hold 'own', the second try that the others are controls of")
        if self.objective == "answer" and "reflector" in self.policies:
            raise ValueError("objective 'answer' trains no reflections for a reflector: set policies to ['trained']")
        if self.lora_rank == 0 and "reflector" in self.policies:
            raise ValueError(
                "policy 'reflector' needs an adapter and lora_rank 0 has none: set policies to ['trained']"
            )
        if self.lora_rank == 0 and self.load_in_4bit:
            raise ValueError("4-bit weights cannot be trained: set load_in_4bit to false or lora_rank above 0")
        if self.lora_rank == 0 and self.retry_policy == "base":
            raise ValueError("retry_policy 'base' needs an adapter to switch off and lora_rank 0 has none: use 'live'")
        return self

    def check_failures(self, count: int) -> None:
        """SettingsError where there are fewer failures than a training step takes."""
        if count < self.failures_per_step:
            text = f"{count} failures, and a step takes failures_per_step {self.failures_per_step}"
            raise SettingsError(f"{text}: collect more (train_queries, rounds) or lower failures_per_step")


_DATA = "task model max_bad_rows chain_of_thought verdict temperature attempt_tokens load_in_4bit".split()
_TRAIN = """seed objective reflection_tokens dev_items lora_rank lora_alpha steps failures_per_step
reflections_per_failure retries_per_reflection retry_decoding retry_policy learning_rate learning_rate_schedule warmup
beta loss_type max_grad_norm dev_every"""
_EVALUATE = "seed reflection_tokens test_items decodings policies controls fresh_tries forced_words outright_request"
#: settings that decide what a stage's result is; everything else may differ between equal results
STAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "failures": (*_DATA, "train_queries", "dev_items", "rounds", "failures_per_query", "failures_wanted"),
    "train": (*_DATA, *_TRAIN.split()),
    "evaluate": (*_DATA, *_EVALUATE.split()),
}
_OF_A_TASK = ("source", "test_source", "forced_words", "outright_request")
#: what `lora_rank` 0 brings along where it is not said otherwise; the rate is the paper's (S)
ALL_WEIGHTS = {"load_in_4bit": False, "policies": ["trained"], "learning_rate": 5e-7}
#: settings of the machine that a folder is begun with and goes on with: they can change single texts
KEPT_FIELDS = ("engine", "backend", "dtype", "micro_batch", "sample_batch", "generation_batch")


def load(profile: str = "tiny", overrides: dict[str, Any] | None = None) -> Settings:
    """Settings of a profile (a name in data/profiles or the path of a YAML file) with its preset and the overrides.

    Paths of files count from where the user is, else from the repository. Raises SettingsError, in one line.

    >>> load("tiny", {"learning_rate": "1e-5"}).learning_rate
    1e-05
    """
    path = path_of(profile)
    profile = str(path) if str(profile).endswith(".yaml") else profile
    overrides = dict(overrides or {})
    values = with_row(path, overrides)
    asked = overrides.get("task", values.get("task"))
    if local("task", str(asked)) != local("task", str(values.get("task"))):
        values = {k: v for k, v in values.items() if k not in _OF_A_TASK}  # the profile's are for its own task
    preset, presets = overrides.get("preset", values.get("preset")), read_yaml(DATA / "presets.yaml")
    if preset == "auto":
        preset = gpus.preset_here(overrides.get("model", values.get("model", "embedded")))
    if preset not in (None, "auto", *presets):
        raise SettingsError(f"unknown preset '{preset}'{nearest(str(preset), ['auto', *presets])}")
    ceilings = presets["cpu" if preset == "auto" else preset] if preset else {}
    if str(overrides.get("lora_rank", values.get("lora_rank"))) == "0":
        own = () if "lora_rank" in overrides else values  # what was meant for an adapter gives way
        values |= {k: v for k, v in ALL_WEIGHTS.items() if k not in own and values.get(k) != []}
    chosen = {**values, **ceilings, **overrides, "preset": preset, "profile": str(profile)}
    for name in ("task", "model", "source", "test_source"):
        if isinstance(chosen.get(name), str):
            chosen[name] = local(name, chosen[name])
    if "micro_batch" in ceilings and "micro_batch" not in overrides:
        chosen["micro_batch"] = _largest_divisor(chosen, ceilings["micro_batch"])
    return build(chosen, str(path)).model_copy(update={"overridden": tuple(overrides)})


def _largest_divisor(values: dict[str, Any], limit: int) -> int:
    """The preset's micro-batch, or the largest number below it that divides the batch: a preset fits every profile."""
    names = ("failures_per_step", "reflections_per_failure", "gpus")
    sizes = [values.get(name, Settings.model_fields[name].default) for name in names]
    try:
        batch = int(sizes[0]) * int(sizes[1]) // int(sizes[2])
        return max(size for size in range(1, limit + 1) if batch % size == 0)
    except (TypeError, ValueError, ZeroDivisionError):
        return limit  # the settings' own check will complain


def build(values: dict[str, Any], where: str = "settings") -> Settings:
    """Validated settings. Raises SettingsError, in one line."""
    known = list(Settings.model_fields)
    for name in values:
        if name not in known:
            raise SettingsError(f"unknown setting '{name}' ({where}){nearest(name, known)}")
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        got = f", got {str(first['input'])[:80]!r}" if name else ""
        text = " ".join(first["msg"].removeprefix("Value error, ").split())
        raise SettingsError(f"setting '{name}': {text}{got}" if name else text) from None


#: the names in every notebook's `parameters` cell
PARAMETERS = ("profile", "task", "model", "seed", "results_dir", "make_missing", "overrides")


def from_notebook(variables: dict[str, Any]) -> Settings:
    """Settings from a notebook's globals right after its `parameters` cell (and papermill's injected one).

    Any other plain variable must be a setting's name. None for task, model or results_dir leaves the profile's own. If
    the cell runs again, variables of later cells count only if they look like a misspelt setting. Raises SettingsError.
    """
    stops_in_one_line()
    kinds = str | int | float | bool | list | tuple | dict | None
    given = {
        k: v for k, v in variables.items() if not k.startswith("_") and k not in ("In", "Out") and isinstance(v, kinds)
    }
    overrides = given.pop("overrides", None) or {}
    if not isinstance(overrides, dict):
        raise SettingsError(f"overrides must be an object such as {{'steps': 5}}, got {str(overrides)[:80]!r}")
    for name in ("profile", "seed"):
        if name in overrides:
            raise SettingsError(f"overrides cannot hold '{name}': it is a parameter of its own")
    known = [*Settings.model_fields, "overrides"]
    again = any(isinstance(value, Settings) for value in variables.values())
    for name in [*given, *overrides]:
        meant = difflib.get_close_matches(str(name), known, n=1, cutoff=0.75)
        if name not in known and (not again or name in overrides or meant):
            raise SettingsError(f"unknown parameter '{name}'{nearest(str(name), known)}")
    given = {name: value for name, value in given.items() if name in known}
    profile = given.pop("profile", "tiny")
    named = {name: value for name, value in given.items() if value is not None or name == "seed"}
    return load(profile, {**named, **overrides})
