"""Read source records one by one from whatever the user names; nothing is held in memory but the record at hand.

    source                                  records
    captions.jsonl                          one JSON object a line: `image` and `text`, `text` alone, or `messages`
    pairs.parquet                           the same fields as columns; an image as bytes, {"bytes", "path"} or path
    stories.txt                             documents; a line that holds only <|endoftext|> ends one
    pictures/                               images with captions beside them (cat.png and cat.txt, or cat.json with
                                            `text`), or one metadata.jsonl (`file_name`, `text`); files of the kinds
                                            above are read too
    saved/                                  what `datasets` wrote with `save_to_disk`
    owner/name or owner/name:split          a set of the Hugging Face Hub, streamed; split "train" unless named
    [{"image": …, "text": …}, …]            records made in Python

Each reader is a small iterator of fields; `read` turns fields into entries. A source that cannot be read at all is a
`UserError`; a record that cannot be used comes out as a `Reject` and reading goes on.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from liquid_mm.data.records import Entry, Reject, Unusable, parse
from liquid_mm.errors import UserError

Source = str | Path | Iterable[Mapping[str, Any]]
Raw = tuple[str, Any]
"""(where the record stands, its fields or the error met in reading them)"""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
DOCUMENT_END = "<|endoftext|>"


def read(source: Source) -> Iterator[Entry | Reject]:
    """Iterate over the records of `source`; see the module docstring for what it may be.

    Raises:
        UserError: the source does not exist, is of an unknown kind, or breaks off so that nothing more can be read.
    """
    if not isinstance(source, (str, Path)):
        return _entries(((f"record {number}", fields) for number, fields in enumerate(source)), Path())
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        reader = READERS.get(path.suffix.lower())
        if reader is None:
            raise UserError(f"{path} is of an unknown kind: allowed are folders and {', '.join(READERS)} files.")
        return _entries(reader(path), path.parent)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.]+)?", str(source)):
        return _entries(_hub(str(source)), Path())
    raise UserError(f"there is no file or folder {path} (and it is no Hugging Face set, which is named owner/name).")


def _entries(raws: Iterable[Raw], folder: Path) -> Iterator[Entry | Reject]:
    for where, fields in raws:
        try:
            if isinstance(fields, Unusable):
                raise fields
            yield parse(fields, where=where, folder=folder)
        except Unusable as error:
            yield Reject.of(error)


def _jsonl(path: Path) -> Iterator[Raw]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path}:{number}"
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                yield where, Unusable("invalid record", where, f"the line is not valid JSON: {error}.")


def _parquet(path: Path) -> Iterator[Raw]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            # 64 rows: encoded images are large, and a batch of them is all that is held.
            for batch in file.iter_batches(batch_size=64):
                for fields in batch.to_pylist():
                    yield f"{path} row {number}", fields
                    number += 1
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a readable Parquet file: {error}") from error


def _text(path: Path) -> Iterator[Raw]:
    lines: list[str] = []
    number = 0
    with path.open(encoding="utf-8", errors="strict") as file:
        try:
            for line in file:
                if line.strip() != DOCUMENT_END:
                    lines.append(line)
                    continue
                yield f"{path} document {number}", {"text": "".join(lines).strip()}
                lines, number = [], number + 1
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text: {error}.") from error
    if number == 0 or any(line.strip() for line in lines):  # nothing follows the last separator: no document either
        yield f"{path} document {number}", {"text": "".join(lines).strip()}


READERS: dict[str, Callable[[Path], Iterator[Raw]]] = {".jsonl": _jsonl, ".parquet": _parquet, ".txt": _text}


def _folder(folder: Path) -> Iterator[Entry | Reject]:
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(child.name for child in folder.iterdir() if child.is_dir())
        raise UserError(
            f"{folder} holds several splits; name one of them: {', '.join(str(folder / s) for s in splits)}."
        )
    if (folder / "state.json").is_file():
        return _entries(_saved(folder), folder)
    if (folder / "metadata.jsonl").is_file():
        return _entries(_jsonl(folder / "metadata.jsonl"), folder)
    return _walk(folder)


def _walk(folder: Path) -> Iterator[Entry | Reject]:
    found = False
    for parent, folders, names in os.walk(folder):
        folders.sort()
        images = {os.path.splitext(name)[0] for name in names if name.lower().endswith(IMAGE_SUFFIXES)}
        for name in sorted(names):
            path = Path(parent, name)
            reader = READERS.get(path.suffix.lower())
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield from _entries([(str(path), _captioned(path))], path.parent)
            elif reader and path.stem not in images:
                yield from _entries(reader(path), path.parent)
            else:
                continue
            found = True
    if not found:
        raise UserError(
            f"{folder} holds nothing to read: images, {', '.join(READERS)} files or a saved `datasets` set."
        )


def _captioned(image: Path) -> Any:
    """The fields of an image in a folder: its caption is the .txt or .json file of the same stem."""
    text, fields = image.with_suffix(".txt"), image.with_suffix(".json")
    try:
        if text.is_file():
            return {"image": image.name, "text": text.read_text(encoding="utf-8").strip()}
        if fields.is_file():
            return {**json.loads(fields.read_text(encoding="utf-8")), "image": image.name}
    except (ValueError, TypeError) as error:
        return Unusable("no caption", str(image), f"its caption file cannot be read: {error}.")
    return Unusable("no caption", str(image), f"there is neither {text.name} nor {fields.name} beside it.")


def _saved(folder: Path) -> Iterator[Raw]:
    import datasets

    saved = datasets.load_from_disk(str(folder))
    return _rows(saved, str(folder))


def _hub(name: str) -> Iterator[Raw]:
    import datasets

    repository, _, split = name.partition(":")
    try:
        stream = datasets.load_dataset(repository, split=split or "train", streaming=True)
    except Exception as error:  # the library raises a dozen kinds: offline, not found, gated, no such split, …
        raise UserError(f"the set {name} cannot be read: {error}") from error
    return _rows(stream, name)


def _rows(rows: Any, name: str) -> Iterator[Raw]:
    """Rows of a `datasets` set, images left encoded: they are opened later, under a limit of pixels."""
    import datasets

    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    for number, fields in enumerate(rows):
        yield f"{name} row {number}", fields
