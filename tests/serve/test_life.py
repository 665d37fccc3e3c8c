"""What happens when things end early: clients that leave, deadlines, errors, a full queue, a server told to stop."""

import json
import signal
import threading
import time

import httpx2
import openai
import pytest
from servekit import Served, chatty_model, serving

from liquid_mm.serve.logs import JsonFormatter
from liquid_mm.serve.settings import Settings

LONG = {"model": "tiny", "prompt": "a", "max_tokens": 400, "temperature": 1, "top_p": 1}


@pytest.fixture
def cancelled(served: Served, monkeypatch) -> threading.Event:
    """Set once the engine has freed the rows of a reply that was given up."""
    event = threading.Event()
    settle = served.model.engine._settle

    def watch() -> None:
        gone = any(state.cancelled for state in served.model.engine._running)
        settle()
        if gone:
            event.set()

    monkeypatch.setattr(served.model.engine, "_settle", watch)
    return event


def test_a_client_that_leaves_a_stream_frees_its_rows(served, cancelled):
    stream = served.client().completions.create(**LONG, stream=True)
    next(iter(stream))
    stream.close()
    assert cancelled.wait(30)
    assert len(served.client().completions.create(**{**LONG, "max_tokens": 4}).choices) == 1


def test_a_client_that_leaves_before_its_answer_frees_its_rows(served, cancelled):
    with pytest.raises(openai.APITimeoutError):
        served.client().with_options(timeout=0.2).completions.create(**LONG, n=8)
    assert cancelled.wait(30)


def test_a_deadline_ends_a_request_with_a_word(monkeypatch):
    with serving(Settings(deadline=0.2)) as hurried:
        with pytest.raises(openai.InternalServerError, match=r"more than 0\.2 seconds") as failed:
            hurried.client().completions.create(**LONG, n=8)
        assert failed.value.status_code == 504
        with pytest.raises(openai.APIError, match=r"more than 0\.2 seconds"):
            list(hurried.client().completions.create(**LONG, n=8, stream=True))


def test_the_deadline_counts_what_a_prompt_takes_to_be_made(monkeypatch):
    with serving(Settings(deadline=0.2)) as hurried:
        open_door = threading.Event()
        monkeypatch.setattr(hurried.model.prompting, "image", lambda *_, **__: open_door.wait(30))
        try:
            with pytest.raises(openai.InternalServerError, match=r"more than 0\.2 seconds") as failed:
                hurried.client().images.generate(model="tiny", prompt="a")
        finally:
            open_door.set()
        assert failed.value.status_code == 504
        assert hurried.service.running == 0


def test_a_stream_with_nothing_to_tell_says_that_it_is_alive(monkeypatch):
    with serving(Settings(keep_alive=0.05)) as patient:
        decode, ready = patient.model.decode_images, threading.Event()
        monkeypatch.setattr(patient.model, "decode_images", lambda grids: ready.wait(30) and decode(grids))
        ask = {"prompt": "a duck", "seed": 1, "stream": True}
        with httpx2.stream("POST", f"{patient.url}/v1/images/generations", json=ask, timeout=30) as answer:
            lines = answer.iter_lines()
            assert [next(lines) for _ in range(4)] == [": still at it", ""] * 2
            ready.set()
            assert "event: image_generation.completed" in list(lines)
        (event,) = patient.client().images.generate(model="tiny", prompt="a duck", stream=True)
        assert event.type == "image_generation.completed", "clients read over the comments"


def test_a_full_queue_refuses_and_says_when_to_come_back():
    with serving(Settings(max_queue=3)) as small:
        with pytest.raises(openai.RateLimitError, match="at most 3 may") as failed:
            small.client().completions.create(**LONG, n=4)
        assert 1 <= int(failed.value.response.headers["retry-after"]) <= 60
        assert small.client().completions.create(**{**LONG, "max_tokens": 2}, n=3).choices


def test_an_error_in_one_request_touches_no_other(served, monkeypatch, caplog):
    short = {**LONG, "max_tokens": 60, "seed": 1}
    stream = iter(served.client().completions.create(**short, stream=True))
    first = next(stream).choices[0].text
    with monkeypatch.context() as patch:
        patch.setattr(served.model, "decode_images", lambda grids: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="server's log"):
            served.client().images.generate(model="tiny", prompt="a")
    assert "ZeroDivisionError" in caplog.text
    rest = "".join(chunk.choices[0].text for chunk in stream)
    assert first + rest == served.client().completions.create(**short).choices[0].text
    assert served.client().images.generate(model="tiny", prompt="a").data


def test_a_broken_engine_answers_everybody_and_asks_for_a_new_process(monkeypatch, caplog):
    with serving() as doomed:
        monkeypatch.setattr(doomed.model.engine, "_admit", lambda: 1 / 0)
        with pytest.raises(openai.InternalServerError):
            doomed.client().completions.create(**LONG)
        assert httpx2.get(f"{doomed.url}/health/live").status_code == 503
        with pytest.raises(openai.InternalServerError, match="not ready"):
            doomed.client().completions.create(**LONG)


def test_told_to_stop_it_finishes_what_runs_and_takes_nothing_new():
    with serving(model=chatty_model()) as ending, httpx2.Client(base_url=ending.url) as kept:
        kept.get("/health/live")
        chunks = iter(ending.client().completions.create(**{**LONG, "max_tokens": 60}, stream=True))
        text = next(chunks).choices[0].text
        ending.server.handle_exit(signal.SIGTERM, None)
        assert not ending.service.ready
        for chunk in chunks:
            text += chunk.choices[0].text
            reason = chunk.choices[0].finish_reason
        assert reason == "length"
        ending.thread.join(60)
        assert not ending.thread.is_alive()
        with pytest.raises(httpx2.TransportError):
            kept.get("/health/live")


def test_the_log_has_ids_and_no_prompts_unless_asked(served, caplog):
    caplog.set_level("INFO", "liquid_mm.serve")
    served.client().completions.create(model="tiny", prompt="a secret", max_tokens=1)
    end = time.monotonic() + 30  # the client may have its answer before the server has written its line
    while not any(record.getMessage() == "answered" for record in caplog.records):
        assert time.monotonic() < end
        time.sleep(0.01)
    lines = [
        json.loads(JsonFormatter().format(record)) for record in caplog.records if record.name == "liquid_mm.serve"
    ]
    answered = next(line for line in lines if line["message"] == "answered")
    assert (answered["path"], answered["status"]) == ("/v1/completions", 200)
    assert "secret" not in json.dumps(lines)
    caplog.clear()
    with serving(Settings(log_prompts=True)) as open_book:
        open_book.client().completions.create(model="tiny", prompt="a secret", max_tokens=1)
    assert any("secret" in str(getattr(record, "prompt", "")) for record in caplog.records)
