"""An independent judge of emoji pictures: which picture of a gallery is a drawn one nearest to?

The features are EfficientNet-lite0's, trained on ImageNet photographs: it has seen neither our captions nor our codes.
A drawing of a concept counts as found where the gallery's own picture of that concept, in the same style, is the
nearest (top-1) or among the ten nearest (top-10) by cosine similarity, features taken relative to the gallery's mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Real pictures to compare with.

    Args:
        features: (n, d), one row per picture.
        styles: (n,) the style of each.
    """

    features: Features
    styles: Sequence[str]

    def ranks(self, drawn: Features, wanted: Sequence[int]) -> NDArray[np.int64]:
        """The rank, 0 being the nearest, of the wanted gallery picture for each row of `drawn` (m, d).

        Only pictures of the wanted one's style take part. Ties count against the drawing.
        """
        mean = self.features.mean(0)
        similarity = _unit(drawn - mean) @ _unit(self.features - mean).T
        styles = np.array(self.styles)
        same = styles[None, :] == styles[np.asarray(wanted)][:, None]
        own = similarity[np.arange(len(drawn)), wanted][:, None]
        better = (similarity >= own) & same
        ranks: NDArray[np.int64] = better.sum(1) - 1
        return ranks

    def chance(self, wanted: Sequence[int], top: int) -> float:
        """Share of `wanted` that a blind judge would have among its `top` nearest."""
        styles = np.array(self.styles)
        sizes = np.array([(styles == styles[index]).sum() for index in wanted])
        return float(np.minimum(1.0, top / sizes).mean())


def _unit(vectors: Features) -> Features:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def matches(answer: str, name: str) -> tuple[bool, bool]:
    """Whether a caption says exactly `name`, and whether it holds a word of it that says something.

    Articles and a style at the end do not count; a word says something if it is longer than three letters.

    >>> matches("a red apple, 3D style", "red apple"), matches("a green apple", "red apple")
    ((True, True), (False, True))
    """
    said, wanted = _plain(answer), _plain(name)
    words = {word for word in wanted.split() if len(word) > 3} or set(wanted.split())
    return said == wanted, bool(words & set(said.split()))


def _plain(text: str) -> str:
    head = text.lower().split(",")[0].split("(")[0].strip(" .")
    for article in ("a ", "an ", "the "):
        head = head.removeprefix(article)
    return head
