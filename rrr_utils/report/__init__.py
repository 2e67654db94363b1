"""From result files to tables, figures and reports: no model, no GPU, no torch."""

from pathlib import Path

import pandas as pd

from rrr_utils.errors import ResultsError
from rrr_utils.settings import ROOT


def load(profile: str = "tiny", results_dir: str = "results/runs") -> pd.DataFrame:
    """A profile's cells, a row each: of its last tables, else as published in results/<profile>/. Or ResultsError."""
    name = Path(profile).stem
    places = ROOT / Path(results_dir).expanduser() / "tables" / name, ROOT / "results" / name
    path = next((place / "cells.csv" for place in places if (place / "cells.csv").is_file()), None)
    if path is None:
        raise ResultsError(f"no cells.csv in {places[0]} or {places[1]}: run make reproduce PROFILE={name}")
    frame = pd.read_csv(path, dtype={"control": "string", "seed": "Int64", "identity_hash": "string"})
    return frame.assign(control=frame["control"].fillna(""))
