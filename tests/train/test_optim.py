from __future__ import annotations

import pytest
import torch
from trainkit import VOCABULARY, Synthetic, recipe, tiny

from liquid_mm.train.adapt import Learner, new_row_ids
from liquid_mm.train.config import ScheduleConfig
from liquid_mm.train.inputs import to_inputs
from liquid_mm.train.optim import factor, make_optimizer, set_learning_rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"kind": "constant", "warmup": 0.2}, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({"kind": "wsd", "warmup": 0.2, "decay": 0.4}, [0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]),
        ({"kind": "wsd", "warmup": 0, "decay": 0.2, "min_ratio": 0.5}, [1, 1, 1, 1, 1, 1, 1, 1, 0.75, 0.5]),
        ({"kind": "wsd", "warmup": 0, "decay": 0}, [1] * 10),
        # warm-up of 2; then cos(k·π/8): 1, cos²(π/16), … down to 0
        ({"kind": "cosine", "warmup": 0.2}, [0.5, 1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381, 0]),
        (
            {"kind": "cosine", "warmup": 0.2, "min_ratio": 0.5},
            [0.5, 1, 0.981, 0.9268, 0.8457, 0.75, 0.6543, 0.5732, 0.519, 0.5],
        ),
    ],
)
def test_schedules_by_hand(schedule, expected):
    values = [factor(step, 10, ScheduleConfig(**schedule)) for step in range(10)]
    assert values == pytest.approx(expected, abs=1e-4)


def test_groups(tmp_path):
    learner = Learner(tiny("llama"), VOCABULARY, recipe(tmp_path, method="rows", new_rows_lr=0.5, weight_decay=0.1))
    (group,) = make_optimizer(learner, recipe(tmp_path, method="rows", new_rows_lr=0.5)).param_groups
    assert group["peak_lr"] == 0.5
    assert len(group["params"]) == 2
    full = Learner(tiny("phi"), VOCABULARY, recipe(tmp_path))
    decayed, plain = make_optimizer(full, recipe(tmp_path, weight_decay=0.1)).param_groups
    assert {p.ndim for p in plain["params"]} == {1}
    assert plain["weight_decay"] == 0
    assert decayed["weight_decay"] == 0.1
    assert len(decayed["params"]) + len(plain["params"]) == len(full.trained())


@pytest.mark.parametrize("family", ["llama", "llama_tied"])
def test_new_rows_have_their_own_rate_in_full_training(tmp_path, family):
    """The rows move as if the whole model had been trained at their rate."""
    x = to_inputs(next(Synthetic()), torch.device("cpu"))
    moved = {}
    for name, lr, rows_lr in (("slow", 1e-3, None), ("fast", 1e-2, None), ("mixed", 1e-3, 1e-2)):
        config = recipe(tmp_path, lr=lr, new_rows_lr=rows_lr, weight_decay=0.1)
        learner = Learner(tiny(family), VOCABULARY, config)
        optimizer = make_optimizer(learner, config)
        set_learning_rate(optimizer, 0.5)
        learner(x.ids, x.positions, x.where, x.targets)[0].backward()
        optimizer.step()
        moved[name] = [table.detach() for table in learner.tables()]
    new = torch.zeros(96, dtype=torch.bool)
    new[new_row_ids(VOCABULARY)] = True
    for slow, fast, mixed in zip(moved["slow"], moved["fast"], moved["mixed"], strict=True):
        torch.testing.assert_close(mixed[~new], slow[~new])
        torch.testing.assert_close(mixed[new], fast[new])
        assert not torch.allclose(slow[new], fast[new])
