"""The settings of `sampling`, apart from it: commands check values before they import anything large."""

from __future__ import annotations

import dataclasses

from liquid_mm.errors import UserError


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How logits become a choice.

    Args:
        temperature: logits are divided by it; above 0.
        top_k: keep that many most likely ids, at least 1 (1 is greedy); None keeps all.
        top_p: then keep the smallest set of most likely ids that holds this much probability, in (0, 1].
        guidance_scale: classifier-free guidance for image codes, at least 1 (1: none); see `generate.guidance`.

    Raises:
        UserError: a value is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: it must be above 0 (for greedy decoding set top_k=1).")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}: it must be 1 (greedy) or more, or None to keep every id.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: it must be above 0 and at most 1 (1 keeps every id).")
        if not 1 <= self.guidance_scale < float("inf"):
            raise UserError(f"guidance_scale is {self.guidance_scale}: it must be 1 (no guidance) or more.")
