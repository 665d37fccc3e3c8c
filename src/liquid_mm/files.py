"""Write beside, then rename: a reader sees the old file or the whole new one, never half of it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from liquid_mm.errors import UserError

LOCK = ".lock"
"""In a folder that one process at a time may write; it stays, and means nothing, when that has ended."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "disk full" and "not permitted" into a sentence naming the file, or `path` where the error names none."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = f"the disk is full: could not write {path}. Free some space and run the command again."
        if not isinstance(error, OSError):
            if "No space left" in str(error):  # safetensors reports the system's errors as text
                raise UserError(full) from error
            raise
        if error.errno == errno.ENOSPC:
            raise UserError(full) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"no permission for {error.filename or path}: choose another folder.") from error
        raise


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"another process is writing {folder}: wait until it has ended, or choose another folder."
            ) from None
    try:
        yield
    finally:
        lock.release()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


@contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any exception it is removed."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _beside(path)
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def _part_dir(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, which vanishes at the end unless it was renamed."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _beside(path)
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def atomic_dir(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path` that takes its place on success and vanishes on failure.

    Raises:
        UserError: `path` exists and is not an empty folder, and `overwrite` is false.
    """
    path = Path(path) if overwrite else check_free(path)
    with _part_dir(path) as part:
        yield part
        if path.is_dir():
            old = _beside(path)
            os.replace(path, old)
            os.replace(part, path)
            shutil.rmtree(old)
        else:
            os.replace(part, path)


@contextmanager
def cached_dir(path: Path) -> Iterator[Path]:
    """As `atomic_dir`, for what any process may make at any time and all make alike: the first to finish wins."""
    with _part_dir(path) as part:
        yield part
        try:
            part.rename(path)
        except OSError:  # a folder that is not empty cannot be replaced: another process was faster
            if not path.is_dir():
                raise


def check_free(path: str | Path) -> Path:
    """`path`, which is to become a new folder; asked before long work rather than after it.

    Raises:
        UserError: it exists and is not an empty folder.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} already exists: choose another output folder, or remove it first.")
    return path


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON, atomically."""
    with atomic_file(path) as part:
        part.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or malformed one is a `UserError` that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
