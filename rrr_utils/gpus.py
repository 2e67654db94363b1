"""Which GPUs there are, and taking some for a stage while other launchers run on the same machine. No torch."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock, Timeout


def visible() -> list[str]:
    """GPUs that this process may use, found without torch; none where there is no NVIDIA driver."""
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:  # empty: none
        return [one for one in named.split(",") if one.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(k) for k, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def take(number: int, prefix: str) -> list[FileLock]:
    """Of several GPUs, as many as asked for that no other launcher has. The locks end with this process."""
    choices, said = visible(), False
    while len(choices) > 1:
        taken: dict[str, FileLock] = {}
        for gpu in choices:
            lock = FileLock(Path(tempfile.gettempdir()) / f"rrr-gpu-{gpu}.lock", mode=0o666)
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
