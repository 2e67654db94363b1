"""A whole profile: snakemake --config profile=tiny seeds=0,1,2 [overrides='{"steps": 5}']
What data/trials.yaml tries on dev: snakemake trials --config profile=tiny trials=1

Whether a stage is done is asked of its result.json (results.done), not of file times: each stage has an empty file
`.done` that says to Snakemake what results.done said when this file was read, and nothing else. Every job is our strict
launcher, which asks again, goes on from checkpoints, and waits for whoever runs the same stage already.
"""

import json
import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir)))
from rrr_utils import launch, results
from rrr_utils.settings import SettingsError, load

notebooks = Path(config.get("notebooks", results.ROOT / "notebooks"))
GPU = 1 if launch.gpus() else 0


def flag(stage, seed=None, tried={}):
    """The stage's `.done`, made or removed so that Snakemake sees what results.done sees."""
    settings = load(config.get("profile", "tiny"), {**overrides, **tried, "seed": seed})
    path = results.stage_dir(settings, stage) / ".done"
    if results.done(settings, stage):
        path.touch()
    else:
        path.unlink(missing_ok=True)
    return str(path)


def read_overrides(given):
    """Settings beyond the profile: a JSON object, as text or as Snakemake has read it."""
    try:
        return dict(json.loads(given) if isinstance(given, str) else given or {})
    except (TypeError, ValueError):
        raise SettingsError(f"overrides must be a JSON object such as '{{\"steps\": 5}}', got {given!r}") from None


def read_seeds(given):
    """0 or 0,1,2 as a list of numbers."""
    try:
        return [int(seed) for seed in str(given or 0).strip("()[]").replace(",", " ").split()] or [0]
    except ValueError:
        raise SettingsError(f"seeds must be numbers such as 0,1,2, got {given!r}") from None


try:
    overrides, seeds = read_overrides(config.get("overrides")), read_seeds(config.get("seeds", 0))
    FAILURES, VANILLA = flag("failures", seeds[0]), flag("evaluate")
    TRAIN = {seed: flag("train", seed) for seed in seeds}
    EVALUATE = {seed: flag("evaluate", seed) for seed in seeds}
    TABLES = flag("tables", seeds[0])
    TRIALS = {}
    if config.get("trials"):
        from rrr_utils import trials  # with pandas and matplotlib, which take seconds, and every job reads this file

        TRIALS = {name: trials.changed(name, tried) for name, tried in trials.load(config.get("profile", "tiny")).items()}
    TRIED = {name: flag("train", 0, tried) for name, tried in TRIALS.items()}
    GPUS_TO_TRAIN = load(config.get("profile", "tiny"), overrides).gpus
    if not all(Path(path).exists() for path in (VANILLA, *EVALUATE.values())):
        Path(TABLES).unlink(missing_ok=True)  # an evaluation to come will change them
except launch.REFUSED as error:
    print(f"snakemake: {error}", file=sys.stderr)  # one plain line, whatever `quiet` is
    sys.exit(2)


def command(stage, seed=None, tried={}):
    """The launcher's command line for a stage."""
    options = [f"seed={'none' if seed is None else seed}"] if stage in ("train", "evaluate") else []
    options += [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in {**overrides, **tried}.items()]
    words = [sys.executable, "-m", "rrr_utils.launch", str(notebooks / f"{launch.NOTEBOOKS[stage]}.ipynb")]
    return shlex.join([*words, "--profile", config.get("profile", "tiny"), *(word for option in options for word in ("-p", option))])


rule all:
    input: TABLES


rule failures:
    output: touch(FAILURES)
    params: command=command("failures")
    resources: gpu=GPU
    shell: "{params.command}"


rule evaluate_vanilla:
    output: touch(VANILLA)
    params: command=command("evaluate")
    resources: gpu=GPU
    shell: "{params.command}"


for seed in seeds:

    rule:
        name: f"train_seed{seed}"
        input: ancient(FAILURES)
        output: touch(TRAIN[seed])
        params: command=command("train", seed)
        resources: gpu=GPU * GPUS_TO_TRAIN
        priority: 1  # the longest way to the table
        shell: "{params.command}"

    rule:
        name: f"evaluate_seed{seed}"
        input: ancient(TRAIN[seed]), ancient(VANILLA)
        output: touch(EVALUATE[seed])
        params: command=command("evaluate", seed)
        resources: gpu=GPU
        shell: "{params.command}"


rule tables:
    input: ancient(VANILLA), *[ancient(path) for path in EVALUATE.values()]
    output: touch(TABLES)
    params: command=command("tables")
    shell: "{params.command}"


for name in TRIALS:

    rule:
        name: f"trial_{name}"
        input: ancient(FAILURES)
        output: touch(TRIED[name])
        params:
            command=command("train", 0, TRIALS[name]),
            failures=str(Path(FAILURES).parent),  # collected once: a trial of other failures than these collects its own
            own=str(Path(TRIED[name]).parents[2] / "vanilla"),
        resources: gpu=GPU * GPUS_TO_TRAIN
        shell: "mkdir -p {params.own:q} && cp -r {params.failures:q} {params.own:q} && {params.command}"


rule trials:
    input: [ancient(path) for path in TRIED.values()]
