"""How a result was made: commit, versions, hardware, time, command. Recorded with every result, never compared."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rrr_utils.settings import ROOT

_NAMES = "torch trl transformers peft accelerate bitsandbytes tokenizers datasets numpy scipy pandas unsloth vllm"
PACKAGES = _NAMES.split()


def provenance(started: float) -> dict[str, Any]:
    """What is recorded with a result. `started`: seconds since the epoch."""
    torch = sys.modules.get("torch")  # looked up, not imported: tables need none
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "packages": versions,
        "python": platform.python_version(),
        "hardware": {"cpu": _cpu(), "cores": os.cpu_count(), "gpu": gpu},
        "threads": torch.get_num_threads() if torch else None,
        "start": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "command": os.environ.get("RRR_COMMAND") or " ".join(sys.argv),
    }


def _git(*arguments: str) -> str | None:
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 20, "check": True}
    try:
        return subprocess.run(["git", *arguments], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
