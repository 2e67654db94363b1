"""Real data: read from the hub or a local file, prepared once as an Arrow file in the cache, then memory-mapped.

Covered: bad rows (skipped, counted, named), a gated hub set, no network, damaged prepared rows (they are made again).
Not covered: what a row means. The task's `convert` knows, and raises ValueError with the reason for a bad row.
A hub set is read at one commit, which fixes its content. Once prepared, it needs neither network nor token.
"""

import functools
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rrr_utils.errors import DataError, one_line
from rrr_utils.files import cache, file_hash, read_json
from rrr_utils.settings import DATA
from rrr_utils.tasks import hub_parts, rowfiles

FORMAT = 2  # of prepared rows; raise it and everything is prepared again
MAX_ROW = 1 << 20  # bytes; the longest real row has about 20,000
KNOWN = DATA / "sources.yaml"
_GATED = "{} is gated: accept its terms at {} and set HF_TOKEN to a token of that account"

Needs = tuple[str, ...]
Convert = Callable[[dict[str, Any]], dict[str, Any]]


class Rows(NamedTuple):
    """The good rows of a source (a datasets.Dataset), the number of all its rows, and (where, why) of each bad one."""

    rows: Any
    total: int
    bad: list[tuple[str, str]]


def read(source: str, needs: Needs, schema: dict[str, str], convert: Convert, version: str, max_bad: float) -> Rows:
    """The rows of a local .json, .jsonl, .parquet or .csv file or of a hub set (owner/name, perhaps with @<commit>).

    `needs` are the columns that a raw row must have, `schema` the columns after `convert` with their types (string,
    int64, list<int64>). `version` names the task and the meaning of `convert`: another version is prepared anew.
    DataError where the source cannot be read, or more than the share `max_bad` of its rows is bad.
    """
    import datasets

    hub, local = source, os.path.isfile(source)
    if not local:
        hub, commit = hub_parts(source)
        source = f"{hub}@{commit or commit_of(hub)}"
    content = f"sha256:{file_hash(Path(source))}" if local else source
    key = hashlib.sha256(json.dumps([FORMAT, content, needs, schema, version]).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(hub).name)
    home = cache() / "prepared" / f"{name}-{version}-{key}"
    if (report := _report(home)) is None:
        raw, bad = rowfiles.rows(Path(source)) if local else _hub_rows(source), []
        report = _prepare(home, source, _converted(raw, needs, convert, bad), bad, schema)
    _judge(source, report, max_bad)
    expected = known().get(hub, {}).get("rows")
    if expected and abs(report["total"] - expected) > 0.05 * expected:
        say(f"{source} has {report['total']:,} rows where data/sources.yaml expects about {expected:,}")
    rows = datasets.Dataset.from_file(str(home / "rows.arrow"))
    return Rows(rows, report["total"], [tuple(item) for item in report["bad"]])


def known() -> dict[str, dict[str, Any]]:
    """What data/sources.yaml says about hub sets, by hub id."""
    import yaml

    return yaml.safe_load(KNOWN.read_text(encoding="utf-8")) if KNOWN.is_file() else {}


def refusal(hub_id: str) -> str | None:
    """Why a hub set cannot be read here, in one line: it is gated, there is no token, and no prepared rows. Or None."""
    from huggingface_hub import get_token

    about = known().get(hub_id, {})
    prepared = (cache() / "prepared").glob(f"{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(hub_id).name)}-*")
    return (
        _GATED.format(hub_id, about["page"]) if about.get("gated") and not get_token() and not any(prepared) else None
    )


def _report(home: Path) -> dict[str, Any] | None:
    """The report on prepared rows; None where they are not there, not whole, or not the rows that were written."""
    report, rows = read_json(home / "report.json"), home / "rows.arrow"
    try:
        whole = rows.stat().st_size == report["size"] and file_hash(rows) == report["sha256"]
        whole = whole and report["total"] == report["good"] + sum(1 for where, why in report["bad"])
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return report if whole else None


def _prepare(home: Path, source: str, rows: Iterator[dict], bad: list, schema: dict[str, str]) -> dict[str, Any]:
    """Write the good rows to rows.arrow and the returned report on the source to report.json; both or nothing.

    `bad` fills up, as (where, why), while `rows` is read.
    """
    import pyarrow
    from tqdm.auto import tqdm

    types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "list<int64>": pyarrow.list_(pyarrow.int64())}
    arrow = pyarrow.schema([(name, types[kind]) for name, kind in schema.items()])
    if home.exists():
        say(f"{home} is damaged: its rows are prepared again")
        shutil.rmtree(home, ignore_errors=True)
    part, good = home.with_name(f".{home.name}.{os.getpid()}.part"), 0
    rows = iter(tqdm(rows, desc=f"preparing {Path(source).name}", unit=" rows", delay=2))
    try:
        part.mkdir(parents=True, exist_ok=True)
        with pyarrow.OSFile(str(part / "rows.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, arrow) as writer:
            while batch := list(itertools.islice(rows, 1000)):
                writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, arrow))
                good += len(batch)
        report = {"source": source, "total": good + len(bad), "good": good, "bad": bad}
        with (part / "rows.arrow").open("rb") as file:
            report |= {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": file.tell()}
        (part / "report.json").write_text(json.dumps(report), encoding="utf-8")
        try:
            os.replace(part, home)
        except OSError:  # another process was faster; its rows are the same
            if _report(home) is None:
                raise
        return report
    except OSError as error:
        why = f"cannot write {home.parent} ({one_line(str(error))})"
        raise DataError(f"{why}: free some space, or set RRR_CACHE to another folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _converted(raw: Iterator[rowfiles.Row], needs: Needs, convert: Convert, bad: list) -> Iterator[dict]:
    """The good rows, converted. The others go to `bad`, as (where, why)."""
    for where, row, reason in raw:
        try:
            if reason is None:
                _check(row, needs)
                row = convert(row)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            reason = str(error) or type(error).__name__
        if reason is None:
            yield row
        else:
            bad.append((where, one_line(reason)))


def _check(row: Any, needs: Needs) -> None:
    """ValueError where a raw row cannot be used, whatever the task."""
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    if missing := [name for name in needs if name not in row]:
        raise ValueError(f"no column {', '.join(missing)} (it has: {', '.join(map(str, row))[:100]})")
    try:
        size = len(json.dumps([row.get(name) for name in ("id", *needs)], ensure_ascii=False, default=str).encode())
    except UnicodeEncodeError:
        raise ValueError("text that is not UTF-8 (another encoding, or half of a surrogate pair)") from None
    if size > MAX_ROW:
        raise ValueError(f"{size / 1e6:.1f} MB in one row, more than the {MAX_ROW / 1e6:.1f} MB that are read")


def _judge(source: str, report: dict[str, Any], max_bad: float) -> None:
    """Say which rows are bad. DataError where there are too many of them, or no good one."""
    total, bad = report["total"], report["bad"]
    if not total:
        raise DataError(f"{source} holds no rows")
    examples = "; ".join(f"{where}: {reason}" for where, reason in bad[:3])
    examples += f"; and {len(bad) - 3:,} more" if len(bad) > 3 else ""
    if len(bad) == total:
        raise DataError(f"{source}: none of its {total:,} rows can be used: {examples}")
    unusable = f"{source}: {len(bad):,} of {total:,} rows cannot be used"
    if len(bad) > max_bad * total:
        raise DataError(f"{unusable}, more than the {max_bad:.1%} of max_bad_rows: {examples}")
    if bad:
        say(f"{unusable} and are skipped: {examples}")


@functools.cache
def say(text: str) -> None:
    """Log what a reader should know, once a process: every split is read separately."""
    logging.getLogger(__name__).warning("%s", text)


def commit_of(hub_id: str, repo_type: str = "dataset") -> str:
    """The hub's present commit (40 hex) of a data set, or of a model with `repo_type` "model".

    If the hub cannot be reached, the commit of the copy in the local hub cache. DataError if there is no copy or no
    such repository, or if it is gated and HF_TOKEN has no access.
    """
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    kind, local = ("data set", "file as the source") if repo_type == "dataset" else ("model", "folder as the model")
    page = f"https://huggingface.co/{'datasets/' if repo_type == 'dataset' else ''}{hub_id}"
    try:
        info = HfApi().repo_info(hub_id, repo_type=repo_type, timeout=10)
        if info.gated:
            HfApi().auth_check(hub_id, repo_type=repo_type)
        return info.sha
    except GatedRepoError:
        raise DataError(_GATED.format(hub_id, page)) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise DataError(f"no {kind} {hub_id} on the hub, or HF_TOKEN is not valid: see {page}") from None
    except (httpx.HTTPError, OSError) as error:
        ref = Path(constants.HF_HUB_CACHE) / f"{repo_type}s--{hub_id.replace('/', '--')}" / "refs" / "main"
        commit = ref.read_text().strip() if ref.is_file() else ""
        if re.fullmatch(r"[0-9a-f]{40}", commit):
            return commit
        why = f"cannot reach the hub for {kind} {hub_id}, and there is no copy here ({one_line(error, 200)})"
        raise DataError(f"{why}: connect to a network, or give a local {local}") from None


def _hub_rows(source: str) -> Iterator[rowfiles.Row]:
    """The train split's rows at the source's commit, by `datasets`, which downloads them once."""
    import datasets
    from huggingface_hub import get_token

    hub, _, commit = source.partition("@")
    try:
        rows = datasets.load_dataset(hub, split="train", revision=commit)
    except Exception as error:  # the loader raises many kinds
        about = known().get(hub, {})
        if about.get("gated") and not get_token():
            raise DataError(_GATED.format(hub, about["page"])) from None
        why = f"{source} cannot be loaded ({one_line(error, 200)})"
        raise DataError(f"{why}: try again, or give a local file as the source") from None
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row, None
