"""Write docs/tutorial.ipynb from docs/tutorial.md, so that the two can never say different things.

    python docs/notebook.py

    ```python      a cell
    ```yaml        a cell that writes the file its first line names: `# tutorial/train.yaml`
    ```            commands: a cell of `!liquid …`
    other text     Markdown cells; ```bash stays text

Nothing is run and no output stored: the notebook holds no trace of the machine it was written on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parent
FENCE = re.compile(r"^```(\w*)\n(.*?)^```\n", flags=re.DOTALL | re.MULTILINE)
KINDS = {"python": "python", "yaml": "yaml", "": "commands"}


class Block(NamedTuple):
    """A piece of the tutorial: `kind` is "text", "python", "yaml" or "commands"."""

    kind: str
    source: str


def blocks(markdown: str) -> Iterator[Block]:
    """The tutorial in pieces, in order."""
    end = 0
    for found in FENCE.finditer(markdown):
        if found[1] in KINDS:
            yield Block("text", markdown[end : found.start()])
            yield Block(KINDS[found[1]], found[2])
            end = found.end()
    yield Block("text", markdown[end:])


def yaml_file(source: str) -> str:
    """The file that a YAML block's first line names."""
    first = source.split("\n", 1)[0]
    assert first.startswith("# "), f"a YAML block begins with its file's name, not with {first!r}"
    return first[2:]


def notebook(markdown: str) -> dict[str, Any]:
    """The notebook (nbformat 4.5) of a tutorial."""
    cells = []
    for number, (kind, source) in enumerate(blocks(markdown)):
        if not source.strip():
            continue
        if kind == "yaml":
            source = f"%%writefile {yaml_file(source)}\n{source}"
        if kind == "commands":
            source = "".join(f"!{line}\n" for line in source.splitlines())
        text = [line + "\n" for line in source.strip("\n").split("\n")]
        text[-1] = text[-1].rstrip("\n")
        cell = {"cell_type": "markdown", "id": f"cell-{number}", "metadata": {}, "source": text}
        cells.append(cell if kind == "text" else cell | {"cell_type": "code", "execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    found = notebook((DOCS / "tutorial.md").read_text(encoding="utf-8"))
    (DOCS / "tutorial.ipynb").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
