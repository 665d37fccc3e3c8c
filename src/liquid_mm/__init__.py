"""Turn any language model into one that reads, writes, sees and draws: image codes in one vocabulary with text.

    import liquid_mm

    model = liquid_mm.load("demo")
    model.generate_images(["a red apple"], seed=0)[0].image.save("apple.png")

Names are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import gc
import importlib
import logging
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from liquid_mm.checkpoint import Checkpoint, extend, load_checkpoint, save_checkpoint
    from liquid_mm.errors import UserError
    from liquid_mm.generate.images import GeneratedImage
    from liquid_mm.generate.model import LiquidModel, load
    from liquid_mm.release import import_release
    from liquid_mm.vocab.records import Chat, ImageToText, Message, Rendered, Text, TextToImage
    from liquid_mm.vocab.vocabulary import Vocabulary

__all__ = [
    "Chat",
    "Checkpoint",
    "GeneratedImage",
    "ImageToText",
    "LiquidModel",
    "Message",
    "Rendered",
    "Text",
    "TextToImage",
    "UserError",
    "Vocabulary",
    "extend",
    "import_release",
    "load",
    "load_checkpoint",
    "save_checkpoint",
]

_HOME = {
    "checkpoint": ("Checkpoint", "extend", "load_checkpoint", "save_checkpoint"),
    "errors": ("UserError",),
    "generate.images": ("GeneratedImage",),
    "generate.model": ("LiquidModel", "load"),
    "release": ("import_release",),
    "vocab.records": ("Chat", "ImageToText", "Message", "Rendered", "Text", "TextToImage"),
    "vocab.vocabulary": ("Vocabulary",),
}


TALKATIVE = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree", "diffusers.quantizers")]
"""They list the GPU kernels that this machine cannot load."""


_importing = threading.RLock()


def _import(module: str) -> ModuleType:
    """Without such lists, and without the garbage collector, which takes one of five seconds and finds nothing."""
    with _importing:
        return _import_quietly(module)


def _import_quietly(module: str) -> ModuleType:
    running, levels = gc.isenabled(), [logger.level for logger in TALKATIVE]
    gc.disable()
    for logger in TALKATIVE:
        logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module(module)
    finally:
        if running:
            gc.enable()
        for logger, level in zip(TALKATIVE, levels, strict=True):
            logger.setLevel(level)


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            value = getattr(_import(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
