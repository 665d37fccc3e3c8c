"""Where a run's trained weights begin, if not at the model's own: another run, or an adapter such as the demo's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import LoraConfig, set_peft_model_state_dict
from safetensors.torch import load_file

from liquid_mm.adapter import LORA, read_rows
from liquid_mm.config import load_config
from liquid_mm.errors import UserError
from liquid_mm.record import RECORD, resolve, stored_base
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
    if not is_adapter(folder):
        raise UserError(
            f"start_from: {start} holds neither checkpoints/step-*, as a run's folder does, nor an adapter's "
            '("demo" for the model that ships).'
        )
    if config.method != "lora" or not (folder / LORA).is_dir():
        raise UserError(f"start_from: an adapter can only be gone on with by method=lora, and {start} must hold LoRA.")
    if config.adapter_base is not None and (base := stored_base(folder)) != config.adapter_base:
        raise UserError(f"start_from: {start} stands on {base}, not on adapter_base={config.adapter_base}.")
    lora = LoraConfig.from_pretrained(str(folder / LORA))
    if (lora.r, lora.lora_alpha) != (config.lora.rank, config.lora.alpha):
        raise UserError(
            f"start_from: {start} has LoRA of rank {lora.r} and alpha {lora.lora_alpha:g}; "
            f"set lora.rank and lora.alpha to these."
        )
    return folder


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds the small form of a checkpoint, not a run's."""
    return (folder / RECORD).is_file()


def load_adapter(learner: Learner, folder: Path) -> None:
    """Put an adapter's rows and LoRA weights into a learner whose model has the same new rows; before it is sharded.

    Raises:
        UserError: the adapter belongs to another model or other LoRA targets.
    """
    assert learner.rows is not None, "the learner trains LoRA and rows"
    assert learner.peft is not None, "the learner trains LoRA and rows"
    rows = read_rows(folder)
    names = ["embedding"] if learner.rows.tied else ["embedding", "head"]
    if rows.keys() != {"ids", *names} or rows["ids"].tolist() != learner.row_ids:
        raise UserError(f"start_from: {folder} has other new rows than the model: it belongs to another model.")
    for name, master in zip(names, learner.rows.masters, strict=True):
        master.data.copy_(rows[name])
    weights = load_file(folder / LORA / "adapter_model.safetensors")
    loaded: Any = set_peft_model_state_dict(learner.peft, weights)
    missing = [key for key in loaded.missing_keys if "lora_" in key]
    if missing or loaded.unexpected_keys:
        raise UserError(
            f"start_from: {folder} has LoRA on other layers than lora.targets; the first that differs is "
            f"{(missing + loaded.unexpected_keys)[0]}."
        )
    learner.after_step()
