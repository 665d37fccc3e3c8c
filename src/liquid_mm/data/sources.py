"""Read source records one by one from whatever the user names; nothing is held in memory but the record at hand.

    source                                  records
    captions.jsonl                          one JSON object a line: `image` and `text`, `text` alone, or `messages`
    instructions.json                       one JSON list of such objects
    pairs.parquet                           the same fields as columns; an image as bytes, {"bytes", "path"} or path
    pairs.tar                               WebDataset: 7.jpg, 7.txt, 7.json are one record
    stories.txt                             documents; a line that holds only <|endoftext|> ends one
    pictures/                               images with captions beside them (cat.png and cat.txt, or cat.json with
                                            `text`), or one metadata.jsonl (`file_name`, `text`); files of the kinds
                                            above are read too, but for .json
    saved/                                  what `datasets` wrote with `save_to_disk`
    data/*.jsonl.zst                        several files, in the order of their names
    owner/name or owner/name:split          a set of the Hugging Face Hub, streamed; split "train" unless named
    [{"image": …, "text": …}, …]            records made in Python

Files may be compressed (.zst, .gz) and remote (`s3://`, `gs://`, `hf://datasets/…`; see `data.urls`). A source falls
into pieces, each a small iterator of fields; `entries` turns fields into entries and says where each stands, so that
reading can go on from there, and different processes can read different pieces. A source that cannot be read at all is
a `UserError`; a record that cannot be used comes out as a `Reject` and reading goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import glob
import itertools
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from liquid_mm.data.layouts import canonical
from liquid_mm.data.readers import READERS, Raw, is_image, pictures, rows
from liquid_mm.data.records import Entry, Reject, Unusable, parse
from liquid_mm.data.urls import Place, filesystem, is_url, parent, place, suffix, tree
from liquid_mm.errors import UserError

Source = str | Path | Iterable[Mapping[str, Any]]


class Position(NamedTuple):
    """Where reading goes on: a piece of the source, and how many of its records lie behind."""

    piece: int
    record: int


START = Position(0, 0)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a source that is read by itself, from its beginning: a file, the pictures of a folder, a Hub shard.

    Args:
        name: what messages call it.
        read: iterates over its records.
        folder: what relative image paths in it start from.
    """

    name: str
    read: Callable[[], Iterator[Raw]]
    folder: Place

    def entries(self) -> Iterator[Entry | Reject]:
        """The records of the piece, checked."""
        for where, fields in self.read():
            try:
                if isinstance(fields, Unusable):
                    raise fields
                yield parse(canonical(fields, where), where=where, folder=self.folder)
            except Unusable as error:
                yield Reject.of(error)


def read(source: Source) -> Iterator[Entry | Reject]:
    """Iterate over the records of `source`; see the module docstring for what it may be.

    Raises:
        UserError: the source does not exist, is of an unknown kind, or breaks off so that nothing more can be read.
    """
    return (entry for _, entry in entries(pieces(source)))


def entries(parts: Sequence[Piece], start: Position = START) -> Iterator[tuple[Position, Entry | Reject]]:
    """The records of `parts` from `start` on, each with the position behind it."""
    for number in range(start.piece, len(parts)):
        skip = start.record if number == start.piece else 0
        for record, entry in enumerate(itertools.islice(parts[number].entries(), skip, None), skip + 1):
            yield Position(number, record), entry


def pieces(source: Source, images: str | Path | None = None) -> list[Piece]:
    """The pieces of `source`, in an order that does not change while its files stay the same.

    Args:
        source: see the module docstring.
        images: where relative image paths start; by default at the file they stand in.

    Raises:
        UserError: the source does not exist, or is of an unknown kind.
    """
    if not isinstance(source, (str, Path)):
        found = [Piece("records", functools.partial(_given, source), Path())]
    else:
        found = list(_find(str(source)))
    return found if images is None else [dataclasses.replace(piece, folder=place(images)) for piece in found]


def _given(records: Iterable[Mapping[str, Any]]) -> Iterator[Raw]:
    return ((f"record {number}", fields) for number, fields in enumerate(records))


def _find(name: str) -> Iterable[Piece]:
    fs, path = filesystem(name)
    if fs.isdir(path):
        return _folder(name, fs, path)
    if fs.isfile(path):
        return [_file(name)]
    if glob.has_magic(name):
        files = sorted(map(fs.unstrip_protocol, fs.glob(path)) if is_url(name) else glob.glob(name, recursive=True))
        if not files:
            raise UserError(f"no file matches {name}.")
        return map(_file, files)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.]+)?", name):
        return _hub(name)
    raise UserError(f"there is no file or folder {name} (and it is no Hugging Face set, which is named owner/name).")


def _file(name: str) -> Piece:
    reader = READERS.get(suffix(name))
    if reader is None:
        raise UserError(f"{name} is of an unknown kind: allowed are folders and {', '.join(READERS)} files.")
    return Piece(name, functools.partial(reader, name), parent(name))


def _folder(name: str, fs: Any, path: str) -> Iterable[Piece]:
    def holds(file: str) -> bool:
        return bool(fs.isfile(posixpath.join(path, file)))

    if holds("dataset_dict.json"):
        splits = sorted(posixpath.basename(str(child).rstrip("/")) for child in fs.ls(path, detail=False))
        found = [posixpath.join(name, split) for split in splits if fs.isdir(posixpath.join(path, split))]
        raise UserError(f"{name} holds several splits; name one of them: {', '.join(found)}.")
    if holds("state.json"):
        return [Piece(name, functools.partial(_saved, name), place(name))]
    if holds("metadata.jsonl"):
        return [_file(posixpath.join(name, "metadata.jsonl"))]
    parts = [piece for folder, names in tree(name) for piece in _within(folder, names)]
    if not parts:
        raise UserError(f"{name} holds nothing to read: images, {', '.join(READERS)} files or a saved `datasets` set.")
    return parts


def _within(folder: str, names: list[str]) -> Iterator[Piece]:
    """The pictures of one folder as a piece, and each data file in it."""
    stems = {posixpath.splitext(name)[0] for name in names if is_image(name)}
    if stems:
        yield Piece(folder, functools.partial(pictures, folder), place(folder))
    for name in names:
        # A .json in a folder describes a picture or the set: only one named by the user holds records.
        if suffix(name) in READERS and suffix(name) != ".json" and posixpath.splitext(name)[0] not in stems:
            yield _file(posixpath.join(folder, name))


def _saved(name: str) -> Iterator[Raw]:
    import datasets

    return rows(datasets.load_from_disk(name), name)


def _hub(name: str) -> list[Piece]:
    import datasets

    repository, _, split = name.partition(":")
    try:
        stream = datasets.load_dataset(repository, split=split or "train", streaming=True)
    except Exception as error:  # the library raises a dozen kinds: offline, not found, gated, no such split, …
        raise UserError(f"the set {name} cannot be read: {error}") from error
    if stream.num_shards == 1:
        return [Piece(name, functools.partial(rows, stream, name), Path())]
    return [
        Piece(f"{name} shard {number}", functools.partial(_shard, stream, number, name), Path())
        for number in range(stream.num_shards)
    ]


def _shard(stream: Any, number: int, name: str) -> Iterator[Raw]:
    return rows(stream.shard(num_shards=stream.num_shards, index=number), f"{name} shard {number}")
