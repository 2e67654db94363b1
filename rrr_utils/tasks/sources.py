"""Real data: read from the hub or a local file, prepared once, memory-mapped after that, and never changed unnoticed.

Covered: bad rows (skipped, counted, named), a hub set that is gated, out of reach or has changed since its first use.
Not covered: what a row means; the task's `convert` says so, and raises ValueError with the reason for a bad row.
The hub's files are recorded at first use; as long as they are the same, the recorded revision is what is read.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rrr_utils.errors import DataError, ResultsError
from rrr_utils.files import file_hash, read_json, write_json
from rrr_utils.settings import DATA
from rrr_utils.tasks import rowfiles

if TYPE_CHECKING:
    import datasets

FORMAT = 1  # of what is prepared; raise it and everything is prepared again
KNOWN = DATA / "sources.yaml"
MAX_BAD_ROWS = 0.01
_ARROW = ("string", "int64", "bool", "list<int64>")

log = logging.getLogger(__name__)


class Rows(NamedTuple):
    """What a source holds: the good rows, how many there were in all, and (where, why) of the bad ones."""

    rows: datasets.Dataset
    total: int
    bad: list[tuple[str, str]]


def read(
    source: str,
    needs: tuple[str, ...],
    schema: dict[str, str],
    convert: Callable[[dict[str, Any]], dict[str, Any]],
    version: str,
    max_bad_rows: float = MAX_BAD_ROWS,
) -> Rows:
    """The rows of a hub id or of a local .json, .jsonl, .parquet or .csv file, each made by `convert` out of the raw one.

    `needs` are the columns that a raw row must have, `schema` the columns of the result with their types (string, int64,
    bool, list<int64>). `version` names the task and the meaning of `convert`: another version is prepared anew.
    """
    import datasets

    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', Path(source).name)}-{version}"

    def folder(content: str) -> Path:
        key = json.dumps([FORMAT, content, needs, schema, version])
        return cache() / "prepared" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    path = Path(source)
    if path.is_file():
        home = folder(f"sha256:{file_hash(path)}")
        if not (home / "report.json").is_file():
            _prepare(home, source, rowfiles.rows(path), needs, schema, convert)
    elif path.suffix in rowfiles.SUFFIXES or not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        kinds = ", ".join(rowfiles.SUFFIXES)
        raise DataError(f"no file {source} (looked in {Path.cwd()}): give a {kinds} file, or a hub id such as owner/name")
    else:
        home = _from_hub(source, folder, needs, schema, convert)
    report = json.loads((home / "report.json").read_text(encoding="utf-8"))
    _judge(source, report, max_bad_rows)
    return Rows(datasets.Dataset.from_file(str(home / "rows.arrow")), report["total"], [tuple(item) for item in report["bad"]])


def cache() -> Path:
    """Where prepared data and records lie: $RRR_CACHE, else ~/.cache/rrr."""
    return Path(os.environ.get("RRR_CACHE") or Path.home() / ".cache" / "rrr")


def known() -> dict[str, dict[str, Any]]:
    """The hub sets that data/sources.yaml tells of."""
    import yaml

    return yaml.safe_load(KNOWN.read_text(encoding="utf-8")) if KNOWN.is_file() else {}


def recorded(source: str) -> str | None:
    """The hub revision that the data of a source was recorded at, or None where it has not been used yet."""
    return (_record(source) or {}).get("revision")


# --- preparing -------------------------------------------------------------------------------------------------------


def _prepare(
    home: Path,
    source: str,
    raw: Iterable[rowfiles.Row],
    needs: tuple[str, ...],
    schema: dict[str, str],
    convert: Callable[[dict[str, Any]], dict[str, Any]],
    check: Callable[[dict[str, Any]], None] = lambda report: None,
) -> dict[str, Any]:
    """Write the good rows as one Arrow file and what is to be said of the source as report.json; both or nothing.

    `check` sees the report before anything is in place, and may refuse it by a DataError.
    """
    import pyarrow
    from tqdm.auto import tqdm

    types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "bool": pyarrow.bool_(), "list<int64>": pyarrow.list_(pyarrow.int64())}
    arrow = pyarrow.schema([(name, types[kind]) for name, kind in schema.items()])
    part = home.with_name(f".{home.name}.{os.getpid()}.part")
    content, total, good, bad = hashlib.sha256(), 0, 0, []
    try:
        part.mkdir(parents=True, exist_ok=True)
        with pyarrow.OSFile(str(part / "rows.arrow"), "wb") as sink, pyarrow.ipc.new_stream(sink, arrow) as writer:
            batch: list[dict[str, Any]] = []
            for where, row, reason in tqdm(raw, desc=f"preparing {Path(source).name}", unit=" rows", delay=2):
                total += 1
                if reason is None:
                    try:
                        content.update(_canonical_row(row, needs))
                        batch.append(convert(row))
                    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                        reason = str(error) or type(error).__name__
                if reason is not None:
                    bad.append((where, " ".join(reason.split())[:300]))
                if len(batch) == 1000:
                    good += _write(writer, batch, arrow)
            good += _write(writer, batch, arrow)
        report = {"source": source, "total": total, "good": good, "bad": bad, "sha256": content.hexdigest()}
        if good:
            check(report)
            write_json(part / "report.json", report)
            if not (home / "report.json").is_file():  # another process may have been faster; its rows are the same
                os.replace(part, home)
    except (OSError, ResultsError) as error:
        raise DataError(f"cannot write {home.parent}: {error}. Free some space, or set RRR_CACHE to another folder") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if not good:
        _judge(source, report, 1.0)
    return report


def _write(writer: Any, batch: list[dict[str, Any]], schema: Any) -> int:
    import pyarrow

    count = len(batch)
    writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, schema))
    batch.clear()
    return count


def _canonical_row(row: dict[str, Any], needs: tuple[str, ...]) -> bytes:
    """The bytes of a raw row that count towards the content's hash; ValueError where it cannot be used at all."""
    missing = [name for name in needs if name not in row]
    if missing:
        raise ValueError(f"no column {', '.join(missing)} (it has: {', '.join(map(str, row))[:100]})")
    text = json.dumps([row[name] for name in needs], ensure_ascii=False, sort_keys=True, default=str)
    try:
        line = text.encode() + b"\n"
    except UnicodeEncodeError:
        raise ValueError("text that is not UTF-8 (another encoding, or half of a surrogate pair)") from None
    if len(line) > rowfiles.MAX_ROW:
        raise ValueError(rowfiles.too_long(len(line)))
    return line


def _judge(source: str, report: dict[str, Any], max_bad_rows: float) -> None:
    """Say which rows are bad; too many of them, or no good one, is a DataError."""
    total, bad = report["total"], report["bad"]
    if not total:
        raise DataError(f"{source} holds no rows")
    examples = "; ".join(f"{where}: {reason}" for where, reason in bad[:3]) + (f"; and {len(bad) - 3:,} more" if len(bad) > 3 else "")
    if len(bad) == total:
        raise DataError(f"{source}: none of its {total:,} rows can be used: {examples}")
    if len(bad) > max_bad_rows * total:
        share = f"{len(bad):,} of {total:,} rows cannot be used, more than the {max_bad_rows:.1%} that max_bad_rows allows"
        raise DataError(f"{source}: {share}: {examples}")
    if bad:
        say(f"{source}: {len(bad):,} of {total:,} rows cannot be used and are skipped: {examples}")


@functools.cache
def say(text: str) -> None:
    """Log what a reader should know of a source, once a process: every split is read on its own."""
    log.warning("%s", text)


# --- the hub ---------------------------------------------------------------------------------------------------------


def _from_hub(
    source: str,
    folder: Callable[[str], Path],
    needs: tuple[str, ...],
    schema: dict[str, str],
    convert: Callable[[dict[str, Any]], dict[str, Any]],
) -> Path:
    """The prepared folder of a hub set, at the revision that its record says."""
    about, record = known().get(source, {}), _record(source)
    accept = os.environ.get("RRR_ACCEPT_NEW_DATA") == "1"
    here = folder(f"{source}@{record['revision']}") if record else None
    ready = here is not None and (here / "report.json").is_file()
    try:
        if about.get("gated") and not ready and not _token():
            raise DataError(f"{source} is gated: accept its terms at {about['page']} and set HF_TOKEN to a token of your account")
        now = dict(_hub_state(source))
    except DataError:
        if not ready:
            raise
        return here  # out of reach, but the copy of the recorded revision is whole
    if record and now["files"] != record["files"] and not accept:
        changed = sorted(name for name in {*record["files"], *now["files"]} if record["files"].get(name) != now["files"].get(name))
        names = ", ".join(changed[:3]) + (" and more" if len(changed) > 3 else "")
        raise DataError(
            f"{source} has changed on the hub since {record['recorded']}: not the same in revision {record['revision'][:10]} "
            f"and in {now['revision'][:10]}: {names}; "
            f"RRR_ACCEPT_NEW_DATA=1 (or --accept-new-data) takes the new data, HF_HUB_OFFLINE=1 stays with the copy that is here"
        )
    if record and now["files"] == record["files"]:
        now["revision"] = record["revision"]  # a new commit of the page's text alone is no new data
    home = folder(f"{source}@{now['revision']}")
    if record and (home / "report.json").is_file():
        return home
    same = record if record and now["revision"] == record["revision"] else None
    columns = "+".join(needs)

    def check(report: dict[str, Any]) -> None:
        problem = _unexpected(report, about.get("rows"), same, columns)
        if problem and not accept:
            raise DataError(f"{source}: {problem}; RRR_ACCEPT_NEW_DATA=1 (or --accept-new-data) takes it as it is")

    report = _prepare(home, source, _hub_rows(source, now["revision"]), needs, schema, convert, check)
    hashes = {**(same["sha256"] if same else {}), columns: report["sha256"]}
    write_json(_record_path(source), {**now, "recorded": time.strftime("%Y-%m-%d"), "rows": report["total"], "sha256": hashes})
    return home


def _unexpected(report: dict[str, Any], expected: int | None, record: dict[str, Any] | None, columns: str) -> str | None:
    """What is wrong with content that has just been fetched: not what was recorded, or not what sources.yaml tells."""
    before = record["sha256"].get(columns) if record else None
    if before not in (None, report["sha256"]):
        rows = f"{record['rows']:,} rows then, {report['total']:,} now"
        return f"its content has changed since {record['recorded']} (SHA-256 {before[:10]} then, {report['sha256'][:10]} now; {rows})"
    if expected and abs(report["total"] - expected) > 0.05 * expected:
        return f"it has {report['total']:,} rows where about {expected:,} are expected (data/sources.yaml)"
    return None


def _record_path(source: str) -> Path:
    return cache() / "sources" / f"{source.replace('/', '--')}.json"


def _record(source: str) -> dict[str, Any] | None:
    return read_json(_record_path(source))


def _token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


@functools.cache
def _hub_state(source: str) -> dict[str, Any]:
    """The hub's present revision of a data set and its data files' hashes. Asked once a process."""
    import httpx
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    page = f"https://huggingface.co/datasets/{source}"
    if constants.HF_HUB_OFFLINE:
        raise DataError(f"{source} is not here yet and HF_HUB_OFFLINE is set: unset it once, or give a local file as the source")
    try:
        info = HfApi().dataset_info(source, files_metadata=True, timeout=10)
        if info.gated:
            HfApi().auth_check(source, repo_type="dataset")
    except GatedRepoError:
        raise DataError(f"{source} is gated and HF_TOKEN is not let in: accept its terms at {page} with that token's account") from None
    except RepositoryNotFoundError:
        raise DataError(f"no data set {source} on the hub, or HF_TOKEN is not valid: see {page}") from None
    except HfHubHTTPError as error:
        raise DataError(f"the hub refuses {source}: {' '.join(str(error).split())[:150]}") from None
    except (httpx.HTTPError, OSError) as error:
        raise DataError(f"cannot reach the hub for {source} ({error}): connect to a network, or give a local file as source") from None
    files = {item.rfilename: item.lfs.sha256 if item.lfs else item.blob_id for item in info.siblings}
    return {"revision": info.sha, "files": {name: key for name, key in files.items() if not name.endswith((".md", ".gitattributes"))}}


def _hub_rows(source: str, revision: str) -> Iterator[rowfiles.Row]:
    """The train split's rows, by `datasets`, which downloads them once and maps them from disk."""
    import datasets

    try:
        rows = datasets.load_dataset(source, split="train", revision=revision)
    except Exception as error:  # the loader raises whatever its parts raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise DataError(f"{source}@{revision[:10]} cannot be loaded ({text}): try again, or give a local file as the source") from None
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row, None
