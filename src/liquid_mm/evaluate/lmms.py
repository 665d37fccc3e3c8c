"""A Liquid checkpoint as a model of lmms-eval 0.7, for any task it has, by its official scorers.

    pip install lmms-eval                                  in an environment of its own: it pins many packages
    python -m lmms_eval --model liquid --model_args pretrained=out/my-model --tasks vqav2_val,gqa,textvqa_val,pope,mme

lmms-eval finds it by this package's entry point (`lmms_manifest`). Answers are greedy unless a task asks for
sampling. Only tasks that generate text are supported: none of the paper's compares likelihoods of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from PIL import Image
from tqdm import tqdm

from liquid_mm.errors import UserError
from liquid_mm.generate.model import LiquidModel, load

MAX_NEW_TOKENS = 128


@register_model("liquid")
class Liquid(lmms):  # type: ignore[misc]  # lmms-eval has no types
    """The plug-in.

    Args:
        pretrained: a checkpoint folder, or "demo".
        device: as `liquid_mm.load`.
        dtype: as `liquid_mm.load`.
        model: an already loaded model instead.
        options: what lmms-eval passes to every model (batch_size …); an answer at a time is made here.
    """

    def __init__(
        self,
        pretrained: str = "",
        device: str | None = None,
        dtype: str | None = None,
        model: LiquidModel | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if model is None and not pretrained:
            raise UserError("--model_args needs pretrained=CHECKPOINT.")
        self.model = model or load(pretrained, device=device, dtype=dtype)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request, whose arguments are (question, options, doc_to_visual, doc id, task, split)."""
        return [self._answer(*request.args) for request in tqdm(requests, desc="liquid", disable=None)]

    def _answer(self, question: str, options: Any, doc_to_visual: Any, doc: Any, task: str, split: str) -> str:
        visuals = doc_to_visual(self.task_dict[task][split][doc]) if doc_to_visual else []
        if bad := [visual for visual in visuals or [] if not isinstance(visual, Image.Image)]:
            raise UserError(f"{task} shows a {type(bad[0]).__name__}: Liquid models see pictures alone.")
        sampled = bool(options.get("do_sample")) and float(options.get("temperature") or 0) > 0
        content = [*({"type": "image", "image": v} for v in visuals or []), {"type": "text", "text": question}]
        answer = self.model.generate_text(
            [{"role": "user", "content": content}],
            max_new_tokens=int(options.get("max_new_tokens") or MAX_NEW_TOKENS),
            temperature=float(options["temperature"]) if sampled else 1.0,
            top_k=None if sampled else 1,
            top_p=float(options.get("top_p") or 1.0),
            seed=0,
        )
        until = options.get("until") or []
        for stop in [until] if isinstance(until, str) else until:
            answer = answer.split(stop)[0] if stop else answer
        return answer.strip()

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise UserError("this task compares likelihoods of answers: only tasks that generate text are supported.")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported."""
        raise UserError("this task talks in several rounds: only tasks with one question are supported.")
