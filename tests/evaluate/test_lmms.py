"""The lmms-eval plug-in on a stub of the two modules it needs, which have lmms-eval 0.7's interface."""

import dataclasses
import importlib
import sys
import types

import pytest
import torch
from evalkit import noise

from liquid_mm.errors import UserError
from liquid_mm.evaluate import lmms_manifest
from liquid_mm.generate.model import load
from liquid_mm.vocab.records import Chat, Message

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


@dataclasses.dataclass
class GenerationResult:
    """What lmms-eval hands on as it is."""

    text: tuple


@pytest.fixture
def plugin(monkeypatch, tiny_folder):
    stubs = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"GenerationResult": GenerationResult},
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


def test_losses_are_of_the_models_turn(plugin, tiny_folder):
    model = plugin.Liquid(pretrained=str(tiny_folder), device="cpu", dtype="float32")
    model.task_dict = {"mc": {"test": [{"image": noise(0), "answer": "red"}]}}
    visual = (lambda doc: [doc["image"]], 0, "mc", "test")
    requests = [
        Instance(("Which colour?", " red", *visual)),
        Instance(("Which colour?", lambda doc: doc["answer"], *visual)),
        Instance(("", "blue")),
    ]
    likely = [result.text for result in model.loglikelihood(requests)]
    assert likely[0] == likely[1]
    llm, encode = model.model.checkpoint.llm, model.model.prompting
    for (value, greedy), images, question, answer in (
        (likely[0], [noise(0)], "Which colour?", "red"),
        (likely[2], [], "", "blue"),
    ):
        content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": question}]
        asked = [{"role": "user", "content": content}]
        ids = list(encode.ids(encode.to_chat(asked)))
        turns = Chat((*encode.to_chat(asked).messages, Message("assistant", (answer,))))
        full = list(encode.ids(turns))
        assert full[: len(ids)] == ids
        slow, always = [], True
        for token in full[len(ids) :]:
            if token in encode._renderer.stop_ids:
                break
            with torch.no_grad():
                logs = llm(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
            always = always and int(logs.argmax()) == token
            slow.append(float(logs[token]))
            ids.append(token)
        assert value == pytest.approx(-sum(slow) / len(slow), abs=1e-3)
        assert greedy == always


def test_what_is_drawn_first_is_shown_with_the_question(plugin, tiny_folder):
    model = plugin.Liquid(pretrained=str(tiny_folder), device="cpu")
    model.task_dict = {"cot": {"test": [{"image": noise(0)}]}}
    context = "[GEN_PROMPT]a red duck[/GEN_PROMPT]\n[QUESTION]Which is it?[/QUESTION]"
    options = {"max_new_tokens": 4}
    rest = (lambda doc: [doc["image"]], 0, "cot", "test")
    both, one = model.generate_visual_cot(
        [Instance((context, options, *rest)), Instance(("Which is it?", options, *rest))]
    )
    plain = load(tiny_folder, device="cpu")
    (drawn,) = plain.generate_images("a red duck", seed=0)
    content = [{"type": "image", "image": image} for image in (noise(0), drawn.image)]
    content.append({"type": "text", "text": "Which is it?"})
    expected = plain.generate_text([{"role": "user", "content": content}], max_new_tokens=4, top_k=1)
    assert both == expected.strip()
    assert one == plain.generate_text("Which is it?", [noise(0)], 4, top_k=1).strip()


def test_what_it_cannot_do_is_said(plugin, tiny_folder):
    with pytest.raises(UserError, match="pretrained"):
        plugin.Liquid()
    model = plugin.Liquid(pretrained=str(tiny_folder), device="cpu")
    model.task_dict = {"video": {"test": [{}]}}
    with pytest.raises(UserError, match="shows a str"):
        model.generate_until([Instance(("What?", {}, lambda doc: ["film.mp4"], 0, "video", "test"))])
    with pytest.raises(UserError, match="rounds"):
        model.generate_until_multi_round([])


def test_the_entry_point_names_the_class(plugin):
    manifest = lmms_manifest.manifest()
    module, _, name = manifest.simple_class_path.rpartition(".")
    assert manifest.model_id == "liquid"
    assert getattr(importlib.import_module(module), name) is plugin.Liquid
