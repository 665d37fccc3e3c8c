"""Classifier-free guidance: step from what the model would draw for no prompt towards what it draws for this one.

    guided = u + s · (c − u)      c: logits after the prompt; u: after the unconditional prompt; s: the scale

Both rows are then fed the same sampled code (the released sampling rule).
At scale 1 the result is c, so the second row is never made: guidance 1 is no guidance, in cost too.
"""

from __future__ import annotations

from torch import Tensor


def is_guided(scale: float) -> bool:
    """Whether a request at this scale needs an unconditional row."""
    return scale != 1.0


def guide(conditional: Tensor, unconditional: Tensor, scale: float | Tensor) -> Tensor:
    """Guided logits in float32, of the shape of both inputs; `scale` is a number or broadcasts against them."""
    u = unconditional.float()
    return u + scale * (conditional.float() - u)
