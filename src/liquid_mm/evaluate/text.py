"""Text benchmarks by lm-eval 0.4 as a library, on the plain language model of the checkpoint (paper Table 4).

A Liquid checkpoint is a causal LM, so lm-eval scores it as it scores any other; nothing about pictures takes part. What
its tasks are and how they score is lm-eval's; here stand which tasks the paper reports and with how many shots. To see
what image rows and training cost, run the same tasks on a checkpoint fresh from `liquid extend` and on the trained one.

    DATA/lm-eval/*.yaml      task files of yours; one named like a built-in task takes its place (to run offline, say);
                             DATA is --data-dir, else the folder "data"
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from liquid_mm.errors import UserError
from liquid_mm.evaluate.protocol import Context, Example, Prediction, Scored, Table, Task, Value, mean_of

PERCENT = 100.0
METRICS = ("acc", "acc_norm")


class LMEvalTask(Task):
    """A multiple-choice task of lm-eval, or a group of them; values in percent.

    `acc` takes the likeliest answer, `acc_norm` the likeliest per byte.
    """

    kind = "text"
    lm_eval_name: str
    shots: int = 0

    def examples(self, context: Context) -> Sequence[Example]:
        """One per document of every task in the group."""
        found: list[Example] = []
        for name, task in _load(self.lm_eval_name, context).items():
            found += (
                Example(f"{name}/{i}", {"task": name, "doc": i}, len(found) + i) for i in range(len(task.eval_docs))
            )
        return found

    def predict(self, model: Any, examples: Sequence[Example], context: Context) -> Iterator[Prediction]:
        """Log-likelihoods of every choice and lm-eval's verdict, one of its tasks at a time."""
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        settings, manager = context.settings, _manager(self.lm_eval_name, context)
        shots = self.shots if settings.shots is None else settings.shots
        checkpoint = model.checkpoint
        # Half precision is for products, not for sums of log probabilities: near 64 bfloat16 has steps of 0.25.
        lm = HFLM(
            pretrained=checkpoint.llm,
            tokenizer=checkpoint.tokenizer,
            batch_size=context.batch_size,
            softmax_dtype="float32",
        )
        seeds = dict.fromkeys(
            ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), settings.seed
        )
        for name, group in itertools.groupby(examples, key=lambda example: str(example.inputs["task"])):
            docs = [int(example.inputs["doc"]) for example in group]
            output: Any = simple_evaluate(
                lm, tasks=[name], num_fewshot=shots, samples={name: docs}, bootstrap_iters=0,
                task_manager=manager, **seeds,
            )  # fmt: skip
            for sample in output["samples"][name]:
                yield {
                    "id": f"{name}/{sample['doc_id']}",
                    "inputs": {"task": name, "doc": sample["doc_id"]},
                    "shots": shots,
                    "target": sample["target"],
                    "log_likelihoods": [response[0][0] for response in sample["resps"]],
                    **{metric: float(sample[metric]) for metric in METRICS if metric in sample},
                }

    def score(self, predictions: Sequence[Prediction], context: Context) -> Scored:
        """lm-eval's verdicts."""
        columns = [metric for metric in METRICS if metric in predictions[0]]
        rows = [{"id": p["id"], **{metric: p[metric] for metric in columns}} for p in predictions]
        return Scored(rows, notes=(f"by lm-eval with {predictions[0]['shots']} shots",))

    def summarise(self, table: Table) -> dict[str, Value]:
        """Accuracy over all documents."""
        return {metric: mean_of(table, metric, scale=PERCENT) for metric in METRICS if metric in table}


def _task(task_name: str, lm_eval: str, shots: int = 0) -> type[LMEvalTask]:
    return type(f"LMEval_{task_name}", (LMEvalTask,), {"name": task_name, "lm_eval_name": lm_eval, "shots": shots})


TEXT_TASKS = tuple(
    _task(*names)
    for names in (
        ("boolq", "boolq"), ("piqa", "piqa"), ("siqa", "social_iqa"), ("hellaswag", "hellaswag"),
        ("winogrande", "winogrande"), ("arc-easy", "arc_easy"), ("arc-challenge", "arc_challenge"),
        ("openbookqa", "openbookqa"), ("mmlu", "mmlu", 5),
    )
)  # fmt: skip
"""The text tasks of the paper, zero-shot but for MMLU."""


def _manager(name: str, context: Context) -> Any:
    """lm-eval's task manager that knows the task `name`: yours if you have such a task, else its own."""
    own = context.data / "lm-eval"
    if own.is_dir():
        mine = _task_manager(include_path=str(own), include_defaults=False)
        if name in mine.all_tasks:
            return mine
    return _task_manager()


@functools.cache  # lm-eval reads some ten thousand task files
def _task_manager(**options: Any) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("text tasks are scored by lm-eval: run `pip install 'liquid-mm[eval]'`.") from error
    return TaskManager(**options)


def _load(name: str, context: Context) -> dict[str, Any]:
    manager = _manager(name, context)
    try:
        tasks: dict[str, Any] = manager.load([name])["tasks"]
    except Exception as error:  # offline, not found …: lm-eval and datasets raise a dozen kinds
        raise UserError(
            f"lm-eval cannot load {name}: {error}. It downloads its data from the Hugging Face Hub (licences: on the "
            f"data cards; `lm_eval ls tasks` lists them): connect, or put a task file with local data into "
            f"{context.data / 'lm-eval'}."
        ) from error
    return tasks
