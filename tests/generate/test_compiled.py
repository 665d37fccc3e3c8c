"""Compiled layers: the same codes, kept on disk, only where they pay, and eager where they do not work."""

import pytest
import torch
from enginekit import LENGTHS, picture, simplify, text

from liquid_mm.generate import compiled, reference
from liquid_mm.generate.engine import Engine
from liquid_mm.generate.native import library
from liquid_mm.generate.packed import pack
from tiny import tiny_liquid

REQUESTS = [(length, size, scale) for length in LENGTHS for size, scale in (((32, 32), 1.0), ((48, 16), 3.0))]


def is_compiled(llm):
    return all("forward" in vars(layer) for layer in compiled.decoder_layers(llm))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One cache for this file, so that each layer is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cache(kept, monkeypatch):
    monkeypatch.setenv("LIQUID_CACHE", str(kept))


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_compiled_codes_equal_the_reference_and_are_compiled_once(family, kept, caplog):
    llm, _, vocabulary = tiny_liquid(family)
    requests = [picture(vocabulary, *request) for request in REQUESTS]
    requests += [text(90, seed=2, temperature=1.5), picture(vocabulary, 12, (16, 16), 3.0, seed=5, top_k=None)]
    expected = [simplify(reference.generate(llm, vocabulary, request)) for request in requests]
    pack(llm)
    engine = Engine(llm, vocabulary, max_batch=5)
    engine.compile()
    assert is_compiled(llm), caplog.text
    assert [simplify(result) for result in engine.run(requests)] == expected
    files = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert len(files) >= (2 if family == "gemma3" else 1)
    if library() is not None:  # the products are called straight
        assert all(b"aoti_torch_cpu_few_rows" in path.read_bytes() for path in kept.glob("layer-*"))
    again, _, _ = tiny_liquid(family)
    pack(again)
    engine = Engine(again, vocabulary)
    engine.compile()
    assert is_compiled(again)
    assert files == {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert [simplify(result) for result in engine.run(requests)] == expected


def packed():
    llm, _, vocabulary = tiny_liquid("smollm")
    pack(llm)
    return llm, vocabulary


def test_only_work_that_pays_is_compiled(monkeypatch):
    llm, vocabulary = packed()
    calls = []
    monkeypatch.setattr(compiled.Compiler, "compile", lambda self: calls.append(self))
    monkeypatch.setattr(compiled, "MAKING", 20 * compiled.SAVED * len(compiled.decoder_layers(llm)))
    engine = Engine(llm, vocabulary, max_batch=2)
    (drawn,) = engine.run([picture(vocabulary)])
    assert drawn.codes.size == 16
    assert not calls, "17 steps at most are known of"
    engine.run([picture(vocabulary)])
    assert calls, "with the 15 before they are 32"
    calls.clear()
    engine = Engine(llm, vocabulary, max_batch=2)
    engine.submit(picture(vocabulary, scale=3.0))
    engine.submit(picture(vocabulary, scale=3.0))
    engine.step()
    assert calls, "two pictures after each other"


@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [("_make", "no", "no tracer for this"), ("_load", "wrong", "differ from eager ones")],
)
def test_what_cannot_be_compiled_stays_eager_and_says_so(monkeypatch, caplog, name, instead, said):
    llm, vocabulary = packed()
    (expected,) = Engine(llm, vocabulary).run([picture(vocabulary)])

    def replacement(*arguments):
        if instead == "no":
            raise RuntimeError("no tracer for this")
        return lambda tensors: sum(t.sum() for t in tensors[:1]) + torch.zeros(3, 1, 32)

    monkeypatch.setattr(compiled, name, replacement)
    engine = Engine(llm, vocabulary)
    engine.compile()
    assert not is_compiled(llm)
    assert said in caplog.text
    assert simplify(engine.run([picture(vocabulary)])[0]) == simplify(expected)


def test_a_model_that_is_not_packed_is_not_compiled():
    llm, _, _ = tiny_liquid("smollm")
    assert not compiled.can_compile(llm)
