"""Arithmetic with + - * / and brackets: read it without executing anything, compute it exactly, list what is reachable.

Two stacks instead of recursion (Dijkstra's shunting yard): deep nesting costs memory, never the interpreter's stack.
"""

from fractions import Fraction
from itertools import product

SIGNS = frozenset("+-*/()")
BINDS = {"+": 1, "-": 1, "*": 2, "/": 2, "negate": 3}


def postfix(tokens: list, loose: bool = False) -> list | None:
    """Numbers and operations in the order in which they are computed; None if the tokens are not an expression.

    Every token that is not one of SIGNS counts as a number. `loose` ignores brackets without a partner.

    >>> postfix(list("(9*3)+-4"))
    ['9', '3', '*', '4', 'negate', '+']
    >>> postfix(list("2**3")), postfix(list("3(4)")), postfix(list("9*3)")), postfix(list("9*3)"), loose=True)
    (None, None, None, ['9', '3', '*'])
    """
    output, waiting = [], []
    operand = True  # whether a number, a minus sign or an opening bracket has to come next, and not an operation
    for token in tokens:
        if operand != (token == "(" or token not in SIGNS) and not (operand and token == "-"):
            return None
        if token not in SIGNS:
            output.append(token)
            operand = False
        elif operand:
            waiting.append("(" if token == "(" else "negate")
        elif token == ")":
            while waiting and waiting[-1] != "(":
                output.append(waiting.pop())
            if waiting:
                waiting.pop()
            elif not loose:
                return None
        else:
            while waiting and BINDS.get(waiting[-1], 0) >= BINDS[token]:
                output.append(waiting.pop())
            waiting.append(token)
            operand = True
    if operand or ("(" in waiting and not loose):
        return None
    return output + [step for step in waiting[::-1] if step != "("]


def value_of(steps: list) -> int | Fraction | None:
    """The exact value of `postfix` steps, with numbers as text or as they are; None if it divides by zero.

    Whole numbers stay int, since fractions are slow.
    """
    stack: list[int | Fraction] = []
    for step in steps:
        if step == "negate":
            stack[-1] = -stack[-1]
        elif step in BINDS:
            b, a = stack.pop(), stack.pop()
            if step == "/" and b == 0:
                return None
            stack.append(a + b if step == "+" else a - b if step == "-" else a * b if step == "*" else _quotient(a, b))
        else:
            stack.append(int(step) if isinstance(step, str) else step)
    return stack[0]


def _quotient(a: int | Fraction, b: int | Fraction) -> int | Fraction:
    return Fraction(a) / b if a % b else int(a // b)


def canonical(steps: list) -> str:
    """The same text for expressions (`postfix` steps) that are equal by the commutativity of + and *.

    >>> canonical(postfix(list("(9*3)+4"))), canonical(postfix(list("4+3*9"))), canonical(postfix(list("4-3-9")))
    ('((3*9)+4)', '((3*9)+4)', '((4-3)-9)')
    """
    stack: list[str] = []
    for step in steps:
        if step == "negate":
            stack[-1] = stack[-1][1:] if stack[-1].startswith("-") else f"-{stack[-1]}"
        elif step in BINDS:
            pair = [stack.pop(-2), stack.pop()]
            stack.append(f"({step.join(sorted(pair) if step in '+*' else pair)})")
        else:
            stack.append(str(step))
    return stack[0]


def reachable(nums: list[int]) -> set[Fraction]:
    """All values that + - * / make of the numbers, each used once. Half a second for five numbers, minutes for six."""
    values = {Fraction(nums[0])} if len(nums) == 1 else set()
    for split in range(1, 2 ** (len(nums) - 1)):  # every way to divide the numbers into two parts
        parts = [[x for k, x in enumerate(nums) if split >> k & 1 == side] for side in (0, 1)]
        for a, b in product(*map(reachable, parts)):
            values |= {a + b, a - b, b - a, a * b} | {x / y for x, y in ((a, b), (b, a)) if y}
    return values
