"""A decoder layer as machine code, one for all layers alike: takes what a step costs on the CPU beside its products.

    code(weights, hidden, mask, …, keys, values, rows, positions) → hidden        all that a layer reads is an argument

Run eagerly, a step of a small model is a thousand operations of 5 µs. Compiling a whole model takes minutes, a layer
seconds: `torch.export` traces it with its weights and its part of the cache as arguments, for any number of rows and
columns, and AOTInductor makes a library of it. That is kept on disk (`vocab.base.cache_dir`) and loads in a moment.

Which runs are worth it is decided by counting (`Compiler.prepare`): a step is some `SAVED` seconds a layer faster, a
library that has to be made costs `MAKING`, one that is on disk `LOADING`. Once the steps done and those known to come
save more than that, the layers are compiled; shorter runs stay eager. So at worst a run takes twice the cost longer.

Needs packed weights (`generate.packed`) and a C++ compiler. Where a family cannot be traced, or the compiled layers do
not give what the eager ones give, generation says so once in the log and stays eager.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from liquid_mm.files import atomic_file
from liquid_mm.generate.cache import LayerCache, SlotCache
from liquid_mm.generate.native import SOURCES
from liquid_mm.generate.packed import PackedLinear, PackedPart, is_packed
from liquid_mm.vocab.base import cache_dir

SAVED, MAKING, LOADING = 0.3e-3, 20.0, 0.1
"""Seconds, on two cores: saved per layer and step and to make, as measured; to load, several times the measured."""

VERSION = 3
"""Of what is compiled; another number makes old libraries useless."""

ROWS, COLUMNS = 3, 128
"""Of the step that is traced: numbers that stand for any."""

DIRECT = {
    "few_rows": "AtenTensorHandle, AtenTensorHandle, int64_t, int64_t, AtenTensorHandle*",
    "attend": f"{4 * 'AtenTensorHandle, '}double, int64_t, AtenTensorHandle*",
}
"""Operations for which compiled code calls a function of native/operations.c, and what it takes."""

Code = Callable[[list[Tensor]], Tensor]

logger = logging.getLogger(__name__)


class Compiler:
    """Compiles the decoder layers of a Hugging Face causal LM once that pays.

    Args:
        llm: the model.
        step: runs one token of each of so many rows through it on a cache of its own, twice; the last hidden states.
    """

    def __init__(self, llm: Any, step: Callable[[int], Tensor]) -> None:
        self._llm, self._run_step = llm, step
        self._steps = 0
        self._layers = decoder_layers(llm) if can_compile(llm) else []
        self._paths = [_path(llm, layer) for layer in self._layers]

    @property
    def possible(self) -> bool:
        """Whether there is something left to compile."""
        return bool(self._layers)

    def prepare(self, ahead: int) -> None:
        """Count a step, and compile if all of them and the `ahead` that are known to come are worth it."""
        self._steps += 1
        missing = sum(not (path.exists() or _unchecked(path).exists()) for path in set(self._paths))
        if (self._steps + ahead) * SAVED * len(self._layers) >= (MAKING * missing or LOADING):
            self.compile()

    def compile(self) -> None:
        """Compile, or load, the layers and put them in place; on any failure the model stays as it was."""
        layers, self._layers = self._layers, []
        try:
            if all(path.exists() for path in self._paths):
                self._replace(layers, {path: _load(path) for path in set(self._paths)})
            else:
                self._make_missing(layers)
        except Exception as error:
            # Compilers fail in many ways; none of them is a reason not to draw.
            for layer in layers:
                vars(layer).pop("forward", None)
            logger.warning("generation runs uncompiled, as fast as before: %s: %s", type(error).__name__, error)

    def _make_missing(self, layers: list[nn.Module]) -> None:
        """Compile what is not on disk; only what has given what eager layers give gets the name it is looked for by."""
        recorders = [_Recorder(layer) for layer in layers]
        try:
            expected = self._run_step(ROWS)
        finally:
            for recorder in recorders:
                recorder.remove()
        codes: dict[Path, Code] = {}
        new: list[Path] = []
        for path, layer, recorder in zip(self._paths, layers, recorders, strict=True):
            if path not in codes:
                if not path.exists():
                    new.append(path)
                    if not _unchecked(path).exists():
                        logger.info("compiling a decoder layer, which is kept in %s", path)
                        with atomic_file(_unchecked(path)) as part:
                            _make(layer, recorder, part)
                codes[path] = _load(_unchecked(path) if path in new else path)
        self._replace(layers, codes)
        actual = self._run_step(ROWS)
        difference = (actual.float() - expected.float()).abs().max() / expected.float().abs().max()
        if not difference < (1e-4 if expected.dtype == torch.float32 else 0.1):
            raise RuntimeError(f"compiled layers differ from eager ones by {difference:.2%}")
        for path in new:
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                _unchecked(path).replace(path)

    def _replace(self, layers: list[nn.Module], codes: dict[Path, Code]) -> None:
        for index, (path, layer) in enumerate(zip(self._paths, layers, strict=True)):
            vars(layer)["forward"] = _CompiledForward(layer, index, codes[path])


def can_compile(llm: Any) -> bool:
    """Whether this module knows how: packed weights on a CPU, a compiler, and layers that it finds."""
    compiler = shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    return bool(compiler) and llm.device.type == "cpu" and is_packed(llm) and bool(decoder_layers(llm))


def decoder_layers(llm: Any) -> list[nn.Module]:
    """The layers of a causal LM, in order; none where they are not one list."""
    count = llm.config.get_text_config().num_hidden_layers
    lists = [m for m in llm.base_model.children() if isinstance(m, nn.ModuleList) and len(m) == count]
    return list(lists[0]) if len(lists) == 1 else []


class _Recorder:
    """Remembers the arguments that a layer is called with."""

    def __init__(self, layer: nn.Module) -> None:
        self.args: tuple[Any, ...] = ()
        self.kwargs: dict[str, Any] = {}
        self._handle = layer.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args, self.kwargs = args, kwargs

    def remove(self) -> None:
        """Record no more."""
        self._handle.remove()


class _CompiledForward:
    """Stands in for a layer's `forward`: compiled code for one token a row, the layer's own for all else."""

    def __init__(self, layer: nn.Module, index: int, code: Code) -> None:
        self._own, self._index, self._code = layer.forward, index, code
        self._weights = [tensor.detach() for tensor in _named(layer).values()]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = list(_tensors(args, kwargs))
        cache = next((a for a in (*args, *kwargs.values()) if isinstance(a, SlotCache)), None)
        place = cache.step_of(self._index) if cache is not None and tensors[0].shape[1] == 1 else None
        if place is None:
            return self._own(*args, **kwargs)
        return self._code([*self._weights, *tensors, *place])


class _Traced(nn.Module):
    """A layer as a function of tensors: its weights, those of a call like `call`, and its place in the cache."""

    def __init__(self, layer: nn.Module, call: _Recorder, mask: int) -> None:
        super().__init__()
        self._layer, self._names = [layer], list(_named(layer))  # a list hides the submodule and its weights
        self._call, self._mask = call, mask

    def forward(self, weights: list[Tensor], tensors: list[Tensor], place: list[Tensor]) -> Tensor:
        keys, values, rows, positions = place
        left, cache = iter(tensors), LayerCache(keys, values, rows, positions, tensors[self._mask].shape[-1])

        def fill(value: Any) -> Any:
            if isinstance(value, tuple | list):
                return type(value)(map(fill, value))
            return next(left) if isinstance(value, Tensor) else cache if isinstance(value, SlotCache) else value

        args = tuple(map(fill, self._call.args))
        kwargs = {name: fill(value) for name, value in self._call.kwargs.items()}
        named = dict(zip(self._names, weights, strict=True))
        hidden: Tensor = torch.func.functional_call(self._layer[0], named, args, kwargs)
        return hidden


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors of a call, in order; those in a tuple too."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from value


def _named(layer: nn.Module) -> dict[str, Tensor]:
    """What a layer holds, by name."""
    return {**dict(layer.named_parameters()), **dict(layer.named_buffers())}


def _unchecked(path: Path) -> Path:
    """Where a library is kept until it has been compared with the eager layers."""
    return path.with_name(f"unchecked-{path.name}")


def _load(path: Path) -> Code:
    """The library at `path`.

    Not by `torch._inductor.aoti_load_package`, which asks the compiler for a second what this processor can do: the
    path says it.
    """
    run = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1).boxed_run
    return lambda tensors: run(tensors)[0]


def _make(layer: nn.Module, call: _Recorder, out: Path) -> None:
    tensors = list(_tensors(call.args, call.kwargs))
    (cache,) = (a for a in (*call.args, *call.kwargs.values()) if isinstance(a, SlotCache))
    place = cache.step_of(0)
    assert place is not None
    (mask,) = (i for i, t in enumerate(tensors) if t.ndim == 4 and t.shape[-1] == COLUMNS)
    some = torch.export.Dim.DYNAMIC
    shapes = [{0: some, 3: some} if i == mask else {0: some} for i in range(len(tensors))]
    buffers = [{0: some, 2: some}] * 2 + [{0: some}] * 2
    # Traced tensors must not be inference tensors, which know nothing of being changed in place.
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        weights, tensors, place = ([t.detach().clone() for t in ts] for ts in (_named(layer).values(), tensors, place))
        program = torch.export.export(
            _Traced(layer, call, mask),
            (weights, tensors, place),
            dynamic_shapes=([None] * len(weights), shapes, buffers),
            strict=False,
        )
        # The archive's name must end so, whatever the file is called in the meantime.
        package = out.with_name(out.name + ".pt2")
        try:
            direct = {
                getattr(torch.ops.liquid, name).default: [f"AOTITorchError aoti_torch_cpu_{name}({taken})"]
                for name, taken in DIRECT.items()
            }
            options = {"aot_inductor.custom_ops_to_c_shims": direct}
            torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)
            package.replace(out)
        finally:
            package.unlink(missing_ok=True)


def _path(llm: Any, layer: nn.Module) -> Path:
    """Where the library for a layer is kept: its name says for what layers, software and processor it is."""
    config = llm.config.get_text_config().to_dict()
    facts = [
        VERSION,
        DIRECT,
        *(path.read_text(encoding="utf-8") for path in SOURCES),
        *(torch.__version__, transformers.__version__, torch.get_num_threads()),
        *(platform.system(), platform.machine(), torch.backends.cpu.get_cpu_capability(), _processor()),
        type(layer).__qualname__,
        getattr(layer, "attention_type", getattr(getattr(layer, "self_attn", None), "is_sliding", None)),
        [(name, tensor.shape, tensor.dtype) for name, tensor in _named(layer).items()],
        [str(module.operation) for module in layer.modules() if isinstance(module, PackedLinear | PackedPart)],
        llm.config._attn_implementation,
        *sorted(f"{key} {value}" for key, value in config.items() if key != "_name_or_path"),
    ]
    digest = hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:16]
    return cache_dir() / f"layer-{digest}.pt2"


def _processor() -> str:
    """What it can do, for which the compiler makes the library."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), platform.processor())
