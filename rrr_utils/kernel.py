"""Run a notebook through papermill: with this Python, with a live log, and with a known end.

papermill alone calls every cell of a killed kernel "completed", takes the Python of some kernelspec, and shows nothing
while a cell runs. Here a failure comes back as data: which cell, which error. `launch.py` says what counts as success.
"""

import contextlib
import logging
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import nbformat
import papermill
import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

#: a cluster that ends a job sends SIGTERM to all its processes: a kernel leaves that to its launcher, which interrupts
#: the cell; children end as ever. tqdm.auto is imported before there is a shell: its bars are then text, not widgets
_START = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: None)
os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
import tqdm.auto
from ipykernel import kernelapp
kernelapp.launch_new_instance()
"""
#: seconds that an interrupted cell has for saving
GRACE = 20
#: "the time limit is near" (workflow/profiles/slurm): a signal that all other processes ignore, unless told otherwise
LIMIT_NEAR = signal.SIGURG


class Failure(NamedTuple):
    """How a notebook ended before its last cell."""

    cell: int | None  # counted from 1, as a reader does, markdown cells included
    error: str  # name of the exception: DeadKernelError for a killed kernel, KeyboardInterrupt for a stopped one
    text: str
    traceback: str = ""


class Kernel(AsyncKernelManager):
    """Starts the Python that runs this, whatever the kernelspecs say, and remembers the process."""

    process: psutil.Process | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-c", _START, "--log-level=CRITICAL", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")

    async def _async_post_start_kernel(self, **options: Any) -> None:
        await super()._async_post_start_kernel(**options)
        Kernel.process = psutil.Process(self.provisioner.pid)

    post_start_kernel = _async_post_start_kernel  # what jupyter_client 7 calls, which Colab has


class Log:
    """Hands a kernel's output on; for readers that are no terminal, progress bars become lines.

    >>> log = Log(sys.stdout, prefix="train: ", plain=True)
    >>> log.write("\\r 10% done"); log.write("\\r 20% done\\nsaved\\n")
    train:  10% done
    train:  20% done
    train: saved
    """

    def __init__(self, stream: TextIO, prefix: str, plain: bool) -> None:
        self.stream, self.prefix, self.plain, self.rest = stream, prefix, plain, ""

    def write(self, text: str) -> None:
        if not self.plain:
            self.stream.write(text)
            return
        *lines, self.rest = re.split(r"[\r\n]+", self.rest + text)
        for line in lines:
            if line.strip() and not re.search(r"\b0%\|", line):  # a bar that has just begun says nothing yet
                print(self.prefix + line, file=self.stream)

    def flush(self) -> None:
        self.stream.flush()

    def close(self) -> None:
        if self.plain:
            self.write("\n")
        self.flush()


def execute(
    notebook: Path, output: Path, parameters: dict[str, Any], cwd: Path, prefix: str = "", plain: bool = False
) -> Failure | None:
    """Run the notebook and write its executed copy to `output` as it goes. None if every cell ran to its end.

    SIGINT and SIGTERM interrupt the running cell, which may save within GRACE seconds, and then end the kernel;
    LIMIT_NEAR does so without that bound.
    """
    Kernel.process = None
    logs = Log(sys.stdout, prefix, plain), Log(sys.stderr, prefix, plain)
    asked = False

    def stop(number: int, frame: Any) -> None:
        nonlocal asked
        if asked and number in (signal.SIGTERM, LIMIT_NEAR):
            return  # Slurm sends it several times
        if asked or not Kernel.process or number == signal.SIGALRM:
            raise KeyboardInterrupt
        asked = True
        left = "until the time limit" if number == LIMIT_NEAR else f"{GRACE} seconds"
        print(f"{prefix}stopping: the running cell has {left} to save", file=sys.stderr, flush=True)
        _signal(Kernel.process, signal.SIGINT)
        signal.alarm(0 if number == LIMIT_NEAR else GRACE)

    heard = (signal.SIGINT, signal.SIGTERM, LIMIT_NEAR, signal.SIGALRM)
    before = {number: signal.signal(number, stop) for number in heard}
    logging.getLogger("papermill").setLevel(logging.CRITICAL)  # what went wrong is told once, by the launcher
    failure = None
    try:
        papermill.execute_notebook(
            notebook, output, parameters=parameters, kernel_name="python3", language="python", cwd=cwd,
            progress_bar=False, stdout_file=logs[0], stderr_file=logs[1], kernel_manager_class=Kernel,
            coalesce_streams=True, start_timeout=120,
        )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        kinds = [[one.output_type for one in cell.get("outputs", [])] for cell in _cells(output)]
        cell = next((number for number, own in enumerate(kinds, 1) if "error" in own), error.cell_index + 1)
        traceback = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
        failure = Failure(cell, error.ename, error.evalue, traceback)
    except KeyboardInterrupt:
        failure = Failure(_mark_dead(output), "KeyboardInterrupt", "")
    except Exception as error:  # a dead kernel, papermill, nbclient or the disk: all of it becomes one line
        failure = Failure(_mark_dead(output), type(error).__name__, str(error))
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
        if Kernel.process:
            _end(Kernel.process)
        for log in logs:
            log.close()
    return failure._replace(error="KeyboardInterrupt") if failure and asked else failure


def _end(process: psutil.Process) -> None:
    """Kill a kernel that is still there, with what it started."""
    while _alive(process):
        _signal(process, signal.SIGKILL)
        time.sleep(0.1)


def _alive(process: psutil.Process) -> bool:
    try:  # is_running() knows a process id that now belongs to another program
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if _alive(process):
            os.killpg(process.pid, number)  # a kernel leads a process group of its own


def _cells(path: Path) -> list[Any]:
    """The cells of an executed notebook as the reader of the original counts them."""
    try:
        cells = nbformat.read(path, as_version=4).cells
    except (OSError, ValueError):
        return []
    ours = ("injected-parameters", "papermill-error-cell-tag")
    return [cell for cell in cells if not any(tag in ours for tag in cell.metadata.get("tags", []))]


def _mark_dead(path: Path) -> int | None:
    """Mark the cell that ran as failed and the rest as pending: papermill has marked all as completed."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError):
        return None
    last = None
    for cell in notebook.cells:
        if cell.metadata.get("papermill", {}).get("start_time"):
            last = cell
        elif "papermill" in cell.metadata:
            cell.metadata.papermill.status = "pending"
    if last is None:
        return None
    last.metadata.papermill.update(status="failed", exception=True)
    with contextlib.suppress(OSError):  # a full disk: the message matters, not this copy
        nbformat.write(notebook, path)
    cells = _cells(path)
    return next((i for i, cell in enumerate(cells, 1) if cell.get("id") == last.get("id")), None)
