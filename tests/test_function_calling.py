"""The function-calling task: what its verifier takes and refuses, its rows, its report."""

from __future__ import annotations

import functools
import json
import os
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrr_utils import calls, check_calls, conversation, strictjson
from rrr_utils.tasks import DataError, Verdict, check, function_calling
from rrr_utils.tasks.function_calling import ERRORS, load, prompt, split_indices, verify

BFCL = Path(os.environ.get("RRR_BFCL") or Path(__file__).parents[2] / "shared" / "data" / "bfcl_as_apigen.jsonl")
needs_bfcl = pytest.mark.skipif(not BFCL.is_file(), reason="the Berkeley rows are not here (RRR_BFCL)")

TOOLS = [
    {"name": "weather", "description": "The weather.", "parameters": {
        "city": {"description": "Where.", "type": "str"},
        "days": {"description": "How long.", "type": "int, optional", "default": 1},
        "units": {"description": "Of what.", "type": "str, optional", "default": "metric"}}},
    {"name": "play", "description": "Play a list.", "parameters": {
        "ids": {"description": "Which.", "type": "List[float]"},
        "loud": {"description": "How.", "type": "bool"}}},
]  # fmt: skip
OSLO = {"name": "weather", "arguments": {"city": "Oslo", "days": 2}}
PLAY = {"name": "play", "arguments": {"ids": [1.0, 2.5], "loud": True}}
ROW = {"id": "1", "cluster": "weather", "query": "Weather in Oslo for 2 days?", "tools": TOOLS, "answers": [OSLO]}
PAIR = {**ROW, "cluster": "play|weather", "answers": [OSLO, PLAY]}
GOLD = json.dumps([OSLO])
RIGHT = Verdict(True, None, True)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RRR_CACHE", str(tmp_path / "cache"))


def one(**arguments) -> str:
    return json.dumps([{"name": "weather", "arguments": arguments}])


# --- what is right ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        GOLD,
        f"\n {GOLD} \r\n",
        json.dumps(OSLO),
        f"```json\n{GOLD}\n```",
        f"```json {json.dumps(OSLO)} ```",
        f"<tool_call>\n{json.dumps(OSLO)}\n</tool_call>",
        json.dumps({"name": "weather", "parameters": OSLO["arguments"]}),
        '[{"arguments": {"days": 2.0, "city": "Oslo"}, "name": "weather"}]',
        '[{"name": "weather", "arguments": {"city": "\\u004fslo", "days": 2e0}}]',
    ],
)
def test_forms(text):
    assert verify(text, ROW) == RIGHT


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([PLAY, OSLO]),
        f"<tool_call>{json.dumps(PLAY)}</tool_call>\n<tool_call>{json.dumps(OSLO)}</tool_call>",
        '[{"name": "play", "arguments": {"loud": true, "ids": [1, 2.50]}}, ' + GOLD[1:],
    ],
)
def test_parallel_calls_in_any_order(text):
    assert verify(text, PAIR) == RIGHT


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no_json"),
        ("I cannot do that.", "no_json"),
        ('"weather"', "no_json"),
        ("null", "no_json"),
        (GOLD[:-1], "bad_json"),
        (GOLD + "]", "bad_json"),
        (GOLD.replace('"', "'"), "bad_json"),
        ("{}", "bad_json"),
        ("[1]", "bad_json"),
        ("[[]]", "bad_json"),
        ('[{"name": "weather"}]', "bad_json"),
        ('[{"name": 5, "arguments": {}}]', "bad_json"),
        ('[{"name": "weather", "arguments": ["Oslo", 2]}]', "bad_json"),
        ('[{"name": "weather", "arguments": null}]', "bad_json"),
        ('[{"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\", \\"days\\": 2}"}]', "bad_json"),
        ('[{"name": "weather", "arguments": {"city": "Oslo", "days": 2}, "id": 1}]', "bad_json"),
        ('[{"name": "weather", "arguments": {"city": "Oslo", "days": 2}, "parameters": {}}]', "bad_json"),
        ("<tool_call></tool_call>", "no_json"),
        ("<tool_call>" + json.dumps(OSLO), "bad_json"),
        ('[{"name": "storm", "arguments": {"city": "Oslo", "days": 2}}]', "unknown_tool"),
        ('[{"name": "Weather", "arguments": {"city": "Oslo", "days": 2}}]', "unknown_tool"),
        ("[]", "wrong_number_of_calls"),
        (json.dumps([OSLO, OSLO]), "wrong_number_of_calls"),
        (json.dumps([PLAY]), "wrong_tool"),
        (one(city="Oslo", day=2), "wrong_argument_names"),
        (one(city="Oslo", days=2, units="metric"), "wrong_argument_names"),
        (one(city="oslo", days=2), "wrong_argument_values"),
        (one(city="Oslo ", days=2), "wrong_argument_values"),
        (one(city="Oslo", days="2"), "wrong_argument_values"),
        (one(city="Oslo", days=-2), "wrong_argument_values"),
        (one(city=["Oslo"], days=2), "wrong_argument_values"),
        (one(city="Oslo", days=[2]), "wrong_argument_values"),
    ],
)
def test_error_kinds(text, error):
    verdict = verify(text, ROW)
    assert (verdict.correct, verdict.error) == (False, error)


def test_each_error_kind_is_a_known_one():
    assert check(function_calling, "function_calling") is function_calling
    assert len(set(ERRORS)) == len(ERRORS) == 7


def test_truth_is_no_number_and_order_counts_in_arrays():
    row = {**ROW, "answers": [PLAY]}
    call = '[{"name": "play", "arguments": {"ids": %s, "loud": %s}}]'
    assert verify(call % ("[1, 2.5]", "true"), row) == RIGHT
    for ids, loud in [("[1, 2.5]", "1"), ("[1, 2.5]", "1.0"), ("[true, 2.5]", "true"), ("[2.5, 1]", "true"), ('["1", 2.5]', "true")]:
        assert verify(call % (ids, loud), row).error == "wrong_argument_values"
    zero = {**ROW, "answers": [{"name": "weather", "arguments": {"days": 0}}]}
    assert verify('[{"name": "weather", "arguments": {"days": -0.0}}]', zero) == RIGHT
    assert verify('[{"name": "weather", "arguments": {"days": false}}]', zero).error == "wrong_argument_values"
    assert verify('[{"name": "weather", "arguments": {"days": null}}]', zero).error == "wrong_argument_values"


def test_a_string_is_not_a_number_nor_is_it_evaluated():
    """BFCL's checker holds '-5' equal to '5' and executes an expression in an argument."""
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"city": "5", "days": 4}}]}
    assert verify(one(city="-5", days=4), row).error == "wrong_argument_values"
    assert verify(one(city="5", days="2+2"), row).error == "wrong_argument_values"
    assert verify('[{"name": "weather", "arguments": {"city": "5", "days": 2+2}}]', row).error == "bad_json"
    assert verify('[{"name": "weather", "arguments": {"city": "5", "days": ٤}}]', row).error == "bad_json"


def test_large_numbers_are_compared_exactly():
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"days": 2**53 + 1}}]}
    assert verify(one(days=2**53 + 1), row) == RIGHT
    assert verify(one(days=2**53), row).error == "wrong_argument_values"
    assert verify(one(days=float(2**53)), row).error == "wrong_argument_values"


def test_two_tools_of_one_name():
    other = {"name": "weather", "parameters": {"place": {"type": "str"}}}
    assert calls.misfit([OSLO], [*TOOLS, other]) is None is calls.misfit([OSLO], [other, *TOOLS])
    assert calls.misfit([OSLO], [other]) == "'weather' has no parameter 'city'"
    assert calls.misfit([OSLO], []) == "'weather' is not among the tools"
    assert calls.misfit([{"name": "weather", "arguments": {}}], TOOLS) == "'weather' lacks its argument 'city'"
    schema = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {}, "days": {}}, "required": ["city"]}}
    assert calls.misfit([OSLO], [schema]) is None
    assert calls.misfit([{"name": "weather", "arguments": {"days": 1}}], [schema]) == "'weather' lacks its argument 'city'"


def test_the_same_call_twice_is_a_multiset():
    row = {**ROW, "answers": [OSLO, OSLO, PLAY]}
    assert verify(json.dumps([OSLO, PLAY, OSLO]), row) == RIGHT
    assert verify(json.dumps([OSLO, PLAY, PLAY]), row).error == "wrong_tool"
    assert verify(json.dumps([OSLO, PLAY]), row).error == "wrong_number_of_calls"


DEEP = "[" * 100_000
HOSTILE = {
    "NaN": '[{"name": "weather", "arguments": {"city": NaN, "days": 2}}]',
    "Infinity": '[{"name": "weather", "arguments": {"city": -Infinity, "days": 2}}]',
    "overflow": '[{"name": "weather", "arguments": {"city": "Oslo", "days": 1e999}}]',
    "vanishing": '[{"name": "weather", "arguments": {"city": "Oslo", "days": 2e-999}}]',
    "duplicate key": '[{"name": "weather", "arguments": {"city": "Rome", "city": "Oslo", "days": 2}}]',
    "duplicate name": '[{"name": "play", "name": "weather", "arguments": {"city": "Oslo", "days": 2}}]',
    "5,000 digits": f'[{{"name": "weather", "arguments": {{"city": "Oslo", "days": {"9" * 5000}}}}}]',
    "5,000 digits of a float": f'[{{"name": "weather", "arguments": {{"city": "Oslo", "days": 2.{"0" * 5000}}}}}]',
    "deep": DEEP,
    "deep and closed": DEEP + "]" * 100_000,
    "deep in an argument": '[{"name": "weather", "arguments": {"city": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}}]",
    "65 levels": '[{"name": "weather", "arguments": {"city": ' + "[" * 62 + "]" * 62 + "}}]",
    "lone surrogate": GOLD.replace("Oslo", "\ud800"),
    "escaped lone surrogate": GOLD.replace("Oslo", "\\ud800"),
    "NUL": GOLD.replace("Oslo", "\x00"),
    "newline in a string": GOLD.replace("Oslo", "Os\nlo"),
    "too long": "[" + " " * (1 << 20) + "]",
    "byte order mark": "\ufeff" + GOLD,
    "other white space": "\u00a0" + GOLD,
    "comment": GOLD + " // done",
    "trailing comma": GOLD.replace("}]", "},]"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_bad_json(name):
    verdict = verify(HOSTILE[name], ROW)
    assert (verdict.correct, verdict.error) == (False, "bad_json")


@pytest.mark.parametrize("text", [HOSTILE[name] for name in HOSTILE if name not in ("byte order mark", "other white space", "comment")])
def test_hostile_text_is_wrong_leniently_too(text):
    assert not verify(text, ROW).lenient
    assert not verify(f"Here: {text}", ROW).correct


def test_brackets_inside_strings_are_no_depth():
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"city": "[{" * 500 + '"\\' * 10}}]}
    assert verify(json.dumps(row["answers"]), row) == RIGHT
    assert verify(f"So: {json.dumps(row['answers'])}.", row) == Verdict(False, "bad_json", True)


def test_text_of_other_types_is_no_answer():
    assert verify(None, ROW) == Verdict(False, "no_json", False)


# --- lenient ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        f"Sure, here you are: {GOLD} Anything else?",
        f"```\n{GOLD}\n```",
        f"I think this fits.\n```json\n{GOLD}\n```\nDone.",
        f"Let me see. <tool_call>{json.dumps(OSLO)}</tool_call>",
        f"<tool_call>{GOLD}</tool_call>",
        f"<|python_tag|>{json.dumps({'name': 'weather', 'parameters': OSLO['arguments']})}",
        f'First I thought [{{"name": "play", "arguments": {{}}}}], but it is {GOLD}',
        f"The tools are {json.dumps(TOOLS)} and my answer is {GOLD}",
        'He said "[" and then ' + GOLD,
    ],
)
def test_lenient_takes_text_around(text):
    verdict = verify(text, ROW)
    assert not verdict.correct and verdict.lenient and verdict.error == "bad_json"


def test_lenient_fills_defaults_on_both_sides():
    assert verify(one(city="Oslo", days=2, units="metric"), ROW) == Verdict(False, "wrong_argument_names", True)
    assert not verify(one(city="Oslo", days=2, units="imperial"), ROW).lenient
    assert not verify(one(city="Oslo"), ROW).lenient  # the default of days is 1, the query asks for 2
    row = {**ROW, "answers": [{"name": "weather", "arguments": {"city": "Oslo", "days": 1}}]}
    assert verify(one(city="Oslo"), row) == Verdict(False, "wrong_argument_names", True)
    assert not verify(one(days=1), row).lenient  # city has no default


@pytest.mark.parametrize(
    "text", [GOLD.replace("2", "3"), "So " + GOLD.replace("2", "3"), "So " + GOLD[:-2], f"{GOLD} or {one(city='Rome')}"]
)
def test_lenient_is_not_that_lenient(text):
    assert not verify(text, ROW).lenient


# --- properties ------------------------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
value = st.recursive(
    st.none() | st.booleans() | number | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
call = st.fixed_dictionaries({"name": st.sampled_from(["weather", "play"]), "arguments": st.dictionaries(text, value, max_size=4)})
answer = st.lists(call, min_size=1, max_size=4)


def written(value, rng: random.Random) -> str:
    """JSON in random key order and spacing, numbers and characters in random notation."""

    def space() -> str:
        return rng.choice(["", "", " ", "\n", "\t ", "\r\n"])

    if isinstance(value, dict):
        pairs = [f"{space()}{written(key, rng)}{space()}:{space()}{written(item, rng)}{space()}" for key, item in value.items()]
        rng.shuffle(pairs)
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{space()}{written(item, rng)}{space()}" for item in value) + "]"
    if type(value) is int and rng.random() < 0.3 and abs(value) < 2**53:
        return json.dumps(float(value))
    if type(value) is float and value.is_integer() and rng.random() < 0.3:
        return str(int(value))
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def places(value, path=()):
    """Paths to every value inside."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


@settings(max_examples=200, deadline=None)
@given(answer, st.randoms(use_true_random=False))
def test_gold_verifies_however_it_is_written(gold, rng):
    calls_ = gold[:]
    rng.shuffle(calls_)
    assert verify(written(calls_, rng), {**ROW, "answers": gold}) == RIGHT


@settings(max_examples=300, deadline=None)
@given(answer, st.data())
def test_any_change_of_one_value_is_wrong(gold, data):
    changed = json.loads(json.dumps(gold))
    paths = [(i, "arguments", *path) for i, item in enumerate(gold) for path in places(item["arguments"])] + [(0, "name")]
    path = data.draw(st.sampled_from(paths))
    where = functools.reduce(lambda inner, key: inner[key], path[:-1], changed)
    where[path[-1]] = data.draw(value.filter(lambda new: strictjson.canonical(new) != strictjson.canonical(where[path[-1]])))
    verdict = verify(json.dumps(changed), {**ROW, "answers": gold})
    assert not verdict.correct and not verdict.lenient and verdict.error in ERRORS


PIECES = [
    *'{}[]",:\\', "'", "\n", "\x00", "\ud800", "\udfff", "é", "١", "\u2028", "NaN", "-Infinity", "1e999", "9" * 500, "-", "0", "true",
    "null", "<tool_call>", "</tool_call>", "```json", "```", '"name":', '"arguments":', "\\ud800", "\\u0000", "[" * 70, '{"a":' * 70,
    GOLD, json.dumps(PLAY),
]  # fmt: skip


def mutated(rng: random.Random) -> str:
    text = rng.choice(
        [GOLD, json.dumps([PLAY, OSLO]), f"```json\n{GOLD}\n```", f"<tool_call>{json.dumps(PLAY)}</tool_call>", f"So: {GOLD}."]
    )
    for _ in range(rng.randint(1, 5)):
        at, end = sorted(rng.choices(range(len(text) + 1), k=2))
        end = min(end, at + rng.randint(0, 12))
        text = text[:at] + rng.choice([rng.choice(PIECES), "", text[at:end] * 2]) + text[end:]
    return text


def mutate(count: int) -> None:
    rng = random.Random(0)
    for _ in range(count):
        text = mutated(rng)
        verdict = verify(text, PAIR)
        assert verdict.error in ERRORS or verdict == RIGHT, text
        assert verdict.lenient or not verdict.correct


def test_mutated_answers_raise_nothing():
    mutate(20_000)


@pytest.mark.slow
def test_100_000_mutated_answers_raise_nothing():
    mutate(100_000)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(st.sampled_from(list('{}[]",:\\ naemrgutsp1e')), max_size=60))
def test_any_text_raises_nothing(text):
    assert verify(text, ROW).error in ERRORS


# --- prompt and rows -------------------------------------------------------------------------------------------------


def test_the_prompt_holds_tools_and_query():
    text = conversation.question(function_calling, ROW)
    assert [json.loads(line) for line in text.splitlines() if line.startswith('{"name"')] == TOOLS
    assert "\nQuery: Weather in Oslo for 2 days?" in text and text.endswith(conversation.DIRECT)
    assert prompt(ROW) in text and "{{" not in text


def raw(number: int, **changes) -> dict:
    gold = [{"name": "weather", "arguments": {"city": f"City {number}", "days": number}}]
    row = {"id": number, "query": f"Weather in city {number}?", "tools": json.dumps(TOOLS), "answers": json.dumps(gold)}
    return {**row, **changes}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_rows(tmp_path):
    source = write(tmp_path / "rows.jsonl", [raw(k) for k in range(200)])
    splits = {split: load(split, None, 0, source) for split in ("train", "dev", "test")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 150, "dev": 10, "test": 40}
    ids = [row["id"] for rows in splits.values() for row in rows]
    assert len(set(ids)) == 200
    row = splits["train"][0]
    assert list(row) == ["id", "cluster", "query", "tools", "answers"] and row["tools"] == TOOLS and row["cluster"] == "weather"
    assert all(verify(json.dumps(row["answers"]), row).correct for rows in splits.values() for row in rows)
    assert load("train", 5, 0, source) == splits["train"][:5] != load("train", 5, 1, source)
    assert load("test", 5, 1, source) == splits["test"][:5]
    assert load("test", 10_000, 0, source) == splits["test"]


def test_neither_position_nor_spelling_decides_the_split(tmp_path):
    rows = [raw(k) for k in range(100)]
    again = [{**row, "id": f"other {row['id']}", "answers": row["answers"].replace(": ", ":  ")} for row in reversed(rows)]
    first, second = write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", again)
    assert [row["query"] for row in load("test", None, 0, first)] == [row["query"] for row in load("test", None, 0, second)]


def test_equal_content_counts_once_and_equal_ids_do_not_collide(tmp_path):
    rows = [raw(k, id=k % 50) for k in range(100)]
    source = write(tmp_path / "rows.jsonl", rows + rows[:30])
    loaded = [row for split in ("train", "dev", "test") for row in load(split, None, 0, source)]
    assert len(loaded) == len({row["id"] for row in loaded}) == len({row["query"] for row in loaded}) == 100


def test_full_sizes():
    splits = split_indices((f"{k:06d}" for k in range(60_000)), [""] * 60_000)
    assert {split: len(indices) for split, indices in splits.items()} == {"test": 12_000, "dev": 1_000, "train": 47_000}
    assert splits["test"] == list(range(12_000)) and splits["dev"][0] == 12_000


def test_gold_that_does_not_fit_its_tools_is_in_test_only(tmp_path, caplog):
    wrong = json.dumps([{"name": "weather", "arguments": {"town": "Oslo"}}])
    source = write(tmp_path / "rows.jsonl", [raw(k, **({"answers": wrong} if k % 4 == 0 else {})) for k in range(200)])
    splits = {split: load(split, None, 0, source) for split in ("train", "dev", "test")}
    odd = {split: sum("town" in str(row["answers"]) for row in rows) for split, rows in splits.items()}
    assert odd["train"] == odd["dev"] == 0 < odd["test"] and len(splits["test"]) == 40 and len(splits["dev"]) == 10
    assert "the gold calls of 50 rows do not fit their own tools" in caplog.text
    odd_row = next(row for row in splits["test"] if "town" in str(row["answers"]))
    assert verify(json.dumps(odd_row["answers"]), odd_row) == RIGHT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": "[{'name': 'weather'}]"}, "answers is no JSON"),
        ({"answers": "[5]"}, 'answers: a call must be an object of "name" and "arguments"'),
        ({"answers": '[{"name": "weather", "arguments": []}]'}, 'answers: the arguments of "weather" are no object'),
        ({"answers": '[{"name": "weather", "arguments": {"days": NaN}}]'}, "answers is no JSON: NaN is no JSON"),
        ({"answers": None}, "answers: a call must be"),
        ({"tools": "{}"}, "tools is no list"),
        ({"tools": '[{"name": "weather", "parameters": [1]}]'}, "tools: each must be"),
        ({"query": " "}, "query is no text"),
        ({"query": "\ud800"}, "text that is not UTF-8"),
    ],
)
def test_bad_rows_are_named(tmp_path, caplog, change, reason):
    source = write(tmp_path / "rows.jsonl", [raw(k, **(change if k == 41 else {})) for k in range(100)])
    assert sum(len(load(split, None, 0, source)) for split in ("train", "dev", "test")) == 99
    assert f"1 of 100 rows cannot be used and are skipped: line 42: {reason}" in caplog.text
    with pytest.raises(DataError, match="1 of 100 rows cannot be used, more than the 0.5% that max_bad_rows allows: line 42"):
        load("train", 1, 0, source, max_bad_rows=0.005)


def test_there_is_no_pretrain_split():
    with pytest.raises(DataError, match="no split 'pretrain'"):
        load("pretrain", 1, 0, "any.jsonl")


# --- the report ------------------------------------------------------------------------------------------------------


def test_report(tmp_path, capsys):
    rows = [raw(k) for k in range(150)] + [raw(3)]
    rows[7] = raw(7, answers="oops")
    source = write(tmp_path / "rows.jsonl", rows)
    assert check_calls.main(["--check", source]) == 0
    printed = capsys.readouterr().out
    for line in [
        "rows                151: 150 usable, 1 bad",
        "    line 8: answers is no JSON: Expecting value: line 1 column 1 (char 0)",
        "duplicates          1 rows",
        "tools               2 distinct, of 2 names",
        "parameters a tool   mean 2.5, median 2.5, 95% up to 3, range 2 to 3",
        "gold answers        150 of 150 verify",
    ]:
        assert line in printed
    assert check_calls.main(["--check", source, "--max-bad-rows", "0"]) == 1
    assert check_calls.main(["--check", source, "--tokenizer", str(tmp_path / "none")]) == 1
    assert check_calls.main(["--check", str(tmp_path / "none.jsonl")]) == 1
    assert all("Traceback" not in line for line in capsys.readouterr().err.splitlines())


@pytest.mark.parametrize("template", [None, "{% for m in messages %}<user> {{ m['content'] }} {% endfor %}<assistant>"])
def test_report_with_a_tokenizer(tmp_path, template):
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator([prompt(ROW)], vocab_size=260, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, chat_template=template)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    source = write(tmp_path / "rows.jsonl", [raw(k) for k in range(10)])
    lines, well = check_calls.report(source, str(tmp_path / "tokenizer"))
    [tokens] = [line for line in lines if line.startswith("prompt, tokens")]
    assert well and "median" in tokens and str(tmp_path / "tokenizer") in tokens


@needs_bfcl
def test_berkeley_rows(capsys):
    assert check_calls.main(["--check", str(BFCL)]) == 0
    printed = capsys.readouterr().out
    assert "1,000 usable, 0 bad" in printed and "1,000 of 1,000 verify against themselves" in printed
    assert "misfits             2 rows" in printed
    rows = [row for split in ("train", "dev", "test") for row in load(split, None, 0, str(BFCL))]
    assert len(rows) == 998
    rng = random.Random(0)
    for row in rows:
        assert verify(written(row["answers"], rng), row) == RIGHT
        assert verify(f"Certainly! {json.dumps(row['answers'])}", row) == Verdict(False, "bad_json", True)
