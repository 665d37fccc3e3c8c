from __future__ import annotations

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from liquid_mm.data.records import PairEntry, Reject, TextEntry
from liquid_mm.data.sources import read
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


def test_reading_is_lazy(jsonl):
    path = jsonl(*({"text": str(n)} for n in range(50_000)))
    entries = read(path)
    next(entries)
    assert entries.gi_frame.f_locals["raws"].gi_frame.f_locals["number"] == 1, "only the first line was parsed"
    entries.close()


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
    (tmp_path / "latin.txt").write_bytes("n\xe4h".encode("latin-1"))
    for source, says in [
        (tmp_path / "missing.jsonl", "there is no file or folder"),
        (tmp_path / "empty", "holds nothing to read"),
        (tmp_path / "a.csv", "unknown kind: allowed are folders and .jsonl, .parquet, .txt"),
        (tmp_path / "a.parquet", "not a readable Parquet file"),
        (tmp_path / "latin.txt", "not UTF-8"),
    ]:
        with pytest.raises(UserError, match=says):
            list(read(source))
