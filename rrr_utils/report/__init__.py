"""From result files to tables, figures and reports: no model, no GPU, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rrr_utils import runs
from rrr_utils.errors import ResultsError
from rrr_utils.settings import ROOT

if TYPE_CHECKING:
    import pandas as pd


def load(profile: str = "tiny", results_dir: str = "results/runs") -> pd.DataFrame:
    """All cells of a profile as a data frame, for people who plot: from its runs, else as published in results/<profile>/."""
    import pandas as pd

    folder = ROOT / results_dir / profile
    files = [path / "cells.csv" for path, _ in runs.evaluations(profile, results_dir)]
    if not files or not all(path.is_file() for path in files):
        files = [path for path in (folder / "tables" / "cells.csv", ROOT / "results" / profile / "cells.csv") if path.is_file()][:1]
    if not files:
        raise ResultsError(
            f"no cells of profile '{profile}' in {folder} or {ROOT / 'results' / profile}: run make reproduce PROFILE={profile}"
        )
    types = {"control": "string", "seed": "Int64", "identity_hash": "string"}
    frame = pd.concat([pd.read_csv(path, dtype=types) for path in files], ignore_index=True)
    return frame.assign(control=frame["control"].fillna(""))
