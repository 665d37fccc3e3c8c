"""From the tables of a study to its results: laws, extrapolations, verdicts; what `scaling.json` holds.

Which runs a law is fitted to, for one mix and one measure:

    L(N)     those of the length that most sizes share, so that all have read the same
    L(D)     those of the size that was trained at most lengths
    L(C)     those that no other model beats with as little compute
    L(N, D)  all

Each size and length counts once, by its mean over seeds: what seeds do differently no law of size, data or compute
says, and a size trained three times is not three sizes. R² is of these means; that of single runs stands beside it.

Laws and costs are those of the sizes given by `shape` or, in a study without such, of the pretrained ones: models of
one making. Sizes made `like` a base serve the comparison of starts alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd

from liquid_mm.errors import UserError
from liquid_mm.scaling import fit
from liquid_mm.scaling.claims import Verdict, compute_factor, mean, negated, slope, verdict
from liquid_mm.scaling.collect import MODALITIES, Tables

R_SQUARED, EXTRAPOLATION = 0.98, 0.03
"""What a law must reach to hold: share of variance explained, and error on the left-out largest size."""

RATIOS = {"baseline": "1-1-1", "generation": "1-2-1", "understanding": "1-1-2"}
"""Mixes of Table 5, text : generation : understanding."""

Rows = Callable[[pd.DataFrame], pd.DataFrame]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A law to fit: its name, its variables' columns, and which of a mix's runs it is about."""

    name: str
    columns: tuple[str, ...]
    rows: Rows


def same_length(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the length that most sizes have, the longest of equals."""
    sizes = runs.groupby("length")["parameters"].nunique()
    return runs[runs["length"] == sizes[sizes == sizes.max()].index.max()]


def same_size(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of the size that has most lengths, the largest of equals."""
    lengths = runs.groupby("parameters")["length"].nunique()
    return runs[runs["parameters"] == lengths[lengths == lengths.max()].index.max()]


def over_seeds(runs: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The mean over seeds of each size and length."""
    numbers = ["parameters", "tokens", "flops", measure]
    return runs.groupby(["size", "length"], as_index=False)[numbers].mean()


def frontier(runs: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The runs whose mean over seeds nothing of less compute beats; else the luckiest would stand for its size."""
    means = over_seeds(runs, measure)
    best = means.loc[fit.pareto(means["flops"], means[measure]), ["size", "length"]]
    return runs.merge(best, on=["size", "length"])


def kinds(measure: str) -> tuple[Kind, ...]:
    """The four laws of one measure."""
    return (
        Kind("L(N)", ("parameters",), same_length),
        Kind("L(D)", ("tokens",), same_size),
        Kind("L(C)", ("flops",), lambda runs: frontier(runs, measure)),
        Kind("L(N, D)", ("parameters", "tokens"), lambda runs: runs),
    )


def studied(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of models of one making, which laws and costs are about."""
    shaped = runs[runs["family"] == "shape"]
    return runs[runs["start"] == "pretrained"] if shaped.empty else shaped


def groups(runs: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(mix, measure, runs) of everything laws are fitted to: each mix but Table 5's, each loss it was trained for."""
    fits = studied(runs)
    for mix, rows in fits[~fits["mix"].isin(list(RATIOS.values()))].groupby("mix"):
        for modality in MODALITIES:
            trained = rows[rows["trained"].str.contains(modality) & rows[f"{modality}_loss"].notna()]
            if len(trained):
                yield str(mix), f"{modality}_loss", trained


def analyse(tables: Tables, *, draws: int = 400, seed: int = 0) -> dict[str, Any]:
    """All results of a study, JSON-serialisable.

    Args:
        tables: of its runs.
        draws: bootstrap refits of each law.
        seed: of the bootstrap.

    Raises:
        UserError: not one law has enough runs; the message says for each what it lacks.
    """
    laws = [
        fitted(rows, measure, kind, draws, seed) | {"mix": mix}
        for mix, measure, rows in groups(tables.runs)
        for kind in kinds(measure)
    ]
    if all("refused" in law for law in laws):
        listed = "".join(f"\n  {law['law']} of {law['measure']}, {law['mix']}: {law['refused']}" for law in laws)
        raise UserError(f"there are too few runs for any law:{listed}")
    return {
        "runs": len(tables.runs),
        "left_out": [line._asdict() for line in tables.left_out],
        "flops": float(tables.runs["flops"].sum()),
        "seconds": float(tables.runs["seconds"].sum()),
        "laws": laws,
        "verdicts": [dataclasses.asdict(v) for v in verdicts(tables, laws)],
    }


def fitted(runs: pd.DataFrame, measure: str, kind: Kind, draws: int, seed: int) -> dict[str, Any]:
    """One law: parameters with intervals, R², extrapolation; or why it was refused."""
    single = kind.rows(runs)
    rows = over_seeds(single, measure)
    x, loss = (values.to_numpy(float) for values in (rows[list(kind.columns)], rows[measure]))
    head = {"law": kind.name, "measure": measure, "n": len(rows), "runs": len(single)}
    try:
        law = fit.fit_law(x, loss)
    except UserError as error:
        return head | {"refused": str(error)}
    refits = fit.bootstrap(law, x, loss, draws=draws, seed=seed)
    freedom = len(rows) - 1 - 2 * x.shape[1]

    def number(get: Callable[[fit.Law], float]) -> dict[str, float]:
        low, high = fit.interval([get(refit) for refit in refits], get(law), freedom)
        return {"value": get(law), "low": low, "high": high}

    many = range(x.shape[1])
    result = head | {
        "variables": list(kind.columns),
        "floor": number(lambda law: law.floor),
        "coefficients": [law.coefficients[j] for j in many],
        "exponents": [number(lambda law, j=j: law.exponents[j]) for j in many],  # type: ignore[misc]
        "range": [[float(x[:, j].min()), float(x[:, j].max())] for j in many],
        "r_squared": fit.r_squared(law, x, loss),
        "r_squared_of_runs": fit.r_squared(law, single[list(kind.columns)], single[measure]),
    }
    if len(kind.columns) == 2:
        result["optimal_parameters_exponent"] = number(lambda law: law.exponents[1] / sum(law.exponents))
    if kind.columns[0] == "parameters":
        result["left_out_largest"] = _left_out(x, loss)
    return result


def law_of(entry: dict[str, Any]) -> fit.Law:
    """The law in an entry of `scaling.json`."""
    exponents = tuple(exponent["value"] for exponent in entry["exponents"])
    return fit.Law(entry["floor"]["value"], tuple(entry["coefficients"]), exponents)


def _left_out(x: fit.Floats, loss: fit.Floats) -> dict[str, Any]:
    try:
        guess = fit.leave_out_largest(x, loss)
    except UserError as error:
        return {"refused": str(error)}
    return dataclasses.asdict(guess) | {"error": guess.error}


def pairs(runs: pd.DataFrame, mix: str, other: str, measure: str) -> pd.DataFrame:
    """Runs of `mix` beside those of `other` of equal size, start, length and seed; `difference` is mix minus other."""
    key = ["size", "start", "family", "length", "seed"]
    left, right = (runs.loc[runs["mix"] == name, [*key, "parameters", measure]] for name in (mix, other))
    both = left.merge(right, on=key, suffixes=("", "_other")).dropna(subset=[measure, f"{measure}_other"])
    return both.assign(difference=both[measure] - both[f"{measure}_other"])


def starts(tables: Tables) -> pd.DataFrame:
    """Compute factors of pretrained over random starts: a line per family, mix, length, seed and modality."""
    curves = dict(list(tables.curves.groupby("cell")))
    key = ["family", "mix", "length", "seed"]
    lines = []
    for names, rows in tables.runs[tables.runs["family"] != "shape"].groupby(key):
        by_start = {row.start: row for row in rows.itertuples()}
        if set(by_start) != {"pretrained", "random"}:
            continue
        a, b = (curves[by_start[start].cell] for start in ("pretrained", "random"))
        for modality in MODALITIES:
            name = f"{modality}_loss"
            if modality not in by_start["pretrained"].trained or a[name].isna().any() or b[name].isna().any():
                continue
            found = compute_factor((a["flops"], a[name]), (b["flops"], b[name]))
            if found is not None:
                line = {**dict(zip(key, names, strict=True)), "modality": modality}
                lines.append(line | dict(zip(("factor", "is"), found, strict=True)))
    return pd.DataFrame(lines, columns=[*key, "modality", "factor", "is"])


def verdicts(tables: Tables, laws: list[dict[str, Any]]) -> list[Verdict]:
    """Every claim of the paper that the study could test, and those it could not."""
    runs = tables.runs
    return [*_follows_a_law(runs, laws), *_interference(studied(runs)), *_mutual(runs), *_starts(tables)]


def _follows_a_law(runs: pd.DataFrame, laws: list[dict[str, Any]]) -> Iterator[Verdict]:
    """(a) Drawing follows a scaling law (section 4.3, Figure 4)."""
    question = "Does the loss of image codes fall with model size as a power law, in a model that also learns text?"
    wanted = {"mix": "both", "measure": "code_loss", "law": "L(N)"}
    law = next((law for law in laws if wanted.items() <= law.items()), None)
    if law is None:
        yield verdict("law", question, None, "", "runs of the mix both, in five sizes or more")
        return
    guess = law.get("left_out_largest", {})
    if refused := law.get("refused") or guess.get("refused"):
        yield Verdict("law", question, "untested", refused)
        return
    rows = next(rows for mix, measure, rows in groups(runs) if (mix, measure) == ("both", "code_loss"))
    chosen = same_length(rows)
    falls = verdict(
        "law", question, slope(np.log(chosen["parameters"]), np.log(chosen["code_loss"])),
        "of log loss on log parameters", "sizes",
    )  # fmt: skip
    holds = falls.answer == "yes" and law["r_squared"] >= R_SQUARED and abs(guess["error"]) <= EXTRAPOLATION
    evidence = (
        f"Slope {falls.evidence} The law explains R² = {law['r_squared']:.4f} of the variance between sizes "
        f"(needed: {R_SQUARED}), {law['r_squared_of_runs']:.4f} with that between seeds. "
        f"Fitted without the largest size, it misses that size's loss by {guess['error']:+.2%} "
        f"(allowed: {EXTRAPOLATION:.0%})."
    )
    yield dataclasses.replace(falls, answer="yes" if holds else "no", evidence=evidence)


def _interference(runs: pd.DataFrame) -> Iterator[Verdict]:
    """(b) Training both costs something, and less the larger the model (section 4.3, Figures 6 and 7)."""
    for alone, measure, what in (("text", "text_loss", "text"), ("t2i", "code_loss", "drawing")):
        matched = pairs(runs, "both", alone, measure)
        needs = f"runs of the mixes both and {alone} with equal size, length and seed"
        yield verdict(
            f"cost-{what}",
            f"Does training both cost {what} (a higher loss than training {alone} alone)?",
            negated(mean(matched["difference"])),
            "nats (alone minus both)",
            needs,
        )
        yield verdict(
            f"cost-{what}-shrinks",
            f"Does that cost to {what} shrink as the model grows?",
            slope(np.log10(matched["parameters"].astype(float)), matched["difference"]),
            "nats per tenfold size",
            f"{needs}, in two sizes or more",
        )


def _mutual(runs: pd.DataFrame) -> Iterator[Verdict]:
    """(c) Understanding and generation help each other (section 4.3, Table 5)."""
    tests = [("understanding", "code_loss", "drawing"), ("generation", "caption_loss", "describing")]
    if runs["score"].notna().any():
        tests.append(("understanding", "score", "the image score"))
    for added, measure, what in tests:
        matched = pairs(runs, RATIOS[added], RATIOS["baseline"], measure)
        better = measure == "score" and bool(runs["score_higher_is_better"].dropna().iloc[0])
        estimate = mean(matched["difference"])
        yield verdict(
            f"{added}-helps-{measure}",
            f"Does more {added} data improve {what}?",
            negated(estimate) if better else estimate,
            "(lower is better)" if better else f"{measure.replace('_', ' ')} (lower is better)",
            f"two pairs or more of the mixes {RATIOS[added]} and {RATIOS['baseline']} with equal size, length and seed",
        )


def _starts(tables: Tables) -> Iterator[Verdict]:
    """Existing language models are strong foundations (section 1)."""
    question = "Does a random start need more compute than a pretrained one for the same {}?"
    found = starts(tables)
    for modality in MODALITIES:
        rows = found[found["modality"] == modality]
        estimate = mean(-np.log(rows["factor"]))
        answer = verdict(
            f"pretrained-{modality}", question.format(f"{modality} loss"), estimate, "log factor",
            "two pairs or more of a pretrained size and one `like` it, same mix, length and seed",
        )  # fmt: skip
        if estimate is not None:
            low, value, high = (float(np.exp(-v)) for v in (estimate.high, estimate.value, estimate.low))
            bounds = "".join(sorted(set(rows["is"]) - {"="}))
            bound = {"": "", ">": " at least", "<": " at most"}.get(bounds, " about")
            evidence = (
                f"Factor{bound} {value:.3g} [{low:.3g}, {high:.3g}], geometric mean of {len(rows)} pairs, "
                f"p = {estimate.p:.2g}."
            )
            answer = dataclasses.replace(answer, evidence=evidence)
        yield answer
