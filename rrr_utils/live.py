"""What notebooks show besides tables: of a training (02), from its logs alone, the curve as it grows, one group of
reflections with its tokens coloured by what is rewarded, and a problem before and after; of an evaluation (03) one
problem from its attempt to its retries.
"""

import contextlib
import functools
import html
import statistics
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from IPython import get_ipython
from IPython.display import HTML, display

from rrr_utils import checkpoints, conversation, evaluation, runs, samples, tasks, tokens
from rrr_utils.controls import Voice
from rrr_utils.files import last_line, read_log
from rrr_utils.settings import Settings

#: red, green and grey: a token that becomes less likely, one that becomes likelier, one that is only read
LESS, MORE, READ = "#f4b6ae", "#a9dfb4", "#e8e8e8"
#: pixels of the curve
WIDTH, HEIGHT, LEFT, BELOW = 640, 180, 40, 24


@contextlib.contextmanager
def watched(settings: Settings, every: float = 2.0) -> Iterator[None]:
    """Inside, a notebook shows the curve of the training and its newest reflection, looked up every so many seconds;
    elsewhere nothing happens."""
    if get_ipython() is None:  # no notebook
        yield
        return
    shown = display(HTML(page(settings)), display_id=True)
    over, last = threading.Event(), ""

    def look() -> None:
        nonlocal last
        ended = False
        while not ended:
            ended = over.wait(every)
            if (now := page(settings)) != last:
                shown.update(HTML(now))
                last = now

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def page(settings: Settings) -> str:
    """The curve and the newest reflection, as HTML."""
    folder = runs.stage_dir(settings, "train")
    training, dev = (read_log(folder / f"{name}.jsonl") for name in ("training", "dev"))
    return curve(training, dev, settings.steps) + _newest(folder / "reflections.jsonl")


def curve(training: list[dict], dev: list[dict], steps: int) -> str:
    """The mean reward of each step (line) and the score on dev (dots), 0 to 1, as SVG."""

    def place(step: float, value: float) -> str:
        x, y = LEFT + (WIDTH - LEFT - 12) * step / max(1, steps), 10 + (HEIGHT - BELOW - 10) * (1 - value)
        return f"{x:.1f},{y:.1f}"

    parts = []
    for value in (0.0, 0.5, 1.0):
        (x, y), (right, _) = place(0, value).split(","), place(steps, value).split(",")
        parts.append(f'<line x1="{x}" y1="{y}" x2="{right}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{float(y) + 4}" text-anchor="end">{value:g}</text>')
    line = " ".join(place(one["step"], one["reward"]) for one in training)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1f77b4" stroke-width="2"/>')
    for one in dev:
        x, y = place(one["step"], one["score"]).split(",")
        parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="#ff7f0e"/>')
    said = f"step {len(training)} of {steps}: line, mean reward; dots, score on dev"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 6}">{said}</text>')
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" style="max-width:{WIDTH}px;width:100%;background:white"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} font-family="sans-serif" font-size="12">{"".join(parts)}</svg>'
    )


def _newest(path: Path) -> str:
    """The last line of the reflections' log in words; empty while there is none."""
    if not (line := last_line(path)):
        return ""
    verdict = "right" if line["reward"] == 1 else "wrong" if line["reward"] == 0 else f"reward {line['reward']:.2f}"
    told = [("attempt", line["attempt"])]
    if "reflection" in line:
        told += [("reflection", line["reflection"]), ("retry", line["retry"])]
    cell = '<td style="text-align:left">{}</td>'
    rows = "".join(f"<tr>{cell.format(name)}{cell.format(html.escape(text))}</tr>" for name, text in told)
    heading = f"The newest sample, of step {line['step']} ({verdict}):"
    return f'<div style="max-width:{WIDTH}px">{heading}<table>{rows}</table></div>'


def mixed_group(lines: list[dict]) -> list[dict]:
    """The first group of the log in which some completions were rewarded and others not.

    >>> rewards = ("a", 0), ("a", 0), ("b", 0), ("b", 1)
    >>> log = [{"step": 1, "id": name, "attempt": "", "reward": reward} for name, reward in rewards]
    >>> [line["id"] for line in mixed_group(log)]
    ['b', 'b']
    """
    groups: dict[Any, list[dict]] = {}
    for line in lines:
        groups.setdefault((line["step"], line["id"], "reflection" in line and line["attempt"]), []).append(line)
    return next((group for group in groups.values() if len({line["reward"] for line in group}) > 1), [])


def rewarded_tokens(settings: Settings) -> str:
    """One real group of the training, as HTML: rewards, advantages, and the tokens of a completion that helped and of
    one that did not, green or red where they are trained, grey where they are only read.

    The group is the first with both; it is said where there is none yet."""
    group = mixed_group(read_log(runs.stage_dir(settings, "train") / "reflections.jsonl"))
    if not group:
        return "No group has been rewarded in part yet: train on, or see below why a reward is flat."
    rewards, tokenizer = [line["reward"] for line in group], tokens.load(*runs.model_path(settings))
    mean, spread = statistics.mean(rewards), statistics.stdev(rewards)
    asked = conversation.attempt(tasks.get(settings.task), group[0]["row"], settings.chain_of_thought)[0]["content"]
    said = f"Step {group[0]['step']}, rewards {', '.join(f'{r:g}' for r in rewards)}: mean {mean:.2f}, std {spread:.2f}"
    parts = [f"<p>{said}</p>"]
    for pick in (max, min):
        line = next(x for x in group if x["reward"] == pick(rewards))
        advantage, trained = (line["reward"] - mean) / spread, "reflection" if "reflection" in line else "attempt"
        texts = {"task": asked, **{name: line[name] for name in ("attempt", "reflection", "retry") if name in line}}
        parts.append(f"<p>reward {line['reward']:g}, advantage {advantage:+.2f}</p>")
        for name, text in texts.items():
            colour = READ if name != trained else MORE if advantage > 0 else LESS
            parts.append(f"<div>{name}: {_coloured(tokenizer, text, colour)}</div>")
    return f'<div style="max-width:900px;line-height:1.9">{"".join(parts)}</div>'


def _coloured(tokenizer: Any, text: str, colour: str) -> str:
    """A text's tokens, each on its colour."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    style = f"background:{colour};color:#222;border-radius:3px;margin:1px;padding:1px 2px;white-space:pre-wrap"
    return "".join(f'<span style="{style}">{html.escape(tokenizer.decode([one]))}</span>' for one in ids)


def before_and_after(settings: Settings) -> str:
    """A dev failure in words: reflection and retry before the training, and by the checkpoint that was kept, greedily.

    It is the first that was wrong before and is right now; where none of those that are kept is, the first of them."""
    folder = runs.stage_dir(settings, "train")
    lines, dev = read_log(folder / "dev_texts.jsonl"), read_log(folder / "dev.jsonl")
    if not lines:
        return f"{folder} was trained before these texts were kept."
    kept = checkpoints.best(dev)["step"]
    old, new = ([line for line in lines if line["step"] == step] for step in (0, kept))
    pairs = list(zip(old, new, strict=True))
    mended = [pair for pair in pairs if not pair[0]["right"] and pair[1]["right"]]
    before, after = (mended or pairs)[0]
    asked = conversation.attempt(tasks.get(settings.task), before["row"], settings.chain_of_thought)[0]["content"]
    reflecting = settings.objective == "reflection"
    said = [f"task         {asked}", *([f"attempt      {before['attempt']}   wrong"] if reflecting else [])]
    for name, line in (("before the training", before), (f"after step {kept}", after)):
        said += ["", name, *([f"reflection   {line['reflection']}"] if reflecting else [])]
        said += [
            f"{'retry ' if reflecting else 'answer'}       {line['retry']}   {'right' if line['right'] else 'wrong'}"
        ]
    counts = [sum(line["right"] for line in one) for one in (old, new)]
    return "\n".join(
        [*said, "", f"Of the first {len(old)} of dev, {counts[0]} were right before and {counts[1]} are after."]
    )


def one_problem(settings: Settings, row: dict) -> str:
    """One problem in words, greedily: the base model's attempt, then reflection and retry before and after training.

    What this evaluation or the base model's holds of the problem is shown; a model is loaded for the rest alone.
    """
    task = tasks.get(settings.task)
    if why := getattr(task, "flaw", lambda row: None)(row):
        return f"This problem cannot be posed: {why}"
    sampler = functools.cache(lambda: evaluation.sampler_of(settings))
    base = settings.model_copy(update={"seed": None})

    def told(one: Settings, policy: str, attempted: dict | None) -> dict:
        known = _written(one, policy, row) or attempted
        voice = Voice(one.model_copy(update={"controls": ("own",)}), sampler, policy, "greedy", 0)
        return evaluation.tries(voice, [row], [known])[0]

    before = told(base, "vanilla", None)
    mark = _mark(before["verdict"])
    lines = [f"task         {tasks.prompt(task, row)}", f"attempt      {before['attempt']}   {mark}"]
    if not before["second"]:
        return "\n".join([*lines, "The first try is right: there is nothing to reflect on."])
    shown = [("base model", before)]
    if settings.seed is not None:
        after = told(settings, "reflector", {**before, "second": {}})
        shown.append(("after training (the adapter on while reflecting)", after))
    for name, line in shown:
        own, mark = line["second"]["own"], _mark(line["second"]["own"]["verdict"])
        lines += ["", name, f"reflection   {own['reflection']}", f"retry        {own['retry']}   {mark}"]
    return "\n".join(lines)


def _written(settings: Settings, policy: str, row: dict) -> dict | None:
    """The greedy line that an evaluation holds of a row, if any."""
    lines = read_log(runs.stage_dir(settings, "evaluate") / "samples.jsonl")
    wanted = (policy, "greedy", row["id"])
    return next((line for line in lines if samples.key(line) == wanted and line["row"] == row), None)


def _mark(verdict: dict) -> str:
    return "right" if verdict["correct"] else f"wrong ({verdict['error']})"
