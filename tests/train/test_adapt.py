from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from trainkit import FAMILIES, VOCABULARY, Synthetic, documents, pack, recipe, tiny
from transformers import AutoModelForCausalLM

from liquid_mm.errors import UserError
from liquid_mm.train.adapt import Learner, new_row_ids
from liquid_mm.train.inputs import to_inputs
from liquid_mm.train.optim import make_optimizer, set_learning_rate

CPU = torch.device("cpu")


def total(learner, batch, *, grouped=True):
    x = to_inputs(batch, CPU)
    return learner(x.ids, x.positions, x.where, x.targets, x.documents if grouped else None)


def fit(learner, config, steps=4):
    optimizer = make_optimizer(learner, config)
    set_learning_rate(optimizer, 1.0)
    batches = Synthetic()
    for _ in range(steps):
        loss, stats = total(learner, next(batches))
        (loss / len(stats.loss)).backward()
        optimizer.step()
        optimizer.zero_grad()
        learner.after_step()


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_loss_is_the_sum_of_one_by_one(tmp_path, family, grouped):
    learner = Learner(tiny(family), VOCABULARY, recipe(tmp_path)).eval()
    rng = np.random.default_rng(0)
    rows = [documents(rng, 3), documents(rng, 2)]  # longer than the sliding window of 5, the second row padded more
    _, packed = total(learner, pack(rows, 40), grouped=grouped)
    alone = [pack([[document]], len(document[0])) for row in rows for document in row]
    losses = [total(learner, batch, grouped=False)[1].loss for batch in alone]
    torch.testing.assert_close(packed.loss, torch.cat(losses), rtol=1e-4, atol=1e-4)


def test_loss_is_that_of_the_plain_model_on_shifted_labels(tmp_path):
    model = tiny()
    learner = Learner(model, VOCABULARY, recipe(tmp_path)).eval()
    ((ids, mask, modality),) = documents(np.random.default_rng(3), 1)
    _, stats = total(learner, pack([[(ids, mask, modality)]], len(ids)))
    logits = model(torch.from_numpy(ids)[None]).logits[0]
    expected = F.cross_entropy(logits[:-1], torch.from_numpy(ids)[1:], reduction="none")[mask[1:]]
    torch.testing.assert_close(stats.loss, expected)


def test_the_first_token_of_a_document_is_not_predicted_from_the_one_before():
    ids = np.array([2, 11, 12])
    text = (ids, np.ones(3, bool), np.ones(3, np.int8))
    x = to_inputs(pack([[text, text]], 8), CPU)
    assert x.where.tolist() == [0, 1, 3, 4]
    assert x.targets.tolist() == [11, 12, 11, 12]
    assert x.modality.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("method", ["lora", "rows"])
@pytest.mark.parametrize("family", ["llama_tied", "llama", "gemma2", "gpt2", "phi"])
def test_only_new_rows_of_the_tables_change_and_tied_heads_stay_tied(tmp_path, family, method):
    config = recipe(tmp_path, method=method, new_rows_lr=5e-2)
    model = tiny(family)
    tables = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    before = [table.detach().clone() for table in tables]
    others = {
        name: p.detach().clone() for name, p in model.named_parameters() if all(p is not table for table in tables)
    }
    learner = Learner(model, VOCABULARY, config)
    fit(learner, config)
    new = torch.zeros(96, dtype=torch.bool)
    new[new_row_ids(VOCABULARY)] = True
    for table, old in zip(tables, before, strict=True):
        changed = (table != old).any(1)
        assert not changed[~new].any()
        assert changed[new].sum() > 20  # of 35: not every code occurs
    assert (tables[0] is tables[1]) == (family in ("llama_tied", "gemma2", "gpt2"))
    if method == "rows":
        now = dict(model.named_parameters())
        assert all(torch.equal(now[name], old) for name, old in others.items())


@pytest.mark.parametrize("family", ["llama_tied", "llama", "gemma2"])
def test_row_gradients_are_those_of_full_training(tmp_path, family):
    batch = next(Synthetic())
    full = Learner(tiny(family), VOCABULARY, recipe(tmp_path))
    total(full, batch)[0].backward()
    rows = Learner(tiny(family), VOCABULARY, recipe(tmp_path, method="rows"))
    total(rows, batch)[0].backward()
    for table, master in zip(full.tables(), rows.new_rows(), strict=True):
        torch.testing.assert_close(master.grad, table.grad[rows.row_ids], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["llama_tied", "llama", "gemma", "gpt2"])
def test_merged_and_reloaded_equals_the_trained_model(tmp_path, family):
    config = recipe(tmp_path, method="lora", lora={"rank": 4, "alpha": 8})
    learner = Learner(tiny(family), VOCABULARY, config)
    fit(learner, config)
    learner.eval()
    ids = torch.randint(0, 96, (2, 9))
    trained = learner.llm(ids).logits.detach()
    untrained = tiny(family).eval()(ids).logits
    assert (trained - untrained).abs().max() > 0.1
    learner.merge(torch.float32).save_pretrained(tmp_path / "merged")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(reloaded(ids).logits, trained, rtol=1e-4, atol=1e-4)
    tied = reloaded.get_input_embeddings().weight is reloaded.get_output_embeddings().weight
    assert tied == (family != "llama")


def test_bf16_keeps_float32_masters_of_what_is_trained_and_bf16_of_what_is_not(tmp_path):
    lora = Learner(tiny(), VOCABULARY, recipe(tmp_path, method="lora", precision="bf16"))
    assert {p.dtype for p in lora.trained().values()} == {torch.float32}
    assert {p.dtype for p in lora.llm.parameters() if not p.requires_grad} == {torch.bfloat16}
    assert {b.dtype for name, b in lora.llm.named_buffers() if "inv_freq" in name} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = total(lora, next(Synthetic()))
    exact, _ = total(Learner(tiny(), VOCABULARY, recipe(tmp_path)), next(Synthetic()))
    torch.testing.assert_close(loss, exact, rtol=2e-2, atol=0)
    loss.backward()
    # LoRA's B starts at zero, so A gets no gradient yet.
    assert all(p.grad.abs().max() > 0 for name, p in lora.trained().items() if "lora_A" not in name)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_activation_checkpointing_changes_nothing(tmp_path, method):
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        config = recipe(tmp_path, method=method, activation_checkpointing=on)
        learner = Learner(tiny(), VOCABULARY, config).train()
        total(learner, next(Synthetic()))[0].backward()
        gradients.append({name: p.grad for name, p in learner.trained().items()})
    torch.testing.assert_close(*gradients)


# While it traces, torch asks its inputs for `.grad`.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_layers_compute_the_same(tmp_path, monkeypatch):
    compiled = nn.Module.compile
    # The tracing is what may go wrong; generating machine code would take a minute.
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled(module, backend="eager"))
    gradients = []
    for on in (False, True):
        learner = Learner(tiny(), VOCABULARY, recipe(tmp_path, compile=on)).train()
        total(learner, next(Synthetic()), grouped=not on)[0].backward()
        gradients.append({name: p.grad for name, p in learner.trained().items()})
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_lora_targets_that_do_not_exist(tmp_path):
    with pytest.raises(UserError, match=r"lora\.targets"):
        Learner(tiny(), VOCABULARY, recipe(tmp_path, method="lora", lora={"targets": ["query"]}))
