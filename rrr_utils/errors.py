"""Errors whose one line says what is wrong, where, and what to do; notebooks show that line and no traceback."""

import difflib
import os
import sys
import traceback
from typing import Any


class PlainError(Exception):
    """Shown as one line in a notebook, with its traceback if RRR_TRACEBACK is 1."""

    def _render_traceback_(self) -> list[str]:
        if os.environ.get("RRR_TRACEBACK") == "1":
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self}"]


class SettingsError(PlainError, ValueError):
    """A profile, preset or setting that cannot be used."""


class DataError(PlainError, ValueError):
    """A task or its data that cannot be used."""


class ResultsError(PlainError, ValueError):
    """A result that cannot be written, read or combined."""


def stops_in_one_line() -> None:
    """From now on a notebook shows an interrupted cell (JupyterLab's stop button) as one line."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or os.environ.get("RRR_TRACEBACK") == "1":
        return

    def show(self: Any, kind: type, error: BaseException, traceback: Any, tb_offset: int | None = None) -> None:
        line = f"Stopped: {error}" if str(error) else "Stopped: what was computed stays, run it again to go on"
        self._showtraceback(kind, error, [line])  # as all errors are shown; there is no public way to one line

    shell.set_custom_exc((KeyboardInterrupt,), show)


#: what the command lines turn into one line on stderr
PLAIN = (SettingsError, DataError, ResultsError)


def nearest(name: str, known: list[str]) -> str:
    """A hint for a misspelt name.

    >>> nearest("lerning_rate", ["learning_rate", "seed"])
    "; did you mean 'learning_rate'?"
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"


def one_line(error: BaseException | str, most: int = 300) -> str:
    """An error's kind and text on one line, for messages that quote it."""
    text = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:most]
