"""Download of one large file: resumes, checks size and hash, and appears under its name only when complete."""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from ..atomic_write import write_json
from ..file_digest import file_sha256

CHUNK = 1 << 20  # bytes
TIMEOUT = 30.0  # s without a single byte
ATTEMPTS = 5


class DownloadError(RuntimeError):
    """The file could not be had; what arrived is kept as `<name>.part` and the next call goes on from there."""


class IntegrityError(DownloadError):
    """Everything arrived, but it is not the file that was asked for; nothing of it is kept."""


@dataclass(frozen=True)
class Downloaded:
    path: pathlib.Path
    size: int  # bytes
    sha256: str
    resumed_from: int = 0  # bytes that an earlier call had left


@dataclass
class _Answer:
    """The server's answer about the file."""

    total: int | None  # bytes of the whole file; None where the answer does not have it
    start: int  # first byte of this answer's body
    validator: str | None  # entity tag or date: another one means that the file changed
    body: http.client.HTTPResponse | None  # None: nothing left to send


def download(url: str, path: pathlib.Path, sha256: str | None = None, size: int | None = None) -> Downloaded:
    """Fetch `url` into `path`; an interrupted transfer is taken up where it stopped.

    Args:
        url: http or https address. The server may ignore ranges; the transfer then starts again.
        sha256: expected digest, or its leading digits (published names often carry the first eight).
        size: expected bytes.

    Raises:
        DownloadError: no connection, refused, or cut off more than ATTEMPTS times in a row without progress.
        IntegrityError: size or hash differ from what was expected.
    """
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"url: expected an http or https address, got {url!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    resumed_from = part.stat().st_size if part.exists() else 0
    total = _transfer(url, part, size)
    digest = checked_sha256(part, f"checking {path.name}")
    problems = []
    if total is not None and part.stat().st_size != total:
        problems.append(f"expected {total} bytes, got {part.stat().st_size}")
    if sha256 is not None and not digest.startswith(sha256.lower()):
        problems.append(f"expected sha256 {sha256}, got {digest}")
    if problems:
        _discard(part)
        raise IntegrityError(f"{url}: {'; '.join(problems)}. The download was removed; try again or check the source.")
    result = Downloaded(path, part.stat().st_size, digest, resumed_from)
    os.replace(part, path)
    _notes(part).unlink(missing_ok=True)
    return result


def checked_sha256(path: pathlib.Path, label: str) -> str:
    """SHA-256 of a file, with a progress bar."""
    with _bar(path.stat().st_size, 0, label) as bar:
        return file_sha256(path, bar.update)


def _transfer(url: str, part: pathlib.Path, size: int | None) -> int | None:
    """Append to `part` until it is complete. Returns the size it must have, None where it is unknown."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        reason = "the connection was closed early"
        try:
            total = _append(url, part, size)
            if total is None or part.stat().st_size >= total:
                return total
        except urllib.error.HTTPError as error:
            raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        progressed = part.exists() and part.stat().st_size > before
        failures = 0 if progressed else failures + 1
        if failures >= ATTEMPTS:
            kept = part.stat().st_size if part.exists() else 0
            raise DownloadError(f"{url}: {reason}. {kept} bytes are kept in {part}; run the same command to go on.")
        time.sleep(min(0.1 * 2**failures, 5.0))


def _append(url: str, part: pathlib.Path, size: int | None) -> int | None:
    """One request, from the first missing byte to wherever it ends."""
    answer = _ask(url, part)
    total = answer.total if size is None else size
    if size is not None and answer.total not in (None, size):
        _discard(part)
        raise IntegrityError(f"{url}: expected {size} bytes, but the server offers {answer.total}")
    if answer.body is None:
        return total
    write_json(_notes(part), {"validator": answer.validator})
    with answer.body, part.open("r+b" if part.exists() else "wb") as file, _bar(total, answer.start, part.stem) as bar:
        file.truncate(answer.start)
        file.seek(answer.start)
        while chunk := answer.body.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return total


def _ask(url: str, part: pathlib.Path) -> _Answer:
    have = part.stat().st_size if part.exists() else 0
    validator = _noted_validator(part) if have else None
    request = urllib.request.Request(url, headers={"User-Agent": "sparse4d_ros", "Accept-Encoding": "identity"})
    if validator is not None:  # without one, a changed file could be glued to the old beginning: start again
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", validator)
    try:
        body = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        total = _range_total(error.headers.get("Content-Range"))
        if error.code == 416 and total == have:  # everything is here already
            return _Answer(total, have, validator, None)
        if error.code == 416:
            _discard(part)
            return _ask(url, part)
        raise
    headers = body.headers
    tag = headers.get("ETag")
    # A weak tag may not be used for ranges (RFC 9110, 13.1.5).
    new_validator = tag if tag and not tag.startswith("W/") else headers.get("Last-Modified")
    if body.status == 206:
        content_range = headers.get("Content-Range", "")
        if not content_range.startswith(f"bytes {have}-"):
            body.close()
            raise DownloadError(f"{url}: asked for bytes from {have}, the server sent {content_range!r}")
        return _Answer(_range_total(content_range), have, new_validator, body)
    length = headers.get("Content-Length")
    return _Answer(int(length) if length else None, 0, new_validator, body)


def _range_total(content_range: str | None) -> int | None:
    """The whole length in `bytes 0-9/100` or `bytes */100`."""
    total = (content_range or "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


def _notes(part: pathlib.Path) -> pathlib.Path:
    return part.with_name(part.name + ".json")


def _noted_validator(part: pathlib.Path) -> str | None:
    """The validator of the answer that `part` is of; None where it is not known, or the notes are damaged."""
    try:
        noted = json.loads(_notes(part).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    validator = noted.get("validator") if isinstance(noted, dict) else None
    return validator if isinstance(validator, str) else None


def _discard(part: pathlib.Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _bar(total: int | None, initial: int, label: str | None):
    """A progress bar; none is drawn without a label."""
    from tqdm import tqdm  # a model runs where nothing is downloaded and no tqdm is installed

    return tqdm(total=total, initial=initial, desc=label, unit="B", unit_scale=True, disable=label is None, leave=False)
