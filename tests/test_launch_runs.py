"""The strict launcher with a kernel, on made-up notebooks: ends, stops, and launchers of one stage. Few: they cost seconds."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from helpers_launch import STAGE, run, start, write_notebook

from rrr_utils import launch, runs
from rrr_utils.settings import ROOT

# ---------------------------------------------------------------- with a kernel: few, they cost seconds


def test_a_stage_runs_once_in_this_python_and_is_then_done(tmp_path, given):
    options, settings = given
    book = write_notebook(
        tmp_path / "01_collect_failures.ipynb",
        "import time\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(3), desc='collecting', mininterval=0): time.sleep(0.02)",
        STAGE.format(stage="failures"),
    )
    status, out, err = run(book, *options, "-p", "learning_rate=1e-5")
    folder = runs.stage_dir(settings(), "failures")
    found = runs.done(settings(), "failures")
    assert (status, out.splitlines()[-1]) == (0, f"done: failures {folder} {found['identity_hash']}"), err
    assert any(line.startswith("failures: collecting: 100%") for line in err.splitlines()), err
    assert "\r" not in out + err
    assert eval((folder / "out.txt").read_text()) == [1e-5, "float", sys.executable]
    assert found["provenance"]["command"].startswith("python -m rrr_utils.launch failures --profile tiny -p ")
    executed = nbformat.read(folder / "run.ipynb", as_version=4)
    assert "\r" not in json.dumps(executed)
    assert not list(folder.glob(".run*")) + list(folder.glob("failed*"))

    begun = time.monotonic()
    code = (
        "import sys; from rrr_utils import launch; status = launch.main(sys.argv[1:]);"
        "sys.exit(status or bool({'torch', 'papermill', 'zmq'} & sys.modules.keys()))"
    )
    again = subprocess.run([sys.executable, "-c", code, str(book), *options], cwd=ROOT, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, out.splitlines()[-1] + "\n"), again.stderr
    assert time.monotonic() - begun < 5


def test_a_failing_cell_ends_in_one_line_with_the_traceback_before_it_if_asked_for(tmp_path, given):
    options, settings = given
    book = write_notebook(tmp_path / "01_collect_failures.ipynb", "1 + 1", "raise RuntimeError('two\\nlines')")
    status, out, err = run(book, *options, RRR_TRACEBACK="1")
    *traceback, last = err.splitlines()
    assert status == 1
    assert last.startswith("failures: RuntimeError: two lines (in cell 5 of 01_collect_failures.ipynb; see ")
    assert "Traceback" in traceback[1]
    folder = runs.stage_dir(settings(), "failures")
    assert not (folder / "run.ipynb").exists()
    assert (folder / "failed.ipynb").exists()


def test_our_own_errors_say_the_remedy_and_nothing_else(tmp_path, given):
    book = write_notebook(
        tmp_path / "01_collect_failures.ipynb",
        "from rrr_utils.runs import ResultsError\nraise ResultsError('no space: free some')",
    )
    status, out, err = run(book, *given[0])
    assert (status, err) == (1, "failures: no space: free some (in cell 4 of 01_collect_failures.ipynb)\n")


def test_a_killed_kernel_is_no_success(tmp_path, given):
    options, settings = given
    book = write_notebook(
        tmp_path / "01_collect_failures.ipynb",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        STAGE.format(stage="failures"),
    )
    status, out, err = run(book, *options)
    folder = runs.stage_dir(settings(), "failures")
    assert status == 1
    assert err.count("\n") == 1
    assert "the kernel was killed in cell 4 of 01_collect_failures.ipynb" in err
    assert "the same command goes on from the last checkpoint" in err
    assert runs.done(settings(), "failures") is None
    assert not (folder / "result.json").exists()
    statuses = [cell.metadata.papermill.status for cell in nbformat.read(folder / "failed.ipynb", as_version=4).cells]
    assert statuses[-2:] == ["failed", "pending"]


def test_success_is_the_result_and_not_the_last_cell(tmp_path, given):
    book = write_notebook(tmp_path / "01_collect_failures.ipynb", STAGE.format(stage="failures"), "1 / 0")
    status, out, err = run(book, *given[0])
    assert status == 0
    assert "the result is whole, but cell 5 of 01_collect_failures.ipynb failed later: ZeroDivisionError" in err
    assert "left no result.json" in launch._explain(None, book, tmp_path)


def test_a_full_disk_is_told_with_its_remedy(tmp_path):
    failure = launch_failure("OSError", "[Errno 28] No space left on device")
    line = launch._explain(failure, tmp_path / "02_train_reflection.ipynb", tmp_path)
    assert line.startswith("no space left on the device (in cell 4 of 02_train_reflection.ipynb; files go to ")
    assert "free some or set results_dir elsewhere" in line


def launch_failure(error: str, text: str):
    from rrr_utils.kernel import Failure

    return Failure(4, error, text)


WAIT = """
import os, time
from pathlib import Path
Path({mark!r}).write_text(str(os.getpid()))
try:
    time.sleep(60)
except KeyboardInterrupt:
    Path({mark!r} + ".saved").write_text("saved")
    raise
"""


def wait_for(path: Path) -> str:
    limit = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < limit
        time.sleep(0.05)
    return path.read_text()


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_stopping_the_launcher_lets_the_cell_save_and_ends_the_kernel(tmp_path, given):
    mark = tmp_path / "mark"
    book = write_notebook(tmp_path / "01_collect_failures.ipynb", WAIT.format(mark=str(mark)))
    process = start(book, *given[0])
    pid = int(wait_for(mark))
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "failures: stopped in cell 4 of 01_collect_failures.ipynb. What was computed stays" in err.splitlines()[-1]
    assert Path(f"{mark}.saved").exists()
    assert not alive(pid)


def test_another_program_that_has_a_kernel_s_old_process_id_is_left_alone():
    from rrr_utils import kernel

    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
    try:
        stale = psutil.Process(other.pid)
        stale._ident = (stale.pid, stale.create_time() - 60)  # as it was remembered, a minute before
        kernel._end(stale)
        assert other.poll() is None
        kernel._end(psutil.Process(other.pid))
        assert other.wait(timeout=10) == -signal.SIGKILL
    finally:
        other.kill()


def test_a_second_launcher_waits_and_then_finds_the_stage_done(tmp_path, given):
    options, settings = given
    mark = tmp_path / "mark"
    book = write_notebook(
        tmp_path / "01_collect_failures.ipynb",
        f"from pathlib import Path\nimport time\nPath({str(mark)!r}).write_text('x')\ntime.sleep(3)",
        STAGE.format(stage="failures"),
    )
    first = start(book, *options)
    wait_for(mark)
    status, out, err = run(book, *options)
    assert first.wait(timeout=60) == 0
    first.communicate()
    assert (status, "another process runs this stage" in err) == (0, True)
    assert out.splitlines() == [
        f"done: failures {runs.stage_dir(settings(), 'failures')} {runs.done(settings(), 'failures')['identity_hash']}"
    ]


@pytest.mark.slow
def test_the_kernel_of_a_killed_launcher_ends_before_the_next_one_starts(tmp_path, given):
    mark = tmp_path / "mark"
    book = write_notebook(tmp_path / "01_collect_failures.ipynb", WAIT.format(mark=str(mark)))
    process = start(book, *given[0])
    pid = int(wait_for(mark))
    process.kill()
    process.communicate()
    write_notebook(book, f"assert not __import__('psutil').pid_exists({pid})", STAGE.format(stage="failures"))
    assert run(book, *given[0])[0] == 0


def test_plain_papermill_refuses_a_misspelt_parameter_too(tmp_path):
    import papermill

    book = write_notebook(tmp_path / "02_train_reflection.ipynb", STAGE.format(stage="train"))
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'sede'.*'seed'"):
        papermill.execute_notebook(book, tmp_path / "out.ipynb", {"sede": 1}, progress_bar=False, kernel_name="python3")
