"""Run in a process of its own: everything after generation, with torch and its kin made impossible to import.

python tests/torch_free.py RESULTS_DIR MODEL     notebook 04 (seeds 0 to 2), rescoring, the list of runs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
BLOCKED = ("torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets")


class Blocked:
    """A finder that refuses what a machine without torch does not have."""

    @staticmethod
    def find_spec(name: str, *_):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named '{name}' (blocked)", name=name)


def main(results_dir: str, model: str) -> None:
    """Notebook 04 from its parameters on, then `report --rescore` of the first evaluation, and `report --runs`."""
    sys.meta_path.insert(0, Blocked)
    sys.path.insert(0, str(ROOT))
    notebook = json.loads((ROOT / "notebooks" / "04_paper_tables.ipynb").read_text(encoding="utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    variables = {"__name__": "notebook"}
    for number, source in enumerate(code):
        exec(compile(TransformerManager().transform_cell(source), f"<code cell {number}>", "exec"), variables)
        if number == 0:
            variables |= {"results_dir": results_dir, "model": model, "overrides": {"seeds": [0, 1, 2]}}
    from rrr_utils.report.__main__ import main as report

    assert report(["--rescore", str(sorted(Path(results_dir).glob("*/*/evaluate-*"))[0])]) == 0
    assert report(["--runs", "--results-dir", results_dir]) == 0
    loaded = [name for name in BLOCKED if name in sys.modules]
    assert not loaded, loaded


if __name__ == "__main__":
    main(*sys.argv[1:])
