"""The released layout as one of our checkpoint folders.

    --llm    a plain causal LM whose table holds V text rows and then one row per image code; ids 7, 8, 9 are
             <boi>, <eoi>, <unconditional>                    (released: Gemma-7B, V = 256000, 8192 codes)
    --vqgan  vqgan.yaml, vqgan.ckpt                           (Chameleon's; never shipped with this project)

The release does not record where codes start: its code takes `len(tokenizer)`. That is read off here, once, checked
against the number of rows, and stored; from then on nobody derives it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from liquid_mm.checkpoint import Checkpoint, load_tokenizer, load_weights, save_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.files import check_free
from liquid_mm.image.chameleon import load_chameleon
from liquid_mm.image.vqgan import VQGAN
from liquid_mm.record import RECORD
from liquid_mm.vocab.extend import special_token_ids
from liquid_mm.vocab.vocabulary import Vocabulary


def import_release(llm: str | Path, vqgan: str | Path, out: str | Path) -> None:
    """Turn a released Liquid model into a checkpoint folder that `liquid_mm.load` takes.

    Args:
        llm: Hub id or folder of the language model, with its tokenizer.
        vqgan: folder with `vqgan.yaml` and `vqgan.ckpt`; its `resolution` becomes the model's own size.
        out: the new checkpoint folder.

    Raises:
        UserError: a part is missing or unreadable, the table has not one row per text token and code, or `out` exists.
    """
    if (Path(llm) / RECORD).is_file():
        raise UserError(f"{llm} is a checkpoint folder already: load it as it is.")
    check_free(out)
    images = load_chameleon(vqgan)
    tokenizer = load_tokenizer(llm)
    model = load_weights(llm, dtype="auto")
    vocabulary = infer_vocabulary(model.get_input_embeddings().weight.shape[0], tokenizer, images)
    save_checkpoint(Checkpoint(model, tokenizer, vocabulary, images), out)


def infer_vocabulary(rows: int, tokenizer: Any, images: VQGAN) -> Vocabulary:
    """The vocabulary of a released model, from the rows of its table, its tokenizer and its image tokenizer.

    Unused tokens that serve as `<boi>`, `<eoi>`, `<unconditional>` under their old names are renamed in `tokenizer`.

    Raises:
        UserError: the numbers do not add up, or the tokenizer has no place for the three.
    """
    offset = len(tokenizer)
    if rows != offset + images.num_codes:
        raise UserError(
            f"the language model has {rows} rows, but its tokenizer {offset} tokens and the VQGAN {images.num_codes} "
            f"codes, which makes {offset + images.num_codes}: it is not a released Liquid model with this VQGAN."
        )
    boi, eoi, unconditional = special_token_ids(tokenizer)
    if len(tokenizer) != offset:
        raise UserError("the tokenizer has neither <boi>, <eoi>, <unconditional> nor unused tokens in their place.")
    for name in ("eos_token", "pad_token"):
        if getattr(tokenizer, f"{name}_id") is None:
            raise UserError(f"the tokenizer names no {name}: set it in its tokenizer_config.json.")
    return Vocabulary(
        text_size=offset,
        code_offset=offset,
        num_codes=images.num_codes,
        boi=boi,
        eoi=eoi,
        unconditional=unconditional,
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        pad=tokenizer.pad_token_id,
        downsampling=images.downsampling,
        resolution=images.resolution,
    )
