import pytest
import torch
from transformers import AutoModelForCausalLM

from liquid_mm.errors import UserError
from liquid_mm.vocab.base import load_base
from liquid_mm.vocab.random_base import random_base
from tiny import tiny_base

SHAPE = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    for part in tiny_base("smollm"):
        part.save_pretrained(folder)
    return folder


def test_a_shape_becomes_a_base_with_the_tokenizers_vocabulary(base, tmp_path):
    random_base(tmp_path / "a", shape={**SHAPE, "tie_word_embeddings": True}, text_tokenizer=base)
    llm, tokenizer = load_base(tmp_path / "a")
    assert (llm.config.model_type, llm.config.hidden_size, llm.config.num_hidden_layers) == ("llama", 24, 2)
    assert len(llm.get_input_embeddings().weight) == len(tokenizer)
    assert llm.get_output_embeddings().weight is llm.get_input_embeddings().weight
    assert llm.config.eos_token_id == tokenizer.eos_token_id
    assert llm(torch.tensor([[1, 2, 3]])).logits.shape == (1, 3, len(tokenizer))


def test_other_families_and_seeds(base, tmp_path):
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        random_base(tmp_path / name, shape={**SHAPE, "model_type": "qwen2"}, text_tokenizer=base, seed=seed)
        llm = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert llm.config.model_type == "qwen2"
        tables.append(llm.get_input_embeddings().weight)
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])


def test_like_another_but_knowing_nothing(base, tmp_path):
    random_base(tmp_path / "a", like=str(base))
    (old, old_tokenizer), (new, tokenizer) = load_base(base), load_base(tmp_path / "a")
    shapes = [{name: p.shape for name, p in llm.named_parameters()} for llm in (old, new)]
    assert shapes[0] == shapes[1]
    assert tokenizer.get_vocab() == old_tokenizer.get_vocab()
    assert not torch.allclose(old.get_input_embeddings().weight, new.get_input_embeddings().weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either `like`, or `shape` with `text_tokenizer`"),
        ({"shape": SHAPE}, "either `like`"),
        ({"shape": SHAPE, "like": "{base}"}, "either `like`"),
        ({"shape": {"hiden_size": 8}, "text_tokenizer": "{base}"}, "shape.hiden_size: the architecture 'llama'"),
        ({"shape": {"model_type": "lama"}, "text_tokenizer": "{base}"}, "no architecture 'lama'"),
        ({"shape": SHAPE, "text_tokenizer": "{tmp}/none"}, "cannot load a text tokenizer from"),
    ],
)
def test_mistakes_are_named(options, message, base, tmp_path):
    places = {"base": base, "tmp": tmp_path}
    options = {key: value.format(**places) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(UserError, match=message):
        random_base(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
