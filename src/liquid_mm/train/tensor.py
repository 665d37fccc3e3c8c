"""Layers that several processes compute together (tensor parallelism, Megatron-LM: arXiv 1909.08053).

    hidden ──► q k v, gate up  (cut by output)  ──► attention heads, MLP columns of this process
                                                └──► o, down (cut by input) ──► sum over processes ──► hidden

How a family's layers are cut is what transformers says of it (`base_model_tp_plan`). Norms, embedding and head stay
whole: each process computes them for itself, on equal values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from liquid_mm.errors import UserError
from liquid_mm.train.shards import whole

STYLES: dict[str, type[ParallelStyle]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
PARTIAL = "replicated_with_grad_allreduce"
"""A whole parameter that meets only this process's heads, so that its gradient is a part of the sum."""


def cuts(llm: Any, parts: int) -> dict[str, str]:
    """How each layer of a Hugging Face causal LM is cut: module name -> a key of `STYLES`, or PARTIAL.

    Raises:
        UserError: transformers has no plan for the family, or one of other ways, or the heads cannot be shared out.
    """
    config = llm.config
    unknown = UserError(
        f"tensor_parallel: models of type {config.model_type!r} have no plan for it that this program knows; "
        "use `shard` alone."
    )
    plan: Mapping[str, str] = getattr(config, "base_model_tp_plan", None) or {}
    columns = getattr(config, "intermediate_size", None)
    if not plan or not set(plan.values()) <= {*STYLES, PARTIAL} or not isinstance(columns, int):
        raise unknown
    heads = {"attention heads": config.num_attention_heads, "MLP columns": columns}
    heads["key and value heads"] = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if bad := [f"{number} {name}" for name, number in heads.items() if number % parts]:
        raise UserError(f"tensor_parallel {parts}: {', '.join(bad)} cannot be shared out evenly.")
    patterns = {
        re.compile(rf"{llm.base_model_prefix}\.{re.escape(name).replace(re.escape('*'), '[0-9]+')}"): style
        for name, style in plan.items()
    }
    found = {
        name: style for name, _ in llm.named_modules() for pattern, style in patterns.items() if pattern.fullmatch(name)
    }
    # A parameter between two cut layers of which the plan says nothing would get a part of its gradient, unnoticed.
    around = {name.rpartition(".")[0] for name in found}
    inside = {name for name, _ in llm.named_parameters() if any(name.startswith(f"{module}.") for module in around)}
    if not found or any(name.rpartition(".")[0] not in found for name in inside):
        raise unknown
    return found


def cut(module: nn.Module, styles: Mapping[str, str], mesh: DeviceMesh) -> list[nn.Module]:
    """Leave on each process its part of the layers named in `styles`.

    Returns:
        Modules whose parameters stay whole and have partial gradients.
    """
    plan = {name: STYLES[style]() for name, style in styles.items() if style != PARTIAL}
    parallelize_module(module, mesh, plan)
    return [module.get_submodule(name) for name, style in styles.items() if style == PARTIAL]


def settle_gradients(parameters: Iterable[nn.Parameter], partial: Iterable[nn.Module], mesh: DeviceMesh) -> None:
    """Make gradients of whole parameters the same on all processes of `mesh`, in place.

    In `partial` modules each process has the sum over its own heads; elsewhere each has all of it, but for the order of
    sums over other processes, and nothing else would keep the copies of a parameter equal.
    """
    parts = {parameter for module in partial for parameter in module.parameters()}
    for parameter in parameters:
        gradient: Any = parameter.grad
        if gradient is None or "tensor" in gradient.device_mesh.mesh_dim_names:
            continue
        local = gradient.to_local()
        torch.distributed.all_reduce(local, group=mesh.get_group())
        if parameter not in parts:
            local.div_(mesh.size())


def by_mesh(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """`tensors` in groups of one mesh each: torch has no operation on lists of several meshes."""
    groups: dict[DeviceMesh | None, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.device_mesh if isinstance(tensor, DTensor) else None, []).append(tensor)
    return list(groups.values())


def clip_by_meshes(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_` for gradients of several meshes; returns the norm of all."""
    groups = by_mesh(parameter for parameter in parameters if parameter.grad is not None)
    norms = [whole(torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None])) for group in groups]
    norm: Tensor = torch.stack(norms).norm()
    if math.isfinite(limit):
        for group in groups:
            torch.nn.utils.clip_grads_with_norm_(group, limit, norm)
    return norm
