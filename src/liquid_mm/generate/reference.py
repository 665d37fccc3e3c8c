"""Generation as one would write it on a blackboard: one sequence, no cache, every logit, every step from the start.

The engine must give the same ids; this is what it is tested against, and far too slow for anything else.
"""

from __future__ import annotations

from typing import Any

import torch

from liquid_mm.generate.guidance import guide
from liquid_mm.generate.request import Request, Result, Running
from liquid_mm.generate.sampling import draw, scale_temperature, top_k, top_p
from liquid_mm.generate.sampling_config import SamplingConfig
from liquid_mm.vocab.vocabulary import Vocabulary


@torch.inference_mode()
def generate(llm: Any, vocabulary: Vocabulary, request: Request) -> Result:
    """The reply of a Hugging Face causal LM to one request."""
    state = Running(request, vocabulary, context=None)

    def logits_after(ids: list[int]) -> torch.Tensor:
        logits: torch.Tensor = llm(torch.tensor([ids], device=llm.device), use_cache=False).logits
        return logits[:, -1].float()

    while not state.done:
        token = state.grammar.forced
        if token is None:
            logits = logits_after(state.ids)
            if state.guided:
                scale = state.grammar.sampling.guidance_scale
                logits = guide(logits, logits_after(state.unconditional), scale)
            choice = state.grammar.choice
            allowed = torch.zeros(vocabulary.size, dtype=torch.bool, device=logits.device)
            allowed[choice.span.start : choice.span.stop] = True
            allowed[list(choice.excluded)] = False
            logits = logits.masked_fill(~allowed, -torch.inf)
            token = int(choose(logits, state.grammar.sampling, torch.tensor([state.uniform()])))
        state.accept(token)
    return state.result()


def choose(logits: torch.Tensor, config: SamplingConfig, uniform: torch.Tensor) -> torch.Tensor:
    """One index per row of (B, V) logits, by sorting all of them: what `sampling.sample` must give."""
    values, indices = top_k(scale_temperature(logits, config.temperature), config.top_k)
    chosen = draw(top_p(values.softmax(-1), config.top_p), uniform.to(values.device))
    return indices.gather(-1, chosen[:, None])[:, 0]
