"""GenAI-Bench (Li et al. 2024, arXiv 2406.13743): 527 prompts, ten skills, VQAScore.

    genai_image.json     {"00000": {"prompt": …, …}, …}
    genai_skills.json    {"attribute": [0, 3, …], …, "basic": […], "advanced": […]}    prompts' numbers per skill

A prompt with any advanced skill is advanced, every other one basic. A skill's value is the mean over its prompts, and
"basic", "advanced" and "all" are means over prompts too, not over skills (paper Table 1).
"""

from __future__ import annotations

from collections.abc import Sequence

from liquid_mm.errors import UserError
from liquid_mm.evaluate.data import DataSource
from liquid_mm.evaluate.drawing import DrawingTask
from liquid_mm.evaluate.protocol import Context, Example, Prediction, Scored, Table, Value, mean_of
from liquid_mm.files import read_json

BASIC = ("attribute", "scene", "spatial relation", "action relation", "part relation")
ADVANCED = ("counting", "comparison", "differentiation", "negation", "universal")
SCORES = ("vqascore", "clipscore")


class GenAIBench(DrawingTask):
    """Prompts by skill, scored by a judge."""

    name = "genai-bench"
    data = DataSource(
        "genai-bench",
        "genai_image.json and genai_skills.json",
        "Apache-2.0",
        hub="zhiqiulin/GenAI-Bench-527",
        files=("genai_image.json", "genai_skills.json"),
    )

    def examples(self, context: Context) -> Sequence[Example]:
        """One per prompt, in the order of their numbers."""
        prompts = read_json(self.data.require(context.data / "genai_image.json"))
        skills = read_json(self.data.require(context.data / "genai_skills.json"))
        if missing := [skill for skill in (*BASIC, *ADVANCED) if skill not in skills]:
            raise UserError(f"{context.data / 'genai_skills.json'} lacks the skill {missing[0]!r}.")
        of = {key: [skill for skill in (*BASIC, *ADVANCED) if int(key) in skills[skill]] for key in sorted(prompts)}
        return [
            Example(key, {"prompt": prompts[key]["prompt"], "skills": of[key]}, i)
            for i, key in enumerate(sorted(prompts))
        ]

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """VQAScore and CLIPScore of every picture, by the judges the settings name."""
        columns, notes = self.judged(predictions, context)
        if not columns:
            command = f"liquid eval --rescore {context.folder.parent} --judge zhiqiulin/clip-flant5-xxl"
            return Scored([], notes=(f"drawn, not scored yet: {command}",))
        rows = []
        for number, prediction in enumerate(predictions):
            mine = prediction["inputs"]["skills"]
            row = {"id": prediction["id"], **{name: values[number] for name, values in columns.items()}}
            row |= {skill: skill in mine for skill in (*BASIC, *ADVANCED)}
            row["advanced"] = any(skill in mine for skill in ADVANCED)
            rows.append(row)
        return Scored(rows, notes=notes)

    def summarise(self, table: Table) -> dict[str, Value]:
        """`vqascore/attribute` … `vqascore/basic`, `vqascore/advanced`, `vqascore/all`, and the same for CLIPScore."""
        advanced = table["advanced"]
        values: dict[str, Value] = {}
        for score in (name for name in SCORES if name in table):
            parts = {**{skill: table[skill] for skill in (*BASIC, *ADVANCED)}, "basic": ~advanced, "advanced": advanced}
            values |= {f"{score}/{part}": mean_of(table, score, where) for part, where in parts.items() if where.any()}
            values[f"{score}/all"] = mean_of(table, score)
        return values
