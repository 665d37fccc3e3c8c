"""The page's handlers over their real HTTP interface; how they look in a browser is another matter."""

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import httpx2
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from servekit import PHOTO, Served, serving

from liquid_mm.record import Example, Taught
from liquid_mm.serve.page import drawing
from liquid_mm.serve.settings import Settings
from tiny_checkpoint import tiny_checkpoint

pytestmark = [
    # Raised by gradio and what it imports, on every start.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(gradio|pydub|starlette|httpx|websockets)"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:pydub"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning:pydub"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Served]:
    with serving(Settings(max_output_tokens=40), page=True) as running:
        yield running


@pytest.fixture(scope="module")
def visitor(site: Served) -> Client:
    return Client(site.url, verbose=False)


def size(picture) -> tuple[int, int]:
    with Image.open(picture["path"] if isinstance(picture, dict) else picture) as image:
        return image.size


def test_the_page_and_the_api_share_the_server(site):
    assert "Liquid" in httpx2.get(site.url).text
    assert httpx2.get(f"{site.url}/v1/models").json()["data"][0]["id"] == "tiny"


def test_four_pictures_grow_and_are_kept(visitor):
    job = visitor.submit("a duck", "as described", "48 × 32", 3, "7", api_name="/create")
    *shown, gallery = job.result()
    assert [size(picture) for picture in shown] == [(48, 32)] * 4
    assert [entry["caption"] for entry in gallery] == [
        f"a duck · 48 × 32 · guidance 3 · seed {n}" for n in range(7, 11)
    ]
    assert len(job.outputs()) > 4, "they are seen growing"


def test_the_page_offers_what_the_model_was_taught():
    checkpoint = tiny_checkpoint()
    service = SimpleNamespace(model=SimpleNamespace(checkpoint=checkpoint, vocabulary=checkpoint.vocabulary))
    assert list(drawing._styles(service)) == [drawing.AS_DESCRIBED, *drawing.STYLES]
    assert list(drawing._sizes(service).values()) == [(32, 32), (48, 32), (32, 48)]
    taught = Taught(
        styles={"Noto": ", Noto style"}, sizes=((32, 64),), examples=(Example(prompt="a sun", size=(32, 64)),)
    )
    service.model.checkpoint = dataclasses.replace(checkpoint, taught=taught)
    assert drawing._styles(service) == {drawing.AS_DESCRIBED: "", "Noto": ", Noto style"}
    assert list(drawing._sizes(service)) == ["32 × 32", "32 × 64"]
    assert drawing._ideas(service) == [["a sun", drawing.AS_DESCRIBED, "32 × 64"]]
    service.model.checkpoint = dataclasses.replace(checkpoint, taught=Taught(questions=("What?",)))
    assert list(drawing._sizes(service)) == ["32 × 32"], "it was taught no other"


def test_a_picture_is_asked_about(visitor, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    assert isinstance(visitor.predict(handle_file(tmp_path / "photo.png"), "What?", api_name="/understand"), str)
    with pytest.raises(AppError, match="drop a picture first"):
        visitor.predict(None, "What?", api_name="/understand")


def test_a_conversation_goes_on(visitor, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    message = {"text": "Draw this.", "files": [handle_file(tmp_path / "photo.png")]}
    _, shown = visitor.predict(message, [], api_name="/chat")
    turns = shown["root"] if isinstance(shown, dict) else shown
    assert [turn["role"] for turn in turns] == ["user", "assistant"]
    assert turns[1]["content"]


def test_settings_are_compared(visitor):
    assert [size(picture) for picture in visitor.predict("a duck", "guidance", 3, "0", api_name="/compare")] == [
        (32, 32)
    ] * 4
    with pytest.raises(AppError, match="say what to draw"):
        visitor.predict(" ", "seed", 3, "0", api_name="/compare")


def test_a_window_may_have_no_more_under_way_than_a_key():
    with serving(Settings(max_per_key=3), page=True) as small:
        window = Client(small.url, verbose=False)
        with pytest.raises(AppError, match="at most 3 replies under way"):
            window.predict("a duck", "as described", "32 × 32", 3, "7", api_name="/create")  # four
        assert small.client().images.generate(model="tiny", prompt="a", n=4).data


def test_keys_close_the_page_too():
    with serving(Settings(api_keys=("one",)), page=True) as locked:
        assert httpx2.post(f"{locked.url}/gradio_api/queue/join", json={}).status_code == 401
        good = httpx2.post(f"{locked.url}/login", data={"username": "me", "password": "one"})
        bad = httpx2.post(f"{locked.url}/login", data={"username": "me", "password": "two"})
        assert (good.status_code, bad.status_code) == (200, 400)
