"""The two ways to train that are measured: as the release does it, and ours, on the same documents.

Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from liquid_mm.data.config import MixtureConfig, SourceConfig
from liquid_mm.train.adapt import Learner
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.flops import Cost
from liquid_mm.train.inputs import to_inputs
from liquid_mm.train.optim import make_optimizer, set_learning_rate
from liquid_mm.vocab.vocabulary import Vocabulary

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
AMX = DEVICE.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)
CODES = 256  # of a picture: 16 x 16
BATCH, ROWS = (16, 8) if DEVICE.type == "cuda" else (4, 2)
"""What is computed at once: documents padded to the longest of them, and packed rows. More does not fit a laptop."""


class Release:
    """Steps as the release makes them: Hugging Face's own loss over all logits of padded rows, `BATCH` at a time."""

    def __init__(self, llm: Any) -> None:
        self.llm, self.optimizer = llm, torch.optim.AdamW(llm.parameters(), lr=1e-5, fused=True)

    def step(self, documents: list[np.ndarray]) -> None:
        """One step of all `documents`, in batches as they come."""
        batches = [documents[start : start + BATCH] for start in range(0, len(documents), BATCH)]
        for batch in batches:
            ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
            mask = np.zeros(ids.shape, np.int64)
            for row, document in enumerate(batch):
                ids[row, : len(document)], mask[row, : len(document)] = document, 1
            tensors = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            tensors["labels"] = tensors["input_ids"].masked_fill(tensors["attention_mask"] == 0, -100)
            with precision():
                loss = self.llm(**{name: tensor.to(DEVICE) for name, tensor in tensors.items()}, use_cache=False).loss
            (loss / len(batches)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Ours:
    """The same documents packed, attention kept inside each, loss fused with the head; `ROWS` rows at a time."""

    def __init__(self, llm: Any, seq_len: int) -> None:
        codes = llm.config.vocab_size - 1024
        vocabulary = Vocabulary(
            text_size=codes, code_offset=codes, num_codes=1024, boi=7, eoi=8, unconditional=9, bos=2, eos=1, pad=0,
            downsampling=8, resolution=(128, 128),
        )  # fmt: skip
        data = MixtureConfig(sources=(SourceConfig(path=Path("none")),), seq_len=seq_len, batch_size=1)
        config = TrainConfig(model=Path("none"), output=Path("none"), data=data, steps=1, lr=1e-5)
        self.learner, self.seq_len = Learner(llm, vocabulary, config).to(DEVICE).train(), seq_len
        self.optimizer = make_optimizer(self.learner, config)
        set_learning_rate(self.optimizer, 1.0)
        self.cost = Cost.of(self.learner)

    def step(self, documents: list[np.ndarray]) -> float:
        """One step of all `documents`; returns its FLOPs."""
        packed = pack(documents, self.seq_len)
        return self.take(packed)

    def take(self, packed: Any) -> float:
        """The same of rows that are packed."""
        count, flops = len(packed["ids"]), 0.0
        for start in range(0, count, ROWS):
            batch = {name: values[start : start + ROWS] for name, values in packed.items()}
            x = to_inputs(batch, DEVICE)
            with precision():
                loss, _ = self.learner(x.ids, x.positions, x.where, x.targets, x.documents)
            (loss / max(1, int(packed["loss_mask"].sum()))).backward()
            real = batch["segment_ids"] != 0
            flops += self.cost.step(int(real.sum()), len(x.targets), int((batch["positions"][real] + 1).sum()))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return flops


def precision() -> contextlib.AbstractContextManager[Any]:
    """bf16 on a GPU; on a CPU float32, in which training is faster but for processors with AMX."""
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda" or AMX)


def pack(documents: list[np.ndarray], seq_len: int) -> dict[str, np.ndarray]:
    """First fit: each document into the first row that has room, as the data loader does."""
    rows: list[list[np.ndarray]] = []
    for document in documents:
        row = next((row for row in rows if sum(map(len, row)) + len(document) <= seq_len), None)
        if row is None:
            rows.append(row := [])
        row.append(document)
    names = ("ids", "positions", "segment_ids", "loss_mask", "modality")
    batch = {name: np.zeros((len(rows), seq_len), np.int64) for name in names}
    for number, row in enumerate(rows):
        at = 0
        for segment, document in enumerate(row, 1):
            place = number, slice(at, at + len(document))
            batch["ids"][place], batch["positions"][place] = document, np.arange(len(document))
            batch["segment_ids"][place], batch["loss_mask"][place], batch["modality"][place] = segment, 1, 1
            at += len(document)
    return batch | {"loss_mask": batch["loss_mask"].astype(bool), "modality": batch["modality"].astype(np.int8)}


def mix(rng: np.random.Generator, vocabulary: int, seq_len: int, count: int) -> list[np.ndarray]:
    """As many texts (log-normal lengths, the median 0.3 of a row) as pairs of a caption and a picture."""
    lengths = []
    for number in range(count):
        text = min(seq_len, int(rng.lognormal(np.log(0.3 * seq_len), 0.9)) + 8)
        caption = min(CODES * seq_len // 1024 + int(rng.integers(15, 60)), seq_len)
        lengths.append(text if number % 2 else caption)
    return [rng.integers(10, vocabulary, length) for length in lengths]


def make(shape: dict[str, Any], vocabulary: int) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**shape, vocab_size=vocabulary, max_position_embeddings=8192)
    return AutoModelForCausalLM.from_config(config).to(DEVICE)
