"""The study's pictures: every thing of the emoji set in three styles, each in nine views, of which one is kept apart.

    python recipes/emoji/build.py
    python recipes/scaling/pictures.py                # .cache/emoji -> .cache/scaling

    pictures.jsonl        eight views a picture, each read once at most by a cell of length 1
    validation.jsonl      the ninth view of 600 of them
    asked/mjhq-30k/       half of those in MJHQ-30K's layout, for `liquid eval --tasks mjhq-30k` to have them drawn

A scaling law is of losses on data like that trained on and never met before. A cell of length 1 would read the pictures
as they are five times over, and then what differs between sizes is when they begin to know them by heart.

Time: not measured alone. Result: 22,624 and 600 records, 300 of them to be drawn.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "emoji"))
from PIL import Image
from splits import share
from views import write_views

from liquid_mm.files import atomic_dir, atomic_file, write_json

VIEWS = 8
KEPT_APART = 600
ASKED = 300
FILES = ("train_3d.jsonl", "train_noto.jsonl", "train_twemoji.jsonl")


def main() -> None:
    """Write the views and their captions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".cache/emoji"), help="what recipes/emoji/build.py wrote")
    parser.add_argument("-o", "--out", type=Path, default=Path(".cache/scaling"))
    options = parser.parse_args()
    records: list[dict[str, str]] = []
    for name in FILES:
        for line in (options.data / name).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            if record["variant"] == "styled":
                records.append({key: record[key] for key in ("id", "image", "text")})
    views = [write_views(record, options.data, VIEWS + 1, wide=True, folder="views_scaling") for record in records]
    for seen in (view for of_one in views for view in of_one):
        seen["image"] = str((options.data / seen["image"]).resolve())
    drawn = sorted(views, key=lambda seen: share("scaling", seen[0]["image"].rsplit("/", 1)[-1]))[:KEPT_APART]
    options.out.mkdir(parents=True, exist_ok=True)
    files = {
        "pictures": [view for seen in views for view in seen[:VIEWS]],
        "validation": [seen[VIEWS] for seen in drawn],
    }
    for name, found in files.items():
        with atomic_file(options.out / f"{name}.jsonl") as part:
            part.write_text("".join(json.dumps(view, ensure_ascii=False) + "\n" for view in found), encoding="utf-8")
        print(f"{len(found)} records in {options.out / name}.jsonl")
    write_asked(files["validation"][:ASKED], options.out / "asked" / "mjhq-30k")


def write_asked(records: list[dict[str, str]], folder: Path) -> None:
    """The pictures and captions as MJHQ-30K lays out its own, all in one category."""
    with atomic_dir(folder, overwrite=True) as part:
        (part / "mjhq30k_imgs" / "emoji").mkdir(parents=True)
        prompts = {}
        for record in records:
            name = record["id"].replace("/", "-")
            prompts[name] = {"category": "emoji", "prompt": record["text"]}
            with Image.open(record["image"]) as image:
                image.convert("RGB").save(part / "mjhq30k_imgs" / "emoji" / f"{name}.jpg", quality=95)
        write_json(part / "meta_data.json", prompts)
    print(f"{len(records)} pictures to be drawn in {folder}")


if __name__ == "__main__":
    main()
