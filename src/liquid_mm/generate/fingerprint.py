"""A short hash of a model as it is loaded, so that a picture's record can say what drew it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from liquid_mm.checkpoint import Checkpoint

SAMPLES = 4096
"""Values of each tensor that are hashed: training changes all of them, and billions would take minutes."""


def weights_fingerprint(checkpoint: Checkpoint) -> str:
    """16 hex digits over the language model (evenly spaced values of each weight), vocabulary and image tokenizer."""
    digest = hashlib.sha256()
    images = checkpoint.image_tokenizer
    digest.update(f"{checkpoint.vocabulary.fingerprint()} {images.fingerprint} {images.decoder_fingerprint}".encode())
    for name, tensor in sorted(checkpoint.llm.state_dict().items()):
        digest.update(name.encode())
        _add(digest, tensor)
    return digest.hexdigest()[:16]


def _add(digest: Any, tensor: Tensor) -> None:
    if hasattr(tensor, "__tensor_flatten__"):  # quantised: a tensor made of others
        for part in tensor.__tensor_flatten__()[0]:
            _add(digest, getattr(tensor, part))
        return
    digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
    flat = tensor.detach().flatten()
    flat = flat[:: max(1, len(flat) // SAMPLES)].cpu().contiguous()
    digest.update(flat.view(torch.uint8).numpy().tobytes())
