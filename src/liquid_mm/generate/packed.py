"""Linear layers for generation on the CPU: weights laid out once the way the processor's matrix kernels read them.

A step of a few rows is bound by reading weights. PyTorch's own `linear` reads them row by row and reaches half of what
the memory gives; laying them out in blocks costs a second at loading rather than time at each step. The blocks are our
own kernels' (`generate.few_rows`), or oneDNN's where those do not run. The numbers stay the same up to the order of
summation. Layers that read the same input (query, key and value; gate and up) become one product, for a small matrix
keeps the processor's cores waiting for each other.

    pack(llm)           every plain linear layer but the output head, in place
    PackedLinear        one of them; the head packs the rows it needs (`generate.head`)
    PackedPart          one of several that share a product

Weights that torchao holds in 8 bits stay so and are multiplied as they are, rather than turned into floats first.

While a layer is traced to be compiled (`generate.compiled`) the product is one operation that gets its weight as a
number, for a weight in blocks is no tensor that a compiler could take: `liquid::few_rows` of our own kernels, which
compiled code calls straight, or `liquid::packed_linear`, which asks Python for the kernel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol, TypeGuard
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from liquid_mm.generate import attention
from liquid_mm.generate.few_rows import FewRows, can_hold

ROWS = 2
"""Rows the layout is made for: a guided picture. Measured on other numbers it is as good."""

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Layers of one module that read the same input, by the names that Hugging Face's families give them."""

INT8_ROWS = 16
"""With more rows PyTorch's product of 8-bit weights is slower than turning them into floats."""

_kernels: WeakValueDictionary[int, Kernel] = WeakValueDictionary()
_numbers = itertools.count()


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN takes such a weight: on the CPU, float32, or bfloat16 where the processor computes in it."""
    if type(weight) not in (Tensor, nn.Parameter) or weight.device.type != "cpu":
        return False
    if not torch.backends.mkldnn.is_available():
        return False
    bfloat16 = weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return bool(bfloat16 or weight.dtype == torch.float32)


class Kernel(Protocol):
    """A weight (out, in) in the form in which it is multiplied."""

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`x Wᵀ + b`, (…, in) to (…, out)."""

    def dense(self) -> Tensor:
        """The weight as it was, in a new tensor."""


class Blocks:
    """Floats in oneDNN's blocks."""

    def __init__(self, weight: Tensor) -> None:
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), ROWS)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `Kernel`."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, "none", [], "")
        return y

    def dense(self) -> Tensor:
        """See `Kernel`."""
        return self._packed.to_dense()


class Int8:
    """8-bit integers (out, in) with a scale for each row (out,), by PyTorch's own product.

    It is for bfloat16, and several times slower with float32 than a product of plain float32: few rows are therefore
    rounded to bfloat16, by less than 8 bits round the weights.
    """

    def __init__(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
        self._values, self._scale, self._dtype = values.contiguous(), scale.contiguous(), dtype
        self._rough = self._scale.to(torch.bfloat16)

    def __call__(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """See `Kernel`."""
        flat = x.reshape(-1, x.shape[-1])
        if len(flat) > INT8_ROWS:
            return functional.linear(x, self.dense(), bias)
        y: Tensor = torch.ops.aten._weight_int8pack_mm(flat.bfloat16(), self._values, self._rough).to(x.dtype)
        return (y if bias is None else y + bias).view(*x.shape[:-1], -1)

    def dense(self) -> Tensor:
        """See `Kernel`."""
        return (self._values * self._scale[:, None]).to(self._dtype)


def is_int8(weight: Tensor) -> bool:
    """Whether a weight is torchao's 8-bit kind, one scale a row, nothing else."""
    if type(weight).__name__ != "Int8Tensor" or weight.device.type != "cpu" or weight.ndim != 2:
        return False
    plain = all(getattr(weight, name, None) is None for name in ("act_quant_kwargs", "act_pre_scale"))
    zero, scale = getattr(weight, "zero_point", None), weight.scale  # type: ignore[attr-defined]
    return plain and scale.numel() == weight.shape[0] and (zero is None or not zero.any())


class PackedLinear(nn.Module):
    """`x Wᵀ + b` for x of the weight's type, without gradients.

    Args:
        weight: (out, in), for which `can_pack` or `is_int8` holds; several are one under the other.
        bias: (out,) or None.
        result: the type wanted, if not that of x; only our own kernels give it.
    """

    def __init__(
        self, weight: Tensor | Sequence[Tensor], bias: Tensor | None = None, result: torch.dtype | None = None
    ) -> None:
        super().__init__()
        weights = [weight] if isinstance(weight, Tensor) else list(weight)
        self.out_features, self.in_features = sum(w.shape[0] for w in weights), weights[0].shape[1]
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        # Not a buffer: a tensor of another layout cannot be saved, moved or counted like one.
        self._kernel: Kernel
        if is_int8(weights[0]):
            values, scales = (torch.cat([getattr(w, name) for w in weights]) for name in ("qdata", "scale"))
            kind = FewRows if can_hold(values) else Int8
            self._kernel = kind(values, scales.flatten(), weights[0].dtype)
        else:
            whole = torch.cat([w.detach() for w in weights])
            self._kernel = FewRows(whole, result=result) if can_hold(whole) else Blocks(whole)
        self.number: Tensor
        direct = isinstance(self._kernel, FewRows) and result is None
        number = self._kernel.address if isinstance(self._kernel, FewRows) else next(_numbers)
        self.operation = torch.ops.liquid.few_rows if direct else torch.ops.liquid.packed_linear
        self.register_buffer("number", torch.tensor(number), persistent=False)
        _kernels[number] = self._kernel

    @property
    def weight(self) -> Tensor:
        """The weight as it was, unpacked into a new tensor."""
        return self._kernel.dense()

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        return self.product(x, self.number, self.bias)

    def product(self, x: Tensor, number: Tensor, bias: Tensor | None) -> Tensor:
        """The same with this layer's tensors given, so that a tracer sees whose they are."""
        if torch.compiler.is_compiling():
            y: Tensor = self.operation(x.contiguous(), number, self.out_features, torch.get_num_threads())
            return y if bias is None else y + bias
        return self._kernel(x, bias)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight


class PackedPart(nn.Module):
    """Rows `rows` of a product that several layers share: the first one asked computes it for all.

    Args:
        whole: the product.
        rows: which of its outputs are this layer's.
        latest: the input and output of the last product, or nothing; one list for all parts.
        last: whether no other part is asked after this one, so that the output need not be kept.
    """

    def __init__(self, whole: PackedLinear, rows: slice, latest: list[tuple[Tensor, Tensor]], last: bool) -> None:
        super().__init__()
        self._whole, self._rows, self._latest, self._last = [whole], rows, latest, last  # a list hides a submodule
        self.in_features, self.out_features = whole.in_features, rows.stop - rows.start
        self.operation = whole.operation
        self.number: Tensor
        self.shared_bias: Tensor | None
        self.register_buffer("number", whole.number, persistent=False)
        self.register_buffer("shared_bias", whole.bias, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The weight as it was, unpacked into a new tensor."""
        return self._whole[0].weight[self._rows]

    @property
    def bias(self) -> Tensor | None:
        """The bias of these rows."""
        return None if self.shared_bias is None else self.shared_bias[self._rows]

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        found = [y for of, y in self._latest if of is x]
        product = found[0] if found else self._whole[0].product(x, self.number, self.shared_bias)
        self._latest[:] = [] if self._last else [(x, product)]
        return product[..., self._rows]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight
        if self.bias is not None:
            destination[prefix + "bias"] = self.bias


def pack(llm: Any) -> None:
    """Pack the plain linear layers of a Hugging Face causal LM in place; it then no longer trains, moves or casts.

    It also attends by our own code (`generate.attention`) where it would by PyTorch's. The output head stays: it shares
    its weight with the embedding where they are tied, and is used row by row.
    """
    head = llm.get_output_embeddings()
    for module in list(llm.modules()):
        for names in TOGETHER:
            _pack_together(module, names)
        for name, child in list(module.named_children()):
            if _is_plain(child) and child is not head:
                setattr(module, name, PackedLinear(child.weight, child.bias))
    attention.use(llm)


def is_packed(llm: Any) -> bool:
    """Whether `pack` has found layers to pack in this model."""
    return any(isinstance(module, PackedLinear | PackedPart) for module in llm.modules())


def _is_plain(module: Any) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear and (can_pack(module.weight) or is_int8(module.weight))


def _pack_together(module: nn.Module, names: tuple[str, ...]) -> None:
    children = [getattr(module, name, None) for name in names]
    layers: list[Any] = [child for child in children if _is_plain(child)]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    alike = len({(layer.in_features, type(layer.weight), layer.weight.dtype) for layer in layers}) == 1
    if len(layers) < len(names) or not alike or len(biases) not in (0, len(names)):
        return
    whole = PackedLinear([layer.weight for layer in layers], torch.cat(biases) if biases else None)
    latest: list[tuple[Tensor, Tensor]] = []
    start = 0
    for name, layer in zip(names, layers, strict=True):
        rows = slice(start, start + layer.out_features)
        setattr(module, name, PackedPart(whole, rows, latest, last=name == names[-1]))
        start = rows.stop


_library = torch.library.Library("liquid", "DEF")


def _product(x: Tensor, number: Tensor, out: int, threads: int) -> Tensor:
    return _kernels[int(number)](x, None)


def _shape(x: Tensor, number: Tensor, out: int, threads: int) -> Tensor:
    return x.new_empty(*x.shape[:-1], out)


for _name in ("few_rows", "packed_linear"):
    _library.define(f"{_name}(Tensor x, Tensor number, int out, int threads) -> Tensor")
    _library.impl(_name, _product, "CPU")
    torch.library.register_fake(f"liquid::{_name}", _shape, lib=_library)
