"""Files by path or address: one way to list and open local and remote ones.

    data/captions.jsonl      s3://bucket/pairs/000.tar      gs://…      hf://datasets/owner/name/data/0.jsonl.zst

fsspec does the work; what speaks to a store (`s3fs`, `gcsfs`) is a package the user installs. Files that end in .zst or
.gz are decompressed while they are read.
"""

from __future__ import annotations

import dataclasses
import gzip
import importlib
import io
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from liquid_mm.errors import UserError

COMPRESSED = (".zst", ".gz")


@dataclasses.dataclass(frozen=True)
class Url:
    """A remote address such as `s3://bucket/x`; a type of its own, for strings are texts in conversations."""

    name: str

    def __str__(self) -> str:
        return self.name


Place = Path | Url


def is_url(name: object) -> bool:
    """Whether `name` is an address rather than a local path."""
    return "://" in str(name)


def place(name: object) -> Place:
    """A local path or an address, whichever `name` is."""
    return Url(str(name)) if is_url(name) else Path(str(name))


def join(folder: Place, name: str | Path) -> Place:
    """`name` as seen from `folder`; an address or an absolute path stays what it is."""
    if isinstance(folder, Url) and not is_url(name):
        return Url(posixpath.join(folder.name, str(name)))
    return place(name) if is_url(name) else Path(str(folder), name)


def parent(name: str) -> Place:
    """The folder `name` stands in."""
    return place(posixpath.dirname(name) or ".")


def suffix(name: str) -> str:
    """The ending that tells a file's kind, without that of its compression: ".jsonl" for "a.jsonl.zst"."""
    lower = name.lower()
    for ending in COMPRESSED:
        lower = lower.removesuffix(ending)
    return posixpath.splitext(lower)[1]


def filesystem(name: str) -> tuple[Any, str]:
    """The fsspec file system of `name`, and its path there.

    Raises:
        UserError: the protocol is unknown, or the package for it is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{name} cannot be reached: {error}") from error
    return fs, str(path)


def tree(folder: str) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of `folder` and all folders in it, in the order of their names."""
    fs, root = filesystem(folder)
    found: dict[str, list[str]] = {"file": [], "directory": []}
    for entry in fs.ls(root, detail=True):
        path = str(entry["name"]).rstrip("/")
        if path != root.rstrip("/"):  # object stores may list a folder within itself
            found.setdefault(entry["type"], []).append(posixpath.basename(path))
    yield folder, sorted(found["file"])
    for name in sorted(found["directory"]):
        yield from tree(posixpath.join(folder, name))


@contextmanager
def open_binary(name: str) -> Iterator[IO[bytes]]:
    """Open a file for reading, decompressed.

    Raises:
        UserError: there is no such file, it may not be read, or its compression is damaged.
    """
    fs, path = filesystem(name)
    try:
        with fs.open(path, "rb") as raw:
            if name.endswith(".zst"):
                zstandard = needed("zstandard", name)
                try:
                    # Large sets are often written as several frames in one file.
                    yield io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
                except zstandard.ZstdError as error:
                    raise UserError(f"{name} is damaged: {error}") from error
            elif name.endswith(".gz"):
                try:
                    yield cast(IO[bytes], gzip.GzipFile(fileobj=raw))
                except (EOFError, gzip.BadGzipFile) as error:
                    raise UserError(f"{name} is damaged: {error}") from error
            else:
                yield raw
    except FileNotFoundError as error:
        raise UserError(f"there is no file {name}.") from error
    except PermissionError as error:
        raise UserError(f"no permission to read {name}.") from error


def read_bytes(name: str) -> bytes:
    """The whole file."""
    with open_binary(name) as file:
        return file.read()


def needed(package: str, name: str) -> Any:
    """Import `package`, without which `name` cannot be read.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(f"reading {name} needs the package {package}: run `pip install {package}`.") from error
