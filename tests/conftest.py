"""Shared by all tests: no network, and the parity kit (`assets/parity/README.md`)."""

from __future__ import annotations

import gc
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.vocabulary import Vocabulary

PARITY = Path(__file__).parent / "assets" / "parity"


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of the parity kit."""
    return PARITY


@pytest.fixture(scope="session")
def parity_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(PARITY / "lm")


@pytest.fixture(scope="session")
def parity_vocabulary() -> Vocabulary:
    return Vocabulary(
        text_size=768,
        code_offset=768,
        num_codes=8192,
        boi=7,
        eoi=8,
        unconditional=9,
        bos=2,
        eos=1,
        pad=0,
        downsampling=16,
        resolution=(128, 128),
    )


@pytest.fixture(scope="session")
def parity_renderer(parity_tokenizer: PreTrainedTokenizerBase, parity_vocabulary: Vocabulary) -> Renderer:
    return Renderer(parity_tokenizer, parity_vocabulary)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As Ray's actors have; with more, sums are rounded in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ray_ends() -> Iterator[None]:
    """Ends Ray with the session, in whichever test that is: one that ignores none of what Ray warns of."""
    yield
    ray = sys.modules.get("ray")
    if ray and ray.is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.shutdown()
            gc.collect()  # Ray leaves files and processes to it, each a warning and so a failed test


@pytest.fixture(scope="module")
def local_ray(ray_ends: None) -> None:
    """One Ray for the tests of all modules: starting takes seconds. Where a module ended it, another one starts."""
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    if ray.is_initialized():
        return
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray warns of its own settings as it makes them
        # More threads than processors wait for each other, and round sums in another order than one does.
        patch.setenv("OMP_NUM_THREADS", "1")
        # Ray runs what does the work at niceness 15: on a busy machine, minutes for what takes seconds.
        patch.setenv("RAY_worker_niceness", "0")
        # There, too, starting may take longer than Ray's half minute.
        patch.setenv("RAY_gcs_server_port_wait_time_s", "120")
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
