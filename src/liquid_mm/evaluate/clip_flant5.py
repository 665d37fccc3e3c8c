"""CLIP-FlanT5, the judge behind published VQAScores (Lin et al. 2024, arXiv 2404.01291), from transformers' classes.

    picture ──pad to a square──> CLIP ViT, second last layer, patches only ──two linear layers──┐
    "… USER: <image>\\nDoes this figure show "…"? … ASSISTANT: " ──T5 embeddings──> spliced in ──> encoder ──> "Yes"

Its score is not P("Yes") alone but exp(mean log-probability of the answer's tokens), which are "Yes" and the end of
the sequence: the square root of P(Yes) · P(end | Yes).

Facts that decide the numbers, from the authors' code (github.com/linzhiqiu/t2v_metrics): the prompt is tokenised in two
pieces, each ending in T5's end token; the picture takes the place between them; padding is in CLIP's mean colour.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from liquid_mm.device import default_dtype, pick_device
from liquid_mm.errors import UserError
from liquid_mm.evaluate.judges import ANSWER, QUESTION
from liquid_mm.image.preprocess import pad_to_square

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
BEFORE, AFTER = f"{SYSTEM} USER: ", "\n{question} ASSISTANT: "
VISION, PROJECTOR = "vision_tower.vision_tower.vision_model.", "mm_projector."
TOKENIZERS = {4096: "google/flan-t5-xxl", 2048: "google/flan-t5-xl"}
"""The released folders hold no tokenizer: it is Flan-T5's of the same width."""


class ClipFlanT5:
    """See `judges.Judge`.

    Args:
        t5: a `T5ForConditionalGeneration`.
        vision: a `CLIPVisionModel`.
        projector: from the vision model's width to T5's.
        tokenizer: T5's.
        image_processor: CLIP's.
        name: stands in the results.
    """

    def __init__(
        self,
        t5: Any,
        vision: Any,
        projector: nn.Module,
        tokenizer: Any,
        image_processor: Any,
        name: str = "clip-flant5",
    ) -> None:
        self._t5, self._vision, self._projector = t5.eval(), vision.eval(), projector.eval()
        self._tokenizer, self._image_processor, self.name = tokenizer, image_processor, name

    @classmethod
    def load(cls, source: str, device: str | None = None) -> ClipFlanT5:
        """Read the released layout from a folder or the Hub: T5's weights with vision tower and projector among them.

        Raises:
            UserError: weights are missing or of another shape.
        """
        from transformers import (
            AutoTokenizer,
            CLIPImageProcessor,
            CLIPVisionModel,
            T5Config,
            T5ForConditionalGeneration,
        )

        folder = _folder(source)
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tower = settings["mm_vision_tower"]
        where = pick_device(device)
        weights = _read_weights(folder)
        vision: Any = CLIPVisionModel.from_pretrained(tower)
        projector = build_projector(vision.config.hidden_size, settings["d_model"])
        t5: Any = T5ForConditionalGeneration(T5Config.from_dict(settings))
        _fill(projector, _part(weights, PROJECTOR), source)
        if tuned := _part(weights, VISION):
            _fill(vision, tuned, source)
        _fill(t5, {k: v for k, v in weights.items() if not k.startswith(("vision_tower.", PROJECTOR))}, source)
        local = (folder / "tokenizer_config.json").is_file()
        tokenizer: Any = AutoTokenizer.from_pretrained(folder if local else TOKENIZERS[settings["d_model"]])
        t5, vision, projector = (part.to(where, default_dtype(where)) for part in (t5, vision, projector))
        return cls(t5, vision, projector, tokenizer, CLIPImageProcessor.from_pretrained(tower), source)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[float]:
        """See `Judge`."""
        embeddings, mask = self._inputs(images, texts)
        answer = self._tokenizer(ANSWER, return_tensors="pt")["input_ids"].to(embeddings.device)
        labels = answer.repeat(len(texts), 1)
        logits = self._t5(inputs_embeds=embeddings, attention_mask=mask, labels=labels).logits.float()
        logs = logits.log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        scores: list[float] = logs.mean(-1).exp().tolist()
        return scores

    def _inputs(self, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings (B, T, width) of the prompts with the pictures in them, padded on the right, and their mask."""
        pictures = self._projector(self._see(images))
        rows = []
        for picture, text in zip(pictures, texts, strict=True):
            before, after = self._embed(BEFORE), self._embed(AFTER.format(question=QUESTION.format(text=text)))
            rows.append(torch.cat([before, picture, after]))
        lengths = torch.tensor([len(row) for row in rows], device=pictures.device)
        padded = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return padded, (torch.arange(padded.shape[1], device=pictures.device) < lengths[:, None]).long()

    def _see(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Patch features (B, patches, width) of the second last layer."""
        mean = self._image_processor.image_mean
        colour = (int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255))
        squares = [pad_to_square(image.convert("RGB"), max(image.size), colour) for image in images]
        pixels = self._image_processor(squares, return_tensors="pt")["pixel_values"]
        states = self._vision(
            pixel_values=pixels.to(self._vision.device, self._vision.dtype), output_hidden_states=True
        ).hidden_states
        patches: torch.Tensor = states[-2][:, 1:]
        return patches

    def _embed(self, text: str) -> torch.Tensor:
        ids = self._tokenizer(text, return_tensors="pt")["input_ids"][0].to(self._t5.device)
        embeddings: torch.Tensor = self._t5.get_input_embeddings()(ids)
        return embeddings


def build_projector(vision_width: int, text_width: int) -> nn.Sequential:
    """Two linear layers with a GELU between them ("mlp2x_gelu")."""
    return nn.Sequential(nn.Linear(vision_width, text_width), nn.GELU(), nn.Linear(text_width, text_width))


def is_clip_flant5(source: str) -> bool:
    """Whether a folder's configuration, or a Hub id's name, is CLIP-FlanT5's."""
    config = Path(source) / "config.json"
    if config.is_file():
        return bool(json.loads(config.read_text(encoding="utf-8")).get("model_type") == "clip_t5")
    return "clip-flant5" in source.lower()


def _folder(source: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source))
    except Exception as error:  # offline, not found …: the library raises a dozen kinds
        raise UserError(f"the judge {source} is no folder and cannot be downloaded: {error}") from error


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    weights: dict[str, torch.Tensor] = {}
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise UserError(f"{folder} holds no weights (*.safetensors or pytorch_model*.bin).")
    for file in files:
        safe = file.suffix == ".safetensors"
        weights |= load_file(file) if safe else torch.load(file, map_location="cpu", weights_only=True)
    return weights


def _part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _fill(module: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Load `weights` into `module`; tied tables may be stored once, anything else that is missing is an error."""
    own = module.state_dict()
    shared = {value.data_ptr() for name, value in own.items() if name in weights}
    missing = [name for name, value in own.items() if name not in weights and value.data_ptr() not in shared]
    wrong = [name for name, value in weights.items() if name in own and own[name].shape != value.shape]
    missing = [name for name in missing if not name.endswith("position_ids")]
    if missing or wrong:
        raise UserError(f"{source} is no CLIP-FlanT5: {[*missing, *wrong][0]} is missing or of another shape.")
    module.load_state_dict({name: value for name, value in weights.items() if name in own}, strict=False)
