"""Recorded steps, with a recorder that runs the step again on the memory it was recorded with."""

from enginekit import LENGTHS, model, picture, simplify, text

from liquid_mm.generate import reference
from liquid_mm.generate.engine import Engine
from liquid_mm.generate.graphs import StepGraphs


def test_replayed_steps_draw_the_same():
    llm, vocabulary = model("gemma3")
    engine = Engine(llm, vocabulary, max_batch=5)
    recorded = []

    def recorder(step):
        recorded.append(step)
        cache = engine._runner._cache
        rows, positions, hidden = cache._rows, cache._positions, step().clone()

        def replay():
            cache._rows, cache._positions = rows, positions
            hidden.copy_(step())

        return hidden, replay

    engine._runner._graphs = StepGraphs(engine._runner._pass, recorder)
    requests = [picture(vocabulary, length, (48, 16), 3.0) for length in LENGTHS] + [text(90, seed=2)]
    expected = [simplify(reference.generate(llm, vocabulary, request)) for request in requests]
    counts = []
    for _ in range(3):  # what the first run leaves in the rows lets the later ones begin otherwise
        assert [simplify(result) for result in engine.run(requests)] == expected
        counts.append(len(recorded))
    assert 2 <= counts[0] < 20, "shapes, not steps"
    assert counts[1] == counts[2], "nothing is recorded twice"
