"""Questions about pictures: VQAv2, GQA, TextVQA, POPE, MME, answered greedily and scored by their own rules.

    DATA/pope/questions.jsonl
    {"image": "images/1.jpg", "question": "Is there a dog in the image?", "answer": "no", "category": "adversarial"}
    {"image": "images/2.jpg", "question": "What is it?", "answers": ["dog", "puppy", …]}

or the parquet files of the sets on the Hugging Face Hub, which have the same columns. A prompt is the question and a
line that asks for a short answer, as LLaVA 1.5 (arXiv 2310.03744) and lmms-eval ask it.
"""

from __future__ import annotations

import abc
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from liquid_mm.errors import UserError
from liquid_mm.evaluate import vqa_rules
from liquid_mm.evaluate.asking import answer
from liquid_mm.evaluate.data import DataSource, read_jsonl
from liquid_mm.evaluate.pictures import load_picture
from liquid_mm.evaluate.protocol import Context, Example, Prediction, Scored, Table, Task, Value, batches, mean_of

SHORT = "\nAnswer the question using a single word or phrase."
LAYOUT = "a *.jsonl file with image, question and answer or answers, or the Hub's *.parquet files"
PERCENT = 100.0


class QuestionTask(Task):
    """A question, a picture, one greedy answer; values in percent."""

    kind = "understanding"
    truth = "answer"
    fields: tuple[str, ...] = ("question_id", "category")
    required: tuple[str, ...] = ()

    def prompt(self, question: str) -> str:
        """What the user's turn says after the picture."""
        return question + SHORT

    def examples(self, context: Context) -> Sequence[Example]:
        """One per question, numbered in the order of the files."""
        found = []
        for index, (row, image) in enumerate(self.rows(context.data)):
            if missing := [key for key in ("question", self.truth, *self.required) if key not in row]:
                raise UserError(f"{context.data}: question {index} has no {missing[0]!r}.")
            inputs = {key: row[key] for key in ("question", self.truth, *self.fields) if key in row}
            found.append(Example(f"{index:06d}", inputs, index, image))
        return found

    def rows(self, folder: Path) -> Iterator[tuple[Mapping[str, Any], Path | Callable[[], bytes]]]:
        """Fields and picture of every question in `folder`."""
        if jsonl := sorted(folder.glob("*.jsonl")):
            for path in jsonl:
                yield from ((row, self._picture(row, path)) for row in read_jsonl(path))
            return
        table = read_parquet(folder)
        if "image" not in table.column_names:
            raise UserError(f"{folder}: the *.parquet files have no column 'image'.")
        for number, row in enumerate(table.remove_columns(["image"])):
            yield row, functools.partial(_bytes, table, number)

    @staticmethod
    def _picture(row: Mapping[str, Any], path: Path) -> Path:
        if not isinstance(row.get("image"), str):
            raise UserError(f"{path}: a question has no 'image' (a path relative to that file).")
        return path.parent / str(row["image"])

    def predict(self, model: Any, examples: Sequence[Example], context: Context) -> Iterator[Prediction]:
        """Greedy answers, a batch at a time."""
        for batch in batches(examples, context.batch_size):
            prompts = [self.prompt(example.inputs["question"]) for example in batch]
            pictures = [load_picture(example.image) for example in batch]
            answers = answer(model, list(zip(prompts, pictures, strict=True)), context.settings.max_new_tokens)
            for example, prompt, said in zip(batch, prompts, answers, strict=True):
                yield {"id": example.id, "inputs": dict(example.inputs), "prompt": prompt, "answer": said}


class AnswerTask(QuestionTask):
    """A question task that scores each answer alone."""

    @abc.abstractmethod
    def row(self, said: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers of one answer."""

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """A row per question."""
        return Scored([{"id": p["id"], **self.row(p["answer"], p["inputs"])} for p in predictions])

    def summarise(self, table: Table) -> dict[str, Value]:
        """Mean accuracy."""
        return {"accuracy": mean_of(table, "accuracy", scale=PERCENT)}


class VQAv2(AnswerTask):
    """VQAv2 (Goyal et al. 2017): agreement with ten people."""

    name, truth = "vqav2", "answers"
    fields = ("question_id",)
    normalise = staticmethod(vqa_rules.normalise)
    data = DataSource(
        "vqav2",
        LAYOUT,
        "annotations CC-BY-4.0; pictures: COCO's terms",
        hub="lmms-lab/VQAv2",
        files=("data/validation-*.parquet",),
    )

    def row(self, said: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The share of agreement, in [0, 1]."""
        truths = [truth if isinstance(truth, str) else truth["answer"] for truth in inputs["answers"]]
        normal = [self.normalise(truth) for truth in truths]
        return {"accuracy": vqa_rules.vqa_accuracy(self.normalise(said), normal)}


class TextVQA(VQAv2):
    """TextVQA (Singh et al. 2019), without the OCR tokens some put into the prompt."""

    name = "textvqa"
    normalise = staticmethod(vqa_rules.normalise_text_vqa)
    data = DataSource(
        "textvqa",
        LAYOUT,
        "annotations CC-BY-4.0; pictures (OpenImages) CC-BY-2.0",
        hub="lmms-lab/textvqa",
        files=("data/validation-*.parquet",),
    )

    def prompt(self, question: str) -> str:
        """TextVQA's questions are stored in lower case."""
        return question.capitalize() + SHORT


class GQA(AnswerTask):
    """GQA (Hudson and Manning 2019), balanced test-dev: exact match."""

    name = "gqa"
    fields = ("id",)
    data = DataSource(
        "gqa",
        LAYOUT + " (testdev_balanced_instructions/ and testdev_balanced_images/)",
        "CC-BY-4.0 (Visual Genome's pictures)",
        hub="lmms-lab/GQA",
        files=("testdev_balanced_*/*.parquet",),
    )

    def rows(self, folder: Path) -> Iterator[tuple[Mapping[str, Any], Path | Callable[[], bytes]]]:
        """The Hub keeps pictures apart from questions: they are joined by `imageId`."""
        if not (folder / "testdev_balanced_images").is_dir():
            yield from super().rows(folder)
            return
        pictures = read_parquet(folder / "testdev_balanced_images")
        place = {name: number for number, name in enumerate(pictures["id"])}
        for row in read_parquet(folder / "testdev_balanced_instructions"):
            yield row, functools.partial(_bytes, pictures, place[row["imageId"]])

    def row(self, said: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """1 for the right answer."""
        return {"accuracy": float(vqa_rules.exact_match(said, inputs["answer"]))}


class POPE(AnswerTask):
    """POPE (Li et al. 2023, arXiv 2305.10355): is there a … in the image? "yes" is the positive class."""

    name = "pope"
    data = DataSource(
        "pope", LAYOUT, "MIT; pictures: COCO's terms", hub="lmms-lab/POPE", files=("data/test-*.parquet",)
    )

    def row(self, said: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What was said and what is true."""
        yes, true = vqa_rules.yes_or_no(said) == "yes", inputs["answer"].strip().lower() == "yes"
        return {"said": yes, "true": true, "correct": yes == true, "category": inputs.get("category", "")}

    def summarise(self, table: Table) -> dict[str, Value]:
        """Accuracy, precision, recall, F1, share of "yes"; `f1_mean` is over the categories, as LLaVA reports."""
        said, true = table["said"], table["true"]
        n, hits = len(said), float((said & true).sum())
        scores = {
            "precision": _ratio(hits, said.sum()),
            "recall": _ratio(hits, true.sum()),
            "f1": _f1(said, true),
            "f1_mean": sum(_f1(said[w], true[w]) for w in _parts(table["category"])) / len(_parts(table["category"])),
        }
        values = {name: Value(PERCENT * value, n) for name, value in scores.items()}
        shares = {
            "accuracy": mean_of(table, "correct", scale=PERCENT),
            "yes_ratio": mean_of(table, "said", scale=PERCENT),
        }
        return {**shares, **values}


class MME(QuestionTask):
    """MME (Fu et al. 2023, arXiv 2306.13394): two yes-no questions a picture; accuracy plus accuracy of both."""

    name, unit = "mme", "question"
    required = ("question_id", "category")
    data = DataSource("mme", LAYOUT, "academic research only", hub="lmms-lab/MME", files=("data/test-*.parquet",))
    # fmt: off
    PERCEPTION = (
        "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
    )
    # fmt: on
    COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")

    def prompt(self, question: str) -> str:
        """The line asking for a short answer stands in place of MME's own."""
        return question.replace(" Please answer yes or no.", "") + SHORT

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """A row per question, which knows whether both of its picture's questions are right."""
        rows = []
        pairs: defaultdict[str, list[bool]] = defaultdict(list)
        for prediction in predictions:
            inputs = prediction["inputs"]
            question = f"{inputs['category']}/{inputs['question_id']}"
            correct = vqa_rules.mme_label(prediction["answer"]) == inputs["answer"].lower().strip().rstrip(".")
            pairs[question].append(correct)
            rows.append(
                {"id": prediction["id"], "category": inputs["category"], "question": question, "correct": correct}
            )
        if odd := [question for question, answers in pairs.items() if len(answers) != 2]:
            note = (f"{len(odd)} pictures have not both of their questions ({odd[0]}): they are left out",)
            rows = [row for row in rows if row["question"] not in set(odd)]
        return Scored([{**row, "both": all(pairs[row["question"]])} for row in rows], notes=note if odd else ())

    def summarise(self, table: Table) -> dict[str, Value]:
        """A score out of 200 per category; `perception` (of 2000) and `cognition` (of 800) are their sums."""
        categories = [str(name) for name in dict.fromkeys(table["category"].tolist())]
        each = {}
        for category in categories:
            where = table["category"] == category
            points = table["correct"][where].mean() + table["both"][where].mean()
            each[category] = Value(PERCENT * float(points), int(where.sum()))
        sums = {}
        for name, parts in (("perception", self.PERCEPTION), ("cognition", self.COGNITION)):
            mine = [each[part] for part in parts if part in each]
            if mine:
                sums[name] = Value(sum(v.value for v in mine), sum(v.n for v in mine))
        return {**sums, **each}


def read_parquet(folder: Path) -> Any:
    """All rows of the *.parquet files in `folder` and below as a `datasets` set, pictures left encoded."""
    import datasets

    files = sorted(str(path) for path in folder.rglob("*.parquet"))
    if not files:
        raise UserError(f"{folder} holds neither *.jsonl nor *.parquet files.")
    table: Any = datasets.Dataset.from_parquet(files)
    return table.cast_column("image", datasets.Image(decode=False)) if "image" in table.column_names else table


def _bytes(table: Any, number: int) -> bytes:
    value = table[number]["image"]
    data: bytes = value if isinstance(value, bytes) else value["bytes"]
    return data


def _parts(category: Any) -> list[Any]:
    return [category == name for name in sorted(set(category.tolist()))]


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _f1(said: Any, true: Any) -> float:
    hits = float((said & true).sum())
    return _ratio(2 * hits, float(said.sum() + true.sum()))
