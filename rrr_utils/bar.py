"""One progress bar for a whole evaluation: it goes by the seconds that each kind of try is planned to take."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm.auto import tqdm

from rrr_utils import forecast
from rrr_utils.files import read_log
from rrr_utils.settings import Settings

#: seconds that are planned for each kind of try of an item, by policy and decoding
Planned = dict[tuple[str, str], dict[str, float]]
#: who hears that some of the planned seconds are done, and of what
Told = Callable[[float, str], None]
#: texts that a kind of try takes of an item, if not one; of `fresh` about
TEXTS = {"own": 2, "forced": 2, "always": 2, "outright": 2, "fresh": 4}


@contextlib.contextmanager
def whole(settings: Settings, folder: Path, items: int, parts: list[tuple[str, str]]) -> Iterator[tuple[Planned, Told]]:
    """The bar of an evaluation's parts (policies and decodings) while the block runs; the lines that `folder` has
    already are not in it."""
    lines = Counter((line["policy"], line["decoding"]) for line in read_log(folder / "samples.jsonl"))
    planned = {
        part: {kind: seconds / settings.test_items for kind, seconds in kinds.items()}
        for part, kinds in forecast.tries_of(settings).items()
    }
    total = sum(sum(planned.get(part, {}).values()) * (items - lines[part]) for part in parts)
    shape = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
    with tqdm(total=total or None, desc="evaluating", bar_format=shape if total else None) as shown:

        def told(seconds: float, what: str) -> None:
            if not shown.n:
                shown.unpause()  # until now the model was loaded
            shown.set_description_str(what, refresh=False)
            shown.update(min(seconds, total - shown.n) if total else 1)

        yield planned, told
        told(total - shown.n, "evaluated")  # what was taken over from an older evaluation, too


class Progress:
    """How far a block of items is, in the seconds that are planned for each kind of try of an item (`planned`)."""

    def __init__(self, who: str, planned: dict[str, float], told: Told, block: int):
        self.who, self.planned, self.told, self.block = who, planned, told, block
        self.left = self.each = 0.0
        self.what = ""

    @contextlib.contextmanager
    def trying(self, kind: str, items: int) -> Iterator[None]:
        """While this kind of try is made, texts count; at its end all of it is done, however many there were."""
        self.left = self.planned.get(kind, 0.0) * self.block
        self.each = self.left / max(1, items * TEXTS.get(kind, 1))
        self.what = f"{self.who}: {kind}"
        self.told(0.0, self.what)
        yield
        self.told(self.left, self.what)

    def texts(self, number: int) -> None:
        """So many more texts are there.

        >>> heard = []
        >>> one = Progress("trained", {"own": 3.0}, lambda seconds, what: heard.append(seconds), block=2)
        >>> with one.trying("own", items=1):  # of two, one failed: a reflection and a retry
        ...     one.texts(1)
        >>> heard
        [0.0, 3.0, 3.0]
        """
        done = min(self.left, number * self.each)
        self.left -= done
        self.told(done, self.what)
