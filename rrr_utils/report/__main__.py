"""python -m rrr_utils.report --rescore DIR: verdicts and cells again from kept generations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rrr_utils.report import cells


def main() -> int:
    """The command line: rescore a run's kept texts."""
    parser = argparse.ArgumentParser(prog="python -m rrr_utils.report", description=__doc__)
    parser.add_argument("--rescore", metavar="DIR", type=Path, required=True, help="an evaluate folder (or a published one)")
    parser.add_argument("--task", metavar="FILE", help="the .py file of a task of your own, whose place no result records")
    given = parser.parse_args()
    try:
        print(cells.rescore(given.rescore, task=given.task).to_string(index=False))
    except ValueError as error:
        print(f"rescore: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
