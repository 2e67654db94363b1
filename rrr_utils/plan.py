"""What a whole profile will cost: python -m rrr_utils.plan --profile paper [--seeds 0,1,2] [--rows ...] [--card H100]

Every run once, with tokens, hours, memory, disk, download and gates; a line for each row of the profile, and the sums.
Neither torch nor transformers nor the hub is asked: shapes are those of data/models.yaml, cards of data/cards.yaml,
rates of results/rates.csv where this card was measured, and the arithmetic is forecast.py's.
"""

import argparse
import json
import math
import re
import sys
from typing import Any

import pandas as pd

from rrr_utils import engines, fit, forecast, gpus, grid, models, runs, tasks
from rrr_utils.errors import PLAIN, SettingsError
from rrr_utils.settings import Settings, load
from rrr_utils.tasks import sources

#: assumed where this machine has no GPU and nobody names a card
USUAL = "H100"
GIB = 2**30


def card_of(name: str | None = None) -> gpus.Card:
    """The card of that name in cards.yaml; without a name this machine's GPU, or else USUAL. Raises SettingsError."""
    if not name and (here := gpus.card()):
        return here
    known = {_squeezed(key): key for key in forecast.cards() if key != "CPU"}
    if (key := known.get(_squeezed(name or USUAL)) or forecast.line_of(name or USUAL)) is None:
        raise SettingsError(f"card: data/cards.yaml has no line '{name}'; known: {', '.join(known.values())}")
    line = forecast.cards()[key]
    return gpus.Card(key, line["gib"] * GIB, line["capability"])


def _squeezed(name: str) -> str:
    """A card's name as people write it: `RTX4090` and `rtx-4090` are `4090`, and `A100-80GB` is `A100 80GB`."""
    return re.sub(r"^(nvidia|geforce|tesla|rtx)+", "", re.sub("[^a-z0-9]", "", name.lower()))


def rows_on(settings: Settings, card: gpus.Card) -> tuple[Settings, ...]:
    """The settings of each chosen row, with the card's preset where a row is for a GPU."""
    given = {name: getattr(settings, name) for name in settings.overridden}
    there = load(settings.profile, {**given, "preset": gpus.preset_for(card)})
    pairs = zip(grid.rows_of(settings), grid.rows_of(there), strict=True)
    return tuple(own if own.preset in (None, "cpu") else on_card for own, on_card in pairs)


def jobs(rows: tuple[Settings, ...], card: gpus.Card) -> tuple[pd.DataFrame, dict[str, str]]:
    """A line for each run of the rows, done or not, and why rows have none, by their titles. What seeds share is there
    once. Columns: `row, task, model, role` (the paper's), `gated, stage, seed, folder` (under results_dir), `tokens`,
    `least, hours` (by the data sheet alone; forecast), `smallest, memory` (GiB with the smallest batches; as planned),
    `disk` and, once a model, `download` (GiB; with vLLM's copy of 4-bit weights), `engine, measured, done`.
    Hours are nan where the card cannot hold the run."""
    found, without = {}, {}
    with runs.offline():
        for row in rows:
            known = models.known(row.model) or {}
            who = {"row": grid.title(row), "task": runs.task_name(row), "model": runs.model_name(row)}
            who |= {"role": known.get("paper", {}).get(who["task"], "-")[0], "gated": bool(known.get("gated"))}
            try:
                if why := models.unpublished(row.model):
                    raise SettingsError(why)
                stages = {None: ("evaluate",)}  # the base model's; with a seed, what it reads as well
                for one, stage in [
                    (s, stage) for s in runs.asked(row) for stage in stages.get(s.seed, runs.STAGES[:3])
                ]:
                    if (folder := runs.stage_dir(one, stage)) not in found:
                        seed, where = one.seed if stage != "failures" else None, folder.relative_to(runs.root(row))
                        taken = _run(one, stage, card) | {"done": (folder / "result.json").is_file()}
                        found[folder] = {**who, "stage": stage, "seed": seed, "folder": where.as_posix(), **taken}
            except PLAIN as error:  # no other row is the worse for it
                without[who["row"]] = str(error)
    return pd.DataFrame([line for line in found.values() if line["row"] not in without]), without


def _run(one: Settings, stage: str, card: gpus.Card) -> dict[str, Any]:
    """What a run takes."""
    name, line, total = _place(one, card)
    costs = forecast.planned(_with_engine(one, stage, card), name, line)
    s, share = costs.settings, one.failures_per_step * one.reflections_per_failure // one.gpus
    group = fit.steps_per_generation(share, 1, s.reflections_per_failure, 1, s.gpus)
    smallest = costs.with_sizes({"sample_batch": 1, "micro_batch": 1, "generation_batch": group})
    needed, memory = forecast.bytes_of(smallest, stage)["memory"][0], math.nan
    times = dict.fromkeys(("least", "about"), math.nan)
    if needed <= 0.9 * total:
        costs = costs.with_sizes(fit.sizes(s, costs.shape, total, stage, costs.question))
        times = {tells: _sum(costs, stage, tells) / 3600 for tells in times}
        memory = forecast.bytes_of(costs, stage)["memory"][0] / GIB
    plain = 2 * (costs.shape.linear + costs.shape.embeddings) if s.engine == "vllm" and s.load_in_4bit else 0
    sizes = forecast.bytes_of(costs, stage)
    return {
        "tokens": _sum(costs, stage, "tokens") * (s.gpus if stage == "train" else 1),
        "least": times["least"], "hours": times["about"], "smallest": needed / GIB, "memory": memory,
        "disk": (sizes["disk"][0] - plain) / GIB, "download": (sizes["download"][0] + plain) / GIB,
        "engine": s.engine, "measured": bool(costs.rates),
    }  # fmt: skip


def _sum(costs: forecast.Costs, stage: str, tells: str) -> float:
    usual, _ = forecast.QUESTIONS.get(costs.settings.task, forecast.ANOTHER)
    return sum(forecast.parts_of(costs._replace(tells=tells, question=usual), stage).values())


def _place(one: Settings, card: gpus.Card) -> tuple[str, dict[str, Any], int]:
    """Where a row runs: the card, or this machine's CPU; its name, its line in cards.yaml, its memory in bytes."""
    if one.preset == "cpu" or (one.preset is None and not gpus.visible()):
        return "CPU", forecast.cards()["CPU"], gpus.total_bytes()
    return *forecast.machine(card), card.total_bytes


def _with_engine(one: Settings, stage: str, card: gpus.Card) -> Settings:
    """With backend and engine chosen as on that card, if it had what this machine has installed. Raises SettingsError
    where vLLM is asked for and cannot serve the model there."""
    engine, takes = "hf", engines.plain_bytes(one, fit.known_shape(one))
    if stage != "train" and one.engine != "hf":
        holds = card.capability >= engines.CAPABILITY and takes <= engines.WEIGHTS * card.total_bytes
        if one.engine == "vllm" and not holds:
            raise SettingsError(f"engine is vllm, which cannot serve {one.model} on a {card.name}; engine=hf can")
        engine = "vllm" if holds and (one.engine == "vllm" or engines.vllm_python()) else "hf"
    backend = "transformers" if one.backend == "auto" else one.backend
    return one.model_copy(update={"engine": "hf" if one.preset == "cpu" else engine, "backend": backend})


def hours(settings: Settings) -> dict[str, float]:
    """Forecast hours on this machine of every run of the chosen rows, by folder under results_dir; those of which
    nothing can be told are left out."""
    frame, _ = jobs(rows_on(settings, card := card_of()), card)
    return {} if frame.empty else frame.set_index("folder")["hours"].dropna().to_dict()


def report(settings: Settings, name: str | None = None, each: bool = False) -> str:
    """The plan in words and tables, for a screen. `name`: of the card; `each`: a line for each run too."""
    card = card_of(name)
    rows = rows_on(settings, card)
    frame, without = jobs(rows, card)
    place = "CPU" if all(_place(row, card)[0] == "CPU" for row in rows) else card.name
    guess = "" if name or gpus.card() or place == "CPU" else " (assumed, since no GPU is here: CARD=... names another)"
    lines = [
        f"Plan of profile {runs.profile_name(settings)}, {len(rows)} row{'s' * (len(rows) > 1)}, on one {place}{guess}"
    ]
    lines += _gates(rows, without)
    if frame.empty:
        raise SettingsError(f"no row of profile {runs.profile_name(settings)} can be run. {' '.join(lines[1:])}")
    seeds = ", ".join(f"{seed:.0f}" for seed in sorted(frame["seed"].dropna().unique())) or "none"
    lines[0] += f": seeds {seeds}, {len(frame)} runs, {frame['done'].sum()} of them done"
    costs = ["tokens", "least", "hours", "disk", "download"]
    left = frame.assign(tokens=frame["tokens"] / 1e9)
    left[costs] = left[costs].mask(frame["done"], 0.0)
    lines += ["", _shown(_by_row(left, place)), "", *_assumed(rows, frame, card)]
    named = {"tokens": "G tokens", "least": "h at least", "hours": "h about", "smallest": "least GiB"}
    lines += ["", _shown(left[["folder", "done", *named, "disk"]].rename(columns=named))] if each else []
    return "\n".join(lines)


def _gates(rows: tuple[Settings, ...], without: dict[str, str]) -> list[str]:
    """What cannot be run, or not yet, in words."""
    never: dict[str, list[str]] = {}
    for title, why in without.items():
        never.setdefault(why, []).append(title)
    first = []
    for row in (row for row in rows if grid.title(row) not in without):
        hub_id = tasks.hub_source(tasks.get(row.task), row.source)
        first += [why for why in (models.refusal(row), hub_id and sources.refusal(hub_id)) if why]
    words = [f"Not run: {', '.join(titles)}: {why}" for why, titles in never.items()]
    return words + [f"First: {why}" for why in dict.fromkeys(first)]


def _by_row(left: pd.DataFrame, place: str) -> pd.DataFrame:
    """A line for each row that has runs, and the sums of those that the card can do, and of what of it is gated."""

    def line(own: pd.DataFrame, task: str, model: str = "", paper: str = "", can: str = "") -> dict[str, Any]:
        return {
            "task": task, "model": model, "the paper": paper, "runs": len(own), "done": own["done"].sum(),
            "G tokens": own["tokens"].sum(), "h at least": own["least"].sum(skipna=False),
            "h about": own["hours"].sum(skipna=False), "least GiB": own["smallest"].max(),
            "GiB": own["memory"].max(skipna=False), "disk": own["disk"].sum(),
            "download": own.groupby("model")["download"].max().sum(), place: can,
        }  # fmt: skip

    lines = []
    for _, own in left.groupby("row", sort=False):
        first, fits = own.iloc[0], own["hours"].notna().all()
        can = ("yes" if fits else f"no: {_larger(own['smallest'].max())}") + (", gated" if first["gated"] else "")
        lines.append(line(own, first["task"], first["model"].rpartition("/")[2], first["role"], can))
    there = left[~left["row"].isin(left["row"][left["hours"].isna()])]
    lines.append(line(there, "sum" if len(there) == len(left) else "sum of yes"))
    return pd.DataFrame([*lines, line(there[there["gated"]], "of it gated")] if there["gated"].any() else lines)


def _larger(gib: float) -> str:
    """The smallest listed card that can hold so much, a tenth of it kept free; else how much it would take."""
    room = {key: line["gib"] for key, line in forecast.cards().items() if 0.9 * line["gib"] >= gib}
    return min(room, key=room.get) if room else f"{gib / 0.9:.0f} GiB"


def _assumed(rows: tuple[Settings, ...], frame: pd.DataFrame, card: gpus.Card) -> list[str]:
    """What the numbers rest on."""
    name, line, _ = _place(rows[0], card)
    sheet = "{bandwidth} GB/s, {tflops} TFLOPS, {layer_ms} ms a layer and step".format(**line)
    asked = {runs.task_name(row): forecast.QUESTIONS.get(row.task, forecast.ANOTHER)[0] for row in rows}
    asked = " and ".join(f"{tokens} ({task})" for task, tokens in asked.items())
    by = "vLLM where it can" if "vllm" in set(frame["engine"]) else "transformers"
    measured = ", ".join(frame["model"][frame["measured"]].unique()) or "nothing"
    return [
        f"h about: one run after another, {name} at {sheet}, {forecast.REACHED:.0%} of the FLOPs reached;",
        f"  texts by {by}, of the greatest length, {1 - forecast.RIGHT:.0%} of all tries fail; questions of {asked}",
        f"  tokens; measured on this card (results/rates.csv), which comes first: {measured}",
        "h at least: the same texts if all bytes and FLOPs of the data sheet were reached and nothing else took time",
        "GiB: of the card, with the batches as planned; least GiB: with the smallest, a tenth of the card kept free;",
        "disk and download: in GiB, of 16-bit weights, once a model",
    ]


def _shown(frame: pd.DataFrame) -> str:
    """A data frame for a screen: numbers with two figures, words to the left."""
    texts = frame.map(lambda value: str(value) if not isinstance(value, float) else f"{float(f'{value:.2g}'):g}")
    for name in (name for name in texts if not pd.api.types.is_numeric_dtype(frame[name])):
        width = max(map(len, [name, *texts[name]]))
        texts[name] = texts[name].str.ljust(width)
        texts = texts.rename(columns={name: name.ljust(width)})
    return "\n".join(line.rstrip() for line in texts.replace("nan", "-").to_string(index=False).split("\n"))


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns 0, or 2 with one line on stderr where something was refused."""
    parser = argparse.ArgumentParser(prog="python -m rrr_utils.plan", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="paper", help="a name in data/profiles, or a .yaml file")
    parser.add_argument("--seeds", default="", help="as 0,1,2; without any the profile's own, or 0")
    parser.add_argument("--rows", default="", help="which rows, as countdown:Qwen2.5-1.5B,function_calling")
    parser.add_argument("--overrides", default="{}", help="other settings, as a JSON object")
    parser.add_argument("--card", default="", help="a card of data/cards.yaml; without one this machine's")
    parser.add_argument("--jobs", action="store_true", help="a line for each run too")
    given = parser.parse_args(arguments)
    try:
        seeds = [int(seed) for seed in given.seeds.split(",") if seed.strip()] or load(given.profile).seeds or [0]
        overrides = json.loads(given.overrides or "{}") | ({"rows": given.rows} if given.rows else {})
        settings = load(given.profile, {**overrides, "seed": seeds[0], "seeds": seeds})
        print(report(settings, given.card or None, given.jobs))
    except (ValueError, TypeError) as error:
        hint = (
            "" if isinstance(error, PLAIN) else " (--overrides takes a JSON object, and --seeds numbers such as 0,1,2)"
        )
        print(f"plan: {error}{hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
