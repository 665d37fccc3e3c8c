"""What the language model wrote before it saw a picture, as text to keep: the stories and answers that were its own.

    python recipes/emoji/own_words.py runs/emoji-base

writes own_words_text.jsonl and own_words_chat.jsonl into .cache/emoji.

Speeches of the last centuries keep English, by perplexity; they do not keep the manner of this model, and one that has
learnt to answer "I see a house, so yes." soon ends its stories so too. What it wrote itself has that manner. Each text
ends with its last whole sentence; one without any is left out.

Time: 5 minutes on one core beside other work.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from build import DEFAULT_OUT, write_jsonl
from captions import is_plural, with_article
from command import run
from measures import read
from splits import share

import liquid_mm
from liquid_mm.generate.sampling import SamplingConfig

OPENINGS = (
    "Once upon a time, there was {article}",
    "{Article} is",
    "The {name}",
    "I once saw {article}",
    "When I was young, {article}",
    "Yesterday,",
    "It is well known that",
    "The history of {name}",
    "She opened the door and",
    "Once upon a time",
)
ASKED = (
    "What is {article}?",
    "Tell me about {article}.",
    "Write a short story about {article}.",
    "Write one sentence about {article}.",
    "What is {article} good for?",
    "Explain to a child what {article} is.",
    "What rhymes with {name}?",
    "Where does one find {article}?",
    "Hello! How are you?",
    "Can you help me?",
)


def filled(templates: tuple[str, ...], names: list[str], count: int) -> Iterator[str]:
    """`count` of the templates in turn, each with the next of the names."""
    for number in range(count):
        name = names[number % len(names)]
        article = with_article(name)
        template = templates[number % len(templates)]
        yield template.format(name=name, article=article, Article=article[0].upper() + article[1:])


def ended(text: str) -> str | None:
    """`text` up to its last end of a sentence with the quotes it closes, if it has one; `2.` of a list is none."""
    ends = [match.end() for match in re.finditer(r"""(?<!\d)[.!?]["”')]*""", text)]
    return text[: ends[-1]] if ends else None


def main(
    model: Annotated[str, typer.Argument(help="Checkpoint that has seen no pictures yet.")],
    out: Annotated[Path, typer.Option("-o", "--output", help="Folder of the emoji set.")] = DEFAULT_OUT,
    count: Annotated[int, typer.Option(help="Texts, and conversations.", min=1)] = 500,
    tokens: Annotated[int, typer.Option(help="Longest text or answer.", min=1)] = 128,
) -> None:
    """Let MODEL write on, and answer, and keep it as training text."""
    writer = liquid_mm.load(model, max_batch=32)
    names = {record["name"] for record in read(out / "train_3d.jsonl")}
    ordered = sorted((name for name in names if not is_plural(name)), key=lambda name: share("own words", name))
    sampling = SamplingConfig(temperature=0.8, top_p=0.95)
    openings, asked = list(filled(OPENINGS, ordered, count)), list(filled(ASKED, ordered, count))
    prompts = [*openings, *([{"role": "user", "content": text}] for text in asked)]
    requests = [
        writer.prompting.text(writer.prompting.text_record(prompt, ()), seed, sampling, tokens)
        for seed, prompt in enumerate(prompts)
    ]
    decode = writer.checkpoint.tokenizer.decode
    results = writer.engine.run(requests)
    written = [ended(decode(result.ids, skip_special_tokens=True)) for result in results]
    texts = [
        {"id": f"own/{number}", "text": opening + text}
        for number, (opening, text) in enumerate(zip(openings, written[:count], strict=True))
        if text
    ]
    chats = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": text.strip()}]}
        for question, text in zip(asked, written[count:], strict=True)
        if text
    ]
    write_jsonl(out, {"own_words_text": texts, "own_words_chat": chats})
    print(f"{len(texts)} texts and {len(chats)} conversations in {out}")


if __name__ == "__main__":
    run(main)
