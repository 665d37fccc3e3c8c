"""What a client sees of replicas that die, without any: a router in front of made-up answers."""

import asyncio
import json

import httpx2
import pytest
from fastapi import FastAPI, Request

pytest.importorskip("ray.serve", reason="the extra `cluster` is not installed")
from ray.exceptions import ActorDiedError

from liquid_mm.serve import router
from liquid_mm.serve.answers import DONE, add_error_handlers, sse

DEATH = ActorDiedError()


def start(kind: str, status: int = 200):
    headers = [(b"content-type", kind.encode()), (b"content-length", b"999")]
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data: bytes):
    return {"type": "http.response.body", "body": data, "more_body": True}


def piece(index: int, text: str):
    return body(sse({"choices": [{"index": index, "text": text}]}))


class Answer:
    """Messages of one replica, the last of which may be its death."""

    def __init__(self, messages):
        self.messages, self.cancelled = messages, False

    async def __aiter__(self):
        for message in self.messages:
            if isinstance(message, Exception):
                raise message
            yield message

    def cancel(self):
        self.cancelled = True


class Replicas:
    """Gives one answer after another."""

    def __init__(self, *answers):
        self.answers, self.asked = [Answer(messages) for messages in answers], []

    def remote(self, asked):
        self.asked.append(asked)
        return self.answers[len(self.asked) - 1]


def ask(monkeypatch, replicas, deadline=30.0):
    monkeypatch.setattr(router, "PAUSE", 0)
    app = FastAPI()
    add_error_handlers(app)

    @app.post("/{path:path}")
    async def forward(http: Request):
        return await router.answer(http, replicas, deadline)

    async def post():
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://router") as client:
            return await client.post("/v1/completions?a=b", json={"prompt": "x"}, headers={"x-request-id": "mine"})

    return asyncio.run(post())


def texts(answer):
    found = {}
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            (choice,) = json.loads(line[6:])["choices"]
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return found


def test_a_request_is_passed_on_whole(monkeypatch):
    replicas = Replicas([start("application/json", 418), body(b"{}"), body(b"")])
    answer = ask(monkeypatch, replicas)
    assert (answer.status_code, answer.content, answer.headers["content-length"]) == (418, b"{}", "2")
    (asked,) = replicas.asked
    assert (asked.method, asked.path, asked.query) == ("POST", "/v1/completions", b"a=b")
    assert json.loads(asked.body) == {"prompt": "x"}
    assert dict(asked.headers)[b"x-request-id"] == b"mine"


def test_half_an_answer_is_not_sent(monkeypatch):
    replicas = Replicas(
        [start("application/json"), body(b'{"half'), DEATH], [DEATH], [start("application/json"), body(b"{}")]
    )
    answer = ask(monkeypatch, replicas)
    assert answer.json() == {}
    assert len({asked.drawn for asked in replicas.asked}) == 1, "it runs again with the same chance"


def test_a_stream_goes_on_where_it_stopped_however_replies_interleave(monkeypatch):
    event = "text/event-stream; charset=utf-8"
    replicas = Replicas(
        [start(event), piece(0, "a"), piece(0, "b"), body(b": still at it\n\n"), piece(1, "x"), DEATH],
        [
            start(event),
            piece(1, "x"),
            piece(0, "a"),
            piece(1, "y"),
            piece(0, "b"),
            piece(0, "c"),
            body(DONE),
            body(b""),
        ],
    )
    answer = ask(monkeypatch, replicas)
    assert texts(answer) == {0: "abc", 1: "xy"}
    assert answer.text.count("[DONE]") == 1
    assert answer.text.count("still at it") == 1


def test_what_was_let_in_waits_for_a_replica_that_is_full(monkeypatch):
    replicas = Replicas(
        [start("application/json"), DEATH],
        [start("application/json", 429), body(b"busy")],
        [start("application/json"), body(b"{}")],
    )
    assert ask(monkeypatch, replicas).status_code == 200
    assert replicas.answers[1].cancelled
    refused = Replicas([start("application/json", 429), body(b"busy")])
    assert ask(monkeypatch, refused).status_code == 429, "what was never let in is the client's to try again"


def test_a_request_that_replicas_die_of_is_given_up(monkeypatch):
    answer = ask(monkeypatch, Replicas([DEATH], [DEATH], [DEATH], [start("application/json"), body(b"{}")]))
    assert answer.status_code == 500
    assert "each of them died" in answer.json()["error"]["message"]
    event = "text/event-stream"
    streamed = ask(monkeypatch, Replicas([start(event), piece(0, "a"), DEATH], [DEATH], [DEATH]))
    assert "each of them died" in streamed.text, "in a stream that has begun the error is an event"


def test_nothing_starts_again_after_the_deadline(monkeypatch):
    answer = ask(monkeypatch, Replicas([DEATH], [start("application/json"), body(b"{}")]), deadline=-1.0)
    assert (answer.status_code, "in time" in answer.json()["error"]["message"]) == (504, True)
