"""The deviations from the paper: none is missing, none is made up, each has its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rrr_utils import grid
from rrr_utils import settings as settings_module
from rrr_utils.errors import SettingsError
from rrr_utils.report import deviations, paper, publish
from rrr_utils.settings import ROOT, STAGE_FIELDS, Settings, load

KNOWN = deviations.recipe()["settings"]
#: every number that may be told of the paper's recipe; another one needs a source first
NUMBERS = {"0", "0.001", "0.03", "0.9", "1", "8", "14", "64", "256", "1750", "12000", "15000", "48000", "5e-07"}


def standing(settings: Settings, name: str) -> str:
    return deviations.standing(settings, name, KNOWN[name])


def test_every_setting_that_bears_on_a_result_is_compared_and_no_other():
    of_the_data_and_the_numbers = {"source", "test_source", "dtype"}  # in a result's identity, or kept by its folder
    assert KNOWN.keys() == {name for names in STAGE_FIELDS.values() for name in names} | of_the_data_and_the_numbers


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_told_of_the_paper_has_its_certainty_and_no_number_is_made_up(name):
    known = KNOWN[name]
    if isinstance(known, str) or "unknown" in known:
        assert known in ("unknown", deviations.OWN) or known.keys() == {"unknown"}
        return
    assert {"paper", "sure"} <= known.keys() <= {"paper", "sure", "relation", "said"}
    assert set(known["sure"].split(", ")) <= {"V", "S", "I"}
    assert known.get("relation", "at most") in ("at most", "one of", "between")
    values = known["paper"].values() if isinstance(known["paper"], dict) else [known["paper"]]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    numbers = {str(one) for one in flat if isinstance(one, int | float) and not isinstance(one, bool)}
    assert numbers | set(re.findall(r"\d[\d.e-]*", known.get("said", ""))) <= NUMBERS


def test_the_recipe_and_the_paper_s_cells_name_the_same_models_data_and_sizes():
    for task, (source, items) in paper.TEST_SETS.items():
        assert (KNOWN["source"]["paper"][task], KNOWN["test_items"]["paper"][task]) == (source, items)
        assert KNOWN["model"]["paper"][task] == paper.TRAINED[task]


@pytest.mark.parametrize("profile", settings_module.profiles())
def test_a_profile_gives_a_reason_for_each_setting_that_differs_and_for_no_other(profile):
    settings, why = load(profile), deviations.why(profile)
    by = {name: standing(settings, name) for name in KNOWN}
    assert {name for name, where in by.items() if where == "differs"} - why.keys() == set(), "no reason"
    assert why.keys() - {name for name, where in by.items() if where in ("differs", "unknown")} == set(), "stale reason"
    assert all(isinstance(reason, str) and re.fullmatch(r"[^a-z].+\.", reason) for reason in why.values())


def test_the_tiny_profile_is_the_paper_s_recipe_but_for_what_a_small_model_on_two_cores_needs():
    differs = {name for name in KNOWN if standing(load("tiny"), name) == "differs"}
    sizes = {"test_items", "train_queries", "rounds", "failures_per_query", "steps"}
    assert differs == sizes | {"model", "source", "load_in_4bit", "lora_rank", "learning_rate"}


@pytest.mark.parametrize(
    ("name", "same", "other"),
    [
        ("failures_per_step", {"failures_per_step": 16, "reflections_per_failure": 16}, {"failures_per_step": 16}),
        ("reflections_per_failure", {"reflections_per_failure": 14}, {"reflections_per_failure": 16}),
        ("reflections_per_failure", {"reflections_per_failure": 8}, {"reflections_per_failure": 4}),
        ("rounds", {"rounds": (16, 48)}, {"rounds": (64, 1)}),
        ("steps", {"steps": 1750}, {"steps": 1749}),
        ("lora_rank", {"lora_rank": 0, "load_in_4bit": False, "policies": ("trained",)}, {"lora_rank": 1}),
        ("model", {"model": "Qwen/Qwen2.5-3B-Instruct"}, {"model": "Qwen/Qwen2.5-14B-Instruct"}),
        ("model", {"model": "Qwen/Qwen2-7B-Instruct", "task": "function_calling"}, {"model": "Qwen/Qwen2-7B-Instruct"}),
        ("source", {"task": "function_calling"}, {}),
        ("objective", {}, {"objective": "answer", "policies": ("trained",)}),
        ("retry_policy", {}, {"retry_policy": "base"}),
    ],
)
def test_a_setting_is_compared_in_the_paper_s_unit(name, same, other):
    assert (standing(Settings(**same), name), standing(Settings(**other), name)) == ("same", "differs")


def test_a_sentence_says_ours_the_paper_s_how_sure_and_why():
    settings = load("tiny", {"beta": 0.02, "steps": 2000})
    lines = deviations.deviations(settings, {"beta": "Held tighter.", "reflection_tokens": "Short ones do."})
    assert "`beta` is 0.02; in the paper 0.001 (S). Held tighter." in lines
    assert "`steps` is 2,000; in the paper at most 1,750 (S). No reason is given." in lines
    assert "`reflection_tokens` is 96; in the paper not known. Short ones do." in lines
    told = [line.split("`")[1] for line in lines if "; in the paper " in line]
    assert told == [name for name in KNOWN if standing(settings, name) in ("differs", "unknown")]
    own, same = lines[-2:]
    assert "`seed`" in own and "`policies`" in own and "`warmup`" in same and "`beta`" not in own + same
    assert set(deviations.recipe()["others"]) <= set(lines)


def test_a_profile_of_one_s_own_and_a_task_that_the_paper_has_not(tmp_path):
    (tmp_path / "task.py").write_text((ROOT / "rrr_utils" / "tasks" / "countdown.py").read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"task: {tmp_path / 'task.py'}\nmodel: org/name\nsource: {tmp_path / 'rows.csv'}\nwhy: {{task: Mine.}}\n"
    )
    settings = load(str(path))
    assert {standing(settings, name) for name in ("model", "source", "test_items")} == {deviations.OWN}
    text = deviations.part([settings])
    assert "1. `task` is task.py; in the paper one of countdown, function_calling (V). Mine.\n2. " in text
    assert text.startswith("Profile `mine`, task:org/name. As in the paper: `objective`") and str(tmp_path) not in text
    path.write_text("why: because\n")
    with pytest.raises(SettingsError, match="mine.yaml: why must hold"):
        deviations.why(str(path))


def test_what_no_setting_says_is_what_training_does():
    code = Path(ROOT / "rrr_utils" / "training.py").read_text(encoding="utf-8")
    for said in ("epsilon=0.2, epsilon_high=0.2", 'optim="adamw_torch"', "weight_decay=0.0", "num_iterations=1"):
        assert said in code
    assert "top_p=1.0, top_k=0" in code and "steps + 1" in code


def test_the_listed_deviations_are_those_of_the_tiny_profile():
    text = (ROOT / "results" / "tiny" / "README.md").read_text(encoding="utf-8")
    parts = {"deviations": deviations.part(grid.rows_of(load("tiny")))}
    assert publish.fill(text, parts) == text, "profile or recipe changed: make publish"
