import os
import sys
import time

import pytest
import torch

from liquid_mm.device import default_dtype, end_helpers, parse_dtype, pick_device, quantization_config
from liquid_mm.errors import UserError


def test_the_best_device_there_is(monkeypatch):
    def machine(cuda, mps):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        return str(pick_device(None))

    assert [machine(True, True), machine(False, True), machine(False, False)] == ["cuda", "mps", "cpu"]
    assert str(pick_device("cpu")) == "cpu"
    with pytest.raises(UserError, match="'cuda:1' is not available"):
        pick_device("cuda:1")
    with pytest.raises(UserError, match="unknown device"):
        pick_device("gpu please")


def test_bfloat16_only_where_it_is_native(monkeypatch):
    assert default_dtype(torch.device("cpu")) == torch.float32
    for native, dtype in [(True, torch.bfloat16), (False, torch.float16)]:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=native: native)
        assert default_dtype(torch.device("cuda")) == dtype
    for new, dtype in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor, new=new: new)
        assert default_dtype(torch.device("mps")) == dtype


def test_dtypes_by_name():
    assert parse_dtype("bfloat16") == parse_dtype(torch.bfloat16) == torch.bfloat16
    assert parse_dtype(None) is None
    with pytest.raises(UserError, match="float32, bfloat16, float16"):
        parse_dtype("int3")


def test_quantisation_names_and_packages(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.raises(UserError, match="int8, int4"):
        quantization_config("int2", cpu)
    for package, device in [("torchao", "cpu"), ("bitsandbytes", "cuda")]:
        monkeypatch.setattr(f"transformers.utils.import_utils.is_{package}_available", lambda: False)
        with pytest.raises(UserError, match=f"pip install {package}"):
            quantization_config("int8", torch.device(device))


@pytest.mark.skipif(sys.platform != "linux" or torch.get_num_threads() < 2, reason="no helpers, or not GNU's")
def test_helpers_end_and_computing_goes_on():
    def threads():
        return len(os.listdir("/proc/self/task"))

    x = torch.randn(512, 512)
    before = x @ x
    helped = threads()
    end_helpers()
    deadline = time.monotonic() + 10
    while threads() >= helped and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threads() < helped
    torch.testing.assert_close(x @ x, before, rtol=0, atol=0)
