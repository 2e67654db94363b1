"""Countdown: the verifier against every trap that was seen elsewhere."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrr_utils.tasks import countdown as task

ROW = {"nums": [3, 9, 4], "target": 31}


def error(equation: str, nums: list[int] = ROW["nums"], target: int = ROW["target"]) -> str | None:
    verdict = task.verify(f"<answer> {equation} </answer>", {"nums": nums, "target": target})
    assert verdict.correct == (verdict.error is None)
    assert verdict.lenient or not verdict.correct
    return verdict.error


def lenient(completion: str, nums: list[int] = ROW["nums"], target: int = ROW["target"]) -> bool:
    verdict = task.verify(completion, {"nums": nums, "target": target})
    assert not verdict.correct
    return verdict.lenient


# --- the verifier ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "equation",
    ["( 9 * 3 ) + 4", "9*3+4", "4+3*9", "((9)*(3))+(4)", "4 - -3*9", "-(-9*3)+4", "\n9 *\t3\n+ 4", "- -9*3+4"],
)
def test_right(equation):
    assert error(equation) is None


@pytest.mark.parametrize(
    "equation, nums, target",
    [
        ("(1 + 2) / 3", [1, 2, 3], 1),
        ("8 / (3 - 8 / 3)", [8, 3, 8, 3], 24),  # the value passes through thirds
        ("1 / 3 * 3", [1, 3, 3], 1),
        ("2 - 3 - 4", [2, 3, 4], -5),  # to the left
        ("24 / 4 / 2", [24, 4, 2], 3),
        ("0 * 5 + 7", [0, 5, 7], 7),
        ("3 * -4 + 13", [3, 4, 13], 1),
    ],
)
def test_exact_arithmetic(equation, nums, target):
    assert error(equation, nums, target) is None


@pytest.mark.parametrize(
    "equation, nums, target",
    [
        ("2**3+1", [2, 3, 1], 9),
        ("7//2+1", [7, 2, 1], 4),
        ("1.5*2", [1, 5, 2], 3),
        ("97**95**92", [97, 95, 92], 1),
        ("sqrt(16)+1", [16, 1], 5),
        ("1+2 # 3", [1, 2, 3], 3),
        ("__import__('os').system('true')", [1, 2, 3], 0),
        ("07 + 1", [7, 1], 8),
        ("1_0 + 2", [10, 2], 12),
        ("1e1 + 2", [1, 1, 2], 12),
        ("0x1 + 2", [1, 2], 3),
        ("+1 + 2", [1, 2], 3),
        ("2 (3)", [2, 3], 6),
        ("(2)(3)", [2, 3], 6),
        ("1 2 + 3", [12, 3], 15),
        ("1 + 2 = 3", [1, 2], 3),
        ("[1 + 2]", [1, 2], 3),
        ("1 + 2;", [1, 2], 3),
        ("1 + 2 +", [1, 2], 3),
        ("(1 + 2", [1, 2], 3),
        ("1 + 2)", [1, 2], 3),
        (")1 + 2(", [1, 2], 3),
        ("() 1 + 2", [1, 2], 3),
        ("* 1 + 2", [1, 2], 3),
        ("1 + 2 -", [1, 2], 3),
        ("-", [1, 2], 3),
        ("", [1, 2], 3),
        ("1 % 2", [1, 2], 1),
        ("6 ^ 3", [6, 3], 5),
        ("True + 2", [1, 2], 3),
    ],
)
def test_what_is_no_arithmetic(equation, nums, target):
    assert error(equation, nums, target) == "not_an_equation"


@pytest.mark.parametrize("digits", ["٣", "３", "३", "³", "Ⅲ", "𝟑", "三"])
def test_digits_of_other_scripts(digits):
    assert error(f"9 * {digits} + 4") == "not_an_equation"
    assert not lenient(f"<answer> 9 * {digits} + 4 </answer>")
    assert not lenient(f"9 * {digits} + 4")


@pytest.mark.parametrize(
    "equation", ["9 * 3", "9 * 3 + 4 + 0", "9 * 3 + 4 * 1", "27 + 4", "31", "9 * 3 + 4 + 4 - 4", "9" * 900]
)
def test_other_numbers(equation):
    assert error(equation) == "wrong_numbers"


def test_numbers_are_a_multiset():
    assert error("5 + 5", [5, 5], 10) is None
    assert error("5 + 5", [5], 10) == "wrong_numbers"
    assert error("5", [5, 5], 5) == "wrong_numbers"
    assert error("12 + 3", [1, 23], 15) == "wrong_numbers"


@pytest.mark.parametrize(
    "equation, nums, target", [("9 * 3 - 4", [9, 3, 4], 31), ("7 / 2", [7, 2], 3), ("1 / 3 + 1 / 3", [1, 3, 1, 3], 1)]
)
def test_other_value(equation, nums, target):
    assert error(equation, nums, target) == "missed_target"


def test_division_by_zero_has_no_value():
    for equation in ("4 / (3 - 3)", "4 / -(3 - 3)", "(3 - 3) / (4 - 4)", "4 / (3 - 3) / 0"):
        nums = [int(token) for token in equation if token.isdigit()]
        assert error(equation, nums, 0) == "missed_target"
    assert error("4 / (3 - 2)") == "wrong_numbers"


def test_large_given_numbers():
    big = 10**400
    assert error(f"{big} - {big}", [big, big], 0) is None
    assert error(f"{big} * 2", [big, 2], 2 * big) is None


@pytest.mark.parametrize(
    "completion, expected",
    [
        ("9 * 3 + 4", "no_answer"),
        ("", "no_answer"),
        ("<answer> 9 * 3 + 4", "no_answer"),
        ("9 * 3 + 4 </answer>", "no_answer"),
        ("</answer> 9 * 3 + 4 <answer>", "no_answer"),
        ("<ANSWER> 9 * 3 + 4 </ANSWER>", "no_answer"),
        ("<answer></answer>", "not_an_equation"),
        ("<answer> 1 </answer> no: <answer> 9 * 3 + 4 </answer>", None),
        ("<answer> 9 * 3 + 4 </answer> no: <answer> 1 </answer>", "wrong_numbers"),
        ("<answer> 9 * 3 + 4 </answer> or <answer> 1", None),
        ("<answer> so <answer> 9 * 3 + 4 </answer>", None),
        ("<answer> 9 * 3 + 4 </answer></answer>", None),
        ("I think <answer>9*3+4</answer> is right.", None),
    ],
)
def test_the_last_complete_answer_counts(completion, expected):
    assert task.verify(completion, ROW).error == expected


@pytest.mark.parametrize(
    "completion",
    [
        "<answer> 9 * 3 + 4 = 31 </answer>",
        "<answer> 9 × 3 + 4 </answer>",
        "<answer> 9 \\times 3 + 4 </answer>",
        "<answer> [ 9 * 3 ] + 4 </answer>",
        "<answer> 4 − −9 * 3=31 </answer>",
        "9 * 3 + 4",
        " ( 9 * 3 ) + 4 = 31 \n",
        "First I multiply.\n\n9 × 3 + 4\n\n",
    ],
)
def test_lenient(completion):
    assert lenient(completion)


def test_lenient_divides():
    assert lenient("<answer> 8 ÷ 4 </answer>", [8, 4], 2)


@pytest.mark.parametrize(
    "completion",
    [
        "<answer> 9 * 3 + 4 = 30 </answer>",
        "<answer> 9 * 3 - 4 = 31 </answer>",
        "<answer> 31 = 9 * 3 + 4 </answer>",
        "<answer> 9 * 3 + 4 = 31 = 31 </answer>",
        "<answer> 9 * 3 + 4 = 031 </answer>",
        "<answer> 9 * 3 + 4 = ３１ </answer>",
        "The answer is 9 * 3 + 4",
        "9 * 3 + 4\nis it.",
        "9 * 3 + 4 <answer> 1 </answer>",  # the answer counts where there is one
        "= 31",
        "",
    ],
)
def test_not_even_lenient(completion):
    assert not lenient(completion)


LONG = 10**6
MONSTERS = [
    "(" * 100_000 + "9*3+4" + ")" * 100_000,
    "(" * 100_000,
    ")" * 100_000,
    "-" * 200_000 + "9*3+4",
    "9*3+4" + "-" * 200_000,
    "9" * LONG,
    "9*3+4=" + "3" * LONG,
    "9*" * (LONG // 2),
    "9*3+4\0",
    "\0" * LONG,
    "\ud800 9*3+4",
    "9*3+4\udfff",
    "9*3+4\u202e",
    "x" * LONG,
    "\\times" * (LONG // 6),
    "=" * LONG,
    "<answer>" * (LONG // 8),
    "</answer>" * (LONG // 9),
    "<answer></answer>" * (LONG // 17),
    "\n" * LONG + "9*3+",
]


@pytest.mark.parametrize("text", MONSTERS, ids=range(len(MONSTERS)))
def test_monsters_are_wrong_answers(text):
    assert task.verify(text, ROW).error in ("no_answer", "not_an_equation")
    assert error(text) in ("not_an_equation", "wrong_numbers")


def test_padding_does_no_harm():
    assert error(" " * LONG + "9*3+4" + "\n" * LONG) is None
    assert task.verify("x" * LONG + "<answer>9*3+4</answer>" + "x" * LONG, ROW).correct


@given(
    st.text(alphabet=st.characters(), max_size=60)
    | st.text(alphabet="0123456789+-*/() =×÷−[]<>answer\\times\n", max_size=60)
)
@settings(max_examples=300, deadline=None)
def test_never_raises(text):
    for completion in (text, f"<answer>{text}</answer>"):
        verdict = task.verify(completion, ROW)
        assert (verdict.error in task.ERRORS) != verdict.correct
        assert verdict.lenient or not verdict.correct


@st.composite
def trees(draw, least: int = 1, most: int = 6):
    """An expression as text, its numbers, and its value by plain evaluation of the tree (None: it divides by zero)."""
    nums = draw(st.lists(st.integers(0, 99), min_size=least, max_size=most))

    def space() -> str:
        return draw(st.sampled_from(["", "", " ", "\n"]))

    def build(leaves: list[int], level: int) -> tuple[str, Fraction | None]:
        """`level` is the weakest operation that may stand here bare: 0 a sum, 1 a product, 2 an operand."""
        if len(leaves) == 1:
            text, value, bare = str(leaves[0]), Fraction(leaves[0]), 2
        else:
            cut = draw(st.integers(1, len(leaves) - 1))
            op = draw(st.sampled_from("+-*/"))
            bare = 0 if op in "+-" else 1
            (left, a), (right, b) = build(leaves[:cut], bare), build(leaves[cut:], bare + 1)
            text = left + space() + op + space() + right
            if a is None or b is None or (op == "/" and b == 0):
                value = None
            else:
                value = a + b if op == "+" else a - b if op == "-" else a * b if op == "*" else a / b
        if bare < level or draw(st.integers(0, 5)) == 0:
            text, bare = f"({space()}{text}{space()})", 2
        if bare == 2 and draw(st.integers(0, 5)) == 0:
            text, value = "-" + space() + text, None if value is None else -value
        return text, value

    text, value = build(nums, 0)
    return text, nums, value


@given(trees(), st.randoms(use_true_random=False), st.integers(-200, 200))
@settings(max_examples=400, deadline=None)
def test_agrees_with_an_independent_evaluation(tree, rng, other):
    text, nums, value = tree
    shuffled = rng.sample(nums, len(nums))
    for target in {other} | ({int(value)} if value is not None else set()):
        assert error(text, shuffled, target) == (None if value == target else "missed_target")
        assert lenient(f"<answer>{text} = {target}</answer>", shuffled, target) == (value == target)
    changed = list(shuffled)
    changed[0] += 1
    assert error(text, changed, other) == "wrong_numbers"
    assert error(text, [*shuffled, 1], other) == "wrong_numbers"
    for broken in (
        text + " + ",
        "(" + text,
        text + ")",
        text + " 1",
        text.replace(str(nums[0]), "0" + str(nums[0]), 1),
    ):
        assert error(broken, shuffled, other) == "not_an_equation"
