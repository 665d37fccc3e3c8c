"""Write a tokenised set so that a killed run goes on where it stood, and nobody sees half a set.

    OUT.part/ data-00000.arrow …   whole record batches, appended one by one
              rejects.jsonl
              progress.json        how much of each file counts, and where in the source that is
    OUT/                           the same folder, renamed once the last record is in

Every `BATCH_ROWS` records are appended to the last shard and forced to disk, and then `progress.json` is replaced. What
a killed process wrote after that is cut off when the run is resumed, so that no record is lost or doubled; what is
encoded again is what had not reached the disk, fewer than `BATCH_ROWS` records and the batch at hand.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from liquid_mm.data.records import Reject
from liquid_mm.data.rows import Row
from liquid_mm.data.sources import START, Position
from liquid_mm.data.store import SCHEMAS, ImageTokenizerInfo, Kind, Manifest
from liquid_mm.errors import UserError
from liquid_mm.files import LOCK, read_json, sole_writer, write_json

BATCH_ROWS = 1024  # rows of one Arrow record batch: what is held in memory
SHARD_ROWS = 64 * BATCH_ROWS
PROGRESS, REJECTS = "progress.json", "rejects.jsonl"


class SetWriter:
    """Writes records of one kind into shards, and rejects beside them; use as a context manager.

    Args:
        out: the set's folder; it must not exist, and appears whole when `publish` is called.
        settings: what decides the records of the set, as JSON values; another run cannot be resumed.
        resume: go on with an interrupted run, if there is one.

    Raises:
        UserError: on entering, `out` exists, an interrupted run is in the way or has other settings, or another process
            is writing the set.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.out, self.folder = out, out.with_name(f"{out.name}.part")
        self.kind: Kind | None = None
        self.position = START
        self.rejected: Counter[str] = Counter()
        self._settings, self._resume = json.loads(json.dumps(settings)), resume
        self._sizes: Counter[str] = Counter()
        self._shards: list[dict[str, Any]] = []
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> SetWriter:
        if self.out.exists() and not (self.out.is_dir() and not any(self.out.iterdir())):
            raise UserError(f"{self.out} already exists: choose another output folder, or remove it first.")
        if begun := self.folder.exists():
            if not (self.folder / PROGRESS).is_file():
                raise UserError(f"{self.folder} is in the way: move it, or choose another output folder.")
            if not self._resume:
                raise UserError(f"{self.folder} holds an interrupted run: add --resume to go on with it, or remove it.")
        with ExitStack() as alone:
            alone.enter_context(sole_writer(self.folder))
            if begun:
                self._restore()
            self._rejects = (self.folder / REJECTS).open("ab")
            self._note()
            self._alone = alone.pop_all()
        return self

    @property
    def records(self) -> int:
        """Records kept so far."""
        return sum(int(shard["records"]) for shard in self._shards) + len(self._rows)

    def write(self, item: Row | Reject) -> None:
        """Append a record, or note one that is left out; the first record decides the kind of all."""
        if isinstance(item, Row) and self.kind not in (None, item.kind):
            reason = f"the set is of kind {self.kind}, this record of kind {item.kind}: tokenise them apart."
            item = Reject(item.where, "another kind of record", reason)
        if isinstance(item, Reject):
            self.rejected[item.category] += 1
            self._rejects.write(json.dumps(dataclasses.asdict(item), ensure_ascii=False).encode() + b"\n")
            return
        self.kind = item.kind
        self._sizes.update(item.sizes)
        self._rows.append(item.columns)

    def reached(self, position: Position) -> None:
        """Say that all records before `position` have been written; every `BATCH_ROWS` of them go to disk."""
        self.position = position
        if len(self._rows) >= BATCH_ROWS:
            self._save()

    def publish(self, image_tokenizer: ImageTokenizerInfo | None) -> Manifest:
        """Finish the set and move it to its place.

        Raises:
            UserError: no record was usable.
        """
        self._save()
        if self.kind is None:
            rejected = self.rejected.total()
            raise UserError(f"the source has no usable record ({rejected} rejected).{self._first_reject()}")
        manifest = Manifest(
            kind=self.kind,
            records=self.records,
            images=self._sizes.total(),
            sizes=dict(sorted(self._sizes.items())),
            rejected=dict(sorted(self.rejected.items())),
            shards=[{"file": shard["file"], "records": shard["records"]} for shard in self._shards],
            image_tokenizer=image_tokenizer if self._sizes else None,
        )
        manifest.write(self.folder)
        os.replace(self.folder, self.out)
        (self.out / PROGRESS).unlink()
        (self.out / LOCK).unlink()
        return manifest

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._rejects.close()
        self._alone.close()
        if error is not None and not self._shards:  # nothing worth going on with
            shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self) -> None:
        if self._rows:
            self._append()
        self._rejects.flush()
        os.fsync(self._rejects.fileno())
        self._note()

    def _append(self) -> None:
        assert self.kind is not None
        schema = SCHEMAS[self.kind]
        messages = []
        if not self._shards or self._shards[-1]["records"] >= SHARD_ROWS:
            self._shards.append({"file": f"data-{len(self._shards):05d}.arrow", "records": 0, "bytes": 0})
            messages.append(schema.serialize())
        # An Arrow stream is its schema and then its batches, one message after another: it grows by appending.
        messages.append(pa.RecordBatch.from_pylist(self._rows, schema=schema).serialize())
        shard = self._shards[-1]
        with (self.folder / shard["file"]).open("ab") as file:
            file.writelines(messages)
            file.flush()
            os.fsync(file.fileno())
            shard["bytes"] = file.tell()
        shard["records"] += len(self._rows)
        self._rows = []

    def _note(self) -> None:
        progress = {
            "settings": self._settings,
            "position": self.position,
            "kind": self.kind,
            "sizes": self._sizes,
            "rejected": self.rejected,
            "rejects_bytes": self._rejects.tell(),
            "shards": self._shards,
        }
        write_json(self.folder / PROGRESS, progress)

    def _restore(self) -> None:
        progress = read_json(self.folder / PROGRESS)
        changed = [key for key, value in self._settings.items() if progress["settings"].get(key) != value]
        if changed:
            raise UserError(
                f"cannot go on with {self.folder}: {', '.join(changed)} changed since it was started. "
                "Use the settings it was started with, or remove it to start over."
            )
        self.kind, self.position = progress["kind"], Position(*progress["position"])
        self._sizes, self.rejected = Counter(progress["sizes"]), Counter(progress["rejected"])
        self._shards = progress["shards"]
        kept = {REJECTS: progress["rejects_bytes"], **{shard["file"]: shard["bytes"] for shard in self._shards}}
        for path in self.folder.glob("data-*.arrow"):
            if path.name not in kept:
                path.unlink()
        for name, size in kept.items():
            path = self.folder / name
            if not path.is_file() or path.stat().st_size < size:
                raise UserError(f"{path} is damaged: remove {self.folder} and start over.")
            os.truncate(path, size)

    def _first_reject(self) -> str:
        with (self.folder / REJECTS).open(encoding="utf-8") as lines:
            line = lines.readline()
        if not line:
            return ""
        first = json.loads(line)
        return f" The first: {first['where']}: {first['reason']}"
