"""The released layout, bit for bit: codes, pixels, prompts, greedy decoding (`assets/parity/README.md`)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image
from transformers import AutoModelForCausalLM, GemmaConfig

import liquid_mm
from liquid_mm.errors import UserError
from liquid_mm.generate.grammar import TextTask
from liquid_mm.generate.request import Request
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.image import chameleon
from liquid_mm.release import infer_vocabulary

PARITY = Path(__file__).parent / "assets" / "parity"
GENERATION = json.loads((PARITY / "generation.json").read_text())
CODES = json.loads((PARITY / "codes.json").read_text())
TRAINING = json.loads((PARITY / "training_examples.json").read_text())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("release") / "model"
    liquid_mm.import_release(PARITY / "lm", PARITY / "vqgan", out)
    return liquid_mm.load(out, device="cpu", dtype="float32")


def picture(name):
    return Image.open(PARITY / "images" / name)


def test_the_record(model):
    v = model.vocabulary
    assert (v.text_size, v.code_offset, v.num_codes, v.size) == (768, GENERATION["offset"], 8192, 8960)
    for name in ("boi", "eoi", "unconditional"):
        assert getattr(v, name) == GENERATION[f"{name}_id"]
    assert (v.bos, v.eos, v.pad, v.downsampling, v.resolution) == (2, 1, 0, 16, (128, 128))


@pytest.mark.parametrize("name", CODES)
def test_codes_and_decoded_pixels(model, name):
    (codes,) = model.encode_images([picture(name)])
    width, height = CODES[name]["size_wh"]
    assert codes.shape == (height // 16, width // 16)
    assert codes.ravel().tolist() == CODES[name]["codes"]
    (decoded,) = model.decode_images([codes])
    difference = np.asarray(decoded).astype(int) - np.asarray(picture(f"rec_{name}")).astype(int)
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("name", ["cfg1", "cfg7", "cfg3_wide"])
def test_prompts_and_greedy_codes(model, monkeypatch, name):
    case = GENERATION[name]
    seen = []
    run = model.engine.run
    monkeypatch.setattr(model.engine, "run", lambda requests, *rest: seen.extend(requests) or run(requests, *rest))
    size = tuple(case["size_wh"])
    drawn = model.generate_images(case["prompts"], size, guidance_scale=case["guidance_scale"], top_k=1)
    assert [image.codes.ravel().tolist() for image in drawn] == case["codes"]
    rows = [list(request.prompt) for request in seen]
    rows += [list(request.image.unconditional) for request in seen if request.image.unconditional]
    assert rows == [[token for token in row if token] for row in case["input_ids_left_padded"]]


@pytest.mark.parametrize("name", ["i2t", "t2t"])
def test_prompts_and_greedy_text(model, name):
    cases = GENERATION[name]
    requests = []
    for case in cases:
        parts = [{"type": "image", "image": PARITY / "images" / case["image"]}] if "image" in case else []
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": case["question"]}]}]
        ids = model.render(liquid_mm.generate.messages.to_chat(messages, model.checkpoint.read_image)).ids.tolist()
        assert ids == case["input_ids"]
        # The release samples text from all ids, codes included.
        task = TextTask(len(case["greedy_new_ids"]), SamplingConfig(top_k=1), frozenset({1}), unrestricted=True)
        requests.append(Request(tuple(ids), 0, text=task))
    assert [result.ids for result in model.engine.run(requests)] == [case["greedy_new_ids"] for case in cases]


@pytest.mark.parametrize("number", range(len(TRAINING)))
def test_training_sequences(model, number):
    case = TRAINING[number]
    if "image" in case:
        (codes,) = model.encode_images([picture(case["image"])])
    record = {
        "text": lambda: liquid_mm.Text(case["text"]),
        "text_to_image": lambda: liquid_mm.TextToImage(case["caption"], codes),
        "text_to_image_unconditional": lambda: liquid_mm.TextToImage("", codes, unconditional=True),
        "image_to_text": lambda: liquid_mm.ImageToText(codes, case["caption"]),
    }[case["direction"]]()
    rendered = model.render(record)
    assert rendered.ids.tolist() == case["input_ids"]
    assert np.where(rendered.loss_mask, rendered.ids, -100).tolist() == case["labels"]


def test_unused_tokens_serve_where_they_are_not_renamed(model, tmp_path):
    renamed = {"<boi>": "<unused0>", "<eoi>": "<unused1>", "<unconditional>": "<unused2>"}
    shutil.copytree(PARITY / "lm", tmp_path / "lm")
    text = (tmp_path / "lm" / "tokenizer.json").read_text()
    for new, old in renamed.items():
        text = text.replace(new, old)
    (tmp_path / "lm" / "tokenizer.json").write_text(text)
    config = json.loads((tmp_path / "lm" / "tokenizer_config.json").read_text())
    config["extra_special_tokens"] = [name for name in config["extra_special_tokens"] if name not in renamed]
    (tmp_path / "lm" / "tokenizer_config.json").write_text(json.dumps(config))
    liquid_mm.import_release(tmp_path / "lm", PARITY / "vqgan", tmp_path / "out")
    loaded = liquid_mm.load_checkpoint(tmp_path / "out", device="cpu")
    assert loaded.vocabulary == model.vocabulary
    assert loaded.tokenizer.convert_ids_to_tokens([7, 8, 9]) == list(renamed)


def test_what_is_no_release_is_refused(model, tmp_path):
    lm, vqgan, out = PARITY / "lm", PARITY / "vqgan", tmp_path / "out"
    with pytest.raises(UserError, match=r"vqgan\.yaml"):
        liquid_mm.import_release(lm, tmp_path, out)
    with pytest.raises(UserError, match="tokenizer"):
        liquid_mm.import_release(tmp_path, vqgan, out)
    (tmp_path / "liquid.json").write_text("{}")
    with pytest.raises(UserError, match="checkpoint folder already"):
        liquid_mm.import_release(tmp_path, vqgan, out)
    with pytest.raises(UserError, match="8959 rows, but its tokenizer 768 tokens and the VQGAN 8192"):
        infer_vocabulary(8959, model.checkpoint.tokenizer, model.checkpoint.image_tokenizer)
    assert not out.exists()


def test_full_size_language_model_on_the_meta_device():
    # The released Gemma-7B with 8192 codes: names and shapes as its weight index lists them.
    config = GemmaConfig(
        vocab_size=256_000 + 8192,
        hidden_size=3072,
        intermediate_size=24_576,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=256,
    )
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config)
    expected = {"model.embed_tokens.weight": (264_192, 3072), "model.norm.weight": (3072,)}
    for layer in range(28):
        prefix = f"model.layers.{layer}"
        expected |= {f"{prefix}.self_attn.{name}_proj.weight": (4096, 3072) for name in "qkv"}
        expected |= {
            f"{prefix}.self_attn.o_proj.weight": (3072, 4096),
            f"{prefix}.mlp.down_proj.weight": (3072, 24_576),
        }
        expected |= {f"{prefix}.mlp.{name}_proj.weight": (24_576, 3072) for name in ("gate", "up")}
        expected |= {f"{prefix}.{name}_layernorm.weight": (3072,) for name in ("input", "post_attention")}
    shapes = {name: tuple(value.shape) for name, value in llm.state_dict().items()}
    assert shapes.pop("lm_head.weight") == (264_192, 3072), "tied: an alias of the table, absent from the files"
    assert shapes == expected
    assert llm.lm_head.weight is llm.model.embed_tokens.weight


def taming_names(levels=5, blocks=2, widths=(1, 1, 2, 2, 4)):
    """The weight names of Chameleon's VQGAN, written out from its structure."""
    both = ("weight", "bias")

    def resnet(prefix, shortcut=False):
        layers = ["norm1", "conv1", "norm2", "conv2"] + ["nin_shortcut"] * shortcut
        return [f"{prefix}.{layer}" for layer in layers]

    modules = ["quant_conv", "post_quant_conv"]
    for side in ("encoder", "decoder"):
        modules += [f"{side}.{name}" for name in ("conv_in", "norm_out", "conv_out")]
        modules += resnet(f"{side}.mid.block_1") + resnet(f"{side}.mid.block_2")
        modules += [f"{side}.mid.attn_1.{name}" for name in ("norm", "q", "k", "v", "proj_out")]
    for level in range(levels):
        before = widths[max(level - 1, 0)]
        for block in range(blocks):
            modules += resnet(f"encoder.down.{level}.block.{block}", block == 0 and widths[level] != before)
        after = widths[min(level + 1, levels - 1)]
        for block in range(blocks + 1):
            modules += resnet(f"decoder.up.{level}.block.{block}", block == 0 and widths[level] != after)
        if level < levels - 1:
            modules.append(f"encoder.down.{level}.downsample.conv")
        if level > 0:
            modules.append(f"decoder.up.{level}.upsample.conv")
    return {f"{module}.{kind}" for module in modules for kind in both} | {"quantize.embedding.weight"}


def test_full_size_image_tokenizer_on_the_meta_device():
    with torch.device("meta"):
        model = VQModel(
            down_block_types=("DownEncoderBlock2D",) * 5,
            up_block_types=("UpDecoderBlock2D",) * 5,
            block_out_channels=(128, 128, 256, 256, 512),
            layers_per_block=2,
            latent_channels=256,
            sample_size=512,
            num_vq_embeddings=8192,
            vq_embed_dim=256,
        )
    assert {chameleon.rename(name, levels=5) for name in taming_names()} == set(model.state_dict())
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 68.7
