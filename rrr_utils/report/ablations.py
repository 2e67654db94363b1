"""The record of `make ablations`: other ways to train, and harder problems, beside a profile's own recipe.

data/ablations.yaml says what is run. Written in results/<profile>/ablations/: ablations.csv, comparisons.csv,
ablations.md, a picture of each study, and in runs/ those runs that the published tables do not hold. The part
`ablations` of the folder's README.md is filled in.
"""

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib import rc_context
from matplotlib.figure import Figure

from rrr_utils import files, runs, samples, settings
from rrr_utils.errors import ResultsError, SettingsError
from rrr_utils.report import cells, figures, publish, statistics, tables
from rrr_utils.report.text import TRIES, interval, markdown
from rrr_utils.settings import DATA, ROOT, Settings

#: the tries that are shown; of these the first two are compared
SHOWN = (("first", ""), ("second", "own"), ("second", "blind"), ("second", "fresh"))
COLUMNS = """study variant split policy seeds decoding attempt control n accuracy ci_low ci_high lowest highest
generated_tokens""".split()
Variants = dict[str, Settings]  # of a study, by name


def load(profile: str, more: dict[str, Any] | None = None, path: Path = DATA / "ablations.yaml") -> dict[str, Variants]:
    """A profile's studies by name, of its first row; the settings of each variant hold its seeds. `more`: settings that
    all share.

    Raises SettingsError where the profile has none.
    """
    listed = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(Path(profile).stem)
    if not listed:
        raise SettingsError(f"no ablations of profile '{profile}' in {path}: add them there, study by study")
    studies, row = {}, settings.load(profile, more)
    for study, one in listed.items():
        every = {"task": row.task, "model": row.model, **(more or {}), "seed": one["seeds"][0], "seeds": one["seeds"]}
        studies[study] = {name: settings.load(profile, {**every, **own}) for name, own in one["variants"].items()}
    return studies


def wanted(studies: dict[str, Variants]) -> list[tuple[str, str, Settings, str]]:
    """Study, variant, settings and stage of all runs: of the base model the evaluation, of a seed the training too."""
    each = [(study, variant, one) for study, variants in studies.items() for variant, one in variants.items()]
    asked = [(study, variant, who) for study, variant, one in each for who in runs.asked(one)]
    stages = {True: ("evaluate",), False: ("train", "evaluate")}
    return [(*names, who, stage) for *names, who in asked for stage in stages[who.seed is None]]


def record(profile: Settings, root: Path = ROOT) -> Path:
    """Write what the finished runs show; returns the path of ablations.md. ResultsError names what is not finished."""
    studies, lacking = load(profile.profile, {"results_dir": profile.results_dir}), {}
    for study, variant, one, stage in wanted(studies):
        if not runs.done(one, stage):  # of one that is not trained, only that is said
            where = f"{study}, {variant}, {runs.who(one)} ({runs.status(one, stage)})"
            lacking.setdefault(runs.stage_dir(one, "evaluate"), where)
    if lacking:
        raise ResultsError(f"not finished: {'; '.join(lacking.values())}: make ablations PROFILE={profile.profile}")
    name, found, compared = runs.profile_name(profile), [], []
    parts, target = [f"# Ablations of {name}", NOTE], root / "results" / name / "ablations"
    for study, variants in studies.items():
        outcomes = {variant: cells.outcomes(_lines(one), one.verdict) for variant, one in variants.items()}
        found.append(_cells(study, variants, outcomes))
        controls = len(variants) == 1  # a study of what second tries come to, not of ways to train
        compared.append(_controlled(study, *outcomes.values()) if controls else _compared(study, outcomes))
        (figures.controls if controls else picture)(found[-1], target / study)
        shown_as = across_policies if controls else table
        shown = [f"{how} decoding:\n\n{markdown(shown_as(here))}" for how, here in found[-1].groupby("decoding")]
        parts += [f"## {study}", *shown, tables.in_words(compared[-1]), f"![{study}]({study}.png)"]
    _keep(studies, target)
    for file, frames in (("ablations.csv", found), ("comparisons.csv", compared)):
        files.write_text(target / file, pd.concat(frames).to_csv(index=False))
    files.write_text(target / "ablations.md", "\n\n".join(parts) + "\n")
    told = [f"**{study}**\n\n{tables.in_words(each)}" for study, each in zip(studies, compared, strict=True)]
    told.append("Tables and pictures: [ablations.md](ablations/ablations.md).")
    publish.write_page(root / "results" / name, {"ablations": "\n\n".join(told)})
    return target / "ablations.md"


def _lines(one: Settings) -> list[dict]:
    return [line for each in runs.asked(one) for line in samples.read(runs.stage_dir(each, "evaluate"))]


def _cells(study: str, variants: Variants, outcomes: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The cells of a study, averaged over seeds, with the columns `COLUMNS`: of policies that all variants have, and
    the same base model's once."""
    parts, shared = [], set.intersection(*(set(frame["policy"]) for frame in outcomes.values()))
    for variant, one in variants.items():
        averaged = cells.over_seeds(outcomes[variant], runs.task_name(one), runs.model_name(one))
        tokens = [runs.done(each, "train")["summary"]["generated_tokens"] for each in runs.asked(one)[1:]]
        mean = np.where(averaged["policy"] == "vanilla", 0, round(np.mean(tokens)))
        parts.append(averaged.assign(study=study, variant=variant, split=one.test_source or "", generated_tokens=mean))
    frame = pd.concat(parts, ignore_index=True)[COLUMNS]
    frame = frame[frame["policy"].isin(shared)]
    return frame[(frame["policy"] != "vanilla") | ~frame.duplicated([name for name in COLUMNS if name != "variant"])]


def _compared(study: str, outcomes: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Each variant's trained policy against the first variant's on the same items, else against the base model there.

    The columns are those of `cells.comparisons`, the study for task and model. Holm's correction is over the study.
    """
    (first, reference), *others = outcomes.items()
    rows = []
    for variant, frame in others:
        same = set(frame["id"]) == set(reference["id"])
        other, base, whose = (reference, "trained", first) if same else (frame, "vanilla", variant)
        than = f"that of '{first}'" if same else "the base model's"
        for decoding, name in [(how, name) for how in frame["decoding"].unique() for name in SHOWN[:2]]:
            question, names = f"{variant}: {TRIES[name]} above {than}", (f"trained/{variant}", f"{base}/{whose}")
            both = _values(frame, "trained", decoding, name), _values(other, base, decoding, name)
            rows.append(_tested(frame, decoding, question, names, both))
    return cells.judged(rows).assign(study=study)[["study", *cells.COMPARISONS[2:]]]


def _controlled(study: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The trained policy's own second try against each other one of it, or of the base model where it alone has it."""
    rows = []
    for decoding, name in [(how, name) for how in frame["decoding"].unique() for name in TRIES if name[1] in frame]:
        whose = "vanilla" if name[1] in ("forced", "outright") else "trained"
        if name[1] != "own":
            both = _values(frame, "trained", decoding, ("second", "own")), _values(frame, whose, decoding, name)
            question = f"after the own reflection above {TRIES[name]}{' (base model)' if whose == 'vanilla' else ''}"
            rows.append(_tested(frame, decoding, question, ("trained/own", f"{whose}/{name[1]}"), both))
    return cells.judged(rows).assign(study=study)[["study", *cells.COMPARISONS[2:]]]


def _tested(frame: pd.DataFrame, decoding: str, question: str, names: tuple[str, str], both: tuple) -> dict:
    """A row for `cells.judged`: the same items in both, a row for each seed."""
    (a, b), clusters = both, frame.drop_duplicates("id").set_index("id")["cluster"].loc[both[0].columns]
    row = {"decoding": decoding, "question": question, "a": names[0], "b": names[1]}
    row |= statistics.paired_difference(a, b, clusters)._asdict()
    return row | {"by_seed": (a.to_numpy() - b.to_numpy()).mean(axis=1)}


def _values(frame: pd.DataFrame, policy: str, decoding: str, name: tuple[str, str]) -> pd.DataFrame:
    """Right or not: a row for each seed, a column for each item, both in order."""
    here = frame[(frame["policy"] == policy) & (frame["decoding"] == decoding)]
    return here.assign(seed=here["seed"].fillna(-1)).pivot(index="seed", columns="id", values=name[1] or name[0])


def across_policies(found: pd.DataFrame) -> pd.DataFrame:
    """Cells of one study and decoding as they are printed: tries down, policies across."""
    rows = []
    for name, group in found.groupby(["attempt", "control"], sort=False):
        got = {r.policy: interval(r.accuracy, r.ci_low, r.ci_high) for r in group.itertuples()}
        rows.append({"try": TRIES[name], **{who: got.get(who, "") for who in found["policy"].unique()}})
    return pd.DataFrame(rows)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """Cells of one study and decoding as they are printed: variants and policies down, tries across."""
    rows = []
    for who, group in found.groupby(["variant", "policy", "seeds", "n", "generated_tokens"], sort=False):
        row = dict(zip(("variant", "policy", "seeds", "problems"), who[:4], strict=True))
        got = {(r.attempt, r.control): interval(r.accuracy, r.ci_low, r.ci_high) for r in group.itertuples()}
        row |= {TRIES[name]: got.get(name, "") for name in SHOWN}
        rows.append(row | {"tokens generated in training": f"{who[4]:,}"})
    return pd.DataFrame(rows)


@rc_context(figures.STYLE)
def picture(found: pd.DataFrame, path: Path) -> Path:
    """A study's tries with their intervals: variants down, a panel for each decoding."""
    rows = found[found["control"].isin([control for _, control in SHOWN])].copy()
    rows["at"], names = pd.factorize(rows["variant"] + np.where(rows["policy"] == "vanilla", ": base model", ""))
    decodings = list(rows["decoding"].unique())
    figure = Figure(figsize=(1.8 + 3.6 * len(decodings), 1.8 + 0.55 * len(names)))
    panels = figure.subplots(1, len(decodings), sharey=True, squeeze=False)[0]
    for axes, decoding in zip(panels, decodings, strict=True):
        for k, name in enumerate(SHOWN):
            points = rows[(rows["decoding"] == decoding) & (rows["control"] == name[1])]
            mean, low, high = (100 * points[column].to_numpy() for column in ("accuracy", "ci_low", "ci_high"))
            style = {"color": figures.TRY_COLOURS[name[1]], "label": TRIES[name] if axes is panels[0] else None}
            ends = np.clip([mean - low, high - mean], 0, None)
            axes.errorbar(mean, points["at"] + 0.16 * (k - 1.5), xerr=ends, fmt="o", capsize=2.5, **style)
        axes.set(xlabel=f"% right, {decoding}", xlim=(0, None))
        axes.grid(visible=True, axis="x")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    own = rows[(rows["control"] == "own") & (rows["policy"] == "trained") & (rows["decoding"] == decodings[0])]
    said = ", ".join(f"{100 * r.accuracy:.0f}% {r.variant}" for r in own.itertuples())
    figure.suptitle(f"Right after reflecting ({decodings[0]}): {said}", x=0.01, ha="left", fontsize=11, weight="bold")
    figure.legend(loc="outside lower center", ncols=4)
    return figures.save(figure, rows.drop(columns="at"), path)


def _keep(studies: dict[str, Variants], target: Path) -> None:
    """Copy results, logs and packed samples of the runs that are not published beside these, each once."""
    shutil.rmtree(target / "runs", ignore_errors=True)
    held = {files.read_json(path)["identity_hash"] for path in target.parent.glob("*/*/*/result.json")}
    for study, variant, one, stage in wanted(studies):
        folder = runs.stage_dir(one, stage)
        name, _, digest = folder.name.rpartition("-")
        if digest not in held:
            to = target / "runs" / f"{study}--{variant}".replace(" ", "-") / name
            for kept in [kept for kept in ("result.json", "training.jsonl", "dev.jsonl") if (folder / kept).is_file()]:
                publish.copy_placeless(folder / kept, to / kept)
            if stage == "evaluate":
                packed = gzip.compress((folder / "samples.jsonl").read_bytes(), compresslevel=9, mtime=0)
                (to / "samples.jsonl.gz").write_bytes(packed)
            held.add(digest)


NOTE = """\
% right [95% interval: seeds are resampled with the clusters]. A second try counts right at first or right on the retry,
over all problems. Trained: the adapter on everywhere. Below the tables the comparisons in words, pooled over seeds and
corrected (Holm) within the study: on the same problems against the first variant, else against the base model there."""
