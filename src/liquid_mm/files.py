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

from liquid_mm.errors import UserError


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "disk full" and "not permitted" into a sentence naming `path`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"the disk is full: could not write {path}. Free some space and run the command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise UserError(f"no permission to write {path}: choose another output folder.") from error
        raise


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
def atomic_dir(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path` that takes its place on success and vanishes on failure.

    Raises:
        UserError: `path` exists and is not an empty folder, and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f"{path} already exists: choose another output folder, or remove it first.")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _beside(path)
        part.mkdir()
        try:
            yield part
            if path.is_dir():
                old = _beside(path)
                os.replace(path, old)
                os.replace(part, path)
                shutil.rmtree(old)
            else:
                os.replace(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


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
