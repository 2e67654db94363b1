"""Data frames for people who plot: a profile's cells, all rows of its grid beside the paper's cells, and all runs."""

from pathlib import Path

import numpy as np
import pandas as pd

from rrr_utils import files, settings
from rrr_utils import runs as folders
from rrr_utils.errors import ResultsError
from rrr_utils.report import listing, paper
from rrr_utils.settings import ROOT, STAGE_FIELDS, Settings

_PLACE = ["task", "model", "policy", "seed", "decoding", "attempt", "control"]
GRID = [*_PLACE, "n", "accuracy", "ci_low", "ci_high", "relation", "paper", "certainty", "status"]
RUNS = ["run", "task", "model", "stage", "seed", "state", "seconds"]
TOLD = ["steps", "dev_best", "reward", "first", "second", "reflector"]


def load(profile: str = "tiny", results_dir: str = "results/runs") -> pd.DataFrame:
    """A profile's cells, a row each: of its last tables, else as published in results/<profile>/. Or ResultsError."""
    return _read(profile, results_dir, "cells.csv")


def _read(profile: str, results_dir: str, file: str) -> pd.DataFrame:
    name = Path(profile).stem
    places = ROOT / Path(results_dir).expanduser() / "tables" / name, ROOT / "results" / name
    path = next((place / file for place in places if (place / "cells.csv").is_file()), None)
    if path is None:
        raise ResultsError(f"no {file} in {places[0]} or {places[1]}: run make reproduce PROFILE={name}")
    frame = pd.read_csv(path, dtype={"control": "string", "seed": "Int64", "identity_hash": "string"})
    return frame.assign(control=frame["control"].fillna(""))


def grid(profile: str = "tiny", results_dir: str = "results/runs") -> pd.DataFrame:
    """All rows of a profile in one frame: a line per cell, with `GRID`'s columns, of `load`'s place.

    seed: "" (the base model), a seed, or "mean" (over a policy's seeds, also of one). Shares are 0..1, the paper's too.
    What was asked for and is not there has the lines of the paper's cells, without an accuracy, and says why: `status`.
    """
    asked = settings.load(profile, {"results_dir": results_dir})
    try:
        single, mean = load(profile, results_dir), _read(profile, results_dir, "seeds.csv")
        mean = mean[mean["policy"] != "vanilla"].assign(seed="mean")
        there = [single.assign(seed=single["seed"].astype("string").fillna("")), mean]
    except ResultsError:
        there = []
    frame = pd.concat([*(one.assign(status="done") for one in there), _lacking(asked, there)], ignore_index=True)
    known = paper.load().drop_duplicates(["task", "model", "cell"])
    known[["policy", "attempt", "control"]] = [paper.CELLS[cell] for cell in known["cell"]]
    known = known.rename(columns={"model": "name", "value": "paper"}).assign(paper=lambda one: one["paper"] / 100)
    keys = ["task", "name", "policy", "attempt", "control"]
    named = frame.assign(name=frame["model"].str.rpartition("/")[2])
    return named.merge(known[[*keys, "relation", "paper", "certainty"]], how="left", on=keys).reindex(columns=GRID)


def _lacking(asked: Settings, there: list[pd.DataFrame]) -> pd.DataFrame:
    """Lines for the evaluations of a profile that are in none of the frames."""
    seen = {key for one in there for key in zip(one["task"], one["model"], one["seed"], strict=True)}
    done, others = folders.evaluated(asked)
    lines: list[tuple] = []
    for one, status in [*((one, "done, but not in the last tables") for one, _ in done), *others]:
        task, model = folders.task_name(one), folders.model_name(one)
        names = ["" if one.seed is None else str(one.seed)]
        names += ["mean"] if one.seed is not None and (task, model, "mean") not in seen else []
        for seed in [name for name in names if (task, model, name) not in seen]:
            seen.add((task, model, seed))
            for policy, attempt, control in paper.CELLS.values():
                if (policy == "vanilla") == (seed == ""):
                    lines.append((task, model, policy, seed, one.decodings[0], attempt, control, status))
    return pd.DataFrame(lines, columns=[*_PLACE, "status"])


def runs(results_dir: str = "results/runs") -> pd.DataFrame:
    """All runs in one frame: `RUNS`, `TOLD` as far as they apply, and a column for each setting that differs.

    A setting that bears neither on a run nor on what it reads is missing there. Of a training `steps` so far, the best
    score on dev and the last step's reward; of a finished evaluation % right (0..1), greedy: the paper's `first` and
    `second` try, and `reflector`'s second.
    """
    rows, given = [], []
    for run in folders.listed(results_dir):
        run = run._replace(result=folders.whole(run.folder))
        begun, stage, about = run.begun["settings"], run.begun["stage"], run.begun["identity"]
        seed = None if stage == "failures" else begun.get("seed")
        row = {"run": run.folder.name, "task": about["task"], "model": about["model"], "stage": stage, "seed": seed}
        row |= {"state": listing.state(run), "seconds": ((run.result or {}).get("provenance") or {}).get("seconds")}
        rows.append(row | _told(run))
        upto = folders.STAGES[: folders.STAGES.index(stage) + 1]
        upto = upto[-1:] if (stage, seed) == ("evaluate", None) else upto  # the base model's reads nothing
        bears = {name for one in upto for name in STAGE_FIELDS[one]}
        idle = {name for names in STAGE_FIELDS.values() for name in names} - bears
        known = {name: field.default for name, field in Settings.model_fields.items()} | begun
        given.append({name: np.nan if name in idle else _flat(value) for name, value in known.items()})
    frame, each = pd.DataFrame(rows, columns=[*RUNS, *TOLD]), pd.DataFrame(given)
    apart = [name for name in each if name not in RUNS and each[name].dropna().astype("string").nunique() > 1]
    return pd.concat([frame.astype({"seed": "Int64"}), each[apart]], axis=1)


def _flat(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _told(run: folders.Run) -> dict[str, float]:
    """What a run came to, by names of `TOLD`."""
    if run.begun["stage"] == "train":
        steps, dev = (files.read_log(run.folder / f"{name}.jsonl") for name in ("training", "dev"))
        told = {"steps": len(steps), "dev_best": max((line["score"] for line in dev), default=np.nan)}
        return told | {"reward": steps[-1]["reward"] if steps else np.nan}
    right = listing.accuracies(run)
    main = right[right.index != "reflector"].to_dict("index")
    told = {name: one[column] for one in main.values() for name, column in (("first", "first"), ("second", "own"))}
    return told | ({"reflector": right.loc["reflector", "own"]} if "reflector" in right.index else {})
