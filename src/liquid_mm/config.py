"""Configuration of a command: defaults < YAML file < `key.sub=value` overrides, checked once, saved resolved.

A config is a pydantic model standing beside the code it configures. `Config` forbids unknown keys, so a misspelt one
ends in a sentence with the nearest name instead of a run that ignores it:

    class Schedule(Config):
        warmup: float = 0.03

    class Recipe(Config):
        steps: int
        schedule: Schedule = Schedule()

    load_config(Recipe, "recipe.yaml", ["schedule.warmup=0.1"])

Values that follow from others are properties or are computed where they are used; they are never written back.
"""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import YAMLError

from liquid_mm.errors import UserError, nearest
from liquid_mm.files import atomic_file


class Config(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=BaseModel)


def load_config(cls: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Read a config of type `cls`.

    Args:
        cls: the pydantic model to fill.
        path: a YAML file; None takes the defaults.
        overrides: settings such as `"optimizer.lr=3e-4"` or `"sizes=[64,128]"`, later ones winning.

    Raises:
        UserError: the file is missing or not YAML, a key is unknown, or a value is of the wrong kind.
    """
    bad = [item for item in overrides if "=" not in item]
    if bad:
        raise UserError(f"override {bad[0]!r} is not of the form key=value or key.sub=value.")
    try:
        tree = _read(path)
        for item in overrides:
            key, value = item.split("=", 1)
            OmegaConf.update(tree, key, OmegaConf.from_dotlist([f"value={value}"])["value"])
        values = OmegaConf.to_container(tree, resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{_place(path, overrides)}: {error}") from error
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(cls, error, _place(path, overrides))) from error


def save_config(config: BaseModel, path: str | Path) -> None:
    """Write every setting, defaults included, as YAML; `load_config` reads it back to an equal value."""
    text = OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")


def changed_keys(old: BaseModel, new: BaseModel) -> list[str]:
    """Dotted names of the settings in which two configs of one type differ."""

    def walk(a: Any, b: Any, name: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            return [key for k in {**a, **b} for key in walk(a.get(k), b.get(k), f"{name}.{k}" if name else str(k))]
        return [] if a == b else [name]

    return walk(old.model_dump(mode="json"), new.model_dump(mode="json"), "")


def _read(path: str | Path | None) -> Any:
    if path is None:
        return OmegaConf.create({})
    try:
        tree = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"there is no recipe {path}.") from error
    except (IsADirectoryError, UnicodeDecodeError, YAMLError) as error:
        raise UserError(f"{path} is not a YAML file: {error}") from error
    if not OmegaConf.is_dict(tree):
        raise UserError(f"{path} must hold `key: value` lines, not a list or a single value.")
    return tree


def _place(path: str | Path | None, overrides: Sequence[str]) -> str:
    return " with ".join(([str(path)] if path else []) + ([" ".join(overrides)] if overrides else [])) or "the settings"


def _explain(cls: type[BaseModel], error: ValidationError, place: str) -> str:
    """One sentence per mistake, each naming the key."""
    lines = []
    for item in error.errors():
        # Pydantic puts the tag of a union's chosen member into the path; only keys and indices are the user's.
        model, keys = _follow(cls, item["loc"])
        name = ".".join(map(str, keys))
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key {name!r}: {nearest(str(keys[-1]), model.model_fields)}")
        elif item["type"] == "missing":
            lines.append(f"{name!r} is missing.")
        elif item["type"] == "value_error":
            lines.append(f"{name}: {item['ctx']['error']}" if name else str(item["ctx"]["error"]))
        else:
            lines.append(f"{name} = {item['input']!r}: {item['msg']}.")
    return f"{place}: {lines[0]}" if len(lines) == 1 else "\n  ".join([f"{place}:", *lines])


def _follow(cls: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], list[int | str]]:
    """The innermost model that `loc` leads into, and `loc` without union tags."""
    model: type[BaseModel] = cls
    keys: list[int | str] = []
    options: list[type[BaseModel]] = [cls]
    for part in loc:
        if isinstance(part, int):
            keys.append(part)
            continue
        holder = next((option for option in options if part in option.model_fields), None)
        if holder is None and part is not loc[-1]:
            tagged = [option for option in options if _tagged(option, part)]
            if tagged:
                model, options = tagged[0], tagged
                continue
        keys.append(part)
        if holder is None:
            model = options[0] if options else model
        else:
            model, options = holder, _models(holder.model_fields[part].annotation)
    return model, keys


def _tagged(model: type[BaseModel], tag: str) -> bool:
    literals = [typing.get_args(field.annotation) for field in model.model_fields.values()]
    return tag == model.__name__ or any(tag in args for args in literals)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models inside an annotation such as `list[A | B] | None`."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for inner in typing.get_args(annotation) for model in _models(inner)]
