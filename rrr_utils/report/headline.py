"""What came out, in four rows a task: README's first table."""

from pathlib import Path

import pandas as pd

from rrr_utils.report.tables import Row
from rrr_utils.report.text import POLICIES, SECOND, interval

#: second tries that are no rivals of the method: the method itself, and the method without a verifier
_METHOD = ("own", "always")


def table(row: Row, more: pd.DataFrame | None = None) -> pd.DataFrame:
    """Second tries after the own reflection, by policy, and the strongest control of any policy, a column a decoding.

    % right [95% interval], means over seeds. `more`: controls of the same model that were run elsewhere (`ablated`).
    """
    every, shown = pd.concat([row.averaged[row.averaged["attempt"] == "second"], more], ignore_index=True), {}
    every = every.drop_duplicates(["policy", "decoding", "control"])  # of two, that of this table
    for name, title in POLICIES.items():
        own = every[(every["policy"] == name) & (every["control"] == "own")]
        for r in own.itertuples():
            shown.setdefault(title, {})[r.decoding] = interval(r.accuracy, r.ci_low, r.ci_high)
    rivals = every[~every["control"].isin(_METHOD)]
    for k in rivals.groupby("decoding")["accuracy"].idxmax():
        r = rivals.loc[k]
        which = f"{SECOND[r['control']]}, {POLICIES[r['policy']].partition(' (')[0]}"
        said = f"{interval(r['accuracy'], r['ci_low'], r['ci_high'])} ({which})"
        shown.setdefault("strongest control", {})[r["decoding"]] = said
    lines = [{"second try, % right": title, **by_decoding} for title, by_decoding in shown.items()]
    return pd.DataFrame(lines, columns=["second try, % right", *row.settings.decodings]).fillna("")


def beside(row: Row) -> str:
    """What the four rows do not show, in a line: first tries, and the trained model's second without a reflection."""
    mean = row.averaged.set_index(["policy", "attempt", "control", "decoding"])["accuracy"]
    tries = {
        "First try: base model": ("vanilla", "first", ""),
        "trained": ("trained", "first", ""),
        "trained, second try without a reflection (blind)": ("trained", "second", "blind"),
    }
    said = []
    for name, one in tries.items():
        values = [(how, mean.get((*one, how))) for how in row.settings.decodings]
        found = [f"{value:.1%} {how}".replace("%", "") for how, value in values if value is not None]
        said += [f"{name} {', '.join(found)}"] if found else []
    return "; ".join(said) + "." if said else ""


def ablated(folder: Path) -> pd.DataFrame | None:
    """The controls that `make ablations` ran of a profile's first row; None where it did not."""
    path = folder / "ablations" / "controls.csv"
    return pd.read_csv(path, keep_default_na=False).query("attempt == 'second'") if path.is_file() else None
