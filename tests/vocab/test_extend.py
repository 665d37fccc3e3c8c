from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from liquid_mm.errors import UserError
from liquid_mm.vocab.extend import INITS, SPECIALS, SPREAD, extend_model
from liquid_mm.vocab.vocabulary import Vocabulary
from tiny import FAMILIES, tiny_base, tiny_liquid

TIED = {"gemma", "gemma2", "gemma3", "qwen2", "qwen3", "gpt2", "smollm"}
SIZES = {"num_codes": 16, "downsampling": 8, "resolution": (32, 32)}
CODEBOOK = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))


def is_tied(llm: PreTrainedModel) -> bool:
    return llm.get_output_embeddings().weight is llm.get_input_embeddings().weight


def logits(llm: PreTrainedModel, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return llm(ids).logits


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("family", FAMILIES)
def test_text_stays_as_it_was_and_a_saved_model_is_the_same(family: str, init: str, tmp_path: Path) -> None:
    base, base_tokenizer = tiny_base(family)
    llm, tokenizer, vocabulary = tiny_liquid(family, init=init, codebook=CODEBOOK)
    old_size = base.config.vocab_size
    ids = torch.arange(3, 63).reshape(2, 30)
    before, after = logits(base, ids), logits(llm, ids)
    assert torch.allclose(after[..., :old_size], before, atol=1e-5, rtol=0)
    text = "a red apple, naïve 🦆"
    assert tokenizer(text)["input_ids"] == base_tokenizer(text)["input_ids"]

    assert llm.config.vocab_size == after.shape[-1] == vocabulary.size
    assert vocabulary.code_offset >= old_size
    assert vocabulary.num_codes == 16
    assert type(llm.get_input_embeddings()) is type(base.get_input_embeddings())
    assert is_tied(llm) == is_tied(base) == (family in TIED)

    llm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, tokenizer_again = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    every_new = torch.tensor([[vocabulary.boi, *vocabulary.codes, vocabulary.eoi, vocabulary.unconditional]])
    assert torch.equal(logits(again, every_new), logits(llm, every_new))
    assert is_tied(again) == is_tied(llm)
    text = "a red<boi>apple<eoi><unconditional> 🦆"
    assert tokenizer_again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert tokenizer_again.chat_template == tokenizer.chat_template


SLOTS = {
    "gemma": [7, 8, 9],
    "gemma2": [7, 8, 9],
    "gemma3": [7, 8, 9],
    "llama3": ["<|reserved_special_token_0|>", "<|reserved_special_token_1|>", "<|reserved_special_token_2|>"],
    "phi3": ["<|placeholder1|>", "<|placeholder2|>", "<|placeholder3|>"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_take_unused_slots_else_padding_rows_else_new_rows(family: str) -> None:
    base, old = tiny_base(family)
    rows, tokens = base.config.vocab_size, len(old)
    _, tokenizer, vocabulary = tiny_liquid(family)
    ids = [vocabulary.boi, vocabulary.eoi, vocabulary.unconditional]
    if family in SLOTS:
        slots = [old.convert_tokens_to_ids(slot) if isinstance(slot, str) else slot for slot in SLOTS[family]]
        assert ids == slots
        assert old.convert_ids_to_tokens(slots[0]) not in tokenizer.get_vocab()
        assert len(tokenizer) == tokens
        assert vocabulary.code_offset == rows
    elif family == "qwen2":
        assert ids == [tokens, tokens + 1, tokens + 2]
        assert ids[-1] < rows == vocabulary.code_offset
    else:
        assert ids == [rows, rows + 1, rows + 2]
        assert vocabulary.code_offset == rows + 3
    assert vocabulary.text_size == len(tokenizer)
    assert tokenizer("<boi><eoi><unconditional>", add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == ""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("init", ["mean-noise", "codebook"])
def test_new_rows_lie_among_the_old_ones_and_differ(family: str, init: str) -> None:
    llm, tokenizer, vocabulary = tiny_liquid(family, init=init, codebook=CODEBOOK)
    tokens = [vocabulary.boi, vocabulary.eoi, vocabulary.unconditional]
    for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()):
        table = layer.weight.detach()
        old, new = table[: len(tokenizer) - 3], table[tokens + list(vocabulary.codes)]
        typical = torch.pdist(old).median()
        codes = torch.pdist(table[list(vocabulary.codes)]) / (SPREAD if init == "codebook" else 1)
        assert torch.pdist(table[tokens]).min() > 0.1 * typical
        assert codes.min() > 0.1 * typical
        assert 0.5 < codes.median() / typical < 1.5
        assert torch.allclose(new.mean(), old.mean(), atol=0.2 * float(old.std()))


def test_noise_has_the_correlations_of_the_old_rows() -> None:
    llm, tokenizer = tiny_base("smollm")
    table = llm.get_input_embeddings().weight
    with torch.no_grad():
        direction = torch.nn.functional.normalize(torch.ones(table.shape[1]), dim=0)
        table.copy_(0.01 * torch.randn(table.shape) + torch.randn(len(table), 1) * direction)
    vocabulary = extend_model(llm, tokenizer, **{**SIZES, "num_codes": 200})
    codes = llm.get_input_embeddings().weight.detach()[vocabulary.code_offset :]
    along = codes @ direction
    across = codes - along.unsqueeze(1) * direction
    assert 0.8 < along.std() < 1.2
    assert across.std() < 0.02


def test_codes_that_look_alike_start_alike_from_a_codebook() -> None:
    codebook = CODEBOOK.clone()
    codebook[1] = codebook[0] + 0.01
    llm, _, vocabulary = tiny_liquid("llama3", init="codebook", codebook=codebook)
    for layer in (llm.get_input_embeddings(), llm.get_output_embeddings()):
        codes = layer.weight.detach()[vocabulary.code_offset :]
        assert (codes[0] - codes[1]).norm() < 0.05 * torch.pdist(codes).median()


def test_the_seed_decides_the_new_rows_and_the_callers_random_stream_is_kept() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    for init in INITS:
        tables = []
        for seed in (0, 0, 1):
            llm, tokenizer = tiny_base("llama3")
            torch.manual_seed(5)
            extend_model(llm, tokenizer, **SIZES, init=init, codebook=CODEBOOK, seed=seed)
            assert torch.equal(torch.rand(3), expected)
            tables.append(llm.get_input_embeddings().weight.detach())
        assert torch.equal(tables[0], tables[1])
        assert not torch.equal(tables[0], tables[2])


def test_a_reused_row_that_was_never_trained_starts_anew() -> None:
    llm, tokenizer = tiny_base("llama3")
    slots = tokenizer.convert_tokens_to_ids([f"<|reserved_special_token_{index}|>" for index in range(3)])
    kept = llm.get_input_embeddings().weight.detach()[slots[2]].clone()
    with torch.no_grad():
        llm.get_input_embeddings().weight[slots[:2]] = 1e-6
    vocabulary = extend_model(llm, tokenizer, **SIZES)
    table = llm.get_input_embeddings().weight.detach()
    typical = table.norm(dim=1).mean()
    assert (table[[vocabulary.boi, vocabulary.eoi]].norm(dim=1) > 0.3 * typical).all()
    assert not torch.equal(table[vocabulary.boi], table[vocabulary.eoi])
    assert torch.equal(table[vocabulary.unconditional], kept)


def test_a_tokenizer_that_knows_the_tokens_keeps_their_ids() -> None:
    llm, tokenizer = tiny_base("gemma")
    llm.resize_token_embeddings(len(tokenizer) + 3, mean_resizing=False)
    tokenizer.add_tokens([AddedToken(name, special=True) for name in reversed(SPECIALS)])
    ids = tokenizer.convert_tokens_to_ids(list(SPECIALS))
    size = len(tokenizer)
    vocabulary = extend_model(llm, tokenizer, **SIZES)
    assert [vocabulary.boi, vocabulary.eoi, vocabulary.unconditional] == ids
    assert len(tokenizer) == size
    assert "<unused0>" in tokenizer.get_vocab()


def test_a_slot_that_serves_as_another_special_token_is_left_alone() -> None:
    llm, tokenizer = tiny_base("llama3")
    tokenizer.pad_token = "<|reserved_special_token_0|>"
    pad = tokenizer.pad_token_id
    vocabulary = extend_model(llm, tokenizer, **SIZES)
    assert vocabulary.pad == pad
    assert tokenizer.convert_ids_to_tokens(vocabulary.boi) == "<boi>"
    assert [vocabulary.boi, vocabulary.eoi, vocabulary.unconditional] == [pad + 1, pad + 2, pad + 3]


BOS = {
    **dict.fromkeys(["gemma", "gemma2", "gemma3"], "<bos>"),
    "llama3": "<|begin_of_text|>",
    "mistral": "<s>",
    **dict.fromkeys(["qwen2", "qwen3", "phi3", "gpt2", "smollm"], "<|endoftext|>"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_documents_open_with_what_opened_them_in_pretraining(family: str) -> None:
    _, tokenizer, vocabulary = tiny_liquid(family)
    assert tokenizer.convert_ids_to_tokens(vocabulary.bos) == BOS[family]


def test_a_missing_padding_token_becomes_eos_without_freezing_its_row() -> None:
    llm, tokenizer, vocabulary = tiny_liquid("llama3")
    assert vocabulary.pad == vocabulary.eos == tokenizer.pad_token_id
    assert llm.generation_config.pad_token_id == vocabulary.pad
    assert llm.config.pad_token_id is None
    assert llm.get_input_embeddings().padding_idx is None


def test_a_missing_eos_is_taken_from_the_config_or_asked_for() -> None:
    llm, tokenizer = tiny_base("llama3")
    eos = tokenizer.eos_token_id
    tokenizer.eos_token = None
    llm.config.eos_token_id = [eos, 1]
    assert extend_model(llm, tokenizer, **SIZES).eos == eos
    llm, tokenizer = tiny_base("llama3")
    tokenizer.eos_token = None
    llm.config.eos_token_id = None
    with pytest.raises(UserError, match="no end-of-sequence token"):
        extend_model(llm, tokenizer, **SIZES)


def test_a_head_with_a_bias_gets_its_mean() -> None:
    _, tokenizer = tiny_base("gpt2")
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    llm = AutoModelForCausalLM.from_config(config).eval()
    torch.nn.init.normal_(llm.lm_head.bias, 2.0)
    ids = torch.arange(30).unsqueeze(0)
    before, bias = logits(llm, ids), llm.lm_head.bias.detach().clone()
    extend_model(llm, tokenizer, **SIZES)
    assert torch.equal(logits(llm, ids)[..., : len(bias)], before)
    assert torch.allclose(llm.lm_head.bias[len(bias) :], bias.mean())


def test_bfloat16_models_stay_bfloat16() -> None:
    llm, tokenizer = tiny_base("qwen2")
    extend_model(llm.to(torch.bfloat16), tokenizer, **SIZES)
    assert {parameter.dtype for parameter in llm.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "mean-noize"}, "did you mean 'mean-noise'"),
        ({"init": "codebook"}, r"needs a codebook of shape \(16, dim\), not None"),
        ({"init": "codebook", "codebook": torch.zeros(8, 4)}, r"shape \(16, dim\), not \(8, 4\)"),
        ({"num_codes": 0}, "at least one code"),
        ({"resolution": (30, 32)}, "multiples of 8"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    llm, tokenizer = tiny_base("smollm")
    with pytest.raises(UserError, match=message):
        extend_model(llm, tokenizer, **{**SIZES, **options})


def test_the_full_size_has_the_released_names_and_shapes() -> None:
    names = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]", "<unused0>", "<unused1>", "<unused2>"]
    vocab = {token: index for index, token in enumerate(names + [f"t{index}" for index in range(256000 - 10)])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="<unk>")),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        add_bos_token=True,
    )
    gemma_7b = GemmaConfig(
        vocab_size=256000,
        hidden_size=3072,
        intermediate_size=24576,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=256,
    )
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(gemma_7b)
    vocabulary = extend_model(llm, tokenizer, num_codes=8192, downsampling=16, resolution=(512, 512))
    assert vocabulary == Vocabulary(
        text_size=256000,
        code_offset=256000,
        num_codes=8192,
        boi=7,
        eoi=8,
        unconditional=9,
        bos=2,
        eos=1,
        pad=0,
        downsampling=16,
        resolution=(512, 512),
    )
    layer = {
        "input_layernorm.weight": (3072,),
        "post_attention_layernorm.weight": (3072,),
        "self_attn.q_proj.weight": (4096, 3072),
        "self_attn.k_proj.weight": (4096, 3072),
        "self_attn.v_proj.weight": (4096, 3072),
        "self_attn.o_proj.weight": (3072, 4096),
        "mlp.gate_proj.weight": (24576, 3072),
        "mlp.up_proj.weight": (24576, 3072),
        "mlp.down_proj.weight": (3072, 24576),
    }
    expected = {"model.embed_tokens.weight": (264192, 3072), "model.norm.weight": (3072,)}
    for number in range(28):
        expected |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    named = {name: tuple(parameter.shape) for name, parameter in llm.named_parameters()}
    assert named == expected  # the tied head has no entry of its own
    assert llm.config.vocab_size == 264192
    assert is_tied(llm)
