import dataclasses

import numpy as np
import pytest
from PIL import Image

import liquid_mm
from liquid_mm.checkpoint import save_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.generate.images import GeneratedImage
from liquid_mm.generate.model import LiquidModel
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.generate.stream import ImageDone, ImageRows, ReplyDone, TextPiece, preview
from liquid_mm.vocab.records import ImageToText, Text, TextToImage
from tiny_checkpoint import tiny_checkpoint

PHOTO = Image.effect_mandelbrot((40, 24), (-2, -1.5, 1, 1.5), 20).convert("RGB")
# The random model is sure of its codes: chance has to be helped.
HOT = {"temperature": 1e3, "top_k": None}


@pytest.fixture(scope="module")
def model():
    return LiquidModel(tiny_checkpoint("gemma"))


@pytest.fixture
def requests(model, monkeypatch):
    """The requests that reach the engine."""
    seen = []
    run = model.engine.run

    def spy(requests, on_event=None):
        seen.extend(requests)
        return run(requests, on_event)

    monkeypatch.setattr(model.engine, "run", spy)
    return seen


def ids(model, record):
    return tuple(model.render(record).ids.tolist())


def test_pictures_come_in_order_with_what_made_them(model):
    drawn = model.generate_images(["a duck", "a ball"], seed=3, images_per_prompt=2, **HOT)
    made_from = [("a duck", 3), ("a duck", 4), ("a ball", 3), ("a ball", 4)]
    assert [(image.prompt, image.seed) for image in drawn] == made_from
    assert all(image.image.size == (32, 32) and image.codes.shape == (4, 4) for image in drawn)
    (again,) = model.generate_images(["a ball"], seed=4, **HOT)
    np.testing.assert_array_equal(again.codes, drawn[3].codes)
    np.testing.assert_array_equal(again.image, drawn[3].image)
    assert not np.array_equal(drawn[2].codes, drawn[3].codes)


def test_without_a_seed_every_picture_draws_one_and_tells_it(model):
    first, second = model.generate_images(["a duck"], images_per_prompt=2, **HOT)
    assert first.seed != second.seed
    (again,) = model.generate_images("a duck", seed=second.seed, **HOT)
    np.testing.assert_array_equal(again.codes, second.codes)


def test_the_size_is_stated_in_both_rows_when_it_is_not_the_models_own(model, requests):
    for size, size_prompt in [(None, None), ([32, 32], None), ((48, 16), None), ((48, 16), False), (None, True)]:
        (drawn,) = model.generate_images(["a duck"], size, size_prompt, top_k=1)
        assert drawn.image.size == tuple(size or (32, 32))
    stated = [None, None, (48, 16), None, (32, 32)]
    for request, size in zip(requests, stated, strict=True):
        assert request.prompt == ids(model, TextToImage("a duck", size=size))
        assert request.image.unconditional == ids(model, TextToImage("", size=size, unconditional=True))


def test_guidance_is_what_suits_the_checkpoint_where_none_is_asked_for(tmp_path):
    checkpoint = dataclasses.replace(tiny_checkpoint("smollm"), guidance_scale=99.0)
    save_checkpoint(checkpoint, tmp_path / "out")
    loaded, plain = liquid_mm.load(tmp_path / "out", dtype="float32"), LiquidModel(tiny_checkpoint("smollm"))
    assert (loaded.checkpoint.guidance_scale, plain.checkpoint.guidance_scale) == (99.0, 7.0)

    def drawn(model, **options):
        return model.generate_images(["a duck"], seed=0, **HOT, **options)[0].codes.tolist()

    assert drawn(loaded) == drawn(plain, guidance_scale=99.0) != drawn(plain)


def test_guidance_1_needs_no_unconditional_prompt(model, requests):
    model.generate_images(["a duck"], guidance_scale=1, top_k=1)
    assert requests[0].image.unconditional == ()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": (30, 32)}, "multiples of 8"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"top_k": 0}, "top_k"),
        ({"temperature": 0}, "temperature"),
        ({"images_per_prompt": 0}, "images_per_prompt"),
        ({"seed": -5}, "seed"),
        ({"size": (512, 512)}, "smaller image"),
    ],
)
def test_bad_values_are_refused_by_name(model, options, named):
    with pytest.raises(UserError, match=named):
        model.generate_images(["a duck"], **options)
    with pytest.raises(UserError, match="strings"):
        model.generate_images([5])
    with pytest.raises(UserError, match="empty"):
        model.generate_images(["a duck", " "])


def test_codes_and_pictures_go_both_ways(model):
    (codes,) = model.encode_images([PHOTO])
    assert codes.shape == (3, 5)
    (image,) = model.decode_images([codes])
    assert image.size == PHOTO.size


def test_text_is_continued_as_it_stands(model, requests):
    text = model.generate_text("a red apple", max_new_tokens=6, top_k=1)
    assert isinstance(text, str)
    assert requests[0].prompt == ids(model, Text("a red apple"))
    assert requests[0].text.stop == model.renderer.stop_ids


def test_a_picture_without_a_question_is_captioned(model, requests, tmp_path):
    PHOTO.save(tmp_path / "photo.png")
    for images in ([tmp_path / "photo.png"], str(tmp_path / "photo.png")):
        model.generate_text("", images=images, max_new_tokens=4)
    for request in requests:
        assert request.prompt == ids(model, ImageToText(model.checkpoint.read_image(PHOTO)))


def test_a_picture_with_a_question_is_a_turn_of_the_users(model, requests):
    model.generate_text("What is this?", images=[PHOTO], max_new_tokens=4)
    parts = [{"type": "image", "image": PHOTO}, {"type": "text", "text": "What is this?"}]
    model.generate_text([{"role": "user", "content": parts}], max_new_tokens=4)
    assert requests[0].prompt == requests[1].prompt
    assert model.vocabulary.boi in requests[0].prompt


def test_texts_that_make_no_prompt_are_refused(model, tmp_path):
    with pytest.raises(UserError, match="of one image"):
        model.generate_text("", images=[PHOTO, PHOTO])
    with pytest.raises(UserError, match="messages' content"):
        model.generate_text([{"role": "user", "content": "a"}], images=[PHOTO])
    with pytest.raises(UserError, match="no image file"):
        model.generate_text("", images=[tmp_path / "nothing.png"])
    with pytest.raises(UserError, match="max_new_tokens"):
        model.generate_text("a", max_new_tokens=0)


def test_special_tokens_are_no_text(model):
    (eos, apple) = model.vocabulary.eos, model.checkpoint.tokenizer("apple", add_special_tokens=False)["input_ids"]
    assert model._decode([eos, *apple, model.vocabulary.pad]) == "apple"


def test_a_chat_may_draw(model, requests, monkeypatch):
    # So few text ids that <boi> is soon drawn, and none of them stops.
    few = dataclasses.replace(model.vocabulary, text_size=model.vocabulary.unconditional + 2)
    monkeypatch.setattr(model.engine, "vocabulary", few)
    monkeypatch.setattr(model.renderer, "stop_ids", frozenset({model.vocabulary.code_offset - 1}))
    events = []
    chat = [{"role": "user", "content": "Draw a duck."}]
    hot = {"temperature": 1e6, "top_p": 1.0, "seed": 1}
    reply = model.chat(chat, max_new_tokens=40, max_images=1, **hot, on_event=events.append)
    (drawn,) = [part for part in reply if isinstance(part, GeneratedImage)]
    assert drawn.prompt == "Draw a duck."
    assert (drawn.image.size, drawn.codes.shape, drawn.seed) == ((32, 32), (4, 4), 1)
    assert sum(event.modality == "text" for event in events) == 40
    assert requests[0].image.unconditional == ids(model, TextToImage("", unconditional=True))
    # The picture goes back into the conversation as its codes.
    turn = {"role": "assistant", "content": [{"type": "image", "image": drawn}]}
    model.chat([*chat, turn, chat[0]], max_new_tokens=1)
    codes = model.vocabulary.to_ids(drawn.codes).tolist()
    assert any(list(requests[1].prompt[i : i + 16]) == codes for i in range(len(requests[1].prompt)))


def test_a_chat_without_pictures(model):
    chat = [{"role": "user", "content": "Hi"}]
    assert not any(isinstance(part, GeneratedImage) for part in model.chat(chat, 5, max_images=0))
    with pytest.raises(UserError, match="max_images"):
        model.chat(chat, max_images=-1)


def test_a_request_can_be_watched(model):
    request = model.prompting.image("a duck", 3, SamplingConfig(temperature=1e3))
    events = []
    future = model.submit(request, events.append, preview_rows=1)
    unwatched = model.submit(request)
    while model.engine.step():
        pass
    assert [type(event) for event in events] == [ImageRows] * 3 + [ImageDone, ReplyDone]
    np.testing.assert_array_equal(events[1].codes, events[3].codes[:2])
    np.testing.assert_array_equal(future.result().codes, unwatched.result().codes)
    assert preview(model.decode_images, events[0]).size == (32, 32)
    record = model.prompting.text_record("a red", ())
    events.clear()
    future = model.submit(model.prompting.text(record, 0, SamplingConfig(temperature=5.0), 30), events.append)
    while model.engine.step():
        pass
    text = "".join(event.text for event in events if isinstance(event, TextPiece))
    assert text == model._decode(future.result().ids)
    assert text == model.generate_text("a red", max_new_tokens=30, temperature=5.0, top_p=1.0, seed=0)
