import dataclasses
import json
import shutil
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import liquid_mm
from liquid_mm import adapter, record
from liquid_mm.adapter import Base
from liquid_mm.checkpoint import extend, load_checkpoint, save_adapter, save_checkpoint
from liquid_mm.errors import UserError
from liquid_mm.record import Example, Taught, read_record, resolve, taught_of
from liquid_mm.vocab.base import load_base
from tiny import tiny_base
from tiny_checkpoint import tiny_checkpoint, tiny_vqgan

IDS = torch.tensor([[1, 5, 20, 7]])


def logits(llm):
    with torch.inference_mode():
        return llm(IDS).logits


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    out = tmp_path_factory.mktemp("saved") / "model"
    save_checkpoint(tiny_checkpoint(), out)
    return out


def edit(folder, **changes):
    record = json.loads((folder / "liquid.json").read_text())
    (folder / "liquid.json").write_text(json.dumps({**record, **changes}))


@pytest.mark.parametrize("family", ["smollm", "gemma2", "llama3", "gpt2"])
def test_what_is_saved_is_loaded(tmp_path, family):
    made = tiny_checkpoint(family)
    save_checkpoint(made, tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model", device="cpu")
    assert loaded.vocabulary == made.vocabulary
    assert loaded.image_tokenizer.fingerprint == made.image_tokenizer.fingerprint
    assert loaded.image_tokenizer.decoder_fingerprint == made.image_tokenizer.decoder_fingerprint
    assert loaded.tokenizer.get_vocab() == made.tokenizer.get_vocab()
    assert torch.equal(logits(loaded.llm), logits(made.llm))
    assert not loaded.llm.training
    tied = [c.llm.get_output_embeddings().weight is c.llm.get_input_embeddings().weight for c in (made, loaded)]
    assert tied[0] == tied[1]


def test_what_it_was_taught_stays_with_it(tmp_path):
    taught = Taught(
        styles={"3D": ", 3D style"},
        sizes=((48, 32),),
        examples=(Example(prompt="a duck", style="3D"),),
        questions=("What?",),
    )
    save_checkpoint(dataclasses.replace(tiny_checkpoint(), taught=taught, guidance_scale=2.0), tmp_path / "model")
    loaded = load_checkpoint(tmp_path / "model", device="cpu")
    assert (loaded.taught, loaded.guidance_scale) == (taught, 2.0)
    edit(tmp_path / "model", taught={"sizes": [[48, 0]]})
    with pytest.raises(UserError, match=r"taught\.sizes\.0\.1"):
        load_checkpoint(tmp_path / "model", device="cpu")
    edit(tmp_path / "model", taught={"examples": [{"prompt": "a duck", "style": "Noto"}]})
    with pytest.raises(UserError, match=r"'a duck' is of style 'Noto', which is not in styles"):
        load_checkpoint(tmp_path / "model", device="cpu")


def test_the_demo_says_what_it_was_taught():
    taught = taught_of(read_record(resolve("demo")), resolve("demo"))
    assert {"3D", "Noto"} <= set(taught.styles)
    assert taught.examples


def test_the_folder_is_a_plain_language_model(saved):
    llm = AutoModelForCausalLM.from_pretrained(saved)
    assert torch.equal(logits(llm), logits(load_checkpoint(saved, device="cpu").llm))


def test_the_dtype_is_that_of_the_weights_and_the_images_stay_exact(saved):
    loaded = load_checkpoint(saved, device="cpu", dtype="bfloat16")
    assert loaded.llm.dtype == torch.bfloat16
    assert loaded.llm.base_model.rotary_emb.inv_freq.dtype == torch.float32
    assert loaded.image_tokenizer.codebook.dtype == torch.float32
    assert loaded.image_tokenizer.model.dtype == torch.float32


def test_a_picture_to_understand_is_padded_and_resized(saved):
    loaded = load_checkpoint(saved, device="cpu")
    wide = Image.new("RGB", (50, 20), (255, 0, 0))
    square = Image.new("RGB", (50, 50), (122, 116, 104))
    square.paste(wide, (0, 15))
    expected = loaded.image_tokenizer.encode([square.resize((32, 32), Image.Resampling.LANCZOS)])[0]
    assert loaded.read_image(wide).tolist() == expected.tolist()


def test_nothing_is_written_over_or_half(saved, tmp_path, monkeypatch):
    made = tiny_checkpoint()
    with pytest.raises(UserError, match="already exists"):
        save_checkpoint(made, saved)

    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(made.image_tokenizer, "save", full)
    with pytest.raises(UserError, match="disk is full"):
        save_checkpoint(made, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_parts_that_do_not_fit_are_not_saved(tmp_path):
    made = tiny_checkpoint()
    other = dataclasses.replace(made.vocabulary, num_codes=17)
    with pytest.raises(UserError, match="rows: they are not of one model"):
        save_checkpoint(dataclasses.replace(made, vocabulary=other), tmp_path / "out")
    with pytest.raises(UserError, match="image tokenizer 32 of 8x8"):
        save_checkpoint(dataclasses.replace(made, image_tokenizer=tiny_vqgan(32)), tmp_path / "out")


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def test_another_layout_is_refused_with_a_hint(tmp_path, copy):
    with pytest.raises(UserError, match="no checkpoint folder"):
        load_checkpoint(tmp_path / "nowhere")
    (copy / "liquid.json").rename(copy / "other.json")
    with pytest.raises(UserError, match="`liquid import`"):
        load_checkpoint(copy)
    with pytest.raises(UserError, match="no checkpoint of this program"):
        load_checkpoint(tmp_path)
    (copy / "other.json").rename(copy / "liquid.json")
    edit(copy, format=2)
    with pytest.raises(UserError, match="not of format 1"):
        load_checkpoint(copy)
    (copy / "liquid.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match="lacks vocabulary"):
        load_checkpoint(copy)


def test_a_vocabulary_of_another_model_is_refused(copy):
    vocabulary = json.loads((copy / "liquid.json").read_text())["vocabulary"]
    edit(copy, vocabulary={**vocabulary, "code_offset": vocabulary["code_offset"] + 1})
    with pytest.raises(UserError, match="they are not of one model"):
        load_checkpoint(copy, device="cpu")


def test_another_image_tokenizer_is_refused(copy):
    tiny_vqgan(seed=1).save(copy / "image_tokenizer")
    with pytest.raises(UserError, match="not the image tokenizer this model was trained with"):
        load_checkpoint(copy, device="cpu")


def test_missing_weights_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are missing.*model\.norm\.weight"):
        load_checkpoint(copy, device="cpu")
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no causal language model"):
        load_checkpoint(copy, device="cpu")


def test_the_demo_is_found_in_the_package(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(record.importlib.resources, "files", lambda package: saved.parent / "package")
    with pytest.raises(UserError, match="no demo model"):
        load_checkpoint("demo")
    (saved.parent / "package").mkdir()
    (saved.parent / "package" / "demo").symlink_to(saved)
    assert load_checkpoint("demo", device="cpu").vocabulary == load_checkpoint(saved, device="cpu").vocabulary


def test_extend_makes_a_checkpoint(tmp_path):
    llm, tokenizer = tiny_base("qwen2")
    llm.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    tiny_vqgan().save(tmp_path / "images")
    vocabulary = extend(str(tmp_path / "base"), tmp_path / "images", tmp_path / "out")
    loaded = load_checkpoint(tmp_path / "out", device="cpu")
    assert loaded.vocabulary == vocabulary
    assert vocabulary.num_codes == 16
    assert vocabulary.resolution == (32, 32)
    torch.testing.assert_close(logits(loaded.llm)[..., : vocabulary.code_offset], logits(llm), rtol=1e-5, atol=1e-5)
    assert liquid_mm.load(tmp_path / "out", device="cpu").generate_images(["a duck"])[0].image.size == (32, 32)


# The adapter form


@pytest.fixture(params=["smollm", "llama3"], scope="module")
def trained(request, tmp_path_factory):
    """A base folder, and a model extended from it whose new rows and LoRA have been trained (here: drawn anew)."""
    root = tmp_path_factory.mktemp("adapter")
    llm, tokenizer = tiny_base(request.param)
    llm.save_pretrained(root / "base")
    tokenizer.save_pretrained(root / "base")
    made = tiny_checkpoint(request.param)
    with warnings.catch_warnings():
        # PEFT asks transformers 5 for an attribute by its old name.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        lora = get_peft_model(made.llm, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in lora.named_parameters():
            if "lora" in name:
                parameter.normal_()
        v = made.vocabulary
        new = torch.tensor([v.boi, v.eoi, v.unconditional, *v.codes])
        for table in (made.llm.get_input_embeddings().weight, made.llm.get_output_embeddings().weight):
            table[new] = torch.randn(len(new), table.shape[1])
    return made, lora, root / "base"


def test_an_adapter_gives_the_trained_model_back(trained, tmp_path):
    made, lora, base = trained
    save_adapter(made, lora, Base.of(str(base)), tmp_path / "out")
    loaded = load_checkpoint(tmp_path / "out", device="cpu")
    assert loaded.vocabulary == made.vocabulary
    assert not any("lora" in name for name, _ in loaded.llm.named_parameters())
    torch.testing.assert_close(logits(loaded.llm), logits(made.llm), rtol=1e-4, atol=1e-4)
    # Once merged it is a model like any other, and is saved and loaded as one.
    save_checkpoint(loaded, tmp_path / "merged")
    assert torch.equal(logits(load_checkpoint(tmp_path / "merged", device="cpu").llm), logits(loaded.llm))


def test_an_adapter_stores_little_and_nothing_of_this_machine(trained, tmp_path):
    made, lora, base = trained
    save_adapter(made, lora, Base("some/base"), tmp_path / "out", dtype="float16")
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {
        "liquid.json",
        "rows.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "image_tokenizer/config.json",
        "image_tokenizer/diffusion_pytorch_model.safetensors",
    }
    config = (tmp_path / "out" / "adapter" / "adapter_config.json").read_text()
    assert str(base) not in config
    targets = json.loads(config)["target_modules"]
    assert len(targets) > 1
    assert targets == sorted(targets)
    for name in ("rows.safetensors", "adapter/adapter_model.safetensors"):
        tensors = load_file(tmp_path / "out" / name)
        assert {value.dtype for key, value in tensors.items() if key != "ids"} == {torch.float16}


def test_on_a_base_of_one_file_the_merged_model_is_kept(trained, tmp_path, monkeypatch):
    made, lora, base = trained
    monkeypatch.setenv("LIQUID_CACHE", str(tmp_path / "cache"))
    save_adapter(made, lora, Base.of(str(base)), tmp_path / "out")
    plain = load_checkpoint(tmp_path / "out", device="cpu", dtype="bfloat16")
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    edit(tmp_path / "out", base=dataclasses.asdict(Base.of(str(tmp_path / "base.gguf"))))
    monkeypatch.setattr(adapter, "load_base", lambda source, dtype: load_base(str(base), dtype))
    first = load_checkpoint(tmp_path / "out", device="cpu", dtype="bfloat16")
    monkeypatch.setattr(adapter, "load_base", None)  # not needed again
    again = load_checkpoint(tmp_path / "out", device="cpu", dtype="bfloat16")
    for loaded in (first, again):
        assert torch.equal(logits(loaded.llm), logits(plain.llm))
        assert loaded.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    # Another adapter is another model.
    rows = load_file(tmp_path / "out" / "rows.safetensors")
    save_file({**rows, "embedding": rows["embedding"] + 1}, tmp_path / "out" / "rows.safetensors")
    with pytest.raises(TypeError, match="not callable"):
        load_checkpoint(tmp_path / "out", device="cpu", dtype="bfloat16")


def test_rows_alone_are_an_adapter_too(trained, tmp_path):
    made, _, base = trained
    save_adapter(made, None, Base.of(str(base)), tmp_path / "out")
    loaded = load_checkpoint(tmp_path / "out", device="cpu", dtype="bfloat16")
    assert loaded.llm.dtype == torch.bfloat16
    table = made.llm.get_input_embeddings().weight.detach()
    torch.testing.assert_close(loaded.llm.get_input_embeddings().weight.float(), table, rtol=1e-2, atol=1e-2)


def test_an_adapter_on_the_wrong_base_is_refused(trained, tmp_path):
    made, lora, base = trained
    save_adapter(made, lora, Base.of(str(base)), tmp_path / "out")
    with pytest.raises(UserError, match="cannot be loaded quantised"):
        load_checkpoint(tmp_path / "out", device="cpu", quantization="int8")
    llm, tokenizer = tiny_base("gemma")
    llm.save_pretrained(tmp_path / "gemma")
    tokenizer.save_pretrained(tmp_path / "gemma")
    edit(tmp_path / "out", base={"source": str(tmp_path / "gemma"), "sha256": None})
    with pytest.raises(UserError, match="another base than that of"):
        load_checkpoint(tmp_path / "out", device="cpu")
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    edit(tmp_path / "out", base={"source": str(tmp_path / "base.gguf"), "sha256": "0" * 64})
    with pytest.raises(UserError, match="another file than the one"):
        load_checkpoint(tmp_path / "out", device="cpu")
    edit(tmp_path / "out", base={"source": str(base), "sha256": None})
    (tmp_path / "out" / "rows.safetensors").unlink()
    with pytest.raises(UserError, match="incomplete"):
        load_checkpoint(tmp_path / "out", device="cpu")


def test_a_run_folder_points_to_its_result(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="has not ended"):
        read_record(tmp_path)
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "liquid.json").touch()
    with pytest.raises(UserError, match=f"whose result is {tmp_path}/final"):
        read_record(tmp_path)
