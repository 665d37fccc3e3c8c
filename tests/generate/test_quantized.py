"""int8 and int4 weights: smaller, and nearly the same codes."""

import pytest
import torch

from liquid_mm.checkpoint import save_checkpoint
from liquid_mm.device import quantization_config
from liquid_mm.errors import UserError
from liquid_mm.generate.few_rows import FewRows
from liquid_mm.generate.model import load
from liquid_mm.generate.packed import Int8, PackedPart
from liquid_mm.vocab.records import TextToImage
from tiny_checkpoint import tiny_checkpoint

pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("model") / "model"
    save_checkpoint(tiny_checkpoint("llama3"), out)
    return out


@pytest.mark.parametrize(("name", "error"), [("int8", 0.01), ("int4", 0.15)])
def test_a_quantised_model_draws_nearly_the_same(folder, name, error):
    plain, small = (load(folder, "cpu", quantization=q) for q in (None, name))
    layer = small.checkpoint.llm.model.layers[0].mlp.up_proj
    if name == "int8":
        assert isinstance(layer, PackedPart), "not packed"
        assert isinstance(layer._whole[0]._kernel, Int8 | FewRows), "not quantised"
    else:
        assert type(layer.weight) is not torch.nn.Parameter, "not quantised"
    assert type(small.checkpoint.llm.lm_head.weight) is torch.nn.Parameter, "the head's rows must be separable"
    ids = torch.from_numpy(plain.render(TextToImage("a red apple")).ids)[None]
    with torch.inference_mode():
        exact, rough = (model.checkpoint.llm(ids).logits for model in (plain, small))
    assert 0 < (exact - rough).abs().max() < error * exact.abs().max()
    drawn = small.generate_images(["a red apple"], top_k=1)
    assert drawn[0].codes.shape == (4, 4)
    assert small.fingerprint != plain.fingerprint


def test_int4_is_for_cuda_and_the_cpu():
    with pytest.raises(UserError, match="int8 on mps"):
        quantization_config("int4", torch.device("mps"))
