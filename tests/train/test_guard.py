from __future__ import annotations

import math

import pytest
from trainkit import recipe

from liquid_mm.train.checkpoint import Progress
from liquid_mm.train.guard import PATIENCE, Guard


def test_what_is_not_finite_is_bad_and_leaves_the_mean_alone(tmp_path):
    guard, progress = Guard(recipe(tmp_path)), Progress()
    assert guard.judge(progress, 4.0, 1.0) is None
    assert guard.judge(progress, math.nan, 1.0).reason == "the loss is not finite"
    assert guard.judge(progress, 4.0, math.inf).reason == "the gradient is not finite"
    assert progress.mean_loss == 4.0
    assert guard.judge(progress, 1e9, 1.0) is None  # no limit was asked for
    assert progress.mean_loss == pytest.approx(4 + (1e9 - 4) / 100)


def test_a_jump_is_measured_against_the_running_mean(tmp_path):
    guard, progress = Guard(recipe(tmp_path, spike=2.0)), Progress()
    assert guard.judge(progress, 3.0, 1.0) is None
    assert guard.judge(progress, 5.9, 1.0) is None
    assert guard.judge(progress, 6.1, 1.0).reason == "the loss jumped to 6.100, over 2 times its running mean of 3.029,"
    assert guard.judge(progress, 6.0, 1.0) is None


def test_only_bad_steps_in_a_row_are_hopeless(tmp_path):
    guard, progress = Guard(recipe(tmp_path)), Progress()
    for loss in [math.nan] * (PATIENCE - 1) + [1.0] + [math.nan] * (PATIENCE - 1):
        guard.judge(progress, loss, 1.0)
        assert not guard.hopeless
    guard.judge(progress, math.nan, 1.0)
    assert guard.hopeless
