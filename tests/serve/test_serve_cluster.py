"""The service on a local Ray: two replicas, one of which is killed while it computes, lose nothing."""

import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from openai import OpenAI

from liquid_mm.checkpoint import save_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.generate.model import load
from tiny_checkpoint import tiny_checkpoint

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
serve = pytest.importorskip("ray.serve", reason="the extra `cluster` is not installed")
cluster = pytest.importorskip("liquid_mm.serve.cluster", reason="the extra `cluster` is not installed")

# Raised by Ray and what it imports.
pytestmark = [pytest.mark.filterwarnings("ignore")]
LONG = {"model": "tiny", "prompt": "a", "max_tokens": 300, "temperature": 1, "top_p": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster") / "tiny"
    save_checkpoint(tiny_checkpoint("gemma"), folder)
    return folder


@pytest.fixture(scope="module")
def url(checkpoint, local_ray):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = cluster.ClusterOptions(
        checkpoint=str(checkpoint), replicas=2, dtype="float32", settings={"max_choices": 3}
    )
    try:
        cluster.start(options, "127.0.0.1", port)
        yield f"http://127.0.0.1:{port}"
    finally:
        ray.shutdown()  # and with it all it started, faster than by Serve's own order


def busy_replica():
    """The process of a replica that has something under way."""
    handle = serve.get_deployment_handle("Replica", cluster.NAME)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        state = handle.state.remote().result(timeout_s=30)
        if state["running"]:
            return state["pid"]
    raise AssertionError("no replica has anything to do")


def test_the_api_is_the_same(url):
    assert httpx2.get(f"{url}/v1/models").json()["data"][0]["id"] == "tiny"
    wrong = httpx2.post(f"{url}/v1/completions", json={"prompt": "a", "n": 4})
    assert (wrong.status_code, "from 1 to 3" in wrong.json()["error"]["message"]) == (400, True)
    assert httpx2.post(f"{url}/v1/completions", content=b"x" * 20_000_001).status_code == 413
    assert httpx2.get(f"{url}/openapi.json").json()["info"]["title"] == "Liquid"
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        seeds = {client.images.generate(model="tiny", prompt="a duck").data[0].seed for _ in range(2)}
    assert len(seeds) == 2, "a request without a seed gets a new one"


def test_a_replica_killed_under_load_loses_no_request(url, checkpoint):
    model = load(checkpoint, dtype="float32")
    expected = [model.generate_text("a", max_new_tokens=300, temperature=1.0, top_p=1.0, seed=n) for n in range(12)]

    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:

        def ask(seed):
            if seed % 2:
                return client.completions.create(**LONG, seed=seed).choices[0].text
            return "".join(chunk.choices[0].text for chunk in client.completions.create(**LONG, seed=seed, stream=True))

        with ThreadPoolExecutor(12) as clients:
            answers = [clients.submit(ask, seed) for seed in range(12)]
            killed = busy_replica()
            os.kill(killed, signal.SIGKILL)
            texts = [answer.result(120) for answer in answers]
    assert texts == expected


def test_options_that_contradict_each_other_are_named():
    with pytest.raises(UserError, match="max_replicas is 1"):
        cluster.build({"replicas": 2, "max_replicas": 1})
