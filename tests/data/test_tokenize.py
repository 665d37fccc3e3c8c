from __future__ import annotations

import io
import json
from collections import Counter

import fsspec
import numpy as np
import pytest
from datakit import picture
from PIL import Image

from liquid_mm.data import store
from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.tokenize import tokenize
from liquid_mm.errors import UserError
from liquid_mm.image.preprocess import center_crop_resize, pad_to_square


def pair(image: object, text: str = "a disc") -> dict:
    return {"image": image, "text": text}


def test_codes_are_those_of_the_cropped_picture(tmp_path, image_tokenizer):
    images = [picture(n, size) for n, size in enumerate([(32, 32), (70, 40), (33, 64)])]
    manifest = tokenize(
        [pair(image) for image in images], image_tokenizer, tmp_path / "out", sizes=[(48, 32)], batch_size=2
    )
    expected = image_tokenizer.encode([center_crop_resize(image, (48, 32)) for image in images])
    stored = TokenizedSet(tmp_path / "out")
    for number, grid in enumerate(expected):
        np.testing.assert_array_equal(stored[number].codes, grid)
        assert stored[number].codes.shape == (2, 3)
    assert (manifest.kind, manifest.records, manifest.images, manifest.sizes) == ("pairs", 3, 3, {"48x32": 3})
    assert manifest.image_tokenizer.fingerprint == image_tokenizer.fingerprint
    assert manifest == store.Manifest.read(tmp_path / "out")


@pytest.mark.parametrize("sizes", [[(48, 32)], [(48, 32), (128, 128)]])
def test_pictures_shown_in_a_chat_are_padded_and_drawn_ones_cropped(tmp_path, image_tokenizer, sizes):
    shown, drawn = picture(1, (60, 40)), picture(2, (60, 40))
    content = [{"type": "image", "image": shown}, {"type": "text", "text": "More?"}]
    answer = [{"type": "text", "text": "Yes:"}, {"type": "image", "image": drawn}]
    chat = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}
    tokenize([chat], image_tokenizer, tmp_path / "out", sizes=sizes)
    user, assistant = TokenizedSet(tmp_path / "out")[0].messages
    assert image_tokenizer.resolution == (128, 128)
    side = 128 if len(sizes) == 2 else 32  # the model's own size, as generation looks at it, if the set has it
    codes = image_tokenizer.encode([pad_to_square(shown, side), center_crop_resize(drawn, (48, 32))])
    np.testing.assert_array_equal(user.parts[0], codes[0])
    np.testing.assert_array_equal(assistant.parts[1], codes[1])
    assert (user.parts[1], assistant.parts[0]) == ("More?", "Yes:")


def test_text_needs_no_image_tokenizer(tmp_path):
    manifest = tokenize([{"text": "one"}, {"text": "two", "id": "b"}], None, tmp_path / "out")
    stored = TokenizedSet(tmp_path / "out")
    assert [stored[0].text, stored[1].text] == ["one", "two"]
    assert [stored.id(0), stored.id(1)] == ["record 0", "b"]
    assert (manifest.kind, manifest.images, manifest.image_tokenizer) == ("text", 0, None)


def bad_records(folder) -> list[tuple[dict, str, str]]:
    """A record of each bad kind, its category, and words of its reason."""
    png = io.BytesIO()
    picture(0, (64, 64)).save(png, "PNG")
    picture(0, (300, 300)).save(folder / "big.png")
    (folder / "text.png").write_text("no picture")
    (folder / "cut.png").write_bytes(png.getvalue()[: len(png.getvalue()) // 2])
    return [
        (pair(folder / "missing.png"), "image cannot be used", "no image file"),
        (pair(folder / "text.png"), "image cannot be used", "not an image"),
        (pair(folder / "cut.png"), "image cannot be used", "truncated"),
        (pair(folder / "big.png"), "image cannot be used", "oversized"),
        (pair(picture(0, (81, 40))), "image too narrow", "81x40"),
        (pair(picture(0), ""), "no caption", "empty"),
        ({"text": "a document"}, "another kind of record", "tokenise them apart"),
        ({"picture": 1}, "invalid record", "'picture'"),
    ]


def test_every_bad_record_is_listed_with_its_reason(tmp_path, image_tokenizer):
    bad = bad_records(tmp_path)
    records = [pair(picture(1)), *(record for record, _, _ in bad), pair(picture(2, (80, 40)))]
    seen = []
    manifest = tokenize(
        records,
        image_tokenizer,
        tmp_path / "out",
        sizes=[(32, 32)],
        batch_size=4,
        max_rejects=0.8,
        max_pixels=80_000,
        progress=lambda kept, rejected: seen.append((kept, rejected)),
    )
    rejects = [json.loads(line) for line in (tmp_path / "out/rejects.jsonl").read_text().splitlines()]
    assert sorted(reject["where"] for reject in rejects) == [f"record {n}" for n in range(1, 9)]
    by_place = {reject["where"]: reject for reject in rejects}
    for number, (_, category, words) in enumerate(bad, start=1):
        assert by_place[f"record {number}"]["category"] == category
        assert words in by_place[f"record {number}"]["reason"]
    assert manifest.records == 2
    assert sum(manifest.rejected.values()) == 8
    assert manifest.rejected["image cannot be used"] == 4
    assert seen[-1] == (2, 8)
    assert [TokenizedSet(tmp_path / "out").id(n) for n in range(2)] == ["record 0", "record 9"]


def test_too_many_rejects_are_an_error_after_the_good_is_written(tmp_path, image_tokenizer):
    records = [pair(picture(n)) for n in range(9)] + [pair(picture(0), "")]
    with pytest.raises(UserError, match=r"1 of 10 records \(10.0%\) were rejected, over the 5.0%.*1 × no caption"):
        tokenize(records, image_tokenizer, tmp_path / "out", sizes=[(32, 32)])
    assert len(TokenizedSet(tmp_path / "out")) == 9
    assert len((tmp_path / "out/rejects.jsonl").read_text().splitlines()) == 1
    tokenize(records, image_tokenizer, tmp_path / "again", sizes=[(32, 32)], max_rejects=0.1)


def test_each_picture_gets_the_nearest_allowed_shape(tmp_path, image_tokenizer):
    sizes = [(32, 32), (48, 32), (32, 48), (32, 16)]
    given = [(40, 40), (60, 40), (40, 58), (80, 41), (44, 40), (100, 70)]
    nearest = [(32, 32), (48, 32), (32, 48), (32, 16), (32, 32), (48, 32)]
    images = [picture(number, size) for number, size in enumerate(given)]
    manifest = tokenize([pair(image) for image in images], image_tokenizer, tmp_path / "out", sizes=sizes, batch_size=1)
    stored = TokenizedSet(tmp_path / "out")
    for number, (image, size) in enumerate(zip(images, nearest, strict=True)):
        (codes,) = image_tokenizer.encode([center_crop_resize(image, size)])
        np.testing.assert_array_equal(stored[number].codes, codes)
    assert manifest.sizes == {"32x16": 1, "32x32": 2, "32x48": 1, "48x32": 2}


def test_pictures_of_one_size_are_encoded_together(tmp_path, image_tokenizer):
    asked = []

    class Counting:
        def __getattr__(self, name):
            return getattr(image_tokenizer, name)

        def encode(self, images):
            asked.append(Counter(image.size for image in images))
            return image_tokenizer.encode(images)

    records = [pair(picture(n, ((40, 40), (60, 40))[n % 2])) for n in range(16)]
    tokenize(records, Counting(), tmp_path / "out", sizes=[(32, 32), (48, 32)], batch_size=4)
    assert asked == [{(32, 32): 4, (48, 32): 4}] * 2


def test_a_remote_source_makes_the_same_set(tmp_path, image_tokenizer):
    remote = fsspec.filesystem("memory")
    (tmp_path / "local").mkdir()
    for number in range(3):
        picture(number).save(tmp_path / f"local/{number}.png")
        (tmp_path / f"local/{number}.txt").write_text(f"disc {number}")
    remote.put(str(tmp_path / "local"), "/discs", recursive=True)
    for source, out in [(tmp_path / "local", "a"), ("memory://discs", "b")]:
        tokenize(source, image_tokenizer, tmp_path / out, sizes=[(32, 32)])
    local, remote = (TokenizedSet(tmp_path / out) for out in "ab")
    assert [local[n].text for n in range(3)] == [remote[n].text for n in range(3)] == ["disc 0", "disc 1", "disc 2"]
    for number in range(3):
        np.testing.assert_array_equal(local[number].codes, remote[number].codes)


def test_a_remote_picture_that_is_missing_is_a_reject(tmp_path, image_tokenizer):
    records = [pair(picture(1)), pair("memory://none/1.png")]
    manifest = tokenize(records, image_tokenizer, tmp_path / "out", sizes=[(32, 32)], max_rejects=0.5)
    assert manifest.rejected == {"image cannot be used": 1}
    assert "there is no file memory://none/1.png" in (tmp_path / "out/rejects.jsonl").read_text()


def test_a_network_that_fails_stops_the_set_and_says_how_to_go_on(tmp_path, image_tokenizer, monkeypatch):
    def fail(name):
        raise TimeoutError("no answer")

    monkeypatch.setattr("liquid_mm.data.tokenize.read_bytes", fail)
    with pytest.raises(UserError, match=r"memory://none/1\.png could not be fetched .*--resume"):
        tokenize([pair("memory://none/1.png")], image_tokenizer, tmp_path / "out", sizes=[(32, 32)], max_rejects=1)


def test_nothing_half_written_is_left(tmp_path, image_tokenizer, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize([pair(picture(1))], image_tokenizer, tmp_path / "out", sizes=[(32, 32)], progress=interrupt)
    with pytest.raises(UserError, match=r"no usable record \(1 rejected\).*record 0: the caption"):
        tokenize([pair(picture(1), "")], image_tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_options_out_of_range_are_refused_before_anything_is_read(tmp_path, image_tokenizer):
    for options, says in [
        ({"sizes": [(32, 32), (40, 32)]}, "40x32 does not fit .* multiples of 16"),
        ({"max_rejects": 1.5}, "between 0 and 1"),
        ({"batch_size": 0}, "at least 1"),
    ]:
        with pytest.raises(UserError, match=says):
            tokenize("nowhere.jsonl", image_tokenizer, tmp_path / "out", **options)
    with pytest.raises(UserError, match="an image tokenizer is needed"):
        tokenize([pair(picture(1))], None, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        tokenize([{"text": "one"}], None, tmp_path / "full")


def test_transparent_pictures_are_laid_over_white(tmp_path, image_tokenizer):
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    tokenize([pair(clear)], image_tokenizer, tmp_path / "out", sizes=[(32, 32)])
    (white,) = image_tokenizer.encode([Image.new("RGB", (32, 32), "white")])
    np.testing.assert_array_equal(TokenizedSet(tmp_path / "out")[0].codes, white)
