"""What is tried on dev before a profile's recipe is fixed: `make trials` runs data/trials.yaml, and this makes the record of it.

A trial is notebook 02 with other settings, in a folder of its own; none sees the test split. The record is
results/<profile>/trials.csv, each trial's logs in results/<profile>/trials/, and the table in results/<profile>/RECIPE.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rrr_utils import files, runs, tasks
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.report import paper, publish
from rrr_utils.settings import DATA, ROOT, Settings
from rrr_utils.settings import load as load_settings

#: what is kept of a trial
KEPT = ("result.json", "training.jsonl", "dev.jsonl")
#: where the table goes in a RECIPE.md; what stands around it is written by whoever chose
MARKERS = "<!-- generated:trials -->\n<!-- /generated:trials -->\n"


def load(profile: str, path: Path = DATA / "trials.yaml") -> dict[str, dict[str, Any]]:
    """A profile's trials: by name, the settings that each changes.

    >>> load("tiny")["live"]["retry_policy"]
    'live'
    """
    listed = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(Path(profile).stem)
    if not listed:
        raise SettingsError(f"no trials of profile '{profile}' in {path}: add them there, name by name")
    return listed


def changed(name: str, tried: dict[str, Any]) -> dict[str, Any]:
    """The overrides of a trial: its settings, in a folder of its own."""
    return {**tried, "results_dir": f"results/runs/trials/{name}"}


def record(profile: str, root: Path = ROOT) -> pd.DataFrame:
    """Copy what is kept of each finished trial into results/<profile>/ and fill in RECIPE.md; returns the table."""
    rows, listed, target = [], load(profile), root / "results" / Path(profile).stem
    for name, tried in listed.items():
        settings = load_settings(profile, {**changed(name, tried), "seed": 0})
        if (result := runs.done(settings, "train")) is None:
            raise ResultsError(f"trial '{name}' is not finished: make trials PROFILE={profile}")
        rows.append(row(name, tried, settings, result["summary"]))
        folder = target / "trials" / name
        folder.mkdir(parents=True, exist_ok=True)
        for kept in KEPT:
            publish.copy_placeless(runs.stage_dir(settings, "train") / kept, folder / kept)
    for old in [path for path in (target / "trials").iterdir() if path.name not in listed]:
        shutil.rmtree(old)
    frame = pd.DataFrame(rows)
    files.write_text(target / "trials.csv", frame.to_csv(index=False))
    recipe = target / "RECIPE.md"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else f"# The recipe of {target.name}\n\n{MARKERS}"
    files.write_text(recipe, publish.fill(text, {"trials": paper.markdown(frame)}, "RECIPE.md"))
    return frame


def row(name: str, tried: dict[str, Any], settings: Settings, summary: dict[str, Any]) -> dict[str, Any]:
    """A line of the table: shares of dev failures rescued, by step, and what else tells a good run from a bad one."""
    folder = runs.stage_dir(settings, "train")
    steps, dev = files.read_jsonl(folder / "training.jsonl"), files.read_jsonl(folder / "dev.jsonl")
    untrained = files.read_jsonl(runs.stage_dir(settings, "failures") / "dev_attempts.jsonl")
    return {
        "trial": name,
        "settings": ", ".join(f"{key} {value}" for key, value in tried.items()),
        "dev rescued, %, by step": " ".join(f"{line['step']}: {100 * line['rescued']:.1f}" for line in dev),
        "best step": summary["best_step"],
        "largest KL": round(max(line["kl"] for line in steps), 2),
        "last reward": round(steps[-1]["reward"], 2),
        "dev first try, %: untrained": per_cent(untrained),
        "with the best adapter": per_cent(first_tries(settings)),
    }


def per_cent(attempts: list[dict]) -> float:
    """Of one attempt a query, how many were right."""
    return round(100 * sum(line["solved"] for line in attempts) / len(attempts), 1)


def first_tries(settings: Settings) -> list[dict]:
    """The greedy first tries on dev of a trial's best adapter, as the failures stage logs the untrained model's; kept beside it."""
    from rrr_utils import failures  # torch only where something is generated, files
    from rrr_utils.policy import load_policy
    from rrr_utils.sampling import HFSampler

    folder = runs.stage_dir(settings, "train")
    log, (_, rows) = folder / "dev_attempts.jsonl", failures.queries(settings)
    said = {line["id"] for line in failures.read_log(log)}
    if todo := [one for one in rows if one["id"] not in said]:
        sampler = HFSampler(load_policy(settings, folder / "adapter"), settings.sample_batch)
        failures.sample_round(tasks.get(settings.task), settings, sampler, todo, 0, 1, 0.0, log)
    return failures.read_log(log)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m rrr_utils.report.trials", description="The record of a profile's finished trials.")
    parser.add_argument("--profile", default="tiny")
    try:
        print(record(parser.parse_args(arguments).profile).to_string(index=False))
    except (SettingsError, ResultsError) as error:
        print(f"trials: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
