"""The figures of the paper (arXiv 2412.04332) for Liquid-7B, by task and value as this package names them."""

from __future__ import annotations

from liquid_mm.evaluate.genai_bench import BASIC

_GENAI = dict(
    zip(
        (*BASIC, "basic", "counting", "differentiation", "comparison", "negation", "universal", "advanced"),
        (0.84, 0.86, 0.81, 0.83, 0.91, 0.83, 0.76, 0.73, 0.74, 0.46, 0.74, 0.65),
        strict=True,
    )
)

PAPER: dict[tuple[str, str], float] = {
    **{("genai-bench", f"vqascore/{skill}"): value for skill, value in _GENAI.items()},
    ("mjhq-30k", "fid"): 5.47,
    ("vqav2", "accuracy"): 68.0,
    ("gqa", "accuracy"): 56.1,
    ("textvqa", "accuracy"): 40.4,
    ("pope", "f1_mean"): 81.1,
    ("mme", "perception"): 1107.2,
    ("boolq", "acc"): 81.0,
    ("piqa", "acc"): 81.0,
    ("siqa", "acc"): 46.7,
    ("hellaswag", "acc_norm"): 76.1,
    ("winogrande", "acc"): 72.7,
    ("arc-easy", "acc"): 75.6,
    ("arc-challenge", "acc_norm"): 49.0,
    ("mmlu", "acc"): 56.0,
}
"""Where the paper does not say which of several measures it reports, the one customary for the task is taken; see
docs/evaluation.md."""
