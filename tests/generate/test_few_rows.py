"""Our products of a few rows: what they give, that rows do not disturb each other, and where they are not used."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional

from liquid_mm.generate import few_rows, native
from liquid_mm.generate.few_rows import FewRows, can_hold, linear
from liquid_mm.generate.native import library
from liquid_mm.generate.packed import Blocks, Int8, PackedLinear, is_int8

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 5e-3}

needs_library = pytest.mark.skipif(library() is None, reason="no AVX-512, or no gcc")


def example(rows, out, inputs, dtype):
    """Rows, a weight, and their product in double precision."""
    torch.manual_seed(rows + out)
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(out, inputs).to(dtype)
    return x, weight, functional.linear(x.double(), weight.double())


@needs_library
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("out", "inputs"), [(32, 64), (50, 1536), (33, 34), (7, 2)])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 8, 9, 33])
def test_a_product_is_right_and_a_row_the_same_whatever_is_beside_it(rows, out, inputs, dtype):
    x, weight, exact = example(rows, out, inputs, dtype)
    kernel = FewRows(weight)
    found = kernel(x, None)
    assert found.dtype == dtype
    assert (found.double() - exact).abs().max() <= ROUNDING[dtype] * exact.abs().max()
    torch.testing.assert_close(found, torch.cat([kernel(row[None], None) for row in x]), rtol=0, atol=0)
    torch.testing.assert_close(kernel.dense(), weight, rtol=0, atol=0)


@needs_library
def test_compiled_code_is_told_when_a_weight_has_gone():
    kernel = FewRows(torch.randn(32, 64))
    place = few_rows.Weight.from_address(kernel.address)
    assert (place.inputs, place.out, place.size) == (64, 32, 4)
    assert place.blocks
    del kernel
    assert not place.blocks


@needs_library
@pytest.mark.parametrize("dtype", ROUNDING)
def test_eight_bits_are_multiplied_with_their_scales(dtype):
    x, weight, _ = example(5, 50, 64, dtype)
    scale = weight.float().abs().amax(1) / 127
    values = (weight.float() / scale[:, None]).round().to(torch.int8)
    exact = functional.linear(x.double(), values.double() * scale[:, None].double())
    kernel = FewRows(values, scale, dtype)
    assert (kernel(x, None).double() - exact).abs().max() <= ROUNDING[dtype] * exact.abs().max()
    assert kernel.dense().dtype == dtype


@needs_library
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("out", "inputs"), [(4, 32), (50, 576), (7, 64), (3, 40)])
def test_a_weight_that_stays_where_it_is_gives_the_same(out, inputs, dtype):
    x, weight, exact = example(9, out, inputs, dtype)
    bias = torch.randn(out).to(dtype)
    found = linear(x, weight, bias)
    assert found.dtype == (torch.float32 if inputs % 32 == 0 else dtype)
    assert (found.double() - exact - bias).abs().max() <= 2 * ROUNDING[dtype] * exact.abs().max()
    if inputs % 32 == 0:
        torch.testing.assert_close(found, torch.cat([linear(row[None], weight, bias) for row in x]), rtol=0, atol=0)


@needs_library
def test_results_are_as_exact_as_is_asked_for():
    x, weight, exact = example(3, 50, 64, torch.bfloat16)
    found = FewRows(weight, result=torch.float32)(x, None)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact.float(), rtol=1e-5, atol=1e-4)


@needs_library
def test_shapes_strides_and_a_bias_are_as_in_a_linear_layer():
    layer = nn.Linear(64, 48)
    packed = PackedLinear(layer.weight, layer.bias)
    x = torch.randn(64, 3, 2).transpose(0, 2)  # (2, 3, 64), not contiguous
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), layer(x), rtol=1e-5, atol=1e-5)


@needs_library
def test_what_is_not_a_number_stays_none_and_large_numbers_keep_their_size():
    x = torch.tensor([[float("nan"), 1.0], [float("inf"), 1.0], [3e38, 0.0]]).bfloat16()
    found = FewRows(torch.ones(32, 2).bfloat16())(x, None)
    assert found[0].isnan().all()
    assert found[1].isinf().all()
    torch.testing.assert_close(found[2], x[2, :1].expand(32), rtol=0, atol=0)


@needs_library
def test_many_rows_go_to_matrix_units_where_there_are_some(monkeypatch):
    x, weight, exact = example(9, 32, 64, torch.float32)
    kernel = FewRows(weight)
    monkeypatch.setattr(few_rows, "most_rows", lambda: 8)
    monkeypatch.setattr(kernel, "_run", None)
    torch.testing.assert_close(kernel(x, None), exact.float(), rtol=1e-5, atol=1e-4)


@pytest.fixture
def no_library(monkeypatch):
    library.cache_clear()
    yield
    library.cache_clear()


def test_without_a_compiler_pytorch_multiplies(no_library, monkeypatch, tmp_path):
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    x, weight, exact = example(2, 32, 64, torch.float32)
    assert not can_hold(weight)
    layer = PackedLinear(weight)
    assert isinstance(layer._kernel, Blocks)
    torch.testing.assert_close(layer(x), exact.float(), rtol=1e-5, atol=1e-4)


def test_without_a_compiler_eight_bits_are_pytorchs(no_library, monkeypatch):
    torchao = pytest.importorskip("torchao.quantization")
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    torch.manual_seed(0)
    plain = nn.Linear(64, 48, bias=False)
    layer = nn.Linear(64, 48, bias=False)
    layer.load_state_dict(plain.state_dict())
    torchao.quantize_(layer, torchao.Int8WeightOnlyConfig())
    assert is_int8(layer.weight)
    packed = PackedLinear(layer.weight)
    assert isinstance(packed._kernel, Int8)
    x = torch.randn(17, 64)
    with torch.inference_mode():
        exact, many, few = plain(x), packed(x), torch.cat([packed(x[:1]), packed(x[1:])])
    assert (many - few).abs().max() < 0.01 * exact.abs().max()
    assert 0 < (few - exact).abs().max() < 0.02 * exact.abs().max()


@needs_library
def test_a_compiler_that_fails_is_told_of_once(no_library, monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("LIQUID_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "FLAGS", ("-no-such-flag",))
    with caplog.at_level(logging.WARNING):
        assert library() is library() is None
    assert [record.message for record in caplog.records if "no-such-flag" in record.message]
    assert len(caplog.records) == 1
    assert not list(tmp_path.iterdir())
