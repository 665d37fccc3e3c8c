from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from liquid_mm.data.records import ChatEntry, PairEntry, Reject, TextEntry
from liquid_mm.data.sources import read


def zst(path: Path, *records: dict) -> Path:
    lines = "".join(json.dumps(record) + "\n" for record in records)
    path.write_bytes(zstandard.ZstdCompressor().compress(lines.encode()))
    return path


def only(source: object):
    (entry,) = read(source)
    return entry


DCLM = {
    "bff_contained_ngram_count_before_dedupe": 3,
    "language_id_whole_page_fasttext": {"en": 0.97},
    "metadata": {"WARC-Record-ID": "<urn:uuid:1>", "WARC-Type": "response"},
    "previous_word_count": 4,
    "text": "Ducks like lakes.",
    "url": "http://ducks.example/",
    "warcinfo": "robots: classic",
    "fasttext_openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train_prob": 0.2,
}
SLIMPAJAMA = {"text": "A lake.", "meta": {"redpajama_set_name": "RedPajamaWikipedia"}}


def test_dclm(tmp_path):
    path = zst(tmp_path / "shard_00000000_processed.jsonl.zst", DCLM, {**DCLM, "metadata": None})
    first, second = read(path)
    assert first == TextEntry("<urn:uuid:1>", f"{path}:1", "Ducks like lakes.")
    assert second.id == "http://ducks.example/"
    table = pa.Table.from_pylist([{**DCLM, "metadata": json.dumps(DCLM["metadata"])}])
    pq.write_table(table, tmp_path / "dclm.parquet")
    assert only(tmp_path / "dclm.parquet").id == "<urn:uuid:1>"


def test_slimpajama(tmp_path):
    path = zst(tmp_path / "example_train_0.jsonl.zst", SLIMPAJAMA)
    assert only(path) == TextEntry(f"{path}:1", f"{path}:1", "A lake.")


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("<reponame>me/tool<filename>src/a.py<gh_stars>1-10\n", "import os\n"),
        ("<gh_stars>0\n", "<filename> = 3\n"),
        ("", "print('<filename>a')\n"),
    ],
)
def test_starcoder_without_its_special_tokens(tmp_path, head, code):
    row = {
        "max_stars_repo_path": "src/a.py",
        "max_stars_repo_name": "me/tool",
        "max_stars_count": 5,
        "id": "123",
        "content": head + code,
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train-00000.parquet")
    entry = only(tmp_path / "train-00000.parquet")
    assert (entry.id, entry.text) == ("me/tool/src/a.py", code)


def test_journeydb(jsonl):
    path = jsonl(
        {"img_path": "./000/ab.jpg", "prompt": "a duck, oil", "Task2": {"Caption": "A painted duck."}},
        name="train_anno_realease_repath.jsonl",
    )
    where = f"{path}:1"
    assert only(path) == PairEntry("000/ab.jpg", where, "a duck, oil", path.parent / "imgs/000/ab.jpg")


def write_json(path: Path, records: object) -> Path:
    path.write_text(json.dumps(records))
    return path


def test_llava(tmp_path):
    records = [
        {
            "id": "33",
            "image": "coco/1.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat swims?"},
                {"from": "gpt", "value": "A duck."},
                {"from": "human", "value": "Where?"},
                {"from": "gpt", "value": "On a lake."},
            ],
        },
        {
            "id": "34",
            "image": ["1.jpg", "2.jpg"],
            "conversations": [
                {"from": "human", "value": "Is <image> older than <image>?"},
                {"from": "gpt", "value": "No."},
            ],
        },
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    ]
    path = write_json(tmp_path / "llava.json", records)
    one, two, text = read(path)
    assert isinstance(one, ChatEntry)
    assert one.id == "33"
    assert [message.role for message in one.messages] == ["user", "assistant"] * 2
    assert one.messages[0].parts == (tmp_path / "coco/1.jpg", "What swims?")
    assert two.messages[0].parts == ("Is", tmp_path / "1.jpg", "older than", tmp_path / "2.jpg", "?")
    assert (text.id, text.messages[0].parts) == (f"{path} item 2", ("Hi",))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"image": "1.jpg", "conversations": [{"from": "human", "value": "No mark"}]}, "1 images for 0 <image> marks"),
        ({"conversations": [{"from": "human", "value": "<image>"}]}, "0 images for 1"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "'robot'"),
        ({"conversations": [{"role": "user"}]}, "'value'"),
    ],
)
def test_a_record_that_does_not_keep_to_its_layout_is_rejected(tmp_path, fields, says):
    reject = only(write_json(tmp_path / "llava.json", [fields]))
    assert isinstance(reject, Reject)
    assert reject.category == "invalid record"
    assert "LLaVA" in reject.reason
    assert says in reject.reason


def test_lmsys_chat(tmp_path):
    row = {
        "conversation_id": "c1",
        "model": "vicuna",
        "conversation": [{"content": "Hi", "role": "user"}, {"content": "Hello", "role": "assistant"}],
        "turn": 1,
        "language": "English",
        "openai_moderation": [{"flagged": False}],
        "redacted": False,
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "train.parquet")
    entry = only(tmp_path / "train.parquet")
    assert entry.id == "c1"
    assert [(message.role, message.parts) for message in entry.messages] == [
        ("user", ("Hi",)),
        ("assistant", ("Hello",)),
    ]
