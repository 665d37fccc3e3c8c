from __future__ import annotations

import json

import datasets
import pytest

from liquid_mm.data import writer
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.tokenize import tokenize
from liquid_mm.errors import UserError


def test_shards_and_batches_are_seams_nobody_sees(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "BATCH_ROWS", 3)
    monkeypatch.setattr(writer, "SHARD_ROWS", 6)
    manifest = tokenize([{"text": f"text {n}"} for n in range(20)], None, tmp_path / "out", batch_size=7)
    assert [shard["records"] for shard in manifest.shards] == [6, 6, 6, 2]
    stored = TokenizedSet(tmp_path / "out")
    assert [stored[n].text for n in range(20)] == [f"text {n}" for n in range(20)]
    with pytest.raises(IndexError):
        stored[20]


def test_the_datasets_library_reads_the_shards(sets, tmp_path):
    files = [str(path) for path in sets["pairs"].glob("*.arrow")]
    rows = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path))
    stored = TokenizedSet(sets["pairs"])
    assert rows.features["codes"].feature.dtype == "uint16"
    assert rows[5]["codes"] == stored[5].codes.reshape(-1).tolist()


def test_a_folder_that_is_no_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no tokenised set.*liquid tokenize"):
        TokenizedSet(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="not of format 1"):
        TokenizedSet(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 1, "kind": "text"}')
    with pytest.raises(UserError, match="damaged"):
        TokenizedSet(tmp_path)


def test_a_shard_that_is_missing_or_cut_short_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "BATCH_ROWS", 100)
    tokenize([{"text": f"text {n}"} for n in range(300)], None, tmp_path / "out")
    shard = tmp_path / "out/data-00000.arrow"
    whole = shard.read_bytes()
    for damage in (whole[: len(whole) // 2], whole[:-3000], b"nonsense"):
        shard.write_bytes(damage)
        with pytest.raises(UserError, match=r"data-00000.arrow .*tokenise the set again"):
            TokenizedSet(tmp_path / "out")
    shard.unlink()
    with pytest.raises(UserError, match=r"data-00000\.arrow cannot be read"):
        TokenizedSet(tmp_path / "out")


def test_the_manifest_is_plain_json(sets):
    value = json.loads((sets["chat"] / "manifest.json").read_text())
    assert value["format"] == 1
    assert value["sizes"] == {"32x32": 14}
    assert value["image_tokenizer"]["num_codes"] == 8192
