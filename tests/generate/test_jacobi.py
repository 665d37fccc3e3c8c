"""Several codes a pass, and the same distribution: greedy code for code, sampled against the exact probabilities."""

import itertools

import pytest
import torch
from enginekit import model, picture, simplify

from liquid_mm.generate import jacobi, reference
from liquid_mm.generate.jacobi import Jacobi, accept


@pytest.mark.parametrize("family", ["smollm", "gemma3"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_greedy_codes_are_the_references(family, scale):
    llm, vocabulary = model(family)
    passes = []
    for window, length in itertools.product((1, 4), (3, 90)):
        request = picture(vocabulary, length, (48, 16), scale)
        drawn = Jacobi(llm, vocabulary, window).draw(request)
        assert drawn.codes.tolist() == simplify(reference.generate(llm, vocabulary, request))[0]
        passes.append(drawn.passes)
    assert passes[:2] == [12, 12], "a window of one is ordinary decoding"
    assert all(4 <= count <= 12 for count in passes[2:])


def chi_square(counts, probabilities, number):
    """Pearson's statistic over outcomes expected five times or more, the others as one; and its degrees of freedom."""
    often = number * probabilities >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = number * torch.cat([probabilities[often], probabilities[~often].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    return ((observed - expected) ** 2 / expected).sum().item(), len(expected) - 1


def test_accepted_or_drawn_anew_a_code_has_the_models_distribution():
    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    draft, found = torch.rand(2, 6).softmax(-1), torch.rand(3, 6).mul(3).softmax(-1)
    counts, number = torch.zeros(6), 4000
    for _ in range(number):
        guesses = [jacobi._draw(row, random) for row in draft]
        counts[accept(guesses, draft, found, random)[0]] += 1
    statistic, freedom = chi_square(counts, found[0], number)
    assert freedom == 5
    assert statistic < 20.5, "0.1 % of right samplers are worse"


def test_pictures_have_the_models_distribution():
    llm, vocabulary = model("smollm")
    request = picture(vocabulary, 3, (24, 8), 2.0, top_k=3, temperature=3.0)  # three codes of three: 27 pictures
    exact = {}
    one = Jacobi(llm, vocabulary, 1)

    def after(codes):
        rows = [list(request.prompt), list(request.image.unconditional)]
        for row, ids in enumerate(rows):
            ids += [code + vocabulary.code_offset for code in codes]
            one._runner.forward([row], [ids[:-1]], [0])
        return one._probabilities(rows, [], request.image.sampling)[0]

    with torch.inference_mode():
        for a in after([]).nonzero().flatten().tolist():
            for b in after([a]).nonzero().flatten().tolist():
                last = after([a, b])
                for c in last.nonzero().flatten().tolist():
                    exact[a, b, c] = (after([])[a] * after([a])[b] * last[c]).item()
    assert sum(exact.values()) == pytest.approx(1, abs=1e-5)
    outcomes, probabilities = list(exact), torch.tensor(list(exact.values()))
    number = 500

    def statistic():
        many, counts = Jacobi(llm, vocabulary, 3), torch.zeros(len(outcomes))
        for seed in range(number):
            asked = picture(vocabulary, 3, (24, 8), 2.0, seed=seed, top_k=3, temperature=3.0)
            counts[outcomes.index(tuple(many.draw(asked).codes.ravel().tolist()))] += 1
        return chi_square(counts, probabilities, number)

    found, freedom = statistic()
    assert freedom >= 8
    assert found < freedom + 4 * (2 * freedom) ** 0.5
