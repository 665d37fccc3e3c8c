"""Where a task's data come from: a folder of yours, or a set of the Hugging Face Hub in the same layout.

    --data-dir DATA     DATA/genai-bench/genai_image.json, DATA/pope/*.jsonl, …      nothing is downloaded
    no --data-dir       the Hub's copy, downloaded into its cache

Data that are nowhere end in a sentence with the command that gets them and their licence.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from liquid_mm.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataSource:
    """A set of examples.

    Attributes:
        folder: its name inside `--data-dir`.
        layout: the files it must hold, in words.
        licence: of the data, as far as their authors state it.
        hub: its id on the Hugging Face Hub, if it is there in this layout.
        files: patterns of the files to take from the Hub.
        command: what gets it where a download from the Hub alone does not do; DIR stands for the folder.
    """

    folder: str
    layout: str
    licence: str
    hub: str | None = None
    files: tuple[str, ...] = ()
    command: str | None = None

    def how_to_get(self, data_dir: str | Path) -> str:
        """The exact command that puts the set into `data_dir`."""
        target = Path(data_dir) / self.folder
        if self.command:
            return self.command.replace("DIR", str(target))
        patterns = "".join(f" --include '{pattern}'" for pattern in self.files)
        return f"hf download {self.hub} --repo-type dataset{patterns} --local-dir {target}"

    def locate(self, data_dir: str | Path | None) -> Path:
        """The folder that holds the set.

        Raises:
            UserError: it is not there; the message says how to get it, and its licence.
        """
        if data_dir is not None:
            if (found := Path(data_dir) / self.folder).is_dir():
                return found
            raise UserError(self._missing(f"there is no folder {found}", data_dir))
        if self.hub is None or self.command is not None:
            raise UserError(self._missing(f"the set {self.folder} needs --data-dir", "data"))
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.hub, repo_type="dataset", allow_patterns=list(self.files) or None))
        except Exception as error:  # offline, gated, not found …: the library raises a dozen kinds
            raise UserError(self._missing(f"{self.hub} cannot be downloaded ({error})", "data")) from error

    def require(self, path: Path) -> Path:
        """`path`, a file of the set.

        Raises:
            UserError: it is missing.
        """
        if not path.exists():
            raise UserError(self._missing(f"{path} is missing", path.parent.parent))
        return path

    def _missing(self, what: str, data_dir: str | Path) -> str:
        return (
            f"{what}. It must hold {self.layout}. Licence: {self.licence}. Get it with:\n"
            f"    {self.how_to_get(data_dir)}\nthen run again with --data-dir {data_dir}."
        )


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file.

    Raises:
        UserError: a line is not JSON.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number} is not valid JSON: {error}.") from error


def data_hash(examples: Iterable[Any]) -> str:
    """16 hex digits over ids and inputs of `examples`, and over the size of their picture files."""
    digest = hashlib.sha256()
    for example in examples:
        size = example.image.stat().st_size if isinstance(example.image, Path) else None
        digest.update(json.dumps([example.id, example.inputs, size], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
