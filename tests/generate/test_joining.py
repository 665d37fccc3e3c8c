"""Requests that come, wait, leave and fail while others run: nobody notices."""

import threading
from concurrent.futures import CancelledError

import pytest
import torch
from enginekit import MORE, assert_equals_reference, model, picture, reply, simplify, small_text, text

from liquid_mm.errors import UserError
from liquid_mm.generate import reference
from liquid_mm.generate.engine import FAILURES, Engine
from tiny import FAMILIES


def expected(llm, vocabulary, request):
    return simplify(reference.generate(llm, vocabulary, request))


@pytest.mark.parametrize("family", [*FAMILIES, *MORE])
def test_who_comes_late_gets_the_same_and_disturbs_nobody(family):
    llm, vocabulary = model(family)
    engine = Engine(llm, vocabulary, max_batch=6)
    requests = [
        picture(vocabulary, 70, scale=3.0),
        text(90, tokens=9, seed=2, temperature=1.5),
        picture(vocabulary, 3, (24, 16), scale=7.0),
        picture(vocabulary, 30, (48, 16), scale=1.0, seed=4, top_k=None),
        text(4, tokens=20, top_k=1),
    ]
    futures = []
    for request in requests:
        futures.append(engine.submit(request))
        for _ in range(4):
            engine.step()
    while engine.step():
        pass
    assert [simplify(future.result()) for future in futures] == [expected(llm, vocabulary, r) for r in requests]


@pytest.mark.parametrize("max_batch", [2, 3, 4])
def test_replies_that_all_want_a_second_row_get_it_in_turn(max_batch):
    llm, vocabulary = model("smollm")
    vocabulary = small_text(vocabulary)
    requests = [reply(vocabulary, seed=seed) for seed in (1, 4, 5)]
    results = assert_equals_reference(llm, vocabulary, requests, max_batch)
    assert sum(not isinstance(part, tuple) for result in results for part in result.parts) >= 3


def test_one_prompt_is_computed_once_for_all_its_pictures():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary, max_batch=8)
    computed = []

    def count(rows, ids, starts, least=1, forward=engine._runner.forward_all):
        computed.append([len(row) for row in ids])
        return forward(rows, ids, starts, least)

    engine._runner.forward_all = count
    requests = [picture(vocabulary, 20, (16, 8), scale=3.0, seed=seed, top_k=None) for seed in range(6)]
    results = engine.run(requests)
    # 20 ids and <boi>; 2, <unconditional> and <boi>: all but the last of each. Two guided pictures come later.
    assert computed == [[20, 3], [1] * 8, [1] * 8, [1] * 4, [1] * 4]
    assert [simplify(r) for r in results] == [expected(llm, vocabulary, request) for request in requests]


def test_a_cancelled_request_frees_its_rows_at_once():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary, max_batch=2)
    events = []
    first = engine.submit(picture(vocabulary, scale=3.0), events.append)
    second, third = (engine.submit(picture(vocabulary, 9, scale=3.0, seed=seed, top_k=None)) for seed in (1, 2))
    for _ in range(3):
        engine.step()
    assert (len(events), engine._slots.free) == (3, 0)
    engine.cancel(first)
    engine.cancel(second)
    engine.step()
    assert len(events) == 3
    assert len(engine._running) == 1, "the third took the rows"
    while engine.step():
        pass
    assert simplify(third.result()) == expected(llm, vocabulary, picture(vocabulary, 9, scale=3.0, seed=2, top_k=None))
    assert engine._slots.free == 2
    for future in (first, second):
        with pytest.raises(CancelledError):
            future.result()


def test_an_error_is_its_requests_own(monkeypatch):
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    good = [picture(vocabulary, 20, scale=3.0), text(30, seed=3)]

    def fail(event):
        raise RuntimeError("the watcher is gone")

    watched = engine.submit(text(5), fail)
    futures = [engine.submit(request) for request in good]
    broken = engine.submit(picture(vocabulary, 12, (16, 16)))
    head = engine._head

    def overflow(hidden, span):
        logits = head(hidden, span)
        if span == vocabulary.codes and len(logits) == 3:  # good picture, broken one, the good one's second row
            logits[1, 4] = torch.nan
        return logits

    monkeypatch.setattr(engine, "_head", overflow)
    while engine.step():
        pass
    assert [simplify(f.result()) for f in futures] == [expected(llm, vocabulary, request) for request in good]
    with pytest.raises(RuntimeError, match="watcher"):
        watched.result()
    with pytest.raises(UserError, match="overflow"):
        broken.result()


def test_when_the_device_fails_the_next_requests_are_served(monkeypatch):
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary, max_batch=2)
    running, waiting = (engine.submit(picture(vocabulary, 9, scale=3.0)) for _ in range(2))
    engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(engine._runner, "forward_all", lambda *arguments: (_ for _ in ()).throw(MemoryError("full")))
        engine.step()
    while engine.step():
        pass
    with pytest.raises(MemoryError):
        running.result()
    assert simplify(waiting.result()) == expected(llm, vocabulary, picture(vocabulary, 9, scale=3.0))


def test_run_gives_up_all_its_requests_with_the_first_that_fails():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)

    def interrupt(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.run([text(5), picture(vocabulary)], interrupt)
    with pytest.raises(ZeroDivisionError):
        engine.run([text(5), picture(vocabulary)], lambda event: 1 // 0)
    assert not engine.step()
    assert engine._slots.free == engine.max_batch
    assert_equals_reference(llm, vocabulary, [picture(vocabulary)])


def test_threads_submit_to_one_worker_and_may_step_themselves():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary, max_batch=4)
    assert not engine.wait(0)
    requests = [picture(vocabulary, 5 + n, (16, 16), scale=3.0, seed=n, top_k=None) for n in range(6)]
    answers = {}

    def ask(number):
        if number % 2:
            answers[number] = engine.run([requests[number]])[0]
        else:
            answers[number] = engine.submit(requests[number]).result(timeout=300)

    stop = threading.Event()

    def work():
        while not stop.is_set():
            if engine.wait(timeout=300):
                engine.step()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(requests))]
    worker = threading.Thread(target=work)
    for thread in (worker, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    engine._work.set()
    worker.join()
    for number, request in enumerate(requests):
        assert simplify(answers[number]) == expected(llm, vocabulary, request)


def edited(vocabulary, kept, scale=3.0):
    request = picture(vocabulary, 30, (32, 32), scale)
    places = tuple(vocabulary.code_offset + code if code is not None else None for code in kept)
    object.__setattr__(request.image, "kept", places)
    return request


@pytest.mark.parametrize(("family", "scale"), [("smollm", 1.0), ("smollm", 3.0), ("gemma2", 3.0), ("gpt2", 3.0)])
def test_kept_codes_stay_and_the_rest_is_drawn_from_what_is_before(family, scale):
    llm, vocabulary = model(family)
    top, frame = [3] * 6 + [None] * 10, [*range(5), None, None, 7, 8, None, None, *range(11, 16)]
    later = [*frame[:-1], 0]
    requests = [edited(vocabulary, kept, scale) for kept in (top, frame, later, [5] * 16)]
    results = assert_equals_reference(llm, vocabulary, requests, max_batch=5)
    for result, kept in zip(results, (top, frame, later, [5] * 16), strict=True):
        assert all(code == k for code, k in zip(result.codes.ravel(), kept, strict=True) if k is not None)
    assert results[1].codes.ravel()[:-1].tolist() == results[2].codes.ravel()[:-1].tolist()


def test_a_stretch_of_kept_codes_costs_one_pass():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    passes = []
    forward = engine._runner.forward_all
    engine._runner.forward_all = lambda *arguments, **more: passes.append(arguments) or forward(*arguments, **more)
    engine.run([edited(vocabulary, [3] * 14 + [None] * 2)])
    assert len(passes) == 3, "prompt and kept codes, then a step for each code drawn"


def test_the_context_bounds_what_is_allocated():
    llm, vocabulary = model("gpt2")
    engine = Engine(llm, vocabulary)
    engine.run([text(508, tokens=50)])
    assert engine._runner._cache._shape[1] == 512


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no room"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_fails_nobody_while_fewer_at_once_have_room(error):
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary, max_batch=8)
    most = []

    def small(rows, ids, starts, least=1, forward=engine._runner.forward_all):
        if len(rows) > 4:
            raise error
        most.append(len(rows))
        return forward(rows, ids, starts, least)

    engine._runner.forward_all = small
    requests = [picture(vocabulary, length, (16, 16), scale=3.0) for length in (5, 30, 9)]
    futures = [engine.submit(request) for request in requests]
    while engine.step():
        pass
    for future, request in zip(futures, requests, strict=True):
        assert simplify(future.result()) == expected(llm, vocabulary, request)
    # What had no room together is not tried together again.
    again = [engine.submit(request) for request in requests]
    while engine.step():
        pass
    assert [simplify(future.result()) for future in again] == [expected(llm, vocabulary, r) for r in requests]
    assert max(most) == 4


def test_a_device_that_fails_at_every_step_is_given_up():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary)
    good, failing = engine._runner.forward_all, []

    def forward(*arguments, **more):
        if failing:
            raise RuntimeError("an illegal memory access was encountered")
        return good(*arguments, **more)

    engine._runner.forward_all = forward
    for _ in range(2):  # twice in turn is not yet too often …
        failing.append(True)
        for _ in range(FAILURES - 1):
            future = engine.submit(text(5, tokens=2))
            engine.step()
            with pytest.raises(RuntimeError, match="illegal memory"):
                future.result()
        failing.clear()
        engine.run([text(5, tokens=2)])
    failing.append(True)
    futures = [engine.submit(text(5, tokens=2)) for _ in range(2)]
    for number in range(FAILURES):
        if number == FAILURES - 1:
            with pytest.raises(RuntimeError, match="illegal memory"):
                engine.step()
        else:
            engine.step()
            futures.append(engine.submit(text(5, tokens=2)))
    assert all(isinstance(future.exception(0), RuntimeError) for future in futures)  # nobody waits for ever


def test_one_request_that_has_no_room_alone_fails_alone():
    llm, vocabulary = model("smollm")
    engine = Engine(llm, vocabulary, max_batch=4)

    def none(rows, ids, starts, least=1):
        raise torch.OutOfMemoryError("no room")

    forward, engine._runner.forward_all = engine._runner.forward_all, none
    future = engine.submit(picture(vocabulary, 5, (16, 16), scale=3.0))
    engine.step()
    with pytest.raises(UserError, match="not enough memory"):
        future.result()
    engine._runner.forward_all = forward
    request = picture(vocabulary, 5, (16, 16), scale=3.0)
    assert [simplify(result) for result in engine.run([request])] == [expected(llm, vocabulary, request)]
