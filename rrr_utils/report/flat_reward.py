"""Why a reward is flat, in words: what a training's logs say, and the setting to change. At any step, without torch."""

from collections import Counter, defaultdict
from collections.abc import Iterable

from scipy.stats import linregress

from rrr_utils import runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.files import read_log
from rrr_utils.settings import Settings

#: steps from which on a trend can be told
FEW = 8
#: how tasks name the errors of a completion without an answer, or with none that can be read
UNREAD = ("no_", "not_", "bad_")


def why(settings: Settings) -> str:
    """What the logs of this training say about its reward, a line each. ResultsError where no step is logged yet."""
    folder, kept = runs.stage_dir(settings, "train"), []
    if not (training := read_log(folder / "training.jsonl")):
        raise ResultsError(f"{folder} holds no training step yet: run training.train first")
    if settings.objective == "reflection":
        kept = read_log(runs.stage_dir(settings, "failures") / "failures.jsonl")
    return in_words(settings, training, measure(settings, training, read_log(folder / "reflections.jsonl"), kept))


def measure(settings: Settings, training: list[dict], logged: list[dict], kept: list[dict]) -> dict[str, float]:
    """Shares (0..1) in the newer half of the steps, from lines of `training.jsonl`, `reflections.jsonl` and
    `failures.jsonl`, and `kl` in nats a token; `error: <kind>` of all retries, which are verified again here.

    With objective `answer` the first tries stand for reflections and retries."""
    recent, task, groups = training[len(training) // 2 :], tasks.get(settings.task), defaultdict(list)
    last = [line for line in logged if line["step"] >= recent[0]["step"]]
    for line in last:
        groups[line["step"], line["id"], "reflection" in line and line["attempt"]].append(line)
    verdicts = [tasks.verify(task, line.get("retry", line["attempt"]), line["row"]) for line in last]
    wrong = [one for one in verdicts if not tasks.is_right(one, settings.verdict)]
    kinds = Counter(one.error for one in wrong).most_common()
    return {
        "spread": _mean(line["zero_variance"] for line in recent),
        "all wrong": _mean(all(one["reward"] == 0 for one in group) for group in groups.values()),
        "all right": _mean(all(one["reward"] == 1 for one in group) for group in groups.values()),
        "one text": _mean(len({x.get("reflection", x["attempt"]) for x in group}) == 1 for group in groups.values()),
        "cut": _mean(line["truncated"] for line in recent),
        "unread": sum(not one.lenient and one.error.startswith(UNREAD) for one in wrong) / max(1, len(verdicts)),
        "form": sum(one.lenient for one in wrong) / max(1, len(verdicts)),
        "kl": _mean(line["kl"] or 0.0 for line in recent),
        "bad steps": _mean(line["grad_norm"] is None for line in training),  # NaN and infinity are logged as null
        "never solved": _mean(line["solved"] == 0 for line in kept),
        **{f"error: {kind}": count / len(verdicts) for kind, count in kinds},
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / max(1, len(values))


def in_words(settings: Settings, training: list[dict], m: dict[str, float]) -> str:
    """How the reward went, the measures, and what to change; says plainly where nothing stands out."""
    rewards, n = [line["reward"] for line in training], max(1, len(training) // 4)
    text, retry = ("attempts", "attempts") if settings.objective == "answer" else ("reflections", "retries")
    told = len(rewards) >= FEW
    rose = told and len(set(rewards)) > 1 and linregress(range(len(rewards)), rewards, alternative="greater")[3] < 0.05
    went = "it rose" if rose else "it did not rise" if told else "too few to tell"
    errors = [f"{name[7:]} {share:.0%}" for name, share in m.items() if name.startswith("error: ") and share > 0.005]
    shown = {
        "groups without spread": f"{m['spread']:.0%} (all wrong {m['all wrong']:.0%}, all right {m['all right']:.0%})",
        f"truncated {text}": f"{m['cut']:.0%}",
        f"{retry} without an answer": f"{m['unread']:.0%}",
        f"errors, of all {retry}": ", ".join(errors[:4]) or "none",
        "KL from the base model": f"{m['kl']:.4f} nats a token" if settings.beta else "not measured, beta is 0",
    }
    if settings.objective == "reflection":
        shown["failures never solved"] = f"{m['never solved']:.0%}"
    quarters = f"{_mean(rewards[:n]):.2f}, {_mean(rewards[-n:]):.2f}"
    lines = [f"Reward, first and last quarter of {len(rewards)} steps: {quarters}; {went}."]
    lines += ["", *(f"{name:<26} {value}" for name, value in shown.items()), ""]
    found = [sentence for stands_out, sentence in _findings(settings, m, told and not rose, text, retry) if stands_out]
    if not found:
        more = " Give it more steps or another learning_rate." if told and not rose else ""
        return "\n".join([*lines, f"Nothing here keeps the reward from rising.{more}"])
    head = "The reward rises all the same; to make it rise faster:" if rose else "What can keep it flat:"
    return "\n".join([*lines, head, *(f"- {sentence}" for sentence in found)])


def _findings(s: Settings, m: dict[str, float], flat: bool, text: str, retry: str) -> list[tuple[bool, str]]:
    """What may stand out: whether it does, and the sentence with the setting to change."""
    share, limit = {name: f"{m[name]:.0%}" for name in m}, f"{'attempt' if text == 'attempts' else 'reflection'}_tokens"
    hard = "too hard: choose easier data (source) or a stronger model, or raise reflections_per_failure"
    easy = "too easy: choose harder data (source), or lower failures_per_query to train on more queries"
    spread = hard if m["all wrong"] >= m["all right"] else easy
    if s.retry_decoding == "greedy" and text == "reflections":
        spread = "set retry_decoding to 'sampled'"
    never = f"{share['never solved']} of the failures are of queries that no sample solved, {hard}."
    unread = f"{share['unread']} of the {retry} hold no answer that can be read: raise attempt_tokens "
    unread += f"({s.attempt_tokens}) if they are cut off, else choose a model that keeps to the format."
    far = f"The model is far from its base: lower learning_rate ({s.learning_rate}) or raise beta ({s.beta})."
    near = f"The model has hardly moved: raise learning_rate ({s.learning_rate})."
    broken = f"{share['bad steps']} of the steps had no finite gradient: set dtype ({s.dtype}) to bfloat16 or float32."
    alike = f"In {share['one text']} of the groups all {text} are one text: raise temperature ({s.temperature})."
    return [
        (m["spread"] > 0.5, f"{share['spread']} of the groups have no spread and teach nothing, {spread}."),
        (m["one text"] > 0.5, alike),
        (m["cut"] > 0.25, f"{share['cut']} of the {text} end at the token limit: raise {limit} ({getattr(s, limit)})."),
        (m["unread"] > 0.2, unread),
        (m["form"] > 0.05, f"{share['form']} of the {retry} are right but for their form: set verdict to 'lenient'."),
        (m["never solved"] > 0.8, never),
        (m["bad steps"] > 0.1, broken),
        (flat and m["kl"] > 0.5, far),
        (flat and s.beta > 0 and m["kl"] < 0.0005, near),
    ]
