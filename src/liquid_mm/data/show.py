"""What `liquid inspect` prints: a set in numbers, a record through a model's eyes, or what a bad step read."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from liquid_mm.data.dataset import TokenizedSet
from liquid_mm.data.examples import captioning, sized
from liquid_mm.data.inspect import Decoder, inspect_png, inspect_terminal
from liquid_mm.data.report import write_report
from liquid_mm.data.summary import summarize, summary_table
from liquid_mm.errors import UserError
from liquid_mm.files import atomic_file, read_json
from liquid_mm.vocab.prompts import Renderer
from liquid_mm.vocab.records import Record, TextToImage


def show_summary(path: Path, renderer: Renderer | None, decoder: Decoder | None, *, html: Path | None = None) -> None:
    """Print what the tokenised set at `path` holds.

    Args:
        path: a tokenised set.
        renderer: a model's, to count ids as well.
        decoder: an image tokenizer, for the pictures of the report.
        html: where to write a report as well.

    Raises:
        UserError: `path` is no tokenised set, or does not fit the model or image tokenizer.
    """
    records = TokenizedSet(path)
    if renderer is not None:
        records.check(renderer.vocabulary)
    made_by = records.manifest.image_tokenizer
    if decoder is not None and made_by is not None and decoder.fingerprint != made_by.fingerprint:
        raise UserError(f"{path} was made with another image tokenizer, so this one cannot show its pictures.")
    summary = summarize(records, renderer)
    Console().print(summary_table(summary))
    if html is not None:
        write_report(html, records, summary, decoder)


def show_record(
    path: Path,
    index: int,
    renderer: Renderer,
    image_tokenizer: Decoder | None,
    *,
    reverse: bool = False,
    png: Path | None = None,
) -> None:
    """Print record `index` of a set as the model sees it, and write it as a picture to `png`.

    Args:
        path: a tokenised set.
        index: which record, from 0.
        renderer: the model's.
        image_tokenizer: the model's, to decode pictures.
        reverse: show a pair as picture → caption.
        png: where to write a PNG as well.

    Raises:
        UserError: there is no such record, the set does not fit the model, or the record is no pair to reverse.
    """
    records = TokenizedSet(path)
    records.check(renderer.vocabulary, image_tokenizer.fingerprint if image_tokenizer else None)
    if not 0 <= index < len(records):
        raise UserError(f"{path} has records 0…{len(records) - 1}: there is no record {index}.")
    record: Record = records[index]
    if isinstance(record, TextToImage):
        record = captioning(record) if reverse else sized(record, renderer.vocabulary)
    elif reverse:
        raise UserError(f"record {index} of {path} is no picture with a caption: it cannot be reversed.")
    Console().print(inspect_terminal(record, renderer, image_tokenizer))
    if png is not None:
        with atomic_file(png) as part:
            inspect_png(record, renderer, image_tokenizer).save(part, "PNG")


def show_step(
    report: Path,
    renderer: Renderer | None,
    image_tokenizer: Decoder | None,
    *,
    number: int = 0,
    png: Path | None = None,
) -> None:
    """Print which documents a bad step of a training read, worst first, and one of them as the model saw it.

    Args:
        report: RUN/bad/step-N.json.
        renderer: the model's; None prints the list alone.
        image_tokenizer: the model's.
        number: which document of the list to show, from 0.
        png: where to write it as a picture as well.

    Raises:
        UserError: the file is no such report, it lists no such document, or its set is not where it was.
    """
    found = read_json(report)
    if not isinstance(found, dict) or "documents" not in found:
        raise UserError(f"{report} is no report on a bad training step (RUN/bad/step-N.json).")
    documents = found["documents"]
    table = Table("", "set", "record", "id", "task", "tokens", "loss", title=f"step {found['step']}: {found['reason']}")
    for place, item in enumerate(documents):
        loss = "not finite" if item["loss"] is None else f"{item['loss']:.3f}"
        cells = (str(item[name]) for name in ("set", "record", "id", "task", "tokens"))
        table.add_row(str(place), *cells, loss)
    Console().print(table)
    if renderer is None:
        return
    if not 0 <= number < len(documents):
        raise UserError(f"{report} lists documents 0…{len(documents) - 1}: there is no document {number}.")
    chosen = documents[number]
    reverse = chosen["task"] == "image to text"
    show_record(Path(chosen["set"]), chosen["record"], renderer, image_tokenizer, reverse=reverse, png=png)
