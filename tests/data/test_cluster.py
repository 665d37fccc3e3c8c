"""Tokenising on a local Ray: two workers, one of which is killed, make the set that one process makes."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from datakit import picture

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.tokenize import tokenize
from liquid_mm.errors import UserError

pytest.importorskip("ray", reason="the extra `cluster` is not installed")

# Ray warns of its own settings as it makes them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def image_tokenizer(kill_once):
    """Codes that say how bright each patch is; the first worker to encode kills itself, if `kill_once` names a file.

    Made inside a function, so that it reaches the workers by value: they cannot import the tests.
    """

    class Brightness:
        num_codes, downsampling, resolution, fingerprint = 256, 16, (32, 32), "0" * 16

        @property
        def codebook(self):
            import torch

            return torch.arange(256.0)[:, None]

        def to(self, device, dtype=None):
            return self

        def encode(self, images):
            if kill_once is not None:
                try:
                    os.close(os.open(kill_once, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    os.kill(os.getpid(), signal.SIGKILL)
            pixels = [np.asarray(image.convert("L"), dtype=np.int64) for image in images]
            return [p.reshape(p.shape[0] // 16, 16, p.shape[1] // 16, 16).mean((1, 3)).astype(np.int64) for p in pixels]

    return Brightness()


def everything(folder):
    data = TokenizedSet(folder)
    return [(data.id(n), data[n].text, data[n].codes.tolist()) for n in range(len(data))]


def test_a_killed_worker_costs_nothing(tmp_path, local_ray):
    for number in range(40):
        folder = tmp_path / f"source/{number // 10}"
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number:02}.png")
        if number % 9:
            (folder / f"{number:02}.txt").write_text(f"disc {number}")
    options = {"batch_size": 3, "max_rejects": 1.0}
    here = tokenize(tmp_path / "source", image_tokenizer(None), tmp_path / "here", **options)
    killer = image_tokenizer(str(tmp_path / "killed"))
    there = tokenize(tmp_path / "source", killer, tmp_path / "there", cluster=True, workers=2, **options)
    assert (tmp_path / "killed").exists()
    assert here == there
    assert everything(tmp_path / "here") == everything(tmp_path / "there")
    rejects = [(tmp_path / name / "rejects.jsonl").read_text() for name in ("here", "there")]
    assert rejects[0] == rejects[1]


def test_a_source_that_cannot_travel_is_named(tmp_path, local_ray):
    with pytest.raises(UserError, match="cannot be sent to other processes"):
        tokenize(({"text": str(n)} for n in range(3)), None, tmp_path / "out", cluster=True)
