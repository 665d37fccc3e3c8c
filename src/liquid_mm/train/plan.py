"""What a run will take, worked out from its recipe before anything is loaded: `liquid train RECIPE --plan`.

    shape = Shape.of(config)                       counted on a model without memory (device "meta")
    plan = make_plan(config, shape, 64, "H100")    64 GPUs, laid out as the recipe says
    plan.memory                                    {"parameters and optimiser": …, "activations": …} in bytes per GPU

Parameters, their gradients and moments are exact. Activations are what a layer of the usual kind (two RMS norms,
attention without a stored score matrix, gated feed-forward) keeps for its backward pass, checked against a small one in
the tests; other kinds differ somewhat. FLOPs are an upper bound: all of a row counts as one document and as learnt.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from liquid_mm.errors import UserError, nearest
from liquid_mm.files import read_json
from liquid_mm.train.adapt import blocks_of
from liquid_mm.train.config import TrainConfig
from liquid_mm.train.context import check_heads
from liquid_mm.train.flops import GPUS, attention_width
from liquid_mm.train.loss import CHUNK_ELEMENTS
from liquid_mm.train.tensor import cuts

GIB = 2**30
RESERVE = 2 * GIB
"""For the CUDA context, communication buffers and what the allocator cannot use."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a model: parameters altogether, in one of its `layers` layers, and outside them; widths.

    `lora_sides` is the sum of inputs and outputs of all matrices in layers, which a LoRA parameter of rank 1 has.
    """

    parameters: int
    layers: int
    layer: int
    outside: int
    matrices: int
    lora_sides: int
    tables: int
    hidden: int
    vocabulary: int
    attention: int
    keys: int
    inner: int
    new_rows: int

    @classmethod
    def of(cls, config: TrainConfig) -> Shape:
        """The shape of the model of a recipe: its `architecture` or, where there is none, its checkpoint folder.

        Raises:
            UserError: neither is there, or the recipe's `tensor_parallel` or `context_parallel` is more than the
                family allows.
        """
        hf, new_rows = _architecture(config)
        with torch.device("meta"):
            llm = AutoModelForCausalLM.from_config(hf)
        for tensor, context in config.widths:
            if tensor > 1:
                cuts(llm, tensor)
            if context > 1:
                check_heads(llm, context, tensor)
        blocks = blocks_of(llm)
        matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
        embedding, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
        parameters = sum(p.numel() for p in llm.parameters())
        inside = sum(p.numel() for block in blocks for p in block.parameters())
        text = hf.get_text_config()
        head_size = attention_width(text) // text.num_attention_heads
        return cls(
            parameters=parameters,
            layers=len(blocks),
            layer=inside // len(blocks),
            outside=parameters - inside,
            matrices=sum(p.numel() for p in matrices),
            lora_sides=sum(sum(p.shape) for p in matrices),
            tables=1 if head is embedding else 2,
            hidden=embedding.shape[1],
            vocabulary=embedding.shape[0],
            attention=attention_width(text),
            keys=head_size * (getattr(text, "num_key_value_heads", None) or text.num_attention_heads),
            inner=getattr(text, "intermediate_size", None) or 4 * embedding.shape[1],
            new_rows=new_rows,
        )

    def trained(self, config: TrainConfig) -> int:
        """Parameters that the recipe's method trains; LoRA's as if on every linear layer."""
        if config.method == "full":
            return self.parameters
        rows = self.tables * self.new_rows * self.hidden
        return rows + (config.lora.rank * self.lora_sides if config.method == "lora" else 0)

    def kept(self, parts: int = 1) -> float:
        """Bytes that one layer keeps of each token for its backward pass, in bfloat16 with norms in float32.

        Args:
            parts: GPUs that compute the layer together.
        """
        cut = 2 * (self.attention + 2 * self.keys) + 4 * self.attention + 8 * self.inner
        return 16 * self.hidden + cut / parts


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe on so many GPUs.

    Attributes:
        config: the settings there.
        gpus, gpu: how many of which (a name in `flops.GPUS`).
        trained: parameters trained.
        memory: bytes on each GPU, by what they are for.
        host: bytes of CPU memory each process takes while the model is loaded.
        tokens: of the whole run, padding included.
        flops: of the whole run.
    """

    config: TrainConfig
    gpus: int
    gpu: str
    trained: int
    memory: dict[str, float]
    host: float
    tokens: float
    flops: float

    @property
    def fits(self) -> bool:
        """Whether a GPU has the memory."""
        return sum(self.memory.values()) <= GPUS[self.gpu].memory * GIB

    def days(self, mfu: float) -> float:
        """Duration at a share `mfu` of the GPUs' peak."""
        return self.flops / (self.gpus * GPUS[self.gpu].flops * mfu) / 86400

    def text(self, shape: Shape, mfu: float) -> str:
        """The plan for a person to read."""
        config, memory = self.config, sum(self.memory.values())
        shard, tensor = int(config.shard), config.tensor_parallel
        context = config.context_parallel
        rows, copies = config.data.batch_size * tensor * context // self.gpus, self.gpus // (shard * tensor)
        together = f" x {tensor} computing each layer" if tensor > 1 else ""
        those = "each" if context == 1 else f"every {context}"
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.memory.items())
        lines = {
            "parameters": f"{shape.parameters / 1e9:.2f} billion, {self.trained / 1e9:.3g} billion trained",
            "layout": f"{copies} x {shard} GPUs{together}, {rows} rows on {those}, {config.grad_accum} times a step"
            + (", activations computed twice" if config.activation_checkpointing else ""),
            "memory per GPU": f"{memory / GIB:.1f} of {GPUS[self.gpu].memory:g} GiB ({parts})",
            "host memory": f"{self.host / GIB:.0f} GiB per GPU while loading",
            "tokens": f"{self.tokens / 1e9:.3g} billion in {config.steps} steps of {config.rows_per_step} rows",
            "FLOPs": f"{self.flops:.3g}",
            "time": f"{self.days(mfu):.1f} days at {mfu:.0%} MFU",
        }
        title = f"{self.gpus} x {self.gpu}" + ("" if self.fits else ": does not fit")
        return "\n".join([title, *(f"  {name:<15} {value}" for name, value in lines.items())])


def make_plan(config: TrainConfig, shape: Shape, gpus: int, gpu: str) -> Plan:
    """Work out `config` on `gpus` GPUs of the kind `gpu`.

    Raises:
        UserError: unknown GPU, or rows and GPUs that cannot be shared out so.
    """
    if gpu not in GPUS:
        raise UserError(f"unknown GPU {gpu!r}: {nearest(gpu, GPUS)}")
    here = config.on(gpus)
    if here.data.batch_size * here.tensor_parallel * here.context_parallel % gpus:
        raise UserError(f"data.batch_size {here.data.batch_size} cannot be shared by {gpus} GPUs; add layouts.{gpus}.")
    trained = shape.trained(here)
    tokens = float(here.steps * here.rows_per_step * here.data.seq_len)
    return Plan(
        here, gpus, gpu, trained, _memory(here, shape, trained, gpus),
        host=4.0 * shape.parameters,
        tokens=tokens,
        flops=tokens * _flops_per_token(here, shape, trained),
    )  # fmt: skip


def refuse(plans: list[Plan]) -> None:
    """Raise a `UserError` that names the plans whose layout cannot fit, and what would help."""
    if bad := [f"{plan.gpus} x {plan.gpu}" for plan in plans if not plan.fits]:
        raise UserError(
            f"the layout for {', '.join(bad)} does not fit: use more GPUs, a larger `shard`, "
            "fewer `rows`, a `context_parallel` of 2 or more, "
            "activation_checkpointing: true, method: lora (or tensor_parallel with method: full), "
            f"or a larger --gpu ({', '.join(GPUS)})."
        )


def _architecture(config: TrainConfig) -> tuple[Any, int]:
    """The Hugging Face config of a recipe's model, new rows included, and how many these are."""
    if config.architecture is not None:
        fields = dict(config.architecture.base)
        if not {"model_type", "vocab_size"} <= fields.keys():
            raise UserError("architecture.base must give at least model_type and vocab_size, as in a config.json.")
        fields["vocab_size"] += config.architecture.new_rows
        return AutoConfig.for_model(**fields), config.architecture.new_rows
    if not (config.model / "config.json").is_file():
        raise UserError(
            f"there is no {config.model / 'config.json'} to plan by: make the checkpoint first (`liquid extend`), or "
            f"give `architecture` in the recipe."
        )
    codes = read_json(config.model / "liquid.json")["vocabulary"]["num_codes"]
    return AutoConfig.from_pretrained(config.model), codes


def _memory(config: TrainConfig, shape: Shape, trained: int, gpus: int) -> dict[str, float]:
    """Bytes on each GPU."""
    shard, tensor = int(config.shard), config.tensor_parallel
    number = 2 if config.precision == "bf16" else 4  # bytes of what products are made of
    frozen = 0 if config.method == "full" else shape.parameters
    if tensor > 1:  # of layers each GPU has a part; only full training is done so
        trained = shape.outside + shape.layers * shape.layer // tensor
    memory = {"parameters and optimiser": (16 * trained + number * frozen) / shard}
    full = config.method == "full"
    if shard * tensor > 1:  # what is in no layer, and two layers: one computes while the next is fetched
        memory["gathered"] = number * (shape.outside + 2 * shape.layer / tensor) * (2.0 if full else 1.0)
    elif full and number == 2:
        memory["copies in bfloat16"] = 2.0 * shape.parameters
    if full:
        memory["gradient of the head"] = 4.0 * shape.vocabulary * shape.hidden
    rows = config.data.batch_size * tensor * config.context_parallel // gpus
    tokens = rows * config.data.seq_len // config.context_parallel
    layer = shape.kept(tensor) * number / 2
    entry = number * shape.hidden if shard * tensor > 1 else 4 * shape.hidden
    per_token = shape.layers * entry + layer if config.activation_checkpointing else shape.layers * layer
    memory["activations"] = tokens * per_token
    memory["logits"] = 12.0 * CHUNK_ELEMENTS["cuda"]  # the chunk in float32, its gradient, both in the product's type
    memory["reserve"] = RESERVE
    return memory


def _flops_per_token(config: TrainConfig, shape: Shape, trained: int) -> float:
    """As `flops.Cost` counts them, every token a target in a row that is one document."""
    weights = shape.matrices + shape.vocabulary * shape.hidden
    matrices = 6.0 * weights if config.method == "full" else 4.0 * weights + 6.0 * trained
    return matrices + 12.0 * shape.layers * shape.attention * (config.data.seq_len + 1) / 2
