"""The examples of docs/serving.md run as they stand, against a tiny model."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image
from servekit import Served

from liquid_mm.checkpoint import save_checkpoint
from tiny_checkpoint import tiny_checkpoint

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs" / "serving.md").read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def examples(language: str, holding: str, served: Served) -> list[str]:
    found = [text for kind, text in BLOCKS if kind == language and holding in text]
    assert found, "the document has lost its examples"
    return [text.replace("http://127.0.0.1:8000", served.url).replace('"demo"', '"tiny"') for text in found]


def size(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_curl(served):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    (command,) = examples("bash", "curl ", served)
    command = command.replace("| python ", f"| {sys.executable} ")
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True, timeout=60)
    assert size("apple.png") == (32, 32)


def test_python(served, capsys):
    mask = Image.new("RGBA", (32, 32), "white")
    mask.paste((0, 0, 0, 0), (0, 16, 32, 32))
    mask.save("mask.png")
    names: dict[str, object] = {}
    for text in [text for text in examples("python", "", served) if "client" in text]:
        exec(compile(text, "serving.md", "exec"), names)
    names["client"].close()
    assert {path.name for path in Path().glob("*.png")} >= {"apple_0.png", "apple_1.png", "growing.png", "night.png"}
    assert capsys.readouterr().out.split()[-1] == "16", "image tokens are counted"


def test_javascript(served):
    if (node := shutil.which("node")) is None:
        pytest.skip("Node is not installed")
    (source,) = examples("javascript", "fetch", served)
    Path("chat.mjs").write_text(source)
    done = subprocess.run([node, "chat.mjs"], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip()
    wrong = source.replace('model: "tiny"', 'model: "none"')
    Path("wrong.mjs").write_text(wrong)
    failed = subprocess.run([node, "wrong.mjs"], check=False, timeout=60, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "there is no model" in failed.stderr


def test_transformers_without_this_package(capsys):
    save_checkpoint(tiny_checkpoint("gemma"), "out/my-model")
    (source,) = [text for kind, text in BLOCKS if kind == "python" and "AutoModelForCausalLM" in text]
    assert "auto_map" not in Path("out/my-model/config.json").read_text()
    exec(compile(source, "serving.md", "exec"), {})
    assert "Once upon a time" in capsys.readouterr().out
    assert size("plain.png") == (32, 32)


def test_pictures_and_options_that_are_named_exist():
    from liquid_mm.cli import app

    (command,) = [command for command in app.registered_commands if command.callback.__name__ == "serve"]
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    served = re.findall(r"--[a-z]+(?:-[a-z]+)*", " ".join(re.findall(r"liquid serve[^\n]*", text)))
    known = {"--" + name.replace("_", "-") for name in command.callback.__annotations__}
    assert set(served) <= known


def test_the_example_for_kubernetes_names_options_there_are():
    cluster = pytest.importorskip("liquid_mm.serve.cluster", reason="the extra `cluster` is not installed")
    service = yaml.safe_load((ROOT / "deploy" / "kuberay.yaml").read_text())
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    assert getattr(sys.modules[module], name) is cluster.build
    options = cluster.ClusterOptions(**application["args"])
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (options.replicas, options.max_replicas)
