"""MJHQ-30K (Li et al. 2024, arXiv 2402.17245): 30,000 prompts in ten categories, FID against their pictures.

    meta_data.json                   {"<id>": {"category": "animals", "prompt": …}, …}
    mjhq30k_imgs/animals/<id>.jpg    the reference pictures

The features' mean and covariance are summed up per category while pictures stream by; the categories' sums add up to
the whole, so overall and per-category distances come from one pass.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from liquid_mm.evaluate.data import DataSource
from liquid_mm.evaluate.drawing import DrawingTask
from liquid_mm.evaluate.features import FeatureNet, folds_of, load_features
from liquid_mm.evaluate.frechet import Folds, frechet_interval
from liquid_mm.evaluate.pictures import load_picture
from liquid_mm.evaluate.protocol import Context, Example, Prediction, Scored, Table, Value, mean_of
from liquid_mm.files import read_json

Pairs = list[tuple[Path, Path]]


class MJHQ30K(DrawingTask):
    """FID of drawn pictures, overall and per category."""

    name = "mjhq-30k"
    data = DataSource(
        "mjhq-30k",
        "meta_data.json and mjhq30k_imgs/CATEGORY/ID.jpg",
        "none stated by its authors (playgroundai/MJHQ-30K)",
        command="hf download playgroundai/MJHQ-30K meta_data.json mjhq30k_imgs.zip --repo-type dataset --local-dir DIR "
        "&& unzip -q DIR/mjhq30k_imgs.zip -d DIR/mjhq30k_imgs",
    )

    def examples(self, context: Context) -> Sequence[Example]:
        """One per prompt, in the order of the file."""
        metadata = read_json(self.data.require(context.data / "meta_data.json"))
        self.data.require(context.data / "mjhq30k_imgs")
        return [
            Example(key, {"prompt": item["prompt"], "category": item["category"]}, i)
            for i, (key, item) in enumerate(metadata.items())
        ]

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """The Fréchet distance to the reference pictures of the same prompts, and scores by judges if asked for."""
        net = load_features(context.settings.features, context.device)
        pairs: defaultdict[str, Pairs] = defaultdict(list)
        for prediction in predictions:
            category = prediction["inputs"]["category"]
            reference = context.data / "mjhq30k_imgs" / category / f"{prediction['id']}.jpg"
            pairs[category].append((self.data.require(reference), context.folder / prediction["image"]))
        columns, notes = self.judged(predictions, context)
        rows = [
            {"id": prediction["id"], **{name: values[number] for name, values in columns.items()}}
            for number, prediction in enumerate(predictions)
        ]
        note = f"fid: Fréchet distance over {net.name}"
        return Scored(rows if columns else [], distances(pairs, net), (note, *notes))

    def summarise(self, table: Table) -> dict[str, Value]:
        """Mean scores of the judges."""
        return {name: mean_of(table, name) for name in ("vqascore", "clipscore") if name in table}


def distances(pairs: dict[str, Pairs], net: FeatureNet) -> dict[str, Value]:
    """`fid` over all pairs of (reference, drawn) pictures, and `fid/CATEGORY`; the intervals take pairs together."""
    whole = (Folds(net.dim), Folds(net.dim))
    values = {}
    for category, files in sorted(pairs.items()):
        part = tuple(folds_of((load_picture(pair[side]) for pair in files), net) for side in (0, 1))
        for total, own in zip(whole, part, strict=True):
            total.merge(own)
        if len(files) > 1:
            values[f"fid/{category}"] = _value(*part)
    return {"fid": _value(*whole), **values}


def _value(reference: Folds, drawn: Folds) -> Value:
    distance, bounds = frechet_interval(reference, drawn)
    return Value(distance, drawn.n, bounds=bounds)
