"""Colab: what its runtime gets of us, and the notebooks' cells and README's badges that lead there.

`install` changes nothing that a running kernel holds: numpy, pandas, ipykernel and torch stay, so no restart is needed.
python -m rrr_utils.colab [URL]   notes where this repository is published in pyproject.toml; badges and cells follow
"""

import importlib
import importlib.metadata as metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rrr_utils.errors import PLAIN, SettingsError
from rrr_utils.files import write_text
from rrr_utils.settings import ROOT, profiles

#: packages that Colab has in other versions, or not at all, and that must be ours; installed without what they ask for
OURS = """transformers trl peft accelerate tokenizers safetensors huggingface-hub hf-xet datasets bitsandbytes torchao
unsloth unsloth-zoo""".split()
#: never installed there: its kernel's and torch's own, and what no notebook needs
NEVER = {"ipykernel", "ipywidgets", "torch", "torchvision", "xformers", "triton", "snakemake"}
_BADGE = "[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]"

#: the first lines of a notebook's cell that fetches the kit, with or without a known address
_CLONE = """    if not os.path.exists("/content/rrr"):
        !git clone -q --depth 1 {url} /content/rrr"""
_UPLOAD = """    if not os.path.exists("/content/rrr"):  # a zip of this repository, beside the notebook or uploaded now
        from google.colab import files as _files

        shutil.unpack_archive((glob.glob("/content/*.zip") or list(_files.upload()))[0], "/content/kit")
        _top = glob.glob("/content/kit/**/pyproject.toml", recursive=True)[0]
        shutil.move(os.path.dirname(_top), "/content/rrr")"""
_CELL = """{imports}

if "COLAB_RELEASE_TAG" in os.environ:  # on Colab only: the kit and what it needs, in about two minutes, no restart
{fetch}
    sys.path.insert(0, "/content/rrr")
    from rrr_utils import colab

    colab.install()

from rrr_utils.settings import from_notebook
"""


def install() -> None:
    """Install the kit and what it needs and this runtime lacks; read HF_TOKEN from Colab's secrets. Again: at once."""
    held: set[str] = set()
    while todo := lacking():  # what a package asks for shows once it is there
        held |= {name for name in todo if name.replace("-", "_") in sys.modules}
        print(f"installing {', '.join(f'{name} {version}' for name, version in todo.items())}", flush=True)
        _pip(*(f"{name}=={version}" for name, version in todo.items()))
    if _version("rrr_utils") is None:
        _pip("-e", str(ROOT))
    if held:
        print(f"{', '.join(sorted(held))} was in use before: choose Runtime > Restart session, and run all cells again")
    from huggingface_hub import get_token  # not before it was installed; asks Colab's secrets

    from rrr_utils import backup

    if token := get_token():
        os.environ["HF_TOKEN"] = token  # what a notebook starts cannot ask them
    print(backup.said(), flush=True)


def lacking() -> dict[str, str]:
    """Name and version of what is to be installed here: OURS, and what they and the kit ask for and nobody brought."""
    pins = versions()
    if int((_version("pyarrow") or "99").split(".")[0]) < 21:  # an older one, which Colab's kernel holds by then
        pins["datasets"] = "4.3.0"  # the newest that runs with it
    found = {name: pins[name] for name in OURS if _version(name) != pins[name]}
    seen, todo = set(NEVER), [*project()["dependencies"], *OURS]
    while todo:
        if (name := canonicalize_name(Requirement(todo.pop()).name)) in seen:
            continue
        seen.add(name)
        if _version(name) is not None:
            asked = map(Requirement, metadata.requires(name) or [])
            todo += [str(one) for one in asked if not one.marker or one.marker.evaluate({"extra": ""})]
        elif name in pins:
            found[name] = pins[name]
    return found


def versions() -> dict[str, str]:
    """Every pinned package and its version: the lock, and Unsloth with what it brings."""
    lists = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.lock", "requirements-gpu.txt")]
    pairs = [pair for text in lists for pair in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)]
    return {canonicalize_name(name): version for name, version in pairs}


def project() -> dict:
    """The table `project` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def address() -> str:
    """Where this repository is published; empty as long as that is not known."""
    return project().get("urls", {}).get("Repository", "")


def cell(url: str, variables: str = "globals()") -> str:
    """The code of a notebook's cell that fetches the kit on Colab and reads the settings."""
    names = ("os", "sys") if url else ("glob", "os", "shutil", "sys")
    fetch = _CLONE.format(url=url) if url else _UPLOAD
    text = _CELL.format(imports="\n".join(f"import {name}" for name in names), fetch=fetch)
    return f"{text}\nsettings = from_notebook({variables})"


def form(source: str) -> str:
    """A parameters cell with Colab's form fields for the profile, which may also be typed, and for `make_missing`."""
    names = ", ".join(f'"{name}"' for name in profiles())
    fields = {"profile": f'"tiny"  # @param [{names}] {{"allow-input": true}}'}
    fields["make_missing"] = 'False  # @param {"type": "boolean"}'
    for name, text in fields.items():
        source = re.sub(rf"^{name} = .*$", f"{name} = {text}".replace("\\", r"\\"), source, flags=re.MULTILINE)
    return source


def badge(path: str, url: str) -> str:
    """A notebook's badge in README; as long as there is no address on GitHub, that it is uploaded."""
    if not (where := re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", url)):
        return "Colab, uploaded by hand"
    return f"{_BADGE}(https://colab.research.google.com/github/{where[1]}/blob/main/{path})"


def follow(url: str) -> list[Path]:
    """Bring README's badges and the notebooks' cells up to date; returns the files that changed."""
    import nbformat

    changed, readme = [], ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    row = re.compile(r"^(\| \w+ \| \[[^]]+\]\((notebooks/\w+\.ipynb)\) \| )[^|]*( \|)$", re.MULTILINE)
    if (new := row.sub(lambda m: f"{m[1]}{badge(m[2], url)}{m[3]}", text)) != text:
        write_text(readme, new)
        changed.append(readme)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        book = nbformat.read(path, as_version=4)
        code = [one for one in book.cells if one.cell_type == "code"][:2]
        variables = re.search(r"from_notebook\((.*)\)$", code[1].source)[1]
        before = [one.source for one in code]
        code[0].source, code[1].source = form(before[0]), cell(url, variables)
        if before != [one.source for one in code]:
            write_text(path, nbformat.writes(book).rstrip("\n") + "\n")
            changed.append(path)
    return changed


def _note(url: str) -> None:
    """Write the address into pyproject.toml. Raises SettingsError."""
    if not re.fullmatch(r"https://[\w./~-]+", url):
        raise SettingsError(f"'{url}' is no address such as https://github.com/you/rrr")
    path = ROOT / "pyproject.toml"
    text = re.sub(r"\n\[project\.urls\]\n.*\n", "", path.read_text(encoding="utf-8"))
    table = f'[project.urls]\nRepository = "{url}"\n\n[project.optional-dependencies]'
    write_text(path, text.replace("[project.optional-dependencies]", table, 1))


def _pip(*words: str) -> None:
    """pip without dependencies. Raises SettingsError with its last line."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    importlib.invalidate_caches()  # what was installed is seen by this process
    if done.returncode:
        raise SettingsError(f"pip could not install {' '.join(words)}: {(done.stderr.strip() or '?').splitlines()[-1]}")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            _note(sys.argv[1])
        print("\n".join(map(str, follow(address()))) or "nothing to change")
    except PLAIN as error:
        sys.exit(str(error))
