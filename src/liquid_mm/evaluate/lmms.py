"""A Liquid checkpoint as a model of lmms-eval 0.7, for any task it has, by its official scorers.

    pip install lmms-eval                                  in an environment of its own: it pins many packages
    python -m lmms_eval --model liquid --model_args pretrained=out/my-model --tasks vqav2_val,gqa,textvqa_val,pope,mme

lmms-eval finds it by this package's entry point (`lmms_manifest`). Answers are greedy unless a task asks for
sampling. Choices are compared by their loss as the model's turn. A task of `generate_visual_cot` has a picture
drawn from its own prompt, which is then shown after the task's. What is not supported are tasks that talk in several
rounds, with a search engine or a video.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import register_model
from PIL import Image
from tqdm import tqdm

from liquid_mm.errors import UserError
from liquid_mm.generate.model import LiquidModel, load
from liquid_mm.vocab.records import Chat, Message

MAX_NEW_TOKENS = 128
STAGES = re.compile(r"\[GEN_PROMPT\](.*?)\[/GEN_PROMPT\]\s*\[QUESTION\](.*?)\[/QUESTION\]", re.DOTALL)


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

    def generate_visual_cot(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each request of two stages: what to draw, and the question about that and the rest."""
        return [self._draw_and_answer(*request.args) for request in tqdm(requests, desc="liquid", disable=None)]

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """Of each continuation as the model's turn: its loss a token, and whether it is what greedy choice gives.

        The loss and not what the name says: lmms-eval chooses the lowest (`api/task.py`). A plain pair it would turn
        into a string, so each is wrapped as what a model generated.

        Arguments of a request are (question, continuation or what makes it of a document, doc_to_visual, doc id, task,
        split), or (question, continuation) alone.
        """
        losses = (self._loss(*request.args) for request in tqdm(requests, desc="liquid", disable=None))
        return [GenerationResult(text=loss) for loss in losses]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not supported."""
        raise UserError("this task talks in several rounds: only tasks with one question are supported.")

    def _draw_and_answer(self, context: str, options: Any, doc_to_visual: Any, doc: Any, task: str, split: str) -> str:
        found = STAGES.search(context)
        if found is None:
            return self._answer(context, options, doc_to_visual, doc, task, split)
        prompt, question = found.groups()
        (drawn,) = self.model.generate_images(prompt.strip(), seed=0)
        return self._say(question.strip(), [*self._visuals(doc_to_visual, doc, task, split), drawn.image], options)

    def _answer(self, question: str, options: Any, doc_to_visual: Any, doc: Any, task: str, split: str) -> str:
        return self._say(question, self._visuals(doc_to_visual, doc, task, split), options)

    def _visuals(self, doc_to_visual: Any, doc: Any, task: str, split: str) -> list[Image.Image]:
        """The pictures of a document."""
        visuals = (doc_to_visual(self.task_dict[task][split][doc]) if doc_to_visual else []) or []
        if bad := [visual for visual in visuals if not isinstance(visual, Image.Image)]:
            raise UserError(f"{task} shows a {type(bad[0]).__name__}: Liquid models see pictures alone.")
        return list(visuals)

    def _say(self, question: str, visuals: Sequence[Image.Image], options: Any) -> str:
        sampled = bool(options.get("do_sample")) and float(options.get("temperature") or 0) > 0
        answer = self.model.generate_text(
            [{"role": "user", "content": _content(question, visuals)}],
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

    @torch.inference_mode()
    def _loss(
        self,
        question: str,
        target: Any,
        doc_to_visual: Any = None,
        doc: Any = None,
        task: str = "",
        split: str = "",
    ) -> tuple[float, bool]:
        said = target if isinstance(target, str) else target(self.task_dict[task][split][doc])
        visuals = self._visuals(doc_to_visual, doc, task, split) if task else []
        llm, renderer = self.model.checkpoint.llm, self.model.renderer
        asked = self.model.prompting.to_chat([{"role": "user", "content": _content(question, visuals)}])
        rendered = renderer.render(Chat((*asked.messages, Message("assistant", (said.strip(),)))))
        ids, learnt = rendered.ids, rendered.loss_mask
        at = [int(place) for place in learnt.nonzero()[0] if int(ids[place]) not in renderer.stop_ids]
        logits = llm(torch.from_numpy(ids)[None].to(llm.device)).logits[0].float().cpu()
        before = logits[[place - 1 for place in at]]
        targets = torch.from_numpy(ids)[at]
        logs = before.log_softmax(-1).gather(1, targets[:, None])
        return -float(logs.mean()), bool((before.argmax(-1) == targets).all())


def _content(question: str, visuals: Sequence[Image.Image]) -> list[dict[str, Any]]:
    return [*({"type": "image", "image": visual} for visual in visuals), {"type": "text", "text": question}]
