"""Everything about a run that changes its numbers; written into `results.json` and compared before resuming."""

from __future__ import annotations

from pydantic import Field

from liquid_mm.config import Config


class EvalSettings(Config):
    """Settings of an evaluation; the sampling defaults are those of the paper's release.

    Attributes:
        seed: picture number i of a task is drawn with seed + i, whatever is drawn beside it.
        size: (width, height) of drawn pictures in pixels; None is the model's own.
        guidance_scale, temperature, top_k, top_p: for drawing pictures.
        max_new_tokens: of an answer to a question about a picture, which is decoded greedily.
        limit: only the first so many examples of each task; None takes all.
        features: the feature net of Fréchet distances, see `features.load_features`.
        judge: folder or Hub id of the VQAScore judge; None leaves VQAScore out.
        clip: folder or Hub id of a CLIP model for CLIPScore; None leaves it out.
        shots: examples in the prompt of text tasks; None is the paper's number for each task.
    """

    seed: int = Field(default=0, ge=0)
    size: tuple[int, int] | None = None
    guidance_scale: float = 7.0
    temperature: float = 0.99
    top_k: int | None = 4096
    top_p: float = 0.96
    max_new_tokens: int = Field(default=16, ge=1)
    limit: int | None = Field(default=None, ge=1)
    features: str = "inception"
    judge: str | None = None
    clip: str | None = None
    shots: int | None = Field(default=None, ge=0)


SCORING = ("features", "judge", "clip")
"""Settings that `--rescore` may change: predictions do not depend on them."""
