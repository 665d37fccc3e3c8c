from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from liquid_mm.config import Config, changed_keys, load_config, save_config
from liquid_mm.errors import UserError


class Schedule(Config):
    kind: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, le=1)


class Local(Config):
    kind: Literal["local"] = "local"
    path: str


class Remote(Config):
    kind: Literal["remote"] = "remote"
    url: str


class Recipe(Config):
    steps: int
    lr: float = 1e-3
    schedule: Schedule = Schedule()
    sources: list[Annotated[Local | Remote, Field(discriminator="kind")]] = Field(default_factory=list)
    extra: Schedule | None = None


def write(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_defaults_file_overrides(tmp_path):
    path = write(tmp_path, "steps: 5\nschedule: {warmup: 0.1}\n")
    config = load_config(Recipe, path, ["lr=3e-4", "schedule.kind=constant"])
    assert (config.steps, config.lr, config.schedule.warmup, config.schedule.kind) == (5, 3e-4, 0.1, "constant")
    save_config(config, tmp_path / "run" / "config.yaml")
    again = load_config(Recipe, tmp_path / "run" / "config.yaml")
    assert again == config
    other = load_config(Recipe, path, ["steps=6"])
    assert set(changed_keys(config, other)) == {"steps", "lr", "schedule.kind"}


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("steps: 5\nlearning: 1\n", [], "unknown key 'learning'"),
        ("steps: 5\nstepz: 1\n", [], "did you mean 'steps'"),
        ("steps: 5\n", ["schedule.warmpu=1"], r"unknown key 'schedule.warmpu': did you mean 'warmup'"),
        ("steps: 5\nextra: {warmpu: 1}\n", [], r"'extra.warmpu': did you mean 'warmup'"),
        ("steps: 5\nsources: [{kind: local, pth: x}]\n", [], r"unknown key 'sources.0.pth': did you mean 'path'"),
        ("steps: many\n", [], "steps = 'many'"),
        ("lr: 1\n", [], "'steps' is missing"),
        ("steps: 5\n", ["schedule.kind=linear"], "schedule.kind = 'linear'.*cosine"),
        ("steps: 5\n", ["steps"], "key=value"),
        ("- 1\n", [], "key: value"),
        ("steps: [", [], "not a YAML file"),
        ("steps: ${nothing}\n", [], "nothing"),
    ],
)
def test_mistakes_name_the_key_and_the_file(tmp_path, text, overrides, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError, match=message) as info:
        load_config(Recipe, path, overrides)
    assert "recipe.yaml" in str(info.value) or "key=value" in str(info.value)


def test_an_override_reaches_into_a_list(tmp_path):
    path = write(tmp_path, "steps: 5\nsources: [{kind: local, path: a}, {kind: remote, url: b}]\n")
    config = load_config(Recipe, path, ["sources.1.url=c"])
    assert [source.model_dump() for source in config.sources] == [
        {"kind": "local", "path": "a"},
        {"kind": "remote", "url": "c"},
    ]


def test_missing_file_and_frozen(tmp_path):
    with pytest.raises(UserError, match="no recipe"):
        load_config(Recipe, tmp_path / "none.yaml")
    with pytest.raises(Exception, match="frozen"):
        Recipe(steps=1).steps = 2
