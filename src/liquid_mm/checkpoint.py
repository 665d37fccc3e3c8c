"""One folder that holds a whole model: language model, text tokenizer, vocabulary, image tokenizer.

    OUT/ config.json  model.safetensors  tokenizer.json …   a plain Hugging Face causal LM: other programs can load it
         liquid.json        {"format": 1, "vocabulary": {…}, "image_tokenizer": "image_tokenizer", "…_fingerprint": "…"}
         image_tokenizer/   what the image tokenizer's `save` writes

A smaller form holds only what was trained on top of a base model; see `adapter`. Folders are written whole or not at
all, and on loading the parts are checked against each other, for a code that means another patch, or an id that means
another token, would not fail but draw nonsense.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from liquid_mm import adapter
from liquid_mm.device import default_dtype, parse_dtype, pick_device, quantization_config
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_dir, check_free, write_json
from liquid_mm.image.chameleon import load_chameleon
from liquid_mm.image.preprocess import flatten, open_image, pad_to_square
from liquid_mm.image.tokenizer import ImageTokenizer
from liquid_mm.image.vqgan import VQGAN
from liquid_mm.record import FORMAT, GUIDANCE, NOTHING, RECORD, Taught, guidance_of, read_record, resolve, taught_of
from liquid_mm.vocab.base import load_base
from liquid_mm.vocab.extend import extend_model
from liquid_mm.vocab.vocabulary import Grid, Vocabulary

IMAGE_TOKENIZER = "image_tokenizer"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The parts of a Liquid model.

    Attributes:
        llm: Hugging Face causal LM with `vocabulary.size` rows in its embedding table.
        tokenizer: its text tokenizer.
        vocabulary: which ids are text and which are codes.
        image_tokenizer: images ↔ codes.
        guidance_scale: classifier-free guidance that suits it, where none is asked for; the released
            model's unless its record says otherwise.
        taught: what it knows to draw and answer, for those who show it to people.
    """

    llm: Any
    tokenizer: Any
    vocabulary: Vocabulary
    image_tokenizer: ImageTokenizer
    guidance_scale: float = GUIDANCE
    taught: Taught = NOTHING

    def check(self) -> None:
        """Raise a `UserError` if the parts do not fit each other."""
        v, images = self.vocabulary, self.image_tokenizer
        rows = self.llm.get_input_embeddings().weight.shape[0]
        if rows != v.size:
            raise UserError(
                f"the vocabulary has {v.size} ids ({v.code_offset} before the image codes, {v.num_codes} codes), "
                f"but the language model has {rows} rows: they are not of one model."
            )
        if (images.num_codes, images.downsampling) != (v.num_codes, v.downsampling):
            raise UserError(
                f"the vocabulary has {v.num_codes} codes of {v.downsampling}x{v.downsampling} pixels, but the image "
                f"tokenizer {images.num_codes} of {images.downsampling}x{images.downsampling}: it is another model's."
            )

    @staticmethod
    def open_image(image: str | Path | Image.Image) -> Image.Image:
        """A picture from a file or as it is, in RGB, transparent parts over white.

        Raises:
            UserError: the file is missing or not an image.
        """
        return flatten(open_image(image))

    def read_image(self, image: str | Path | Image.Image) -> Grid:
        """A picture to be understood as codes: padded to a square, resized to the model's resolution (Lanczos).

        Raises:
            UserError: the file is missing or not an image.
        """
        square = pad_to_square(self.open_image(image), max(self.vocabulary.resolution))
        return self.image_tokenizer.encode([square])[0]


def save_checkpoint(checkpoint: Checkpoint, out: str | Path) -> None:
    """Write `checkpoint` as the new folder `out`.

    Raises:
        UserError: the parts do not fit each other, `out` exists already, or it cannot be written.
    """
    checkpoint.check()
    with atomic_dir(out) as folder:
        checkpoint.llm.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)
        _write_parts(checkpoint, folder)


def save_adapter(
    checkpoint: Checkpoint, lora: Any | None, base: adapter.Base, out: str | Path, dtype: str = "float32"
) -> None:
    """Write only what was trained on top of `base` as the new folder `out` (see `adapter`).

    Args:
        checkpoint: the trained model; its language model still has the LoRA layers in it.
        lora: the `PeftModel` around it, or None if only the new rows were trained.
        base: what the rest is to be loaded from.
        out: the new folder.
        dtype: of the rows and the LoRA weights as stored.

    Raises:
        UserError: the parts do not fit each other, `out` exists already, or it cannot be written.
    """
    checkpoint.check()
    with atomic_dir(out) as folder:
        adapter.save(folder, checkpoint.llm, lora, checkpoint.vocabulary, base, parse_dtype(dtype))
        _write_parts(checkpoint, folder, base=dataclasses.asdict(base))


def _write_parts(checkpoint: Checkpoint, folder: Path, **more: Any) -> None:
    """Write what both forms hold: the image tokenizer, and the record with `more` in it."""
    checkpoint.image_tokenizer.save(folder / IMAGE_TOKENIZER)
    record = {
        "format": FORMAT,
        "vocabulary": checkpoint.vocabulary.to_json(),
        "image_tokenizer": IMAGE_TOKENIZER,
        "image_tokenizer_fingerprint": checkpoint.image_tokenizer.fingerprint,
        **({} if checkpoint.guidance_scale == GUIDANCE else {"guidance_scale": checkpoint.guidance_scale}),
        **({} if checkpoint.taught == NOTHING else {"taught": checkpoint.taught.model_dump(mode="json")}),
        **more,
    }
    write_json(folder / RECORD, record)


def load_checkpoint(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantization: str | None = None,
) -> Checkpoint:
    """Read a checkpoint folder, or the model inside the package by the name "demo".

    The arguments are those of `liquid_mm.load`. The language model comes in evaluation mode; the image tokenizer stays
    in float32, where its codes are exact.

    Raises:
        UserError: the folder is missing, of another layout, or its parts do not fit each other.
    """
    folder = resolve(path)
    record = read_record(folder)
    where = pick_device(device)
    weights = parse_dtype(dtype) or default_dtype(where)
    vocabulary = Vocabulary.from_json(record["vocabulary"])
    images = VQGAN.load(folder / record["image_tokenizer"])
    if images.fingerprint != record["image_tokenizer_fingerprint"]:
        raise UserError(
            f"{folder / record['image_tokenizer']} is not the image tokenizer this model was trained with (fingerprint "
            f"{images.fingerprint} instead of {record['image_tokenizer_fingerprint']}): restore the original."
        )
    base = adapter.Base(**record["base"]) if "base" in record else None
    if base and not base.sha256:
        if quantization:
            raise UserError(
                f"{folder} holds an adapter on {base.source}, which cannot be loaded quantised: leave `quantization` "
                f"out, or merge it first (`save_checkpoint(load_checkpoint(path), out)` of liquid_mm.checkpoint)."
            )
        llm, tokenizer = adapter.merge(folder, base, vocabulary, weights)
    else:
        plain = adapter.merged_folder(folder, base, vocabulary, weights) if base else folder
        llm, tokenizer = _load_llm(plain, where, weights, quantization), load_tokenizer(plain)
    checkpoint = Checkpoint(
        llm.to(where).eval(), tokenizer, vocabulary, images.to(where), guidance_of(record), taught_of(record, folder)
    )
    checkpoint.check()
    return checkpoint


def extend(
    base: str,
    image_tokenizer: str | Path,
    out: str | Path,
    *,
    init: str = "codebook",
    dtype: str | torch.dtype = "float32",
    seed: int = 0,
) -> Vocabulary:
    """Turn any Hugging Face causal LM into a Liquid model ready for training (paper: unified vocabulary).

    Its embedding table grows by the codes of the image tokenizer and by `<boi>`, `<eoi>`, `<unconditional>`; what it
    says about text does not change.

    Args:
        base: Hub id, folder, GGUF file, or "package:NAME/FILE" for a file inside an installed package.
        image_tokenizer: a folder written by `liquid train-tokenizer`, one with Chameleon's `vqgan.yaml` and `.ckpt`, or
            a checkpoint, whose own is taken ("demo" for the one that ships).
        out: the new checkpoint folder.
        init: how new rows start, one of `vocab.extend.INITS`; the default trained fastest (docs/log.md).
        dtype: of the weights that are written.
        seed: decides the random part of new rows.

    Raises:
        UserError: a part cannot be read, or `out` exists already.
    """
    if (Path(base) / RECORD).is_file():
        raise UserError(f"{base} is extended already: give the language model it was made from.")
    check_free(out)
    images = load_image_tokenizer(image_tokenizer)
    llm, tokenizer = load_base(base, parse_dtype(dtype) or torch.float32)
    vocabulary = extend_model(
        llm,
        tokenizer,
        num_codes=images.num_codes,
        downsampling=images.downsampling,
        resolution=images.resolution,
        init=init,
        codebook=images.codebook,
        seed=seed,
    )
    save_checkpoint(Checkpoint(llm, tokenizer, vocabulary, images), out)
    return vocabulary


def load_image_tokenizer(path: str | Path) -> VQGAN:
    """The image tokenizer in a folder of its own, ours or Chameleon's, or that of a checkpoint ("demo" among them)."""
    folder = resolve(path)
    if (folder / RECORD).is_file():
        folder = folder / read_record(folder)["image_tokenizer"]
    return load_chameleon(folder) if (folder / "vqgan.yaml").is_file() else VQGAN.load(folder)


def load_tokenizer(folder: Path | str) -> Any:
    """The text tokenizer in a folder."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} has no text tokenizer that can be read: {error}") from error


def load_weights(folder: Path | str, **options: Any) -> Any:
    """The causal LM in a folder; weights that are missing are an error rather than drawn at random."""
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        llm, info = load(folder, output_loading_info=True, **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder} has no causal language model that can be read: {error}") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        bad = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise UserError(f"{folder}: {len(bad)} weights are missing or of another shape, the first is {bad[0]}.")
    return llm


def _load_llm(folder: Path, device: torch.device, dtype: torch.dtype, quantization: str | None) -> Any:
    if quantization is None:
        return load_weights(folder, dtype=dtype)
    # Quantised weights are packed for their device while they load.
    return load_weights(
        folder, dtype=dtype, device_map={"": device}, quantization_config=quantization_config(quantization, device)
    )
