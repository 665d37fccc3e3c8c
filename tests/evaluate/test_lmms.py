"""The lmms-eval plug-in on a stub of the two modules it needs, which have lmms-eval 0.7's interface."""

import dataclasses
import importlib
import sys
import types

import pytest
from evalkit import noise

from liquid_mm.errors import UserError
from liquid_mm.evaluate import lmms_manifest
from liquid_mm.generate.model import load

REGISTRY = {}


class StubModel:
    def __init__(self):
        self.task_dict = {}


def register_model(*names):
    def decorate(cls):
        REGISTRY.update(dict.fromkeys(names, cls))
        return cls

    return decorate


@dataclasses.dataclass
class Instance:
    """As lmms-eval makes for a simple model."""

    args: tuple


@pytest.fixture
def plugin(monkeypatch, tiny_folder):
    stubs = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.model": {"lmms": StubModel},
        "lmms_eval.api.registry": {"register_model": register_model},
        "lmms_eval.models": {},
        "lmms_eval.models.registry_v2": {
            "ModelManifest": dataclasses.make_dataclass("M", ["model_id", "simple_class_path"])
        },
    }
    for name, members in stubs.items():
        module = types.ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "liquid_mm.evaluate.lmms", raising=False)
    module = importlib.import_module("liquid_mm.evaluate.lmms")
    yield module
    monkeypatch.delitem(sys.modules, "liquid_mm.evaluate.lmms")


def test_it_registers_and_answers_as_the_model_does(plugin, tiny_folder):
    model = REGISTRY["liquid"](pretrained=str(tiny_folder), device="cpu", batch_size=1)
    model.task_dict = {"pope": {"test": [{"image": noise(0)}, {"image": noise(1)}]}}
    options = {"max_new_tokens": 4, "temperature": 0, "do_sample": False}
    requests = [Instance(("Is it red?", options, lambda doc: [doc["image"]], i, "pope", "test")) for i in (0, 1)]
    requests.append(Instance(("Is it red?", {**options, "until": ["a"]}, None, 0, "pope", "test")))
    answers = model.generate_until(requests)
    alone = load(tiny_folder, device="cpu").generate_text("Is it red?", [noise(1)], 4, top_k=1)
    assert answers[1] == alone
    assert "a" not in answers[2]


def test_what_it_cannot_do_is_said(plugin, tiny_folder):
    with pytest.raises(UserError, match="pretrained"):
        plugin.Liquid()
    model = plugin.Liquid(pretrained=str(tiny_folder), device="cpu")
    model.task_dict = {"video": {"test": [{}]}}
    with pytest.raises(UserError, match="shows a str"):
        model.generate_until([Instance(("What?", {}, lambda doc: ["film.mp4"], 0, "video", "test"))])
    with pytest.raises(UserError, match="likelihoods"):
        model.loglikelihood([])
    with pytest.raises(UserError, match="rounds"):
        model.generate_until_multi_round([])


def test_the_entry_point_names_the_class(plugin):
    manifest = lmms_manifest.manifest()
    module, _, name = manifest.simple_class_path.rpartition(".")
    assert manifest.model_id == "liquid"
    assert getattr(importlib.import_module(module), name) is plugin.Liquid
