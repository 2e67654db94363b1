"""The record of what was tried on dev before a profile's recipe was fixed: `make trials`.

A trial is a training with other settings (data/trials.yaml); none sees the test split. Written in results/<profile>/:
trials.csv, each trial's logs in trials/, and the table in RECIPE.md.
"""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from rrr_utils import files, runs, settings
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.report import publish
from rrr_utils.report.text import markdown
from rrr_utils.settings import DATA, ROOT, Settings


def load(profile: str, path: Path = DATA / "trials.yaml") -> dict[str, dict[str, Any]]:
    """A profile's trials: by name, the settings that each changes. Raises SettingsError where there are none.

    >>> load("tiny")["rate_003"]["learning_rate"]
    0.003
    """
    listed = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(Path(profile).stem)
    if not listed:
        raise SettingsError(f"no trials of profile '{profile}' in {path}: add them there, name by name")
    return listed


def record(profile: Settings, root: Path = ROOT) -> pd.DataFrame:
    """Copy each trial's logs and fill in RECIPE.md; returns the table. What was recorded of the very same run before
    stays; ResultsError where there is neither it nor a finished run."""
    rows, listed, target = [], load(profile.profile), root / "results" / runs.profile_name(profile)
    for name, tried in listed.items():
        one = settings.load(profile.profile, {"seed": 0, **tried, "results_dir": profile.results_dir})
        source, folder = runs.stage_dir(one, "train"), target / "trials" / name
        if result := runs.done(one, "train"):
            for kept in ("result.json", "training.jsonl", "dev.jsonl"):
                publish.copy_placeless(source / kept, folder / kept)
        elif not (result := _recorded(folder, source)):
            raise ResultsError(f"trial '{name}' is not finished: make trials PROFILE={profile.profile}")
        steps, dev = files.read_jsonl(folder / "training.jsonl"), files.read_jsonl(folder / "dev.jsonl")
        by_step = " ".join(f"{x['step']}: {100 * x['greedy']:.1f} / {100 * x['sampled']:.1f}" for x in dev)
        changed = ", ".join(f"{key} {value}" for key, value in tried.items())
        row = {"trial": name, "settings": changed, "right on dev, %, greedy / sampled, by step": by_step}
        row |= {"best step": result["summary"]["best_step"], "largest KL": round(max(line["kl"] for line in steps), 2)}
        rows.append(row | {"last reward": round(steps[-1]["reward"], 2)})
    for old in [path for path in (target / "trials").iterdir() if path.name not in listed]:
        shutil.rmtree(old)
    frame, recipe = pd.DataFrame(rows), target / "RECIPE.md"
    files.write_text(target / "trials.csv", frame.to_csv(index=False))
    markers = f"# The recipe of {target.name}\n\n<!-- generated:trials -->\n<!-- /generated:trials -->\n"
    text = recipe.read_text(encoding="utf-8") if recipe.is_file() else markers
    files.write_text(recipe, publish.fill(text, {"trials": markdown(frame)}, "RECIPE.md"))
    return frame


def _recorded(folder: Path, source: Path) -> dict[str, Any] | None:
    """The result that was recorded of the run whose folder this is, by its hash."""
    result = files.read_json(folder / "result.json") or {}
    return result if result and source.name.endswith(f"-{result['identity_hash']}") else None
