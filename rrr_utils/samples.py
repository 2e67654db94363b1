"""Lines of `samples.jsonl`, an evaluation's kept texts: reading them, giving verdicts anew, taking over older ones.

A line of an older evaluation that is the same by everything that bears on its texts is not generated again: so one more
item, decoding or policy costs no more than itself, and a changed verifier only gives other verdicts.
"""

import gzip
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

from rrr_utils import runs, tasks
from rrr_utils.errors import ResultsError
from rrr_utils.files import read_json, read_jsonl, read_log
from rrr_utils.settings import EVERY_ITEM, Settings

Key = tuple[str, str, str]


def read(folder: Path) -> list[dict]:
    """The lines of an evaluation, plain or published (`samples.jsonl.gz`). Raises ResultsError where there are none."""
    plain, packed = Path(folder) / "samples.jsonl", Path(folder) / "samples.jsonl.gz"
    if plain.is_file():
        return read_jsonl(plain)
    if packed.is_file():
        with gzip.open(packed, "rt", encoding="utf-8", newline="\n") as file:
            return [json.loads(line) for line in file]
    raise ResultsError(f"{folder} holds no samples.jsonl: give the folder of a finished evaluation (notebook 03)")


def key(line: dict) -> Key:
    """What a line is found by: policy, decoding, id."""
    return line["policy"], line["decoding"], line["id"]


def verify_again(task: ModuleType, line: dict, which: str) -> dict:
    """A line with every verdict given anew from its texts; a first try that is right keeps EVERY_ITEM's alone."""
    verdict = tasks.verify(task, line["attempt"], line["row"])._asdict()
    second, right = {}, tasks.is_right(verdict, which)
    for control, entry in [each for each in line["second"].items() if not right or each[0] in EVERY_ITEM]:
        texts = entry.get("tries", [entry.get("retry")])
        verdicts = [tasks.verify(task, text, line["row"])._asdict() for text in texts]
        best = next((one for one in verdicts if tasks.is_right(one, which)), verdicts[0])
        second[control] = entry | {"verdict": best} | ({"verdicts": verdicts} if "tries" in entry else {})
    return line | {"verdict": verdict, "second": second}


def older(settings: Settings, folder: Path) -> dict[Key, dict]:
    """Lines of other evaluations with the same texts, verdicts given anew. `folder`: the evaluation that was begun."""
    task, lines, begun = tasks.get(settings.task), {}, read_json(folder / "begun.json")
    ours, now = _bears_on_texts(task, begun), begun["identity"]
    for run in runs.listed(runs.root(settings)):
        if run.begun["stage"] != "evaluate" or run.folder.parent != folder.parent or run.folder == folder:
            continue
        damaged = (run.folder / "result.damaged.json").exists() or (run.result and not runs.whole(run.folder))
        if damaged or _bears_on_texts(task, run.begun) != ours:
            continue
        shows = {"generic": "generic", "forced": "forced_words", "outright": "outright_request"}
        stale = {name for name, what in shows.items() if run.begun["identity"].get(what) != now.get(what)}
        for line in read_log(run.folder / "samples.jsonl"):
            line = verify_again(task, line, settings.verdict) | {"from": line.get("from", run.folder.name)}
            second = {k: v for k, v in line["second"].items() if k not in stale and not _other_text(task, line, k)}
            if len(second) >= len(lines.get(key(line), {"second": {}})["second"]):  # the fuller one of two
                lines[key(line)] = line | {"second": second}
    return lines


def _other_text(task: ModuleType, line: dict, control: str) -> bool:
    """Whether the task makes another text of the own reflection by now than the one that this control was shown."""
    if control not in ("masked", "cut") or not hasattr(task, "mask" if control == "masked" else "answers_in"):
        return False
    own, shown = line["second"]["own"]["reflection"], line["second"][control]["reflection"]
    now = tasks.told(task, "mask", own, line["row"]) if control == "masked" else tasks.cut(task, own, line["row"])
    return shown != now


def _bears_on_texts(task: ModuleType, begun: dict) -> dict:
    """What two evaluations must share so that equal rows, policies and decodings have equal texts."""
    names = "model_hash load_in_4bit shown chain_of_thought temperature attempt_tokens reflection_tokens".split()
    if not hasattr(task, "EXAMPLE"):  # then only the task's file tells what its prompts are
        names.append("task_hash")
    adapter = {name.partition("/")[2]: sha for name, sha in begun["read"].items() if "/adapter/" in name}
    machine = {name: begun["settings"].get(name) for name in ("engine", "dtype")}
    version = begun["identity"]["versions"]["stage"]
    return {"adapter": adapter, "version": version, **machine, **{n: begun["identity"].get(n) for n in names}}


def vanilla(settings: Settings) -> dict[Key, dict]:
    """The base model's lines, whose attempts, blind and generic retries the reflector shares."""
    if settings.seed is None or "reflector" not in settings.policies:
        return {}
    base = settings.model_copy(update={"seed": None})
    return {key(line): line for line in read_log(runs.stage_dir(base, "evaluate") / "samples.jsonl")}


def given(policy: str, decoding: str, row: dict, older: dict[Key, dict], vanilla: dict[Key, dict]) -> dict | None:
    """What is known of a line before anything is generated for it; None where nothing is."""
    known = older.get((policy, decoding, row["id"]))
    if known is not None and known["row"] != row:
        known = None
    if policy != "reflector":
        return known
    base = vanilla["vanilla", decoding, row["id"]]
    shared = {name: base["second"][name] for name in ("blind", "generic") if name in base["second"]}
    if known is not None and known["attempt"] == base["attempt"]:
        return known | {"second": known["second"] | shared}
    return {name: value for name, value in base.items() if name != "from"} | {"second": shared}


def adopted(lines: list[dict]) -> list[dict]:
    """From which older evaluations how many lines were taken over: `{"folder", "lines"}`."""
    return [{"folder": name, "lines": n} for name, n in Counter(x["from"] for x in lines if "from" in x).items()]
