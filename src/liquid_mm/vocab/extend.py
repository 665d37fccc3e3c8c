"""Grow any causal language model by image codes and three special tokens.

    before   ids 0 … V-1      text
    after    ids 0 … V-1      text, untouched; <boi>, <eoi>, <unconditional> take unused slots where the family has them
             V … V+1023       image codes

    Gemma    <unused0> <unused1> <unused2>  →  <boi> <eoi> <unconditional>        table: 256000 → 256000 + codes
    Qwen 2.5 no slots, but a table longer than its tokenizer: three padding rows  table: 151936 → 151936 + codes
    SmolLM   neither: three tokens are added                                      table:  49152 → 49155 + codes

Old rows keep their values, so logits over text stay what they were, and tied heads stay tied. Where new rows start is
an option (`INITS`), since transformers' own way draws all of them within 1e-6 of one vector, and training alone then
has to tell one image code from another.
"""

from __future__ import annotations

import json
import re
from typing import Literal, get_args

import torch
from tokenizers import AddedToken, Tokenizer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from liquid_mm.errors import UserError, nearest
from liquid_mm.vocab.vocabulary import BOI, EOI, UNCONDITIONAL, Vocabulary

Init = Literal["mean-noise", "codebook", "transformers"]
"""How new rows start.

mean-noise: the mean of the old rows plus noise with their covariance (random mixtures of old rows). Noise of the same
    size without their correlations gives some codes huge logits: on SmolLM2-135M 1024 such codes take 0.32 nats from
    text, these 0.003.
codebook: the image tokenizer's codebook through a random projection, brought to that mean and spread; codes that look
    alike start alike. Special tokens start as in mean-noise.
transformers: what `resize_token_embeddings(mean_resizing=True)` does.
"""

INITS: tuple[Init, ...] = get_args(Init)

SPECIALS = (BOI, EOI, UNCONDITIONAL)

UNUSED_SLOTS = re.compile(
    r"<unused\d+>"  # Gemma
    r"|<\|reserved_special_token_\d+\|>"  # Llama 3
    r"|<\|placeholder\d+\|>"  # Phi-3
    r"|\[control_\d+\]|<SPECIAL_\d+>"  # Mistral
    r"|<\|extra_\d+\|>|\[unused\d+\]|\[UNUSED_TOKEN_\d+\]"
)
"""Tokens that families keep free for such uses."""

SAMPLE = 8192
"""Old rows that noise is mixed from: enough for their covariance, few enough for a table of 262,144."""

SPREAD = 0.2
"""How far codes start from the mean row, in the distance of an old row; 1 learns more slowly (docs/log.md)."""

DEAD = 0.01
"""A reused row shorter than this share of the mean length was never trained (Llama 3 ships such): it starts anew."""


def extend_model(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_codes: int,
    downsampling: int,
    resolution: tuple[int, int],
    init: str = "mean-noise",
    codebook: Tensor | None = None,
    seed: int = 0,
) -> Vocabulary:
    """Grow `llm` and `tokenizer` in place and return the vocabulary they now share (paper: unified vocabulary).

    Args:
        llm: a causal language model, not quantised.
        tokenizer: its text tokenizer. A missing padding token becomes `<eos>`, which is safe since padding is never
            attended to nor learnt.
        num_codes: size of the image tokenizer's codebook.
        downsampling: pixels per code along each side.
        resolution: (width, height) in pixels of the images the model draws unless told otherwise.
        init: how new rows start, one of `INITS`.
        codebook: (num_codes, dim), needed by init "codebook".
        seed: of the new rows.

    Raises:
        UserError: an unknown init, a codebook that does not fit, a resolution that is no multiple of `downsampling`, a
            quantised model, or a tokenizer without an end-of-sequence token.
    """
    if init not in INITS:
        raise UserError(f"unknown row initialisation {init!r}: {nearest(init, INITS)}")
    if num_codes < 1:
        raise UserError(f"an image tokenizer needs at least one code, not {num_codes}.")
    if init == "codebook" and (codebook is None or codebook.ndim != 2 or len(codebook) != num_codes):
        shape = None if codebook is None else tuple(codebook.shape)
        raise UserError(f"init 'codebook' needs a codebook of shape ({num_codes}, dim), not {shape}.")
    if getattr(llm, "is_quantized", False):
        raise UserError("a quantised model cannot be extended: load the base model without quantisation.")

    rows = len(_tables(llm)[0])
    trained = min(rows, _text_size(tokenizer))
    vocabulary = _vocabulary(llm, tokenizer, rows, num_codes, downsampling, resolution)
    # Resizing draws from the global generator: keep the caller's stream, and make the result depend on `seed` alone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm.resize_token_embeddings(vocabulary.size, mean_resizing=init == "transformers")
    if init != "transformers":
        _initialise(llm, vocabulary, rows, trained, codebook if init == "codebook" else None, seed)
    _complete_generation_config(llm, vocabulary)
    return vocabulary


def _vocabulary(
    llm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    num_codes: int,
    downsampling: int,
    resolution: tuple[int, int],
) -> Vocabulary:
    eos = _eos(llm, tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(eos)
    bos = _bos(tokenizer)
    boi, eoi, unconditional = special_token_ids(tokenizer)
    text_size = _text_size(tokenizer)
    return Vocabulary(
        text_size=text_size,
        code_offset=max(rows, text_size),
        num_codes=num_codes,
        boi=boi,
        eoi=eoi,
        unconditional=unconditional,
        bos=bos,
        eos=eos,
        pad=int(tokenizer.pad_token_id),
        downsampling=downsampling,
        resolution=resolution,
    )


def _text_size(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id; `len(tokenizer)` is less where ids have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def _eos(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    configured = llm.config.get_text_config().eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    if ids[0] is None:
        raise UserError("the base model names no end-of-sequence token: set `eos_token` in its tokenizer_config.json.")
    return int(ids[0])


def _bos(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The id that opens a document.

    What a tokenizer declares as `bos_token` is not always that: SmolLM2-Instruct names `<|im_start|>`, which opens chat
    turns, and text behind it costs 3.46 nats per token against 3.27 behind nothing and 2.87 behind `<|endoftext|>`, the
    separator of documents in its pretraining.
    """
    declared = tokenizer.bos_token_id
    if declared is not None and (declared == tokenizer.eos_token_id or tokenizer("a")["input_ids"][0] == declared):
        return int(declared)
    separator = tokenizer.get_vocab().get("<|endoftext|>")
    return None if separator is None else int(separator)


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of `SPECIALS`: those the tokenizer has, else three unused slots renamed, else three tokens added."""
    known = tokenizer.get_vocab()
    if not all(name in known for name in SPECIALS):
        taken = set(tokenizer.all_special_tokens)
        free = [name for name in sorted(known, key=known.__getitem__) if UNUSED_SLOTS.fullmatch(name)]
        slots = [name for name in free if name not in taken][: len(SPECIALS)]
        if len(slots) == len(SPECIALS) and not any(name in known for name in SPECIALS):
            _rename(tokenizer, dict(zip(slots, SPECIALS, strict=True)))
    # For names already in the vocabulary this only marks them as special.
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS], special_tokens=True)
    ids = tokenizer.convert_tokens_to_ids(list(SPECIALS))
    assert isinstance(ids, list)
    return ids


def _rename(tokenizer: PreTrainedTokenizerBase, names: dict[str, str]) -> None:
    """Give tokens new strings under their old ids. The library has no call for it, so its JSON form is edited."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = backend["model"]["vocab"]
    if isinstance(vocab, dict):
        backend["model"]["vocab"] = {names.get(token, token): index for token, index in vocab.items()}
    else:
        backend["model"]["vocab"] = [[names.get(token, token), score] for token, score in vocab]
    for token in backend["added_tokens"]:
        if token["content"] in names:
            token.update(content=names[token["content"]], special=True, normalized=False, lstrip=False, rstrip=False)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(backend))


def _tables(llm: PreTrainedModel) -> list[Tensor]:
    """The embedding table, and the head's where it is another one."""
    weights = (llm.get_input_embeddings().weight, llm.get_output_embeddings().weight)
    tables = [weight for weight in weights if isinstance(weight, Tensor)]
    return tables[:1] if tables[0] is tables[1] else tables


@torch.no_grad()
def _initialise(
    llm: PreTrainedModel, vocabulary: Vocabulary, rows: int, trained: int, codebook: Tensor | None, seed: int
) -> None:
    """Set all rows from `rows` on, and dead special rows before, from the statistics of the first `trained` rows."""
    specials = torch.tensor([vocabulary.boi, vocabulary.eoi, vocabulary.unconditional])
    for number, table in enumerate(_tables(llm)):
        generator = torch.Generator().manual_seed(seed + number)
        old = table[:trained]
        mean = old.mean(dim=0, dtype=torch.float32)
        length = torch.linalg.vector_norm(old, dim=1, dtype=torch.float32).mean()
        fresh = (mean + _noise(old, len(specials), generator)).to(table.dtype)
        kept = table[specials]
        alive = (torch.linalg.vector_norm(kept.float(), dim=1) >= DEAD * length) & (specials < rows).to(table.device)

        added = mean + _noise(old, vocabulary.code_offset - rows, generator)
        table[rows : vocabulary.code_offset] = added.to(table.dtype)
        table[specials] = torch.where(alive.unsqueeze(1), kept, fresh)
        noise = _noise(old, vocabulary.num_codes if codebook is None else codebook.shape[1], generator)
        codes = mean + (noise if codebook is None else SPREAD * _standardise(codebook).to(table.device) @ noise)
        table[vocabulary.code_offset :] = codes.to(table.dtype)
    bias = getattr(llm.get_output_embeddings(), "bias", None)
    if bias is not None:
        bias[rows:] = bias[:trained].float().mean()


def _noise(old: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(count, width) float32: draws with mean 0 and the covariance of the rows of `old`."""
    sample = old[torch.randperm(len(old), generator=generator)[:SAMPLE]].float()
    mixtures = torch.randn(count, len(sample), generator=generator).to(old.device)
    noise: Tensor = mixtures @ (sample - sample.mean(dim=0)) / len(sample) ** 0.5
    return noise


def _standardise(codebook: Tensor) -> Tensor:
    """(codes, dim) centred and scaled by one number, so that rows have a mean squared length of 1."""
    centred = codebook.detach().float().cpu()
    centred = centred - centred.mean(dim=0)
    return centred / centred.square().sum(dim=1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)


def _complete_generation_config(llm: PreTrainedModel, vocabulary: Vocabulary) -> None:
    """Fill in what `generate` would otherwise guess.

    `config.pad_token_id` stays as it was: the embedding sends no gradient to the row it names, and `<eos>` needs one.
    """
    generation = llm.generation_config
    if generation is not None:
        if generation.eos_token_id is None:
            generation.eos_token_id = vocabulary.eos
        if generation.pad_token_id is None:
            generation.pad_token_id = vocabulary.pad
