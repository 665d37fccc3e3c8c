"""What the entry point `lmms_eval.models` of this package names: where lmms-eval 0.7 finds the class `lmms.Liquid`.

Apart from `lmms`, for lmms-eval reads it while it is still being imported itself.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """A `ModelManifest` of lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="liquid", simple_class_path="liquid_mm.evaluate.lmms.Liquid")
