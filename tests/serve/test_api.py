"""The API as the real `openai` client speaks it, against a real server on a free port."""

import base64

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image
from servekit import PHOTO, Served, png, serving, unpacked, url

from liquid_mm.serve.settings import Settings

ASK = {"model": "tiny", "messages": [{"role": "user", "content": "Draw a duck."}]}
# With so many tokens some of the four replies hold pictures; see `chatty_model`.
LONG = {**ASK, "seed": 5, "temperature": 1, "top_p": 1, "max_tokens": 60, "n": 4}


@pytest.fixture
def client(served: Served):
    with served.client() as client:
        yield client


def pixels(url: str) -> np.ndarray:
    return np.asarray(unpacked(url.partition(",")[2]))


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="has 'tiny'"):
        client.models.retrieve("other")
    with pytest.raises(openai.NotFoundError) as failed:
        client.chat.completions.create(**{**ASK, "model": "other"})
    assert failed.value.code == "model_not_found"


def test_replies_hold_text_and_pictures_with_their_places(client):
    answer = client.chat.completions.create(**LONG)
    again = client.chat.completions.create(**LONG)
    assert [c.message for c in answer.choices] == [c.message for c in again.choices], "a seed decides everything"
    assert len({c.message.content for c in answer.choices}) == 4, "every choice has a seed of its own"
    assert [c.finish_reason for c in answer.choices] == ["length"] * 4
    images = [image for c in answer.choices for image in c.message.images or []]
    assert images
    assert all(pixels(image["image_url"]["url"]).shape == (32, 32, 3) for image in images)
    usage = answer.usage
    assert usage.completion_tokens_details.image_tokens == 16 * len(images)
    assert usage.completion_tokens_details.text_tokens == 4 * 60 - len(images)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert (usage.prompt_tokens_details.image_tokens, usage.prompt_tokens_details.text_tokens > 5) == (0, True)


def test_a_streamed_reply_is_the_same_in_pieces(client):
    whole = client.chat.completions.create(**LONG)
    texts, images, reasons, usage = [""] * 4, [[] for _ in range(4)], [None] * 4, None
    for chunk in client.chat.completions.create(**LONG, stream=True, stream_options={"include_usage": True}):
        for choice in chunk.choices:
            for image in getattr(choice.delta, "images", []):
                assert image["offset"] == len(texts[choice.index])
                images[choice.index].append(image)
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason
        usage = chunk.usage or usage
    assert texts == [choice.message.content for choice in whole.choices]
    assert [found or None for found in images] == [choice.message.images for choice in whole.choices]
    assert reasons == ["length"] * 4
    assert usage == whole.usage


def test_a_reply_goes_back_as_it_came_and_pictures_are_read(client):
    answer = client.chat.completions.create(**LONG)
    reply = next(choice.message for choice in answer.choices if choice.message.images)
    asked = {"type": "image_url", "image_url": {"url": url(PHOTO)}}
    messages = [*ASK["messages"], reply, {"role": "user", "content": [asked, {"type": "text", "text": "And this?"}]}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2)
    assert answer.usage.prompt_tokens_details.image_tokens == 16 * (1 + len(reply.images))


def test_a_picture_alone_is_captioned(client, served):
    image = {"type": "image_url", "image_url": {"url": url(PHOTO)}}
    answer = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": [image]}], max_tokens=8, temperature=1, top_p=1, seed=3
    )
    caption = served.model.generate_text("", images=[PHOTO], max_new_tokens=8, temperature=1.0, top_p=1.0, seed=3)
    assert answer.choices[0].message.content.strip() == caption


def test_text_without_pictures_ends_at_a_stop_string(client):
    plain = {**LONG, "n": 1, "extra_body": {"modalities": ["text"]}}
    (whole,) = client.chat.completions.create(**plain).choices
    text = whole.message.content
    assert whole.message.images is None
    stop = text[20:23]
    (cut,) = client.chat.completions.create(**plain, stop=[stop, "never"]).choices
    assert (cut.message.content, cut.finish_reason) == (text[: text.find(stop)], "stop")


def test_a_text_is_continued(client, served):
    ask = {"model": "tiny", "prompt": "a red", "max_tokens": 12, "temperature": 1, "top_p": 1, "seed": 1}
    answer = client.completions.create(**ask)
    text = served.model.generate_text("a red", max_new_tokens=12, temperature=1.0, top_p=1.0, seed=1)
    assert answer.choices[0].text == text
    assert answer.usage.completion_tokens == 12
    pieces = [chunk.choices[0].text for chunk in client.completions.create(**ask, stream=True)]
    assert "".join(pieces) == text
    assert len(pieces) > 3


def draw(client, **more):
    extra = {"seed": 7, "guidance_scale": 3} | more.pop("extra_body", {})
    return client.images.generate(model="tiny", prompt="a duck", extra_body=extra, **more)


def test_pictures_are_those_the_library_draws(client, served):
    answer = draw(client, n=2, size="48x16")
    drawn = served.model.generate_images(["a duck"], (48, 16), guidance_scale=3, seed=7, images_per_prompt=2)
    assert answer.size == "48x16"
    assert [image.seed for image in answer.data] == [7, 8]
    for sent, image in zip(answer.data, drawn, strict=True):
        # Decoded one by one instead of together, which rounds a level here and there differently.
        np.testing.assert_allclose(unpacked(sent.b64_json), np.asarray(image.image), atol=1)
    assert (answer.usage.output_tokens, answer.usage.input_tokens_details.image_tokens) == (24, 0)


def test_a_picture_is_watched_as_it_grows(client):
    (whole,) = draw(client).data
    *partial, last = draw(client, stream=True, partial_images=3)
    assert [(event.type, event.partial_image_index) for event in partial] == [
        ("image_generation.partial_image", index) for index in range(3)
    ]
    assert (last.type, last.b64_json) == ("image_generation.completed", whole.b64_json)
    assert last.usage.output_tokens == 16
    first, final = np.asarray(unpacked(partial[0].b64_json)), np.asarray(unpacked(last.b64_json))
    assert first.shape == final.shape
    assert len(np.unique(first[8:].reshape(-1, 3), axis=0)) == 1, "what is not drawn yet is of one colour"


def test_a_part_of_a_picture_is_drawn_anew(client, served):
    (codes,) = served.model.encode_images([PHOTO.resize((32, 32))])
    (picture,) = served.model.decode_images([codes])
    mask = picture.convert("RGBA")
    mask.paste((0, 0, 0, 0), (0, 16, 32, 32))
    sent = {"image": ("a.png", png(picture)), "mask": ("m.png", png(mask))}
    (edited,) = client.images.edit(model="tiny", prompt="a duck", **sent, extra_body={"seed": 7}).data
    keep = mask.getchannel("A")
    expected = served.model.edit_image(picture, "a duck", (0, 0, 32, 16), seed=7)
    np.testing.assert_array_equal(unpacked(edited.b64_json), expected.image)
    assert keep.getextrema() == (0, 255)
    with pytest.raises(openai.BadRequestError, match="nothing says what to draw"):
        client.images.edit(model="tiny", prompt="a duck", image=("a.png", png(picture)))


BAD = {
    "no prompt": ("images/generations", {}, "prompt"),
    "bad size": ("images/generations", {"prompt": "a", "size": "big"}, "WIDTHxHEIGHT"),
    "no multiple": ("images/generations", {"prompt": "a", "size": "30x32"}, "multiples of 8"),
    "huge": ("images/generations", {"prompt": "a", "size": "80000x80000"}, "at most 4096"),
    "too many": ("images/generations", {"prompt": "a", "n": 11}, "from 1 to 10"),
    "no guidance": ("images/generations", {"prompt": "a", "guidance_scale": 0}, "guidance_scale"),
    "urls": ("images/generations", {"prompt": "a", "response_format": "url"}, "b64_json"),
    "tools": ("chat/completions", {**ASK, "tools": [{"type": "function"}]}, "tools is not supported"),
    "empty": ("chat/completions", {"messages": []}, "messages"),
    "unknown part": (
        "chat/completions", {"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "image_url"
    ),
    "address": (
        "chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]},
        "data URLs",
    ),
    "too long": ("completions", {"prompt": "a" * 100_001}, "characters"),
    "over context": ("completions", {"prompt": "a b " * 600}, "context"),
    "too much": ("completions", {"prompt": "a", "max_tokens": 5000}, "at most 4096"),
    "negative": ("completions", {"prompt": "a", "max_tokens": -1}, "max_tokens"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_mistakes_are_answered_in_openais_shape(name, served):
    path, body, message = BAD[name]
    answer = httpx2.post(f"{served.url}/v1/{path}", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_other_refusals_have_the_same_shape(served):
    for method, path, status in (("GET", "/v1/none", 404), ("GET", "/v1/completions", 405)):
        answer = httpx2.request(method, served.url + path)
        assert (answer.status_code, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    answer = httpx2.post(f"{served.url}/v1/completions", content=b"{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the body is not valid JSON.")


def test_what_asks_for_nothing_is_let_through(served):
    more = {"tools": None, "frequency_penalty": 0, "logprobs": False, "user": "somebody", "temperature": None}
    answer = httpx2.post(f"{served.url}/v1/completions", json={"prompt": "a", "max_tokens": 1, **more})
    assert answer.status_code == 200, answer.text


def test_bodies_have_a_limit_whether_they_say_their_length_or_not():
    with serving(Settings(max_body_bytes=1000)) as small:
        where, headers = f"{small.url}/v1/completions", {"content-type": "application/json"}
        body = b'{"prompt": "' + b"a" * 2000 + b'"}'
        for content in (body, iter([body[:500], body[500:]])):
            answer = httpx2.post(where, content=content, headers=headers)
            assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")


def test_health_numbers_ids_and_documentation(served):
    assert httpx2.get(f"{served.url}/health/live").json() == {"live": True}
    assert httpx2.get(f"{served.url}/health/ready").status_code == 200
    answer = httpx2.get(f"{served.url}/v1/models", headers={"x-request-id": "mine"})
    assert answer.headers["x-request-id"] == "mine"
    answer = httpx2.get(f"{served.url}/v1/models", headers={"x-request-id": "bad id"})
    assert answer.headers["x-request-id"].startswith("req_")
    served.client().completions.create(model="tiny", prompt="a", max_tokens=3)
    numbers = httpx2.get(f"{served.url}/metrics").text
    for line in ('liquid_requests_total{route="/v1/completions",status="200"}', "liquid_queue 0.0", "liquid_slots 8.0",
                 'liquid_tokens_total{direction="out",modality="text"}', "liquid_request_seconds_bucket",
                 "liquid_first_piece_seconds_count", "liquid_images_total"):  # fmt: skip
        assert line in numbers
    assert httpx2.get(f"{served.url}/docs").status_code == 200
    assert "/v1/images/edits" in httpx2.get(f"{served.url}/openapi.json").json()["paths"]


def test_only_who_has_a_key_comes_in_and_has_so_many_requests_at_once():
    with serving(Settings(api_keys=("one", "two"), max_per_key=2)) as locked:
        for wrong in ("three", "on", "onee"):
            with pytest.raises(openai.AuthenticationError) as failed:
                locked.client(wrong).models.list()
        assert failed.value.code == "invalid_api_key"
        unread = httpx2.post(f"{locked.url}/v1/completions", content=b"{")  # no JSON, but nobody looks
        assert unread.status_code == 401
        assert unread.json()["error"]["code"] == "invalid_api_key"
        ask = {"model": "tiny", "prompt": "a", "max_tokens": 2}
        assert locked.client("two").completions.create(**ask, n=2).choices
        with pytest.raises(openai.RateLimitError, match="you have 0 of at most 2") as failed:
            locked.client("one").completions.create(**ask, n=3)
        assert int(failed.value.response.headers["retry-after"]) >= 1
        assert httpx2.get(f"{locked.url}/health/ready").status_code == 200


def test_a_picture_too_large_is_refused_by_its_header():
    with serving(Settings(max_image_pixels=900)) as small:
        image = {"type": "image_url", "image_url": {"url": url(Image.new("L", (31, 31)))}}
        with pytest.raises(openai.BadRequestError, match="31x31"):
            small.client().chat.completions.create(model="tiny", messages=[{"role": "user", "content": [image]}])


def test_bytes_are_read_as_what_they_are(client):
    for data in (b"", b"%!PS-Adobe", png(PHOTO)[:90]):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()}}
        with pytest.raises(openai.BadRequestError, match="image"):
            client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [image]}])
