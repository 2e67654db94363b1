"""Run directories: where a stage's files lie, what they are of (identity), how they are written, and whether they are done.

A stage is done when its `result.json` is there with the identity that is asked for and its outputs are as they were
written. Covered: directories, identity, done or not, refusing to mix, reading all. How files are written is in `files.py`. Not covered: what the stages compute. No torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rrr_utils import tasks
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.files import file_hash, no_space, read_json, write_json
from rrr_utils.provenance import provenance
from rrr_utils.settings import DATA, ROOT, STAGE_FIELDS, Settings

if TYPE_CHECKING:
    pass

STAGES = ("failures", "train", "evaluate", "tables")
#: raised by hand when what a stage's files mean changes: older results then count as stale
VERSIONS = {"failures": 1, "train": 1, "evaluate": 1, "tables": 1}


# ---------------------------------------------------------------- where things lie


def runs_dir(settings: Settings) -> Path:
    """The profile's folder of runs. A relative results_dir counts from the repository, wherever the kernel was started."""
    return ROOT / settings.results_dir / settings.profile


def stage_dir(settings: Settings, stage: str) -> Path:
    """The folder of a stage's files.

    >>> from rrr_utils.settings import build
    >>> stage_dir(build({"model": "Qwen/Qwen2.5-1.5B", "seed": 3}), "train").relative_to(ROOT).as_posix()
    'results/runs/tiny/countdown/Qwen--Qwen2.5-1.5B/seed3/train'
    """
    _known(stage)
    if stage == "tables":
        return runs_dir(settings) / "tables"
    if stage == "train" and settings.seed is None:
        raise SettingsError("stage 'train' needs a seed, and seed none stands for the untrained model: set seed to 0, 1, ...")
    who = "vanilla" if stage == "failures" or settings.seed is None else f"seed{settings.seed}"
    return runs_dir(settings) / task_name(settings) / model_name(settings).replace("/", "--") / who / stage


def task_name(settings: Settings) -> str:
    """The task's name in paths and tables: for a file of one's own, its stem."""
    return Path(settings.task).stem if settings.task.endswith(".py") else settings.task


def model_name(settings: Settings) -> str:
    """The model's name in tables: a hub id, or a folder's last component."""
    return Path(settings.model).name if _is_folder(settings.model) else settings.model


def upstream(settings: Settings, stage: str) -> list[tuple[Settings, str]]:
    """What a stage reads. The reflector's attempts are the untrained model's own, so its evaluation reads that one's too."""
    _known(stage)
    untrained = [(settings.model_copy(update={"seed": None}), "evaluate")]
    if stage == "failures" or (stage == "evaluate" and settings.seed is None):
        return []
    if stage == "train":
        return [(settings, "failures")]
    if stage == "evaluate":
        return [(settings, "train"), *(untrained if "reflector" in settings.policies else [])]
    return untrained + ([(settings, "evaluate")] if settings.seed is not None else [])


def model_folder(settings: Settings) -> Path | None:
    """The local folder of the settings' model; None for a hub id."""
    if settings.model == "embedded":
        return DATA / "embedded" / task_name(settings)
    return (ROOT / Path(settings.model).expanduser()).resolve() if _is_folder(settings.model) else None


def _is_folder(model: str) -> bool:
    return model.startswith((".", "/", "~")) or (ROOT / model).is_dir()


def _known(stage: str) -> None:
    if stage not in STAGES:
        raise SettingsError(f"unknown stage '{stage}'; known: {', '.join(STAGES)}")


# ---------------------------------------------------------------- what a result is of


def identity(settings: Settings, stage: str) -> dict[str, Any]:
    """What a stage's result is of: the settings that bear on it, hashes of its data and model, versions, its upstream.

    It never depends on how the run fits the machine (threads, micro-batch, dtype) or on where files are written.
    The tables' identity is made of the results that they are drawn from.
    """
    _known(stage)
    if stage == "tables":
        found = {
            path.parent.relative_to(runs_dir(settings)).as_posix(): identity_hash({result["identity_hash"]: result["outputs"]})
            for path, result in _evaluations(runs_dir(settings))
        }
        paper = file_hash(DATA / "paper.csv") if (DATA / "paper.csv").is_file() else None
        return {"stage": stage, "versions": {"stage": VERSIONS[stage]}, "data": f"sha256:{paper}", "upstream": found}
    task = tasks.get(settings.task)
    fields = settings.model_dump(mode="json", include=set(STAGE_FIELDS[stage]))
    fields["task"], fields["model"] = task_name(settings), model_name(settings)  # not where they lie on this machine
    if settings.source and (ROOT / settings.source).is_file():
        fields["source"] = Path(settings.source).name  # its content is in `data`
    if settings.seed is None:
        fields.pop("policies", None)  # of the trained model only
    return {
        **fields,
        "stage": stage,
        "versions": {"stage": VERSIONS[stage], "task": task.VERSION},
        "data": tasks.fingerprint(task, settings.source),
        "model_hash": _model_hash(settings),
        "upstream": {name: identity_hash(identity(above, name)) for above, name in upstream(settings, stage)},
    }


def identity_hash(identity: dict[str, Any]) -> str:
    """First 8 hex digits of the sha256 of an identity's canonical JSON.

    >>> identity_hash({"a": 1, "b": [2]}) == identity_hash({"b": [2], "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()[:8]


def _model_hash(settings: Settings) -> str:
    """Content hash of a local model; a hub id with the revision that the local cache has, if any."""
    folder = model_folder(settings)
    if folder is None:
        from huggingface_hub.constants import HF_HUB_CACHE

        ref = Path(HF_HUB_CACHE) / f"models--{settings.model.replace('/', '--')}" / "refs" / "main"
        return f"hub:{settings.model}@{ref.read_text().strip()}" if ref.is_file() else f"hub:{settings.model}"
    weights = list(folder.glob("*.safetensors"))
    files = sorted(weights + [folder / name for name in ("config.json", "tokenizer.json") if (folder / name).is_file()])
    if not weights:
        what = f"no embedded model for task '{settings.task}'" if settings.model == "embedded" else "no saved model"
        raise ResultsError(f"{what} in {folder} (no *.safetensors): set model to a hub id or to a folder with a model")
    whole = hashlib.sha256()
    for path in files:
        whole.update(f"{path.name} {file_hash(path)}\n".encode())
    return f"sha256:{whole.hexdigest()}"


def _same(old: dict[str, Any] | None, new: dict[str, Any]) -> bool:
    """Equal, where a hub revision that is known on one side only does not count as a difference."""

    def bare(value: str, other: str) -> str:
        return value.split("@")[0] if value.startswith("hub:") and ("@" in value) != ("@" in other) else value

    if not old or old.keys() != new.keys():
        return False
    for name in ("data", "model_hash"):
        if name in new:
            old, new = {**old, name: bare(old[name], new[name])}, {**new, name: bare(new[name], old[name])}
    return old == new


# ---------------------------------------------------------------- begin, finish, done


def open_stage(settings: Settings, stage: str) -> Path:
    """The stage's folder, ready to write to: files of the same identity stay (the run goes on), others are moved aside."""
    folder, now = stage_dir(settings, stage), identity(settings, stage)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise no_space(folder, error) from None
    result = read_json(folder / "result.json")
    old = read_json(folder / "identity.json") or (result or {}).get("identity")
    kept = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if kept and (not _same(old, now) or (result and not _intact(folder, result))):
        word = "damaged" if _same(old, now) else "stale"
        aside = folder.with_name(f"{folder.name}.{word}-{identity_hash(old) if old else 'unknown'}")
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{aside.name.split('~')[0]}~{number}")
        aside.mkdir()
        for path in kept:  # the files, not the folder: the launcher's own unfinished notebook lies there too
            path.rename(aside / path.name)
        why = "its outputs are not as they were written" if word == "damaged" else "it is of other settings, data or versions"
        print(f"{stage}: moved an older result aside to {aside} ({why})", flush=True)
    if read_json(folder / "identity.json") != now:  # else it stays as it was: its time says when the stage was begun
        write_json(folder / "identity.json", now)
    return folder


def began(directory: Path) -> float:
    """When a stage was first opened, in seconds since the epoch (the time of its `identity.json`)."""
    return (directory / "identity.json").stat().st_mtime


def finish(settings: Settings, stage: str, outputs: list[Path], summary: dict[str, Any], started: float) -> dict[str, Any]:
    """Write `result.json`, last of all. Outputs are files, or folders whose files all count; `started` is time.time()."""
    folder, now = stage_dir(settings, stage), identity(settings, stage)
    files = sorted(file for path in outputs for file in (path.rglob("*") if path.is_dir() else [path]) if not file.is_dir())
    result = {
        "stage": stage,
        "identity": now,
        "identity_hash": identity_hash(now),
        "provenance": provenance(started),
        "outputs": {file.relative_to(folder).as_posix(): file_hash(file) for file in files},
        "summary": summary,
    }
    if read_json(folder / "identity.json") != now:
        write_json(folder / "identity.json", now)
    write_json(folder / "result.json", result)
    return result


def done(settings: Settings, stage: str) -> dict[str, Any] | None:
    """The stage's result if it is of what is asked for and its outputs are intact, else None."""
    folder = stage_dir(settings, stage)
    result = read_json(folder / "result.json")
    return result if result and _same(result.get("identity"), identity(settings, stage)) and _intact(folder, result) else None


def _intact(folder: Path, result: dict[str, Any]) -> bool:
    return all((folder / name).is_file() and file_hash(folder / name) == digest for name, digest in result["outputs"].items())


# ---------------------------------------------------------------- reading all of them


def _evaluations(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Every evaluation's result under a profile's runs, by path."""
    found = [(path, read_json(path)) for path in sorted(folder.glob("*/*/*/evaluate/result.json"))]
    return [(path, result) for path, result in found if result]


def evaluations(profile: str, results_dir: str = "results/runs") -> list[tuple[Path, dict[str, Any]]]:
    """Folder and result of every finished evaluation of a profile, refused if they do not belong into one table."""
    found = _evaluations(ROOT / results_dir / profile)
    trained = [(path, read_json(path)) for path in (path.parents[1] / "train" / "result.json" for path, _ in found)]
    refuse_to_mix(found + [(path, result) for path, result in trained if result])
    return [(path.parent, result) for path, result in found]


def refuse_to_mix(found: list[tuple[Path, dict[str, Any]]]) -> None:
    """Raise ResultsError unless identities differ in nothing but task, model and seed, and what follows from these."""
    within = {"seed", "upstream"}
    across = within | {"task", "model", "source", "data", "model_hash", "versions"}
    first: dict[tuple[str, ...], tuple[Path, dict[str, Any]]] = {}
    for path, result in sorted(found, key=lambda item: item[1]["identity"].get("seed") is None):  # vanilla, without policies, last
        now, stage = result["identity"], result["stage"]
        for key, free in (((stage,), across), ((stage, now["task"], now["model"]), within)):
            other_path, other = first.setdefault(key, (path, now))
            for name in sorted((now.keys() & other.keys()) - free):
                if now[name] != other[name]:
                    raise ResultsError(
                        f"results of different settings cannot share a table: '{name}' is {other[name]!r} in {other_path.parent} "
                        f"and {now[name]!r} in {path.parent}. Run the older one again, move it away, or give one a results_dir of its own"
                    )
