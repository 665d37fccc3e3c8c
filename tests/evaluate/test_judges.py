"""Judges on small random models, each against its definition worked out step by step."""

import json

import numpy as np
import pytest
import torch
from evalkit import noise
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from liquid_mm.errors import UserError
from liquid_mm.evaluate.clip_flant5 import AFTER, BEFORE, ClipFlanT5, build_projector, is_clip_flant5
from liquid_mm.evaluate.judges import QUESTION, ClipScore, ImageTextJudge, load_judge

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
VISION = {**SMALL, "num_hidden_layers": 3, "image_size": 8, "patch_size": 4}
WIDE, SQUARE = noise(0, (24, 8)), noise(1, (8, 8))


def image_processor():
    return CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})


def word_tokenizer(words, *, end=None, **special):
    vocab = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if end:
        backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, vocab[end])])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", **special)


@pytest.fixture(scope="module")
def flant5():
    torch.manual_seed(0)
    said = f"{BEFORE} USER ASSISTANT Does this figure show duck red".split()
    words = ["<pad>", "</s>", "<unk>", "Yes", *sorted(set(said))]
    tokenizer = word_tokenizer(words, end="</s>", eos_token="</s>")
    config = T5Config(
        vocab_size=len(words), d_model=12, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )  # fmt: skip
    t5 = T5ForConditionalGeneration(config)
    with torch.no_grad():
        t5.lm_head.weight.normal_(0, 1)
    return ClipFlanT5(
        t5, CLIPVisionModel(CLIPVisionConfig(**VISION)), build_projector(16, 12), tokenizer, image_processor()
    )


@torch.inference_mode()
def slow_vqascore(judge, image, text):
    """The definition: one pair, one answer token after the other."""
    t5, ids = judge._t5, lambda string: torch.tensor(judge._tokenizer(string)["input_ids"])
    side = max(image.size)
    mean = tuple(int(channel * 255) for channel in judge._image_processor.image_mean)
    from PIL import Image

    square = Image.new("RGB", (side, side), mean)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    pixels = judge._image_processor(square, return_tensors="pt")["pixel_values"]
    seen = judge._vision.pre_layrnorm(judge._vision.embeddings(pixels))
    for layer in judge._vision.encoder.layers[:-1]:
        output = layer(seen, attention_mask=None)
        seen = output[0] if isinstance(output, tuple) else output
    patches = judge._projector(seen[0, 1:])
    table = t5.get_input_embeddings().weight
    question = f'Does this figure show "{text}"? Please answer yes or no.'
    prompt = torch.cat([table[ids(BEFORE)], patches, table[ids(f"\n{question} ASSISTANT: ")]])[None]
    answer, fed, log = ids("Yes"), [0], 0.0
    assert answer.tolist()[-1] == judge._tokenizer.eos_token_id
    for token in answer.tolist():
        logits = t5(inputs_embeds=prompt, decoder_input_ids=torch.tensor([fed])).logits[0, -1]
        log += float(logits.log_softmax(-1)[token])
        fed.append(token)
    return float(np.exp(log / len(answer)))


def test_clip_flant5_equals_its_definition_in_a_padded_batch(flant5):
    texts = ["red duck", "duck duck duck duck red"]
    scores = flant5([WIDE, SQUARE], texts)
    slow = [slow_vqascore(flant5, image, text) for image, text in zip((WIDE, SQUARE), texts, strict=True)]
    np.testing.assert_allclose(scores, slow, rtol=1e-4)
    assert scores[0] != pytest.approx(scores[1], rel=0.05)  # able to fail: the pairs do differ


def test_the_prompt_is_the_papers():
    assert QUESTION.format(text="a") == 'Does this figure show "a"? Please answer yes or no.'
    assert BEFORE.endswith("questions. USER: ")
    assert AFTER.startswith("\n")
    assert AFTER.endswith(" ASSISTANT: ")


def released(flant5, folder):
    """The weights as the authors release them: T5's names, and vision tower and projector among them."""
    tower = folder / "tower"
    flant5._image_processor.save_pretrained(tower)
    flant5._tokenizer.save_pretrained(folder)
    config = {**flant5._t5.config.to_dict(), "model_type": "clip_t5", "mm_vision_tower": str(tower)}
    (folder / "config.json").write_text(json.dumps(config))
    weights = dict(flant5._t5.state_dict())
    weights |= {f"mm_projector.{name}": value for name, value in flant5._projector.state_dict().items()}
    seen = {f"vision_tower.vision_tower.vision_model.{name}": v for name, v in flant5._vision.state_dict().items()}
    weights |= {name: value for name, value in seen.items() if not name.endswith("position_ids")}
    # The folder of the tower is CLIP's own; what counts are the weights trained with T5.
    torch.manual_seed(9)
    CLIPVisionModel(flant5._vision.config).save_pretrained(tower)
    return weights


def test_the_released_layout_is_read(flant5, tmp_path):
    weights = released(flant5, tmp_path)
    save_file({name: value.clone() for name, value in weights.items()}, tmp_path / "model.safetensors")
    assert is_clip_flant5(str(tmp_path))
    judge = load_judge(str(tmp_path), "cpu")
    np.testing.assert_allclose(judge([WIDE], ["red duck"]), flant5([WIDE], ["red duck"]), rtol=1e-5)


def test_weights_that_are_missing_are_an_error_not_drawn_at_random(flant5, tmp_path):
    weights = released(flant5, tmp_path)
    del weights["mm_projector.2.bias"]
    save_file({name: value.clone() for name, value in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"2\.bias is missing"):
        load_judge(str(tmp_path), "cpu")


def test_a_judge_that_is_nowhere_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be downloaded"):
        load_judge("zhiqiulin/clip-flant5-xl", "cpu")
    with pytest.raises(UserError, match="has no ModelForImageTextToText"):
        load_judge(str(tmp_path / "none"), "cpu")


def test_any_image_text_model_judges_by_the_probability_of_yes():
    torch.manual_seed(1)
    words = [
        "<pad>",
        "<unk>",
        "<image>",
        "Yes",
        "no",
        "Does",
        "this",
        "figure",
        "show",
        "duck",
        "red",
        "USER",
        "ASSISTANT",
    ]
    tokenizer = word_tokenizer(words, extra_special_tokens={"image_token": "<image>"})
    template = (
        "{% for m in messages %}USER {% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}ASSISTANT"
    )
    processor = LlavaProcessor(
        image_processor(), tokenizer, patch_size=4, vision_feature_select_strategy="default", chat_template=template,
        image_token="<image>", num_additional_image_tokens=1,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION), text_config=text, image_token_index=2, vision_feature_layer=-2
    )
    model = LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.normal_(0, 1)
    judge = ImageTextJudge(model, processor, "tiny")
    scores = judge([SQUARE, noise(5, (8, 8))], ["red duck", "red duck"])
    # Its first generated token, from the greedy decoder of transformers itself.
    prompt = "USER <image> " + QUESTION.format(text="red duck") + " ASSISTANT"
    inputs = processor(images=[SQUARE], text=prompt, return_tensors="pt")
    step = model.generate(**inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True)
    assert scores[0] == pytest.approx(float(step.logits[0][0].softmax(-1)[3]), rel=1e-4)
    assert scores[0] != pytest.approx(scores[1], rel=1e-6)


def test_clipscore_is_two_and_a_half_times_the_positive_cosine(tmp_path):
    torch.manual_seed(2)
    letters = [chr(code) for code in range(97, 123)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=[])
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**SMALL, **ids, "num_hidden_layers": 1, "vocab_size": len(vocab), "max_position_embeddings": 40}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=6)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.model_max_length = 40
    processor = CLIPProcessor(image_processor(), tokenizer)
    processor.save_pretrained(tmp_path)
    pairs = [(SQUARE, "a duck"), (noise(3, (8, 8)), "red"), (noise(4, (8, 8)), "zebra")]
    scores = ClipScore(str(tmp_path), "cpu")(*zip(*pairs, strict=True))
    slow = []
    with torch.inference_mode():
        for image, caption in pairs:
            inputs = processor(text=[f"A photo depicts {caption}"], images=[image], return_tensors="pt")
            output = model(**inputs)
            cosine = torch.cosine_similarity(output.image_embeds, output.text_embeds).item()
            slow.append(2.5 * max(cosine, 0))
    np.testing.assert_allclose(scores, slow, atol=1e-5)
    assert len(set(np.round(slow, 5))) > 1
