"""Bringing remote files here: restartable, with retries, landing under their name only when whole."""

import hashlib
import http
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from glob import has_magic
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0
TIMEOUT_SECONDS = 60.0


def download(url: str, folder: Path) -> Path:
    """A local copy of a file at an https:// or any other fsspec address.

    What an interrupted download left is gone on with where the server can; a failure is tried again after 1, 2, 4 ...
    seconds.

    Raises:
        FileNotFoundError: The server says that there is no such file.
        PipelineError: It could not be had in `ATTEMPTS` attempts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{Path(url).name}"
    part = target.with_name(f".{target.name}.part")
    for attempt in range(ATTEMPTS):
        if target.exists():
            return target
        try:
            (_over_http if url.startswith(("http://", "https://")) else _over_fsspec)(url, part)
            os.replace(part, target)
        except FileNotFoundError:
            raise
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS - 1:
                raise PipelineError(
                    f"input: {url} could not be read in {ATTEMPTS} attempts ({type(error).__name__}: {error}). "
                    f"Check the network; the same command goes on from here."
                ) from error
            time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
    return target


def list_remote(value: str) -> list[str]:
    """The files that a remote address means: itself, or what its wildcards or its folder hold (not over HTTP)."""
    if value.startswith(("http://", "https://")):
        return [value]
    files, path = file_system(value)
    found = files.glob(path) if has_magic(path) else files.find(path) if files.isdir(path) else [path]
    return [files.unstrip_protocol(name) for name in sorted(found)]


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it. Raises `PipelineError` where its package is missing."""
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise PipelineError(f"input: {url} cannot be opened ({error}).") from error


def _over_http(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
            with part.open("ab" if goes_on else "wb") as file:
                shutil.copyfileobj(answer, file, 1 << 20)
            expected = answer.headers.get("Content-Length")
            if expected is not None and part.stat().st_size != int(expected) + (have if goes_on else 0):
                raise ConnectionError(f"cut off after {part.stat().st_size:,} bytes")
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(url) from error
        if error.code == 416:  # nothing beyond what is here: another file now, or a whole one; begin anew
            part.unlink()
        raise


def _over_fsspec(url: str, part: Path) -> None:
    files, path = file_system(url)
    size = files.size(path)
    with files.open(path, "rb") as remote, part.open("ab") as file:
        if file.tell() > size:
            file.truncate(0)
        remote.seek(file.tell())
        shutil.copyfileobj(remote, file, 1 << 20)
    if part.stat().st_size != size:
        raise ConnectionError(f"cut off after {part.stat().st_size:,} of {size:,} bytes")
