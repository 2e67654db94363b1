"""Which runs there are, how they differ from given settings, and removing named ones: `make runs`."""

import contextlib
import shutil
import time
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from rrr_utils import backup, files, grid, runs, samples
from rrr_utils.errors import PLAIN, ResultsError
from rrr_utils.report import cells
from rrr_utils.report.text import TRIES, markdown, safe
from rrr_utils.settings import Settings


def others(settings: Settings, stage: str) -> pd.DataFrame:
    """Runs of the same tasks, models and stage that are not the ones asked for; of evaluations a row per policy."""
    rows, taken = [], _folders([settings, *runs.asked(settings)])
    asked = {runs.home(one): one for one in grid.rows_of(settings)}
    for run in runs.listed(settings.results_dir):
        if run.begun["stage"] == stage and run.folder.parent in asked and run.folder not in taken:
            run, name = run._replace(result=runs.whole(run.folder)), run.folder.name if len(asked) == 1 else _name(run)
            row = {"run": name, "state": state(run)}
            row |= {"differs (there / here)": differs(asked[run.folder.parent], run)}
            told = [
                {
                    "policy": policy,
                    TRIES["first", ""]: f"{100 * one['first']:.1f}",
                    TRIES["second", "own"]: f"{100 * one['own']:.1f}",
                }
                for policy, one in accuracies(run).to_dict("index").items()
            ]
            rows += [row | right for right in told or [{}]]
    return pd.DataFrame(rows).fillna("")


def _folders(asked: list[Settings]) -> set[Path]:
    """The folders of these evaluations and of the stages before them; a row that cannot be planned has none."""
    found = set()
    with runs.offline():
        for one, stage in [(one, stage) for one in asked for stage in runs.STAGES[:3]]:
            with contextlib.suppress(*PLAIN):
                found |= {runs.stage_dir(one, stage)} if one.seed is not None or stage == "evaluate" else set()
    return found


def accuracies(run: runs.Run) -> pd.DataFrame:
    """The shares that are right, greedily, at the `first` and the `own` second try, by policy; empty for what is not a
    finished evaluation."""
    identity, none = run.begun["identity"], pd.DataFrame(columns=["first", "own"])
    version = identity["versions"]["stage"]  # lines of another version may mean something else
    if not run.result or (run.begun["stage"], version) != ("evaluate", runs.VERSIONS["evaluate"]):
        return none
    lines = [line for line in samples.read(run.folder) if line["decoding"] == "greedy"]
    frame = cells.outcomes(lines, identity["verdict"]) if lines else none.assign(policy="")
    return frame.groupby("policy")[["first", "own"]].mean()


def state(run: runs.Run) -> str:
    """done, failed: why, damaged, or not finished."""
    if run.failed and not run.result:
        return safe(f"failed: {run.failed.get('error')}")
    return "done" if run.result else "damaged" if (run.folder / "result.damaged.json").exists() else "not finished"


def differs(settings: Settings, run: runs.Run, most: int = 99) -> str:
    """What differs between a run and the same run of these settings: name, there / here, at most so many."""
    apart = runs.differing(settings.model_copy(update={"seed": run.begun["settings"].get("seed")}), run)
    first = {name: apart[name] for name in ("task", "model") if name in apart}  # with these all else differs as well
    said = [f"{name} {str(old)[:40]} / {str(new)[:40]}" for name, (old, new) in (first or apart).items()]
    more = [f"and {len(said) - most} more"] if len(said) > most else []
    return safe(", ".join(said[:most] + more)) or "the seed alone"


def overview(settings: Settings) -> str:
    """Every run in the results_dir as text: a table, and the sum of sizes."""
    taken, rows, total = _folders(runs.asked(settings)), [], 0
    for run in runs.listed(settings.results_dir):
        size, hours = _weight(run.folder)
        age = f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.0f} days"
        row = {"run": _name(run), "stage": run.begun["stage"], "size": f"{size:.1f} MB", "age": age}
        row |= {"state": state(run), "in the table": "yes" if run.folder in taken else ""}
        rows.append(row | {"differs (there / here)": "" if run.folder in taken else differs(settings, run, 3)})
        total += size
    where = f"{len(rows)} runs, {total:.1f} MB, in {runs.root(settings)}"
    return f"{markdown(pd.DataFrame(rows))}\n\n{where}" if rows else where


def delete(settings: Settings, names: list[str]) -> list[str]:
    """Remove the runs of these names (or task/model/name); returns what to say: what was freed and what depends on it.

    Raises ResultsError, before anything is removed, where one is unknown, ambiguous or worked in by another process.
    """
    root, listed, chosen, said = runs.root(settings), runs.listed(settings.results_dir), {}, []
    for name in names:
        found = [run for run in listed if run.folder.as_posix().endswith(f"/{name.strip('/')}")]
        if len(found) != 1:
            what = f"'{name}' may be {', '.join(map(_name, found))}: say which" if found else f"no run '{name}'"
            raise ResultsError(f"{what}; python -m rrr_utils.report --runs lists them. Nothing was removed")
        chosen[found[0].folder] = found[0]
    with contextlib.ExitStack() as held:
        for path in [folder / name for folder in chosen for name in (".launch.lock", ".lock")]:
            try:
                held.enter_context(FileLock(path, timeout=0))
            except Timeout:
                raise ResultsError(f"another process works in {path.parent}: nothing was removed") from None
            except OSError as error:
                raise files.no_space(path, error) from None
        left = [run for run in listed if run.folder not in chosen]
        made = {path.parent.name: files.read_json(path) or {} for path in root.glob("tables/*/result.json")}
        for folder, run in chosen.items():
            said.append(f"removed {_name(run)}: {_weight(folder)[0]:.1f} MB freed")
            own = folder.name.rpartition("-")[2]
            after = [x.folder.name for x in left if own in x.begun["identity"].get("upstream", {}).values()]
            reads = [name for name, result in made.items() if _name(run) in result.get("identity", {}).get("read", ())]
            after += [f"the report in tables/{name}" for name in reads]
            said += [f"{name} was made from it; it stays" for name in after]
            (folder / "result.json").unlink(missing_ok=True)  # first: half a folder must not pass for a whole one
            shutil.rmtree(folder)
            backup.forget(settings, folder, run.begun["settings"].get("backup_dir"))  # or it would come back
    return said


def _name(run: runs.Run) -> str:
    return "/".join(run.folder.parts[-3:])


def _weight(folder: Path) -> tuple[float, float]:
    """Megabytes of a folder's files, and hours since the newest was written."""
    found = [folder.stat()]
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a run may just have replaced it
            found.append(path.stat())
    return sum(one.st_size for one in found) / 1e6, (time.time() - max(one.st_mtime for one in found)) / 3600
