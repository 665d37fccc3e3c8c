"""What is trained: everything, LoRA with the new rows, or the new rows alone.

New rows are those of `<boi> <eoi> <unconditional>` and of the image codes. LoRA leaves embedding and head alone, so
they would stay as they were drawn (the release's own LoRA script has this defect); here they are a parameter of
their own:

    table (V, D)  frozen, in the compute type ◄── the rows' values are written in after every step
    rows  (R, D)  trained, float32            ◄── gradients from the embedding and from the head

The table thus always holds the current model, so sampling, merging and saving need no special case, tied heads stay
one tensor, and neither a copy nor a gradient of the whole table is ever made (PEFT's `trainable_token_indices` makes
both at each step).
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liquid_mm.errors import UserError
from liquid_mm.train.attention import NAME, Documents
from liquid_mm.train.config import LoraSettings, TrainConfig
from liquid_mm.train.context import Context, check_heads, check_layers
from liquid_mm.train.lora import fuse
from liquid_mm.train.loss import Head, TokenStats, backbone, check_head, fused_loss
from liquid_mm.train.probe import probe
from liquid_mm.train.shards import held, whole
from liquid_mm.vocab.vocabulary import Vocabulary


def new_row_ids(vocabulary: Vocabulary) -> list[int]:
    """The ids training starts from scratch: the three specials, then the codes."""
    return [vocabulary.boi, vocabulary.eoi, vocabulary.unconditional, *vocabulary.codes]


class TrainableRows(nn.Module):
    """Float32 masters of some rows of a frozen embedding (and of an untied head).

    Args:
        llm: the model; its tables are frozen by the caller.
        row_ids: R ids, each at most once.
    """

    def __init__(self, llm: nn.Module, row_ids: list[int]) -> None:
        super().__init__()
        embedding: Any = llm.get_input_embeddings()  # type: ignore[operator]
        head: Any = llm.get_output_embeddings()  # type: ignore[operator]
        self.tied = head.weight is embedding.weight
        # In a list, so that they are not parts of this module too; their parameters change when they are sharded.
        self._holders = [embedding] if self.tied else [embedding, head]
        device = embedding.weight.device
        self.ids: Tensor
        self.row_of: Tensor
        self.register_buffer("ids", torch.tensor(row_ids, device=device), persistent=False)
        row_of = torch.full((len(embedding.weight),), -1, device=device)
        row_of[self.ids] = torch.arange(len(row_ids), device=device)
        self.register_buffer("row_of", row_of, persistent=False)
        masters = [nn.Parameter(holder.weight.detach()[self.ids].float()) for holder in self._holders]
        self.embedding = masters[0]
        self.head = masters[-1]
        embedding.register_forward_hook(self._route)

    @property
    def masters(self) -> list[nn.Parameter]:
        """The trained (R, D) tensors: one if the head is tied, else embedding and head."""
        return [self.embedding] if self.tied else [self.embedding, self.head]

    def _route(self, module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Replace the looked-up values of trained rows by those of the masters, which are equal but differentiable."""
        if not torch.is_grad_enabled():
            return output
        index = self.row_of[args[0]]
        rows = F.embedding(index.clamp_min(0), self.embedding).to(output.dtype)
        # Gemma scales inside its embedding module.
        scale = getattr(module, "embed_scale", None)
        rows = rows if scale is None else rows * scale.to(rows.dtype)
        return torch.where((index >= 0)[..., None], rows, output)

    @torch.no_grad()
    def write(self) -> None:
        """Put the masters' values into the tables; call after every change of the masters."""
        for holder, master in zip(self._holders, self.masters, strict=True):
            table, first = held(holder.weight)
            rows = self.ids - first  # negative or beyond the end where another process holds a row
            here = (rows >= 0) & (rows < len(table))
            table[rows[here]] = whole(master)[here].to(table.dtype)


class Learner(nn.Module):
    """A language model set up for one training method: a batch in, summed loss and token statistics out.

    Everything trained is a parameter of this module, so it is what gets wrapped for several processes.

    Args:
        llm: the model; changed in place (frozen, cast, LoRA layers inserted).
        vocabulary: which rows are new.
        config: method, LoRA settings, precision, z-loss and activation checkpointing are used.
    """

    def __init__(self, llm: Any, vocabulary: Vocabulary, config: TrainConfig) -> None:
        super().__init__()
        self.z_loss = config.z_loss
        self.vocabulary = vocabulary
        self.row_ids = new_row_ids(vocabulary)
        check_head(llm)
        documents_known = _check_attention(llm, config)
        llm.requires_grad_(config.method == "full")
        frozen_type = torch.bfloat16 if config.precision == "bf16" and config.method != "full" else torch.float32
        for parameter in llm.parameters():  # not `llm.to`: that would round the rotary frequencies too
            parameter.data = parameter.data.to(frozen_type)
        self.rows = None if config.method == "full" else TrainableRows(llm, self.row_ids)
        self.peft = _insert_lora(llm, config.lora) if config.method == "lora" else None
        if config.activation_checkpointing:
            # The first is transformers' newer name.
            enable = getattr(llm, "activation_checkpointing_enable", None) or llm.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        if documents_known:
            llm.set_attn_implementation(NAME)
        self.llm: Any = llm
        self.compiled = config.compile
        if config.compile:
            for block in self.blocks():
                block.compile()

    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        where: Tensor,
        targets: Tensor,
        documents: Documents | None = None,
        weights: Tensor | None = None,
        context: Context | None = None,
    ) -> tuple[Tensor, TokenStats]:
        """Loss on the predicted positions of packed rows.

        Attention stays inside each document: positions restart with every document, and from restarting positions
        transformers builds the block mask of each layer kind (full or sliding window) when it is given no mask.

        Args:
            ids, positions: (B, T) int64.
            where: (N,) int64, indices into the flattened (B·T) of the positions *before* each target.
            targets: (N,) int64 ids to predict there.
            documents: where the documents lie, for an attention that looks at nothing else; None: by positions alone.
            weights: (N,) float32, how much each target counts; None: all 1.
            context: the processes that compute these rows, where T is this one's stretch of them.

        Returns:
            The summed (weighted) loss and N positions' statistics.
        """
        grouped = documents is not None and self.llm.config._attn_implementation == NAME
        grouped = grouped and not self.compiled  # documents differ in every batch: each would be compiled anew
        arguments: dict[str, Any] = {"documents": documents} if grouped else {}
        if context is not None:
            arguments["context"] = context
        output = backbone(self.llm)(input_ids=ids, position_ids=positions, use_cache=False, **arguments)
        hidden = output.last_hidden_state.flatten(0, 1).index_select(0, where)
        return fused_loss(
            hidden,
            Head.of(self.llm),
            targets,
            weights=weights,
            z_loss=self.z_loss,
            rows=None if self.rows is None else self.rows.head,
            row_ids=None if self.rows is None else self.rows.ids,
        )

    def blocks(self) -> list[nn.Module]:
        """The model's layers, in order."""
        return blocks_of(self.llm)

    def trained(self) -> dict[str, nn.Parameter]:
        """What the optimiser moves, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def new_rows(self) -> list[nn.Parameter]:
        """Parameters that hold new rows only."""
        return [] if self.rows is None else self.rows.masters

    def tables(self) -> list[nn.Parameter]:
        """The embedding, and the head where it is not tied."""
        embedding, head = self.llm.get_input_embeddings(), self.llm.get_output_embeddings()
        return [embedding.weight] if head.weight is embedding.weight else [embedding.weight, head.weight]

    @torch.no_grad()
    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Take the values a checkpoint holds for `trained`."""
        trained = self.trained()
        assert state.keys() == trained.keys(), state.keys() ^ trained.keys()
        for name, parameter in trained.items():
            parameter.copy_(state[name])
        self.after_step()

    def after_step(self) -> None:
        """Bring the model in line with what the optimiser changed."""
        if self.rows is not None:
            self.rows.write()

    def finish(self) -> None:
        """Bring the whole model to float32, trained rows unrounded, attention as it came; training is over."""
        if self.llm.config._attn_implementation == NAME:
            self.llm.set_attn_implementation("sdpa")
        for parameter in self.llm.parameters():
            parameter.data = parameter.data.float()
        self.after_step()

    def merge(self, dtype: torch.dtype) -> Any:
        """The trained model as a plain causal LM in `dtype`; the learner is used up.

        LoRA is merged in float32: in bfloat16 a small update would vanish in the rounding of the weight it is added to.
        """
        self.finish()
        llm = self.llm if self.peft is None else self.peft.merge_and_unload()
        for parameter in llm.parameters():
            parameter.data = parameter.data.to(dtype)
        return llm


def _check_attention(llm: Any, config: TrainConfig) -> bool:
    """Whether the layers' attention can be told where documents lie.

    Raises:
        UserError: rows are too long for the model, or cannot be shared out as `config` says.
    """
    shared = config.context_parallel > 1
    if shared:
        check_heads(llm, config.context_parallel, config.tensor_parallel)
    if llm.config._attn_implementation != "sdpa":
        return False
    try:
        found = probe(llm, config.data.seq_len)
    except IndexError as error:
        raise UserError(f"data.seq_len {config.data.seq_len} is more than this model's positions go to.") from error
    if shared:
        check_layers(llm, found)
    return found.hands_down and found.windows_told


def blocks_of(llm: Any) -> list[nn.Module]:
    """The layers of a Hugging Face causal LM, in order: what is never split between devices."""
    names = set(llm._no_split_modules or ())
    return [module for module in llm.modules() if type(module).__name__ in names]


def _insert_lora(llm: Any, settings: LoraSettings) -> Any:
    """Put LoRA layers, float32, into `llm` and return PEFT's wrapper around it."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer
    from transformers.pytorch_utils import Conv1D

    targets = settings.targets if settings.targets == "all-linear" else list(settings.targets)
    lora = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in llm.modules()),  # GPT-2 stores weights transposed
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            # PEFT 0.21 asks transformers 5.23 by the old name whether it checkpoints activations.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            wrapped = get_peft_model(llm, lora)
    except ValueError as error:
        raise UserError(f"lora.targets {settings.targets!r} does not fit this model: {error}") from error
    for module in wrapped.modules():
        if isinstance(module, BaseTunerLayer):
            # Autocast brings the float32 adapters to their input's type; PEFT would upcast every input first.
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]
    fuse(wrapped)
    return wrapped
