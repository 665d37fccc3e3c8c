"""One reader for each kind of file: each iterates over (where the record stands, its fields), lazily.

    next(READERS[".jsonl"]("a.jsonl"))        ("a.jsonl:1", {"text": "one"})

Fields that cannot be read come out as the `Unusable` that says why.
"""

from __future__ import annotations

import itertools
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

from liquid_mm.data.records import Unusable
from liquid_mm.data.urls import needed, open_binary, read_bytes, tree
from liquid_mm.errors import UserError

Raw = tuple[str, Any]
"""(where the record stands, its fields or the error met in reading them)"""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
DOCUMENT_END = "<|endoftext|>"


def is_image(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def _jsonl(name: str) -> Iterator[Raw]:
    with open_binary(name) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{name}:{number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                yield where, Unusable("invalid record", where, f"the line is not valid JSON: {error}.")


def _json(name: str) -> Iterator[Raw]:
    ijson = needed("ijson", name)  # lists of a million records do not fit in memory as Python objects
    with open_binary(name) as file:
        try:
            for number, fields in enumerate(ijson.items(file, "item", use_float=True)):
                yield f"{name} item {number}", fields
        except ijson.JSONError as error:
            raise UserError(f"{name} is not a JSON list of records: {error}") from error


def _parquet(name: str) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_binary(name) as file:
        try:
            number = itertools.count()
            # 64 rows: encoded images are large, and a batch of them is all that is held.
            for batch in pq.ParquetFile(file).iter_batches(batch_size=64):
                for fields in batch.to_pylist():
                    yield f"{name} row {next(number)}", fields
        except pa.ArrowInvalid as error:
            raise UserError(f"{name} is not a readable Parquet file: {error}") from error


def _text(name: str) -> Iterator[Raw]:
    lines: list[str] = []
    number = 0
    with open_binary(name) as file:
        try:
            for line in (raw.decode("utf-8") for raw in file):
                if line.strip() != DOCUMENT_END:
                    lines.append(line)
                    continue
                yield f"{name} document {number}", {"text": "".join(lines).strip()}
                lines, number = [], number + 1
        except UnicodeDecodeError as error:
            raise UserError(f"{name} is not UTF-8 text: {error}.") from error
    if number == 0 or any(line.strip() for line in lines):  # nothing follows the last separator: no document either
        yield f"{name} document {number}", {"text": "".join(lines).strip()}


def _tar(name: str) -> Iterator[Raw]:
    """WebDataset: neighbouring members whose names agree up to the first dot are one record."""
    with open_binary(name) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                members = (member for member in archive if member.isfile() and _split(member.name)[0])
                for key, group in itertools.groupby(members, lambda member: _split(member.name)[0]):
                    # A stream cannot go back: each member is read before the next one is asked for.
                    files = {_split(member.name)[1]: _content(archive, member) for member in group}
                    yield f"{name} {key}", _sample(key, files, f"{name} {key}")
        except tarfile.ReadError as error:
            raise UserError(f"{name} is not a readable tar file: {error}") from error


def _split(name: str) -> tuple[str, str]:
    """Key and extension: ("shard/7", "seg.png") of "shard/7.seg.png"; hidden files have no key."""
    folder, base = posixpath.split(name)
    stem, _, extension = base.partition(".")
    return (posixpath.join(folder, stem) if stem else ""), extension.lower()


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None, "only regular files get here"
    return file.read()


def _sample(key: str, files: dict[str, bytes], where: str) -> Any:
    image = next((content for extension, content in files.items() if is_image(f".{extension}")), None)
    try:
        fields = {"id": key, **json.loads(files.get("json", b"{}"))}
        if "txt" in files:
            fields["text"] = files["txt"].decode("utf-8").strip()
    except (ValueError, TypeError) as error:
        return Unusable("invalid record", where, f"its .json or .txt cannot be read: {error}.")
    return fields if image is None else {**fields, "image": image}


READERS: dict[str, Callable[[str], Iterator[Raw]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
    ".tar": _tar,
    ".txt": _text,
}


def pictures(folder: str) -> Iterator[Raw]:
    """The pictures of one folder; the caption of each is the .txt or .json file of the same stem."""
    _, names = next(tree(folder))
    present = set(names)
    for name in filter(is_image, names):
        yield posixpath.join(folder, name), _captioned(folder, name, present)


def _captioned(folder: str, image: str, present: set[str]) -> Any:
    where, stem = posixpath.join(folder, image), posixpath.splitext(image)[0]
    text, fields = f"{stem}.txt", f"{stem}.json"
    try:
        if text in present:
            return {"image": image, "text": read_bytes(posixpath.join(folder, text)).decode("utf-8").strip()}
        if fields in present:
            return {**json.loads(read_bytes(posixpath.join(folder, fields))), "image": image}
    except (ValueError, TypeError) as error:
        return Unusable("no caption", where, f"its caption file cannot be read: {error}.")
    return Unusable("no caption", where, f"there is neither {text} nor {fields} beside it.")


def rows(table: Any, name: str) -> Iterator[Raw]:
    """Rows of a `datasets` set, images left encoded: they are opened later, under a limit of pixels."""
    import datasets

    for column, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    for number, fields in enumerate(table):
        yield f"{name} row {number}", fields
