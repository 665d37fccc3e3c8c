"""What the demo model learns: the 107 things that people mostly ask for, and what is made of their pictures.

train_common.jsonl           3D style, three captions a picture        drawing, and describing
train_common_noto.jsonl      the same things in Noto style
train_common_twemoji.jsonl   … in Twemoji style
train_views.jsonl            3D and Noto pictures moved, resized, dimmed    describing
train_views_more.jsonl       the same of Twemoji, and of two styles that are never drawn
train_views_wide.jsonl       all five styles, turned and slanted as well
test_pictures.jsonl          of the last three styles, pictures that training never shows, of things it knows
test_style.jsonl             things it knows, in a style that training never shows
train_pairs.jsonl, test_pairs.jsonl            two things in one picture    drawing at other sizes
train_questions.jsonl, test_questions.jsonl    conversations of one question
train_questions_wide.jsonl   the same about pictures of train_views_wide
train_views_styles.jsonl, train_questions_styles.jsonl    three more styles, seen alone; one large thing counted
train_counts.jsonl           one to four of a thing, of altered views in eight styles, and one large one
chat_common.jsonl            requests to draw, and questions what it is
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from captions import with_article
from chats import STYLE_SAID, chats
from iconify import ICON_STYLES, UNSEEN_STYLE
from pictures import SEEN_STYLES, Style
from questions import count_questions, easy_vqa, single_questions, thing_questions, view_counts
from scenes import pair_records
from splits import share
from views import WIDE_VIEWS, write_views

Record = dict[str, Any]

SHORT_VARIANTS = ("styled", "article", "name")
TEST_PICTURES = 0.2  # of the pictures in Twemoji style and in those that are never drawn


def unseen(record: Mapping[str, Any]) -> bool:
    """Whether this picture of a known thing is kept for `test_pictures.jsonl`."""
    return share("unseen picture", record["image"]) < TEST_PICTURES


def _seen(records: Iterable[Record], style: Style, codes: Iterable[str]) -> Iterator[Record]:
    """The things of `records` that `style` has too, as it draws them."""
    drawn = set(codes)
    for record in records:
        code = Path(record["image"]).stem
        if code in drawn:
            yield record | {
                "id": f"{code}/{style.key}/article",
                "image": f"images/{style.key}/{code}.png",
                "text": with_article(record["name"]),
                "style": style.label,
                "variant": "article",
            }


def common_files(
    files: Mapping[str, list[Record]], codes: Mapping[str, Iterable[str]], out: Path
) -> dict[str, list[Record]]:
    """Write the pictures this needs besides the emoji themselves; returns the records of each file above.

    Args:
        files: the records of "train_3d", "train_noto" and "train_twemoji".
        codes: style key -> the codes it has a picture of.
        out: what image paths start from.
    """

    def styled(key: str) -> list[Record]:
        return [r for r in files[f"train_{key}"] if r["common"] and r["variant"] == "styled"]

    first, noto, twemoji = styled("3d"), styled("noto"), styled("twemoji")
    known, tested = [r for r in twemoji if not unseen(r)], [r for r in twemoji if unseen(r)]
    described = []
    for other in (other for style in SEEN_STYLES for other in _seen(first, style, codes[style.key])):
        (tested if unseen(other) else described).append(other)
    icons = [other for style in ICON_STYLES for other in _seen(first, style, codes[style.key])]
    common = first + noto
    views = [seen for record in common for seen in write_views(record, out)]
    more = [seen for record in known + described for seen in write_views(record, out)]
    wide, styles = (
        [seen for record in records for seen in write_views(record, out, WIDE_VIEWS, wide=True, folder="views_wide")]
        for records in (common + known + described, icons)
    )
    counts = count_questions(common, out)
    return {
        "train_common": [r for r in files["train_3d"] if r["common"] and r["variant"] in SHORT_VARIANTS],
        "train_common_noto": noto,
        "train_common_twemoji": known,
        "train_views": views,
        "train_views_more": more,
        "train_views_wide": wide,
        "test_pictures": [record | {"split": "test"} for record in tested],
        "test_style": [record | {"split": "test"} for record in _seen(first, UNSEEN_STYLE, codes[UNSEEN_STYLE.key])],
        **pair_records(first, out),
        "train_questions": [*thing_questions((views + more)[::2]), *counts["train"], *easy_vqa("train", out)],
        "train_questions_wide": list(thing_questions(wide[::4])),
        "train_views_styles": styles,
        "train_questions_styles": [
            *thing_questions(styles[::4]),
            *single_questions((wide + styles)[1 :: 8 * WIDE_VIEWS]),  # as many as of each other number
        ],
        "train_counts": [*view_counts((wide + styles)[3::5], out), *single_questions((wide + styles)[1::12])],
        "test_questions": [
            *thing_questions(tested),
            # Training names these pictures, and asks such questions about altered views of them alone.
            *(asked | {"kind": f"{asked['kind']}, known picture"} for asked in thing_questions(common + known)),
            *counts["test"],
            *(asked | {"kind": "count, one large thing"} for asked in single_questions(tested)),
            *easy_vqa("test", out),
        ],
        "chat_common": [
            chat
            for record in common
            # What is asked for without a style is drawn in the first one.
            for chat in chats(
                record["name"], record["style"], record["image"], 4, STYLE_SAID if record["style"] == "3D" else 1.0
            )
            if len(chat["messages"]) == 2
        ],
    }
