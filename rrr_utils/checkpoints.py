"""Checkpoints of a training: written whole, the best one kept as `adapter/`, and how a killed training goes on.

`checkpoint-<step>/files.json` holds the hashes of a checkpoint's files and is written last: what does not match it is
damaged, is set aside, and the checkpoint before it is taken. `adapter/` is a copy of the best checkpoint by dev, and
`adapter.json` says of which step, never of a later one than the last line of `dev.jsonl`.
"""

import shutil
from pathlib import Path

from rrr_utils.files import file_hash, no_space, read_json, read_log, write_json, write_jsonl

LOGS = ("training", "dev", "dev_texts", "reflections")
#: files of a checkpoint that only serve to go on
_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args", "files.json", "README.md")


def folder_of(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies; step 0 is the fresh adapter, which no training goes on from."""
    return directory / "checkpoints" / (f"checkpoint-{step}" if step else "untrained")


def saved(directory: Path, step: int) -> None:
    """Note that the checkpoint of this step is whole; keep it as `adapter/` if it is the best by dev."""
    checkpoint = folder_of(directory, step)
    write_json(checkpoint / "files.json", _hashes(checkpoint))
    if best(read_log(directory / "dev.jsonl"))["step"] == step:
        keep(directory, step)


def keep(directory: Path, step: int) -> None:
    """Copy the checkpoint of a step to `adapter/`. A kill in between leaves an `adapter.json` that does not match."""
    checkpoint, part = folder_of(directory, step), directory / "adapter.part"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for path in sorted(checkpoint.iterdir()):
            if path.is_file() and not path.name.startswith(_STATE):
                shutil.copyfile(path, part / path.name)
        shutil.rmtree(directory / "adapter", ignore_errors=True)
        part.rename(directory / "adapter")
    except OSError as error:
        raise no_space(directory / "adapter", error) from None
    write_json(directory / "adapter.json", {"step": step, "files": _hashes(directory / "adapter")})


def best(dev: list[dict]) -> dict:
    """The line of `dev.jsonl` with the best recovery rate, the first of equals."""
    return max(dev, key=lambda line: (line["score"], -line["step"]))


def newest(directory: Path) -> Path | None:
    """The newest checkpoint; None to begin anew. `go_back` has set damaged ones aside."""
    found = list((directory / "checkpoints").glob("checkpoint-*"))
    return max(found, key=_step, default=None)


def finished(directory: Path, steps: int) -> bool:
    """Whether all steps are logged, the last one is scored, and the best adapter is there as it was saved."""
    lines, dev = read_log(directory / "training.jsonl"), read_log(directory / "dev.jsonl")
    return len(lines) >= steps and bool(dev) and dev[-1]["step"] == lines[-1]["step"] and _has(directory, best(dev))


def go_back(directory: Path) -> None:
    """Bring logs and `adapter/` back to the newest checkpoint that is whole; set what cannot be gone on from aside."""
    logs = {name: read_log(directory / f"{name}.jsonl") for name in LOGS}
    while checkpoint := newest(directory):
        step = _step(checkpoint)
        before = {name: [line for line in lines if line["step"] <= step] for name, lines in logs.items()}
        steps = [line["step"] for line in before["training"]]
        if problem := _problem(directory, checkpoint, steps, before["dev"]):
            aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
            shutil.rmtree(aside, ignore_errors=True)
            checkpoint.rename(aside)
            print(f"{checkpoint} cannot be gone on from ({problem}): set aside as {aside.name}", flush=True)
            continue
        if not _has(directory, best(before["dev"])):
            keep(directory, best(before["dev"])["step"])
        for name, lines in before.items():  # what a killed run logged after its last checkpoint comes again
            if lines != logs[name]:
                write_jsonl(directory / f"{name}.jsonl", lines)
        return
    left = [directory / name for name in [*(f"{name}.jsonl" for name in LOGS), "adapter", "adapter.json"]]
    if any(path.exists() for path in left):  # begun anew: these come again
        shutil.rmtree(directory / "before", ignore_errors=True)
        (directory / "before").mkdir()
        for path in [path for path in left if path.exists()]:
            path.rename(directory / "before" / path.name)


def _problem(directory: Path, checkpoint: Path, steps: list[int], dev: list[dict]) -> str | None:
    """Why a training cannot go on from a checkpoint; None where it can."""
    if damage := _damage(checkpoint):
        return damage
    if steps != list(range(1, _step(checkpoint) + 1)) or not dev:
        return "the logs do not reach it"
    kept = best(dev)
    if not _has(directory, kept) and _damage(folder_of(directory, kept["step"])):
        return f"the best adapter until then, of step {kept['step']}, is not there any more"
    return None


def _damage(checkpoint: Path) -> str | None:
    noted = read_json(checkpoint / "files.json")
    if not isinstance(noted, dict) or not noted:
        return "it was not written whole"
    changed = [n for n, sha in noted.items() if not (checkpoint / n).is_file() or file_hash(checkpoint / n) != sha]
    return f"{changed[0]} is missing or damaged" if changed else None


def _has(directory: Path, line: dict) -> bool:
    """Whether `adapter/` is the one of this line of `dev.jsonl`, as it was saved."""
    noted = read_json(directory / "adapter.json")
    there = _hashes(directory / "adapter") if (directory / "adapter").is_dir() else {}
    return isinstance(noted, dict) and noted.get("step") == line["step"] and noted.get("files") == there


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "files.json"]
    return {path.name: file_hash(path) for path in files}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
