from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import pytest
import zstandard

from liquid_mm.data.urls import Url, filesystem, join, needed, open_binary, parent, read_bytes, suffix, tree
from liquid_mm.errors import UserError


def test_names_are_joined_like_paths_wherever_they_live():
    assert join(Path("sets"), "a/1.png") == Path("sets/a/1.png")
    assert join(Path("sets"), "/abs/1.png") == Path("/abs/1.png")
    assert join(Url("s3://bucket/sets"), "a/1.png") == Url("s3://bucket/sets/a/1.png")
    assert join(Path("sets"), "gs://other/1.png") == Url("gs://other/1.png")
    assert parent("sets/a.jsonl") == Path("sets")
    assert parent("a.jsonl") == Path()
    assert parent("s3://bucket/a.jsonl") == Url("s3://bucket")


@pytest.mark.parametrize(
    ("name", "kind"), [("a.jsonl", ".jsonl"), ("A.JSONL.ZST", ".jsonl"), ("x/y.tar.gz", ".tar"), ("readme", "")]
)
def test_the_ending_of_the_compression_is_not_the_kind(name, kind):
    assert suffix(name) == kind


def test_compressed_files_are_read_to_their_end(tmp_path):
    frame = zstandard.ZstdCompressor().compress
    (tmp_path / "a.zst").write_bytes(frame(b"one\ntwo\n") + frame(b"three\n"))
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"one\ntwo\nthree\n"))
    for name in ("a.zst", "a.gz"):
        with open_binary(str(tmp_path / name)) as file:
            assert list(file) == [b"one\n", b"two\n", b"three\n"]


def test_a_tree_is_walked_in_the_order_of_its_names(tmp_path):
    remote = fsspec.filesystem("memory")
    for name in ("b.txt", "a.txt", "z/1.txt", "m/deep/2.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
        remote.pipe(f"/tree/{name}", name.encode())
    for root in (str(tmp_path), f"file://{tmp_path}", "memory://tree"):
        assert list(tree(root)) == [
            (root, ["a.txt", "b.txt"]),
            (f"{root}/m", []),
            (f"{root}/m/deep", ["2.txt"]),
            (f"{root}/z", ["1.txt"]),
        ]
        assert read_bytes(f"{root}/m/deep/2.txt") == b"m/deep/2.txt"


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.zst").write_bytes(b"no zstd")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    for name, says in [
        ("none.txt", "there is no file"),
        ("a.zst", "damaged"),
        ("a.gz", "damaged"),
    ]:
        with pytest.raises(UserError, match=f"{name}.*{says}|{says}.*{name}"):
            read_bytes(str(tmp_path / name))
    with pytest.raises(UserError, match=r"nowhere://x cannot be reached.*nowhere"):
        filesystem("nowhere://x")
    with pytest.raises(UserError, match="run `pip install no_such_package`"):
        needed("no_such_package", "a.xyz")
