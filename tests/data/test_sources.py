from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from liquid_mm.data import readers
from liquid_mm.data.records import PairEntry, Reject, TextEntry
from liquid_mm.data.sources import START, Position, entries, pieces, read
from liquid_mm.data.urls import Url
from liquid_mm.errors import UserError


def test_jsonl_goes_on_after_a_bad_line_and_names_it(jsonl):
    path = jsonl({"text": "one"}, "{broken", "", {"image": "a/1.png", "text": "two"}, {"image": "2.png"})
    one, broken, two, bare = read(path)
    assert one == TextEntry(f"{path}:1", f"{path}:1", "one")
    assert (broken.where, broken.category) == (f"{path}:2", "invalid record")
    assert "not valid JSON" in broken.reason
    assert two.image == path.parent / "a/1.png"
    assert two.where == f"{path}:4"
    assert (bare.where, bare.category) == (f"{path}:5", "no caption")


def test_reading_is_lazy(jsonl, monkeypatch):
    parsed = []
    monkeypatch.setattr(readers.json, "loads", lambda line, loads=json.loads: parsed.append(line) or loads(line))
    entries = read(jsonl(*({"text": str(n)} for n in range(50))))
    assert next(entries).text == "0"
    assert len(parsed) == 1


def tar(path: Path, files: dict[str, bytes | str]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["pairs.tar", "pairs.tar.gz"])
def test_webdataset_members_of_one_key_are_one_record(tmp_path, name):
    path = tar(
        tmp_path / name,
        {
            "a/1.jpg": b"one",
            "a/1.txt": "a duck\n",
            "a/1.json": '{"width": 4}',
            "2.json": '{"text": "a lake", "id": "two"}',
            "2.seg.png": b"two",
            "3.txt": "only text",
            ".hidden.txt": "ignored",
            "4.json": "{broken",
        },
    )
    one, two, three, broken = read(path)
    assert one == PairEntry("a/1", f"{path} a/1", "a duck", b"one")
    assert two == PairEntry("two", f"{path} 2", "a lake", b"two")
    assert three == TextEntry("3", f"{path} 3", "only text")
    assert isinstance(broken, Reject)


def test_a_json_list_is_read_item_by_item(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": 2.5}]')
    one, two = read(tmp_path / "a.json")
    assert one.text == "one"
    assert "not float" in two.reason


def test_remote_files_and_the_pictures_beside_them():
    remote = fsspec.filesystem("memory")
    remote.pipe("/sets/x/captions.jsonl", b'{"image": "imgs/1.png", "text": "one"}\n')
    remote.pipe("/sets/y/cat.png", b"picture")
    remote.pipe("/sets/y/cat.txt", b"a cat")
    (one,) = read("memory://sets/x/captions.jsonl")
    assert one == PairEntry("memory://sets/x/captions.jsonl:1", one.where, "one", Url("memory://sets/x/imgs/1.png"))
    (cat,) = read("memory://sets/y")
    assert (cat.text, cat.image) == ("a cat", Url("memory://sets/y/cat.png"))
    assert len(list(read("memory://sets"))) == 2
    (globbed,) = pieces("memory://sets/*/*.jsonl")
    assert next(globbed.entries()).text == "one"


def test_a_pattern_names_several_files_in_order(tmp_path, jsonl):
    jsonl({"text": "b"}, name="b.jsonl")
    jsonl({"text": "a"}, name="a.jsonl")
    (tmp_path / "c.txt").write_text("left out")
    assert [entry.text for entry in read(f"{tmp_path}/*.jsonl")] == ["a", "b"]
    with pytest.raises(UserError, match="no file matches"):
        read(f"{tmp_path}/*.tar")


def test_pictures_may_lie_elsewhere(jsonl):
    path = jsonl({"image": "1.png", "text": "one"})
    for images, found in [("/elsewhere", Path("/elsewhere/1.png")), ("s3://b", Url("s3://b/1.png"))]:
        (piece,) = pieces(path, images)
        assert next(piece.entries()).image == found


def test_reading_goes_on_from_every_position(tmp_path, jsonl):
    jsonl({"text": "one"}, "{broken", "", {"text": "three"}, name="a.jsonl")
    (tmp_path / "b.txt").write_text("four\n<|endoftext|>\nfive\n")
    parts = pieces(tmp_path)
    whole = list(entries(parts, START))
    assert [position for position, _ in whole] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)]
    for number, (position, _) in enumerate(whole, start=1):
        assert list(entries(parts, position)) == whole[number:]
    assert list(entries(pickle.loads(pickle.dumps(parts)), Position(0, 2))) == whole[2:]


def test_a_folder_of_images_with_captions_beside_them(tmp_path):
    for name in ("b.png", "a.JPG", "deep/c.png", "bare.png", "odd.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "a.txt").write_text("an a\n")
    (tmp_path / "b.json").write_text('{"text": "a b", "id": "B"}')
    (tmp_path / "deep/c.txt").write_text("a c")
    (tmp_path / "odd.json").write_text("[1]")
    (tmp_path / ".DS_Store").write_text("ignored")
    entries = list(read(tmp_path))
    kept = [(entry.id, entry.text, entry.image) for entry in entries if isinstance(entry, PairEntry)]
    assert kept == [
        (str(tmp_path / "a.JPG"), "an a", tmp_path / "a.JPG"),
        ("B", "a b", tmp_path / "b.png"),
        (str(tmp_path / "deep/c.png"), "a c", tmp_path / "deep/c.png"),
    ]
    rejects = {entry.where: entry.reason for entry in entries if isinstance(entry, Reject)}
    assert "neither bare.txt nor bare.json" in rejects[str(tmp_path / "bare.png")]
    assert "cannot be read" in rejects[str(tmp_path / "odd.png")]
    assert len(entries) == 5


def test_a_folder_with_metadata_jsonl(tmp_path, jsonl):
    jsonl({"file_name": "x.png", "text": "an x"}, name="metadata.jsonl")
    (entry,) = read(tmp_path)
    assert (entry.image, entry.text) == (tmp_path / "x.png", "an x")


def test_text_files_split_only_at_the_separator(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nstill one\n<|endoftext|>\ntwo\n<|endoftext|>\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("näive", encoding="utf-8")
    assert [entry.text for entry in read(tmp_path)] == ["one\n\nstill one", "two", "näive"]
    assert [entry.where for entry in read(tmp_path / "a.txt")] == [f"{tmp_path}/a.txt document {n}" for n in range(2)]


@pytest.mark.parametrize("column", ["path", "bytes", "struct"])
def test_parquet_with_each_form_of_image(tmp_path, column):
    images = {"path": ["1.png"], "bytes": [b"raw"], "struct": [{"bytes": b"raw", "path": "1.png"}]}[column]
    pq.write_table(pa.table({"image": images, "text": ["a cat"]}), tmp_path / "a.parquet")
    (entry,) = read(tmp_path / "a.parquet")
    assert entry.image == (tmp_path / "1.png" if column == "path" else b"raw")
    assert entry.where == f"{tmp_path / 'a.parquet'} row 0"


def pictures() -> datasets.Dataset:
    rows = {"image": [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")], "text": ["red", "blue"]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_hub_set_of_several_shards_is_as_many_pieces(monkeypatch):
    stream = pictures().to_iterable_dataset(num_shards=2)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: stream)
    parts = pieces("owner/cats")
    assert [piece.name for piece in parts] == ["owner/cats shard 0", "owner/cats shard 1"]
    assert [entry.text for entry in read("owner/cats")] == ["red", "blue"]


def test_a_saved_datasets_set_keeps_images_encoded(tmp_path):
    pictures().save_to_disk(tmp_path / "saved")
    entries = list(read(tmp_path / "saved"))
    assert [entry.text for entry in entries] == ["red", "blue"]
    assert all(isinstance(entry.image, bytes) for entry in entries)
    datasets.DatasetDict({"train": pictures()}).save_to_disk(tmp_path / "splits")
    with pytest.raises(UserError, match="splits/train"):
        read(tmp_path / "splits")


def test_a_hub_set_is_streamed(monkeypatch):
    asked = {}

    def load(name, **options):
        asked.update(name=name, **options)
        return pictures().to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert [entry.where for entry in read("owner/cats:test")] == ["owner/cats:test row 0", "owner/cats:test row 1"]
    assert asked == {"name": "owner/cats", "split": "test", "streaming": True}


def test_records_made_in_python():
    assert [entry.text for entry in read([{"text": "one"}, {"text": "two"}])] == ["one", "two"]


def test_sources_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "a.parquet").write_text("not parquet")
    (tmp_path / "a.tar").write_text("no tar" * 200)
    (tmp_path / "a.json").write_text("[{")
    (tmp_path / "latin.txt").write_bytes("n\xe4h".encode("latin-1"))
    for source, says in [
        (tmp_path / "missing.jsonl", "there is no file or folder"),
        (tmp_path / "empty", "holds nothing to read"),
        (tmp_path / "a.csv", "unknown kind: allowed are folders and .jsonl, .json, .parquet, .tar, .txt"),
        (tmp_path / "a.parquet", "not a readable Parquet file"),
        (tmp_path / "latin.txt", "not UTF-8"),
        (tmp_path / "a.tar", "not a readable tar file"),
        (tmp_path / "a.json", "not a JSON list"),
    ]:
        with pytest.raises(UserError, match=says):
            list(read(source))
