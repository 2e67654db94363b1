"""Settings of a run: every knob typed, with its unit, its reason and the paper's value where it is known.

A *profile* (`data/profiles/*.yaml`) says what runs; a *preset* (`data/presets.yaml`) says how it fits a machine and
never changes the effective batch; *overrides* come last. Unknown names are refused, with the nearest right one.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rrr_utils.errors import SettingsError, nearest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
Stage = Literal["failures", "train", "evaluate"]


class Settings(BaseModel):
    """One run of the method. Every stage reads the fields that bear on it (`STAGE_FIELDS`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # what runs
    profile: str = Field("tiny", description="name of a file in data/profiles")
    task: str = Field("countdown", description="countdown, function_calling, a dotted module, or a path to a .py file")
    model: str = Field("embedded", description="embedded, a hub id, or a folder with a saved model")
    seed: int | None = Field(0, ge=0, description="training seed; none stands for the untrained model (vanilla)")
    results_dir: str = Field("results/runs", description="folder that runs write to")
    source: str | None = Field(None, description="the task's data: a hub id, a local file, or procedural:...; none is the task's default")
    max_bad_rows: float = Field(0.01, ge=0, le=1, description="share of unreadable data rows that is tolerated")
    chain_of_thought: bool = Field(False, description="ask for a chain of thought before the answer; the paper does not")
    verdict: Literal["strict", "lenient"] = Field("strict", description="which verdict of the verifier counts")

    # how many items (rows)
    train_queries: int = Field(1000, gt=0, description="queries of the train split that attempts are sampled for")
    dev_items: int = Field(256, gt=0, description="failures of the dev split that pick the best checkpoint")
    test_items: int = Field(1000, gt=0, description="rows of the test split; the paper: 15,000 Countdown, 12,000 function calling")

    # sampling
    temperature: float = Field(0.9, gt=0, le=2, description="of every sampled text; the paper: 'like 0.9 ... maybe a little lower'")
    attempt_tokens: int = Field(128, gt=0, description="longest attempt and retry, in tokens")
    reflection_tokens: int = Field(256, gt=0, description="longest reflection, in tokens")
    rounds: tuple[int, ...] = Field(
        (1, 3, 12, 48), min_length=1, description="samples per query, round by round; the paper: up to 64 in all"
    )
    failures_per_query: int = Field(
        4, gt=0, description="a query with as many distinct failures drops out of later rounds, and keeps no more"
    )
    failures_wanted: int = Field(4000, gt=0, description="rounds end once as many failures are there")

    # weights
    load_in_4bit: bool = Field(True, description="NF4 base weights (bitsandbytes); the paper trains full weights")
    lora_rank: int = Field(16, ge=0, description="rank of the adapter; 0 trains all weights, as the paper does")
    lora_alpha: int = Field(32, gt=0, description="scale of the adapter: alpha / rank")

    # training
    steps: int = Field(300, gt=0, description="optimiser steps; the paper: at most 1,750")
    failures_per_step: int = Field(32, gt=0, description="failures (groups) in an optimiser step")
    reflections_per_failure: int = Field(
        8, gt=1, description="group size; the paper: 'between eight and 14'. The paper's batch of 256 = 32 x 8"
    )
    retries_per_reflection: int = Field(1, gt=0, description="a reflection's reward is the mean over its retries")
    retry_decoding: Literal["sampled", "greedy"] = Field(
        "sampled", description="how retries in training are decoded; greedy ones leave more groups without spread"
    )
    retry_policy: Literal["live", "base"] = Field(
        "live", description="who writes the retry in training: the model being trained (the paper) or the untrained one"
    )
    learning_rate: float = Field(2e-5, gt=0, description="peak; the paper: 5e-7 for full weights, so an adapter's is its own")
    learning_rate_schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="the paper: cosine")
    warmup: float = Field(0.03, ge=0, le=1, description="share of the steps; the paper: 0.03")
    beta: float = Field(0.001, ge=0, description="KL coefficient; the paper: 0.001")
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = Field(
        "dapo", description="how token losses are averaged; dapo gives every token of a batch one weight"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    dev_every: int = Field(25, gt=0, description="steps between checkpoints, each scored on dev")
    report_to: str = Field("none", description="tensorboard, wandb or none: handed on to trl")

    # evaluation
    decodings: tuple[Literal["greedy", "sampled"], ...] = Field(
        ("greedy", "sampled"), min_length=1, description="sampled is at the training temperature"
    )
    policies: tuple[Literal["trained", "reflector"], ...] = Field(
        ("trained", "reflector"), min_length=1, description="adapter everywhere (the paper) and adapter only while reflecting"
    )

    # how it fits the machine (presets); none of these changes a result's meaning
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="of activations and of the unquantised base weights")
    threads: int = Field(0, ge=0, description="CPU threads of torch; 0 leaves torch's choice")
    micro_batch: int = Field(8, gt=0, description="reflections in one forward and backward pass of training")
    sample_batch: int = Field(64, gt=0, description="conversations generated at a time; halved when memory runs out")
    gradient_checkpointing: bool = Field(True, description="less memory for a third more time")
    gpus: int = Field(1, gt=0, description="processes that train one model, one GPU each, by accelerate; the batch stays")
    engine: Literal["hf", "vllm"] = Field("hf", description="who generates when attempts are collected and evaluated")

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: Any) -> Any:
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true and false are for settings that are switches")  # pydantic would read them as 1 and 0
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        batch = self.failures_per_step * self.reflections_per_failure
        if batch % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide the batch of {batch} reflections "
                f"(failures_per_step x reflections_per_failure): choose a divisor of {batch}"
            )
        if self.lora_rank == 0 and "reflector" in self.policies:
            raise ValueError(
                "policies has 'reflector', which switches the adapter on only while reflecting, but lora_rank 0 trains "
                "all weights and has no adapter: set policies to ['trained']"
            )
        if self.lora_rank == 0 and self.load_in_4bit:
            raise ValueError("4-bit weights cannot be trained themselves: set load_in_4bit to false or lora_rank above 0")
        if self.lora_rank == 0 and self.retry_policy == "base":
            raise ValueError("retry_policy 'base' needs an adapter to switch off, and lora_rank 0 has none: use 'live'")
        return self


#: settings that decide what a stage's result is; everything else may differ between equal results
_DATA = ("task", "model", "source", "max_bad_rows", "chain_of_thought", "verdict", "temperature", "attempt_tokens", "load_in_4bit")
STAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "failures": (*_DATA, "train_queries", "dev_items", "rounds", "failures_per_query", "failures_wanted"),
    "train": (
        *_DATA, "seed", "reflection_tokens", "dev_items", "lora_rank", "lora_alpha", "steps", "failures_per_step",
        "reflections_per_failure", "retries_per_reflection", "retry_decoding", "retry_policy", "learning_rate",
        "learning_rate_schedule", "warmup",
        "beta", "loss_type", "max_grad_norm", "dev_every",
    ),
    "evaluate": (*_DATA, "seed", "reflection_tokens", "test_items", "decodings", "policies"),
}  # fmt: skip


def profiles() -> list[str]:
    """Names of the profiles that the repository holds."""
    return sorted(path.stem for path in (DATA / "profiles").glob("*.yaml"))


def load(profile: str = "tiny", overrides: dict[str, Any] | None = None) -> Settings:
    """Settings of a profile (a name in data/profiles or a path to a YAML file) with its preset and the overrides.

    Raises SettingsError for an unknown profile, preset or name and for a value of the wrong type.

    >>> load("tiny", {"learning_rate": "1e-5"}).learning_rate
    1e-05
    """
    path = Path(profile) if profile.endswith(".yaml") else DATA / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        raise SettingsError(f"unknown profile '{profile}'{nearest(profile, profiles())}")
    values = _read_yaml(path)
    overrides = dict(overrides or {})
    preset = overrides.pop("preset", values.pop("preset", None))
    presets = _read_yaml(DATA / "presets.yaml")
    if preset is not None and preset not in presets:
        raise SettingsError(f"unknown preset '{preset}'{nearest(str(preset), list(presets))}")
    chosen = {"profile": path.stem, **values, **(presets[preset] if preset else {}), **overrides}
    if preset and "micro_batch" in presets[preset] and "micro_batch" not in overrides:
        chosen["micro_batch"] = _largest_divisor(chosen, presets[preset]["micro_batch"])
    return build(chosen, str(path))


def _largest_divisor(values: dict[str, Any], limit: int) -> int:
    """The preset's micro-batch, or the largest below it that divides the batch: a preset must fit every profile.

    >>> _largest_divisor({"failures_per_step": 6, "reflections_per_failure": 8}, 32)
    24
    """
    defaults = Settings.model_fields
    sizes = [values.get(name, defaults[name].default) for name in ("failures_per_step", "reflections_per_failure")]
    try:
        batch = int(sizes[0]) * int(sizes[1])
        return max(size for size in range(1, limit + 1) if batch % size == 0)
    except (TypeError, ValueError):
        return limit  # no numbers: the settings' own check says so


def build(values: dict[str, Any], where: str = "settings") -> Settings:
    """Validate a dict of settings; every complaint becomes one line."""
    known = list(Settings.model_fields)
    for name in values:
        if name not in known:
            raise SettingsError(f"unknown setting '{name}' ({where}){nearest(name, known)}")
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        got = f", got {first['input']!r}" if name else ""
        text = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"setting '{name}': {text}{got}" if name else text) from None


#: the names that every notebook's `parameters` cell has
PARAMETERS = ("profile", "task", "model", "seed", "results_dir", "overrides")


def from_notebook(variables: dict[str, Any]) -> Settings:
    """Settings from a notebook's globals right after its `parameters` cell (and papermill's injected one).

    The variables of the parameters cell are taken; any other plain variable must be a setting's name, and is an override.
    A value None for task, model or results_dir leaves the profile's own. When the cell runs again in a notebook that has
    gone further, later cells' variables are let pass, unless their names look like a misspelt setting.
    """
    given = {
        name: value
        for name, value in variables.items()
        if not name.startswith("_")
        and name not in ("In", "Out")
        and isinstance(value, str | int | float | bool | list | tuple | dict | None)
    }
    overrides = dict(given.pop("overrides", None) or {})
    known = list(Settings.model_fields) + ["preset", "overrides"]
    again = any(isinstance(value, Settings) for value in variables.values())
    for name in [*given, *overrides]:
        if name not in known and (not again or name in overrides or difflib.get_close_matches(name, known, n=1, cutoff=0.75)):
            raise SettingsError(f"unknown parameter '{name}'{nearest(name, known)}")
    given = {name: value for name, value in given.items() if name in known}
    profile = given.pop("profile", "tiny")
    named = {name: value for name, value in given.items() if value is not None or name == "seed"}
    return load(profile, {**named, **overrides})


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is no valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must hold 'name: value' lines")
    return values
