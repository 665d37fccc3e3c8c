"""Tiny models of many families, batches whose every value follows from a seed, and runs of both to compare."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch
import transformers
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from liquid_mm.data.config import MixtureConfig, SourceConfig
from liquid_mm.train import checkpoint
from liquid_mm.train.adapt import Learner
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.engine import Engine
from liquid_mm.train.loop import Trainer
from liquid_mm.train.metrics import read_metrics
from liquid_mm.vocab.vocabulary import Vocabulary

VOCABULARY = Vocabulary(
    text_size=60,
    code_offset=64,
    num_codes=32,
    boi=7,
    eoi=8,
    unconditional=9,
    bos=2,
    eos=1,
    pad=0,
    downsampling=8,
    resolution=(32, 32),
)

SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = dict(
    **SHAPE, num_key_value_heads=1, max_position_embeddings=128, pad_token_id=0, bos_token_id=2, eos_token_id=1
)
FAMILIES = {
    "gemma": lambda: transformers.GemmaConfig(**GROUPED, head_dim=16),
    "gemma2": lambda: transformers.Gemma2Config(
        **GROUPED, head_dim=16, sliding_window=5, final_logit_softcapping=3.0, attn_logit_softcapping=5.0
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **GROUPED, head_dim=16, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
    ),
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "llama_tied": lambda: transformers.LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=16),
    "phi_pairs": lambda: transformers.PhiConfig(**GROUPED | {"num_key_value_heads": 2, "resid_pdrop": 0.1}),
    "gemma3_pairs": lambda: transformers.Gemma3TextConfig(
        **GROUPED | {"num_key_value_heads": 2},
        head_dim=16,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "qwen3_pairs": lambda: transformers.Qwen3Config(**GROUPED | {"num_key_value_heads": 2}, head_dim=16),
    "qwen3_fours": lambda: transformers.Qwen3Config(
        **GROUPED | {"num_attention_heads": 4, "num_key_value_heads": 2}, head_dim=16
    ),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=5),
    "phi": lambda: transformers.PhiConfig(**GROUPED),
    "phi3": lambda: transformers.Phi3Config(**GROUPED),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=96, n_embd=32, n_layer=2, n_head=2, n_positions=128, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    ),
}


def tiny(family="llama_tied", seed=0):
    """A seeded model whose logits are large enough to have an opinion."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation=None)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()  # as one is that was loaded


def recipe(tmp_path, **settings):
    data = MixtureConfig(sources=(SourceConfig(path=tmp_path / "none"),), seq_len=28, batch_size=4)
    defaults = {
        "model": tmp_path / "model",
        "output": tmp_path / "run",
        "data": data,
        "steps": 6,
        "precision": "fp32",
        "lr": 1e-2,
        "log_every": 1,
    }
    return TrainConfig.model_validate(defaults | settings)


def documents(rng, count):
    """(ids, loss_mask, modality) of some short documents: text, or an image after its caption."""
    made = []
    for _ in range(count):
        text = rng.integers(10, 60, int(rng.integers(2, 6)))
        if rng.random() < 0.4:
            ids = np.concatenate([[2], text])
            made.append((ids, np.ones(len(ids), bool), np.ones(len(ids), np.int8)))
        else:
            ids = np.concatenate([[2], text, [7], rng.integers(64, 96, 4), [8, 1]])
            mask = np.arange(len(ids)) > len(text) + 1
            made.append((ids, mask, np.where(mask, 2, 0).astype(np.int8)))
    return made


def pack(rows, length):
    """Rows, each a list of documents, as one batch."""
    batch = {
        name: np.zeros((len(rows), length), kind)
        for name, kind in (
            ("ids", np.int64),
            ("loss_mask", bool),
            ("positions", np.int64),
            ("segment_ids", np.int64),
            ("modality", np.int8),
        )
    }
    for row, contents in enumerate(rows):
        at = 0
        for number, (ids, mask, modality) in enumerate(contents, 1):
            place = row, slice(at, at + len(ids))
            batch["ids"][place], batch["loss_mask"][place], batch["modality"][place] = ids, mask, modality
            batch["positions"][place], batch["segment_ids"][place] = np.arange(len(ids)), number
            at += len(ids)
    return batch


class Synthetic:
    """An endless stream over a small set read in epochs of 5 batches, as the real mixture behaves."""

    def __init__(self, rows=4, rank=0, world=1):
        self.at, self.rows, self.share = 0, rows, slice(rank, None, world)

    def __iter__(self):
        return self

    def __next__(self):
        rng = np.random.default_rng([self.at // 5, self.at % 5])
        self.at += 1
        batch = pack([documents(rng, 2) for _ in range(self.rows)], 28)
        return {name: value[self.share] for name, value in batch.items()}

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


CLOCK = ("tokens_per_second",)


def trainer(config, batches=None, family="llama_tied", **options):
    engine = Engine(config.precision)
    torch.manual_seed(config.seed)
    learner = Learner(tiny(family), VOCABULARY, config)
    return Trainer(learner, batches or Synthetic(), config, engine, progress=False, **options)


def reports(config):
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in read_metrics(config.output / "metrics.jsonl")]


def weights(config):
    """All tensors of the newest checkpoint but random states, which differ where processes do."""
    path = config.output / "weights.pt"
    dcp_to_torch_save(checkpoint.checkpoints(config.output / "checkpoints")[-1], path)
    return {name: value for name, value in torch.load(path).items() if not name.startswith("random/")}


def assert_equal(config, expected):
    ours, theirs = weights(config), weights(expected)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_close(config, expected, tolerance):
    for ours, theirs in zip(reports(config), reports(expected), strict=True):
        assert ours.pop("kind") == theirs.pop("kind")
        assert ours == pytest.approx(theirs, rel=tolerance)


class Stopping(Synthetic):
    """Sends this process a signal while batch `after` is read."""

    def __init__(self, after, number=signal.SIGINT):
        super().__init__()
        self.after, self.number = after, number

    def __next__(self):
        if self.at == self.after:
            os.kill(os.getpid(), self.number)
        return super().__next__()
