"""Where a run's trained weights begin, if not at the model's own: another run, or an adapter such as the demo's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import set_peft_model_state_dict

from liquid_mm.adapter import LORA, read_lora, read_rows
from liquid_mm.checkpoint import Checkpoint
from liquid_mm.config import load_config
from liquid_mm.errors import UserError
from liquid_mm.record import RECORD, read_record, resolve
from liquid_mm.train.adapt import Learner
from liquid_mm.train.checkpoint import checkpoints
from liquid_mm.train.config import TrainConfig


def first_stage(config: TrainConfig) -> Path | None:
    """The training checkpoint or adapter folder that `config.start_from` leads to; None without one.

    Raises:
        UserError: there is none, or it holds something else than this run trains.
    """
    start = config.start_from
    if start is None:
        return None
    folder = resolve(start)
    if found := checkpoints(folder / "checkpoints"):
        before = load_config(TrainConfig, folder / "config.yaml")
        if differ := [key for key in ("model", "method", "lora") if getattr(before, key) != getattr(config, key)]:
            raise UserError(
                f"start_from: {start} differs in {', '.join(differ)}; a second stage trains the same weights of the "
                f"same model. To begin with all it has learnt, use model={start / 'final'} instead."
            )
        return found[-1]
    if not (folder / RECORD).is_file():
        raise UserError(
            f"start_from: {start} holds neither checkpoints/step-*, as a run's folder does, nor an adapter's {RECORD}; "
            '"demo" is the model that ships.'
        )
    if not is_adapter(folder):
        raise UserError(f"start_from: {start} holds whole weights: begin with them by model={start}.")
    if config.method != "lora":
        raise UserError(f"start_from: {start} is an adapter, which only method=lora goes on with.")
    if not (folder / LORA).is_dir():
        raise UserError(f"start_from: {start} holds new rows and no LoRA, so there is none to go on with.")
    lora, _ = read_lora(folder)
    if (lora.r, lora.lora_alpha) != (config.lora.rank, config.lora.alpha):
        raise UserError(
            f"start_from: {start} has LoRA of rank {lora.r} and alpha {lora.lora_alpha:g}; "
            f"set lora.rank and lora.alpha to these."
        )
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds the small form of a checkpoint, and not a run's weights or whole ones."""
    return (folder / RECORD).is_file() and "base" in read_record(folder)


def load_adapter(learner: Learner, model: Checkpoint, folder: Path) -> None:
    """Put an adapter's rows and LoRA weights into a learner, before that is sharded.

    Args:
        learner: of `model`, whose frozen weights are known to be those the adapter stands on.
        model: what the run trains.
        folder: the adapter's.

    Raises:
        UserError: the adapter belongs to another model, image tokenizer or other LoRA targets.
    """
    assert learner.rows is not None, "the learner trains LoRA and rows"
    assert learner.peft is not None, "the learner trains LoRA and rows"
    record = read_record(folder)
    if record["image_tokenizer_fingerprint"] != model.image_tokenizer.fingerprint:
        raise UserError(
            f"start_from: {folder} was trained with another image tokenizer, whose codes mean other patches: extend "
            "the model with that one (`liquid extend -t` takes the adapter's folder)."
        )
    rows = read_rows(folder)
    names = ["embedding"] if learner.rows.tied else ["embedding", "head"]
    if record["vocabulary"] != model.vocabulary.to_json() or rows["ids"].tolist() != learner.row_ids:
        raise UserError(f"start_from: {folder} has other new rows than the model: it belongs to another model.")
    for name, master in zip(names, learner.rows.masters, strict=True):
        master.data.copy_(rows[name])
    _, weights = read_lora(folder)
    loaded: Any = set_peft_model_state_dict(learner.peft, weights)
    missing = [key for key in loaded.missing_keys if "lora_" in key]
    if missing or loaded.unexpected_keys:
        raise UserError(
            f"start_from: {folder} has LoRA on other layers than lora.targets; the first that differs is "
            f"{(missing + loaded.unexpected_keys)[0]}."
        )
    learner.after_step()
