from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.report import _curve, _histogram, write_report
from liquid_mm.data.show import show_summary
from liquid_mm.data.summary import summarize
from liquid_mm.data.tokenize import tokenize
from liquid_mm.errors import UserError


def report(folder, tmp_path, renderer=None, decoder=None) -> str:
    data = TokenizedSet(folder)
    write_report(tmp_path / "report.html", data, summarize(data, renderer), decoder)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_report_holds_numbers_texts_and_pictures_and_needs_nothing_else(sets, tmp_path, image_tokenizer, renderer):
    page = report(sets["pairs"], tmp_path, renderer, image_tokenizer)
    data = TokenizedSet(sets["pairs"])
    assert "<td>records</td><td>23</td>" in page
    assert "Ids per record" in page
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert len(shown) == 23
    expected = image_tokenizer.decode([data[0].codes])[0]
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(shown[0])))), np.asarray(expected))
    assert all(data[n].text in page for n in range(23))
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_without_an_image_tokenizer_pictures_are_named_as_missing(sets, tmp_path):
    page = report(sets["chat"], tmp_path)
    assert "<img" not in page
    assert page.count("[picture]") == 14
    assert "name the image tokenizer" in page


def test_text_is_escaped_and_rejects_are_listed(tmp_path):
    tokenize([{"text": "<script>1 < 2</script>"}, {"text": ""}], None, tmp_path / "set", max_rejects=0.5)
    page = report(tmp_path / "set", tmp_path)
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "record 1: the text (field `text`) is missing or empty." in page
    assert "Sizes of images" not in page


def test_histograms_count_everything():
    values = np.arange(1000)
    bars = _histogram(values)
    assert sum(count for _, count, _ in bars) == 1000
    assert len(bars) == 31
    assert max(share for _, _, share in bars) == 1
    assert _histogram(np.array([0, 0, 0])) == [("0", 3, 1.0)]


def test_the_curve_falls_from_the_most_frequent_code():
    points = [tuple(map(float, point.split(","))) for point in _curve(np.array([0, 9, 3])).split()]
    assert [x for x, _ in points] == [0, 200, 400]
    assert points[0][1] == 0
    assert points[1][1] == pytest.approx(160 * (1 - np.log(4) / np.log(10)), abs=0.1)
    assert points[2][1] == 160


def test_codes_of_another_image_tokenizer_are_not_decoded(sets):
    class Other:
        fingerprint = "0" * 16

    with pytest.raises(UserError, match="made with another image tokenizer"):
        show_summary(sets["pairs"], None, Other())
