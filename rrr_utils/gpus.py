"""Which GPUs there are, and taking some for a stage while other launchers run on the same machine. Imports no torch."""

import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout


class Card(NamedTuple):
    """A GPU: its name, its total memory in bytes, and its compute capability, as in 7.5."""

    name: str
    total_bytes: int
    capability: float


def visible() -> list[str]:
    """GPUs that this process may use, found without torch; none where there is no NVIDIA driver."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:  # empty: none
        return [one for one in named.split(",") if one.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(k) for k, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def card() -> Card | None:
    """The first GPU that this process may use, by nvidia-smi; none where there is none or it is shared out (MIG)."""
    return _card(there[0]) if (there := visible()) else None


@functools.cache
def _card(gpu: str) -> Card | None:
    fields = "name,mig.mode.current,memory.total,compute_cap"
    asked = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
        name, shared, mebibytes, capability = (one.strip() for one in told.splitlines()[0].rsplit(",", 3))
        return None if shared == "Enabled" else Card(name, int(mebibytes) * 2**20, float(capability))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def total_bytes() -> int:
    """All memory of that GPU, free or not, so that two runs choose alike; of the machine where there is none."""
    if there := card():
        return there.total_bytes
    if visible():  # a slice of a card, which only torch can tell
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def preset_for(card: Card) -> str:
    """The preset in data/presets.yaml whose ceilings suit a card; what fits it is arithmetic (fit.py).

    >>> preset_for(Card("Tesla T4", 15360 * 2**20, 7.5)), preset_for(Card("NVIDIA L4", 23034 * 2**20, 8.9))
    ('t4', 'gpu_24gb')
    >>> preset_for(Card("NVIDIA H100 80GB HBM3", 81559 * 2**20, 9.0))
    'gpu_80gb'
    """
    gibibytes = card.total_bytes / 2**30
    if card.capability < 8 or gibibytes < 20:
        return "t4"
    return "gpu_24gb" if gibibytes < 70 else "gpu_80gb"


def preset_here(model: str) -> str:
    """The preset of this machine's GPU, with the ceilings of an ordinary one where it does not tell its size. Without
    a GPU cpu for the embedded model; for any other it stays auto, which `needs.check` refuses."""
    if there := card():
        return preset_for(there)
    return "gpu_24gb" if visible() else "cpu" if model == "embedded" else "auto"


def take(number: int, prefix: str) -> list[FileLock]:
    """Of several GPUs, as many as asked for that no other launcher has. The locks end with this process.

    A Slurm job's GPUs are its own and are counted from 0, so launchers of two jobs on one machine share no lock."""
    choices, said, job = visible(), False, os.environ.get("SLURM_JOB_ID", "any")
    while len(choices) > 1:
        taken: dict[str, FileLock] = {}
        for gpu in choices:
            lock = FileLock(Path(tempfile.gettempdir()) / f"rrr-gpu-{job}-{gpu}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
                taken[gpu] = lock
            except (Timeout, PermissionError):
                continue
            if len(taken) == number:
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
                return list(taken.values())
        for lock in taken.values():  # not enough: nobody waits while holding some
            lock.release()
        if not said:
            print(f"{prefix}all {len(choices)} GPUs are in use: waiting", file=sys.stderr, flush=True)
            said = True
        time.sleep(2)
    return []


def free() -> None:
    """Give back the memory, a GPU's too, of models that nothing refers to any more: a notebook's last cell calls it."""
    if "torch" in sys.modules:  # else there was no model
        from accelerate.utils.memory import clear_device_cache

        clear_device_cache(garbage_collection=True)
