"""What a stage's result is made from, as an identity, and the folder that is named by its hash.

    results/runs/<task>/<model>/failures-<hash>/  train-seed0-<hash>/  evaluate-vanilla-<hash>/  evaluate-seed0-<hash>/
    results/runs/revisions.json                   hub id -> commit, looked up once

An identity depends on settings, files and revisions.json alone, and nothing is downloaded for it. Other settings, data,
model, prompts or versions are another folder, and going back finds the older one.
"""

import contextlib
import contextvars
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from filelock import FileLock

from rrr_utils import conversation, tasks
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.files import file_hash, no_space, read_json, write_json
from rrr_utils.settings import DATA, ROOT, STAGE_FIELDS, Settings
from rrr_utils.tasks import sources

#: the stages and their notebooks
STAGES = ("failures", "train", "evaluate", "tables")
_BOOKS = ("01_collect_failures", "02_train_reflection", "03_evaluate", "04_paper_tables")
NOTEBOOKS = dict(zip(STAGES, _BOOKS, strict=True))
#: raised by hand when the meaning of a stage's files changes: its folders then get other names
VERSIONS = {"failures": 2, "train": 2, "evaluate": 2, "tables": 2}
#: what stands for a commit that is not recorded, inside `offline`; no run is begun with it
UNRESOLVED = "0" * 40
_ASKS = contextvars.ContextVar("asks", default=True)


def root(settings: Settings) -> Path:
    """The folder of all runs. A relative results_dir counts from the repository, wherever the kernel was started."""
    return ROOT / Path(settings.results_dir).expanduser()


def stage_dir(settings: Settings, stage: str) -> Path:
    """The folder of a stage's files. Raises SettingsError, DataError or ResultsError where the identity cannot be told.

    >>> stage_dir(Settings(seed=3), "train").relative_to(ROOT).as_posix()[:-8]
    'results/runs/countdown/embedded/train-seed3-'
    """
    if stage == "tables":
        return root(settings) / "tables" / profile_name(settings)
    if stage not in STAGES:
        raise SettingsError(f"unknown stage '{stage}'; known: {', '.join(STAGES)}")
    if stage == "train" and settings.seed is None:
        raise SettingsError("training needs a seed, and none stands for the base model: set seed to 0, 1, ...")
    who = "" if stage == "failures" else "-vanilla" if settings.seed is None else f"-seed{settings.seed}"
    return home(settings) / f"{stage}{who}-{identity_hash(identity(settings, stage))}"


def home(settings: Settings) -> Path:
    """The folder of a task's and model's runs."""
    return root(settings) / task_name(settings) / model_name(settings).replace("/", "--")


def profile_name(settings: Settings) -> str:
    """The profile's name in paths and tables: of a YAML file, its stem."""
    return Path(settings.profile).stem


def task_name(settings: Settings) -> str:
    """The task's name in paths and tables: of a .py file, its stem."""
    return Path(settings.task).stem if settings.task.endswith(".py") else settings.task


def model_name(settings: Settings) -> str:
    """The model's name in tables: a hub id, or a folder's last component."""
    return settings.model if _folder_of(settings) is None or settings.model == "embedded" else Path(settings.model).name


def _folder_of(settings: Settings) -> Path | None:
    """The local folder of the model; None for a hub id."""
    if settings.model == "embedded":
        return DATA / "embedded" / task_name(settings)
    return Path(settings.model).expanduser() if settings.model.startswith((".", "/", "~")) else None


def model_path(settings: Settings) -> tuple[str, str | None]:
    """Where the base model is: a local folder and None, or a hub id and its recorded commit. Raises one of PLAIN."""
    folder = _folder_of(settings)
    if folder is None:
        return settings.model, revision(settings, settings.model, "model")
    if not list(folder.glob("*.safetensors")):
        what = (
            f"no {settings.model if settings.model == 'embedded' else 'saved'} model for task '{task_name(settings)}'"
        )
        raise ResultsError(f"{what} in {folder} (no *.safetensors): set model to a hub id or to a folder with a model")
    return str(folder), None


def source_of(settings: Settings, split: str = "train") -> str | None:
    """A split's data as the task's `load` takes it: a hub id comes with its recorded commit, `owner/name@commit`."""
    source = (settings.test_source if split == "test" else None) or settings.source
    hub_id = tasks.hub_source(tasks.get(settings.task), source)
    return f"{hub_id}@{revision(settings, hub_id, 'dataset')}" if hub_id else source


def revision(settings: Settings, hub_id: str, kind: str) -> str:
    """The commit of a hub model or data set that all runs of this results_dir use, looked up at its first use.
    DataError where there is neither a record nor a way to the hub."""
    path, key = root(settings) / "revisions.json", hub_id if kind == "model" else f"datasets/{hub_id}"
    if key not in _revisions(path) and not _ASKS.get():
        return UNRESOLVED
    if key not in _revisions(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_name(".revisions.lock")):
                if key not in (known := _revisions(path)):
                    write_json(path, {**known, key: sources.commit_of(hub_id, kind)})
        except OSError as error:
            raise no_space(path, error) from None
    return _revisions(path)[key]


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Inside, nobody asks the hub: a commit that is not recorded is UNRESOLVED. For plans, and for what is there."""
    token = _ASKS.set(False)
    try:
        yield
    finally:
        _ASKS.reset(token)


def _revisions(path: Path) -> dict[str, str]:
    found = read_json(path)
    if found is None and path.exists() or not isinstance(found, dict | None):
        raise ResultsError(f"{path} cannot be read as an object of hub ids and commits: repair or remove it")
    return found or {}


def upstream(settings: Settings, stage: str) -> list[tuple[Settings, str]]:
    """What a stage reads. The reflector shares the base model's attempts, so its evaluation reads theirs too."""
    vanilla = settings.model_copy(update={"seed": None})
    if stage == "train":
        return [(settings, "failures")]
    if stage == "evaluate" and settings.seed is not None:
        return [(settings, "train"), *([(vanilla, "evaluate")] if "reflector" in settings.policies else [])]
    return []


def identity(settings: Settings, stage: str) -> dict[str, Any]:
    """What decides a stage's result. Nothing of the machine is in it, and no place where files lie."""
    task = tasks.get(settings.task)
    names = set(STAGE_FIELDS[stage]) - ({"policies"} if settings.seed is None else set())
    path, commit = model_path(settings)
    usual = {"fresh_tries"} if settings.fresh_tries == Settings.model_fields["fresh_tries"].default else set()
    return {
        **settings.model_dump(mode="json", include=names - usual),  # older folders keep their names
        "task": task_name(settings),
        "model": model_name(settings),
        "stage": stage,
        **({"generic": getattr(task, "GENERIC", None)} if stage == "evaluate" else {}),  # what a control shows
        "versions": {"stage": VERSIONS[stage], "task": task.VERSION},
        "task_hash": tasks.content_hash(settings.task, task),
        "shown": shown(task, settings.chain_of_thought),
        "data": tasks.fingerprint(task, source_of(settings, "test" if stage == "evaluate" else "train")),
        "model_hash": f"hub:{path}@{commit}" if commit else _hash_of_model(Path(path)),
        "upstream": {name: identity_hash(identity(one, name)) for one, name in upstream(settings, stage)},
    }


def identity_hash(identity: dict[str, Any]) -> str:
    """First 8 hex digits of the sha256 of an identity's canonical JSON.

    >>> identity_hash({"a": 1, "b": [2]}) == identity_hash({"b": [2], "a": 1})
    True
    """
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def shown(task: ModuleType, chain_of_thought: bool) -> str:
    """A fingerprint of all that a model is shown: the conversations of the task's EXAMPLE row. A task without one is a
    file whose content counts; then only the conversation's own sentences are hashed here."""
    row = getattr(task, "EXAMPLE", None)
    if row is None:
        task, row = SimpleNamespace(__name__="", REFLECT=task.REFLECT, prompt=lambda row: ""), {"id": ""}
    retry = conversation.retry(task, row, "attempt", "reflection", chain_of_thought)
    blind = conversation.blind_retry(task, row, "attempt", chain_of_thought)
    return hashlib.sha256(json.dumps([retry, blind]).encode()).hexdigest()[:16]


def _hash_of_model(folder: Path) -> str:
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    there = [*folder.glob("*.safetensors"), *(folder / name for name in names if (folder / name).is_file())]
    lines = "".join(f"{path.name} {file_hash(path)}\n" for path in sorted(there))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
