"""A tokenising run that was killed goes on where it stood: nothing lost, nothing doubled, nothing done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datakit import picture

from liquid_mm.data import writer
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.tokenize import tokenize
from liquid_mm.errors import UserError
from liquid_mm.files import sole_writer

BATCH, COUNT = 4, 23


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(writer, "BATCH_ROWS", BATCH)
    monkeypatch.setattr(writer, "SHARD_ROWS", 2 * BATCH)


@pytest.fixture
def source(jsonl):
    """Documents, and a record every seventh that cannot be used."""
    return jsonl(*({"text": f"text {n}" if n % 7 else ""} for n in range(COUNT)))


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


def killed(source, out: Path, after: int, **options) -> None:
    """Tokenise until `after` records, then leave what a kill in the middle of writing would."""

    def kill(kept, rejected):
        if kept + rejected == after:
            raise Killed

    with pytest.raises(Killed):
        tokenize(source, options.pop("image_tokenizer", None), out, max_rejects=1, progress=kill, **options)
    part = out.with_name(f"{out.name}.part")
    if part.exists():
        for path in [*part.glob("*.arrow"), part / "rejects.jsonl"]:
            with path.open("ab") as file:
                file.write(b"half a record")
        (part / "data-00099.arrow").write_bytes(b"a shard that nobody noted")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("after", range(1, COUNT + 1, 3))
def test_a_resumed_set_is_the_undisturbed_one_byte_for_byte(tmp_path, source, after):
    tokenize(source, None, tmp_path / "straight", max_rejects=1)
    killed(source, tmp_path / "out", after)
    assert not (tmp_path / "out").exists(), "half a set must not look like one"
    tokenize(source, None, tmp_path / "out", max_rejects=1, resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
    assert not (tmp_path / "out.part").exists()


def test_a_set_has_one_writer(tmp_path, source):
    killed(source, tmp_path / "out", 10)
    before = contents(tmp_path / "out.part")
    with sole_writer(tmp_path / "out.part"), pytest.raises(UserError, match="another process is writing"):
        tokenize(source, None, tmp_path / "out", max_rejects=1, resume=True)
    assert contents(tmp_path / "out.part") == before


def test_a_run_may_be_killed_again_and_again(tmp_path, source):
    tokenize(source, None, tmp_path / "straight", max_rejects=1)
    for after in (6, 8, 12, 20):
        killed(source, tmp_path / "out", after, resume=True)
    tokenize(source, None, tmp_path / "out", max_rejects=1, resume=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_what_is_on_disk_is_not_encoded_again(tmp_path, image_tokenizer):
    class Counting:
        pictures = 0

        def __getattr__(self, name):
            return getattr(image_tokenizer, name)

        def encode(self, images):
            self.pictures += len(images)
            return image_tokenizer.encode(images)

    records = [{"image": picture(n), "text": f"disc {n}"} for n in range(12)]
    encoder = Counting()
    killed(records, tmp_path / "out", 10, image_tokenizer=encoder, sizes=[(32, 32)], batch_size=2)
    assert encoder.pictures == 10
    tokenize(records, encoder, tmp_path / "out", sizes=[(32, 32)], batch_size=2, resume=True)
    assert encoder.pictures == 10 + (12 - 8), "of the ten, eight had reached the disk"
    stored = TokenizedSet(tmp_path / "out")
    assert [stored[n].text for n in range(len(stored))] == [f"disc {n}" for n in range(12)]


def test_another_run_is_not_taken_for_the_interrupted_one(tmp_path, source, jsonl):
    killed(source, tmp_path / "out", 15)
    with pytest.raises(UserError, match=r"out\.part holds an interrupted run: add --resume"):
        tokenize(source, None, tmp_path / "out")
    with pytest.raises(UserError, match=r"max_pixels changed since it was started"):
        tokenize(source, None, tmp_path / "out", resume=True, max_pixels=5)
    with pytest.raises(UserError, match=r"the source changed since it was started"):
        tokenize(jsonl({"text": "other"}, name="other.jsonl"), None, tmp_path / "out", resume=True)


def test_a_damaged_run_is_refused(tmp_path, source):
    killed(source, tmp_path / "out", 15)
    shard = tmp_path / "out.part/data-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match=r"data-00000\.arrow is damaged: remove .*out\.part"):
        tokenize(source, None, tmp_path / "out", resume=True)


def test_a_strangers_folder_is_left_alone(tmp_path, source):
    (tmp_path / "out.part").mkdir()
    (tmp_path / "out.part/mine").write_text("mine")
    with pytest.raises(UserError, match="is in the way"):
        tokenize(source, None, tmp_path / "out", resume=True)
    assert (tmp_path / "out.part/mine").read_text() == "mine"


def test_resuming_what_was_never_started_starts_it(tmp_path, source):
    assert tokenize(source, None, tmp_path / "out", max_rejects=1, resume=True).records == 19
    assert json.loads((tmp_path / "out/manifest.json").read_text())["rejected"] == {"no text": 4}


def test_pictures_from_another_folder_are_another_source(tmp_path, jsonl, image_tokenizer):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for n in range(2 * BATCH):
            picture(n, (32, 32)).save(tmp_path / folder / f"{n}.png")
    captions = jsonl(*({"image": f"{n}.png", "text": "a picture"} for n in range(2 * BATCH)))
    options = {"image_tokenizer": image_tokenizer, "sizes": [(32, 32)], "batch_size": BATCH}
    killed(captions, tmp_path / "out", BATCH, images=tmp_path / "a", **options)
    with pytest.raises(UserError, match="the source"):
        tokenize(captions, image_tokenizer, tmp_path / "out", resume=True, images=tmp_path / "b", sizes=[(32, 32)])
