import math

import pytest
import torch

from liquid_mm.errors import UserError
from liquid_mm.generate import sampling
from liquid_mm.generate.reference import choose
from liquid_mm.generate.sampling import draw, index_of, largest, sample, scale_temperature, top_k, top_p
from liquid_mm.generate.sampling_config import SamplingConfig

LOGITS = torch.tensor([[1.0, 3.0, 2.0, -1.0]])


def test_temperature_divides_in_float32():
    scaled = scale_temperature(torch.tensor([[1.0, 3.0]], dtype=torch.bfloat16), 0.5)
    assert scaled.dtype == torch.float32
    assert scaled.tolist() == [[-4.0, 0.0]]


@pytest.mark.parametrize(("temperature", "drawn"), [(1e-300, {1}), (1e300, {0, 1, 2, 4})])
@pytest.mark.parametrize("k", [None, 4096, 4])
def test_temperatures_beyond_float32_are_greedy_or_uniform(temperature, drawn, k):
    config = SamplingConfig(temperature, top_k=k, top_p=1.0)
    uniform = torch.linspace(0, 0.999, 16)
    logits = torch.tensor([[10.0, 30.0, 20.0, -torch.inf, -10.0]]).repeat(16, 1)
    assert set(sample(logits, config, uniform).tolist()) == drawn


@pytest.mark.parametrize("k", [None, 3])
def test_a_top_p_beyond_float32_is_greedy(k):
    config = SamplingConfig(1.0, top_k=k, top_p=5e-324)
    assert sample(LOGITS.repeat(3, 1), config, torch.tensor([0.0, 0.5, 0.999])).tolist() == [1, 1, 1]


def test_top_k_keeps_the_largest_most_likely_first():
    values, indices = top_k(LOGITS, 2)
    assert values.tolist() == [[3.0, 2.0]]
    assert indices.tolist() == [[1, 2]]


@pytest.mark.parametrize("k", [None, 4, 100])
def test_top_k_of_all_keeps_all(k):
    assert top_k(LOGITS, k)[1].tolist() == [[1, 2, 0, 3]]


@pytest.mark.parametrize(
    ("p", "kept"),
    # The smallest set that holds at least p: 0.5 alone holds one half; a little more needs the second.
    [(0.4, [0.5, 0, 0]), (0.5, [0.5, 0, 0]), (0.51, [0.5, 0.25, 0]), (0.75, [0.5, 0.25, 0]), (1.0, [0.5, 0.25, 0.25])],
)
def test_top_p_keeps_the_smallest_set(p, kept):
    assert top_p(torch.tensor([[0.5, 0.25, 0.25]]), p).tolist() == [kept]


@pytest.mark.parametrize(("uniform", "index"), [(0.0, 0), (0.49, 0), (0.5, 1), (0.74, 1), (0.75, 2), (0.999, 2)])
def test_draw_divides_the_unit_interval(uniform, index):
    assert draw(torch.tensor([[0.5, 0.25, 0.25, 0.0]]), torch.tensor([uniform])).tolist() == [index]


def test_draw_needs_no_normalisation():
    assert draw(torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([0.6])).tolist() == [1]


def test_draw_never_takes_an_impossible_candidate():
    # The largest float32 below 1 times the total rounds to the total itself.
    uniform = torch.tensor([1.0]).nextafter(torch.tensor([0.0]))
    assert draw(torch.tensor([[0.7, 0.1, 0.0]]), uniform).tolist() == [1]
    assert draw(torch.tensor([[0.7, 0.1, 0.0]]), torch.tensor([1.0])).tolist() == [1]


def test_sample_gives_the_probabilities_worked_out_by_hand():
    # Temperature 0.5: logits 2, 6, 4, -2; top-k 3 drops the last; weights e^6 : e^4 : e^2 for ids 1, 2, 0.
    weights = [math.exp(6), math.exp(4), math.exp(2)]
    total = sum(weights)
    assert 0.98 < (weights[0] + weights[1]) / total < 0.99
    uniform = (torch.arange(20_000) + 0.5) / 20_000
    drawn = sample(LOGITS.expand(20_000, -1), SamplingConfig(0.5, 3), uniform)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([weights[2] / total, weights[0] / total, weights[1] / total, 0], abs=1e-4)
    # Top-p 0.98 drops id 0 too, and what is left is shared out again.
    drawn = sample(LOGITS.expand(20_000, -1), SamplingConfig(0.5, 3, 0.98), uniform)
    shares = torch.bincount(drawn, minlength=4) / 20_000
    pair = weights[0] + weights[1]
    assert shares.tolist() == pytest.approx([0, weights[0] / pair, weights[1] / pair, 0], abs=1e-4)


def test_equal_logits_stand_in_the_order_of_their_ids_however_many_are_kept():
    logits = torch.randn(3, 5000, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    _, all_indices = top_k(logits, None)
    ranked = sorted(range(5000), key=lambda index: (-logits[1, index].item(), index))
    assert all_indices[1].tolist() == ranked
    values, some = top_k(logits, 300)
    last = values[1, -1]  # which of those that equal the last one are kept is not said
    sure = int((values[1] > last).sum())
    assert some[1, :sure].tolist() == ranked[:sure]


def test_the_drawn_id_is_found_among_equal_ones():
    logits = torch.randn(2, 600, generator=torch.Generator().manual_seed(1)).mul(4).round()
    values = largest(logits, 300)
    ranked = [sorted(range(600), key=lambda index: (-row[index].item(), index)) for row in logits]
    for rank in (0, 1, 17, 299):
        assert index_of(logits, values, torch.tensor([rank, 299 - rank])).tolist() == [
            ranked[0][rank],
            ranked[1][299 - rank],
        ]


def test_top_k_1_is_greedy_whatever_the_number():
    uniform = torch.tensor([0.0, 0.5, 0.999])
    assert sample(LOGITS.expand(3, -1), SamplingConfig(temperature=5.0, top_k=1), uniform).tolist() == [1, 1, 1]


def test_ids_ruled_out_are_never_drawn():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    uniform = torch.linspace(0, 1, 101)
    assert set(sample(logits.expand(101, -1), SamplingConfig(), uniform).tolist()) == {0, 2}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"temperature": 0.0}, "top_k=1"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"guidance_scale": 0.5}, "guidance_scale is 0.5"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
    ],
)
def test_values_out_of_range_are_refused_by_name(values, named):
    with pytest.raises(UserError, match=named):
        SamplingConfig(**values)


@pytest.mark.parametrize("size", [7, 1500, 9000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0])
@pytest.mark.parametrize(("k", "p"), [(None, 1.0), (None, 0.9), (100, 1.0), (100, 0.5), (None, 0.999), (8000, 0.96)])
def test_few_sorted_candidates_give_what_sorting_all_gives(size, spread, k, p):
    generator = torch.Generator().manual_seed(size)
    logits = spread * torch.randn(64, size, generator=generator)
    logits[:, 3] = -torch.inf
    uniform = torch.rand(64, generator=generator)
    uniform[:2] = torch.tensor([0.0, 0.9999])
    config = SamplingConfig(1.0, k, p)
    fast, slow = sample(logits, config, uniform), choose(logits, config, uniform)
    # Sums are rounded differently, so a number that falls on the border of two ids may take the other one.
    ordered, order = logits.double().softmax(-1).sort(descending=True)
    mass = torch.zeros_like(ordered).scatter(1, order, ordered.cumsum(-1))
    apart = (mass.gather(1, fast[:, None]) - mass.gather(1, slow[:, None])).abs()
    assert apart.max() < 1e-3
    assert (fast == slow).float().mean() > 0.9


def test_a_peaked_distribution_is_not_sorted(monkeypatch):
    counts = []
    monkeypatch.setattr(sampling, "largest", lambda logits, k: counts.append(k) or largest(logits, k))
    logits = 10 * torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0))
    sample(logits, SamplingConfig(top_p=0.9), torch.rand(4))
    assert counts == [sampling.CANDIDATES]
