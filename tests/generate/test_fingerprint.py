"""What a picture's record says drew it."""

import dataclasses

import torch

from liquid_mm.generate.fingerprint import weights_fingerprint
from liquid_mm.image.vqgan import VQGAN
from tiny_checkpoint import tiny_checkpoint


def test_another_decoder_is_another_model(tmp_path):
    checkpoint = tiny_checkpoint("smollm")
    checkpoint.image_tokenizer.save(tmp_path / "tokenizer")
    same, changed = (VQGAN.load(tmp_path / "tokenizer") for _ in range(2))
    with torch.no_grad():
        next(changed.model.decoder.parameters()).add_(1)
    found = [
        weights_fingerprint(dataclasses.replace(checkpoint, image_tokenizer=images))
        for images in (checkpoint.image_tokenizer, same, changed)
    ]
    assert changed.fingerprint == same.fingerprint
    assert found[0] == found[1] != found[2]
