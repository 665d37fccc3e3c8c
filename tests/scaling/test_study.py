"""Whole studies of made-up runs whose truth is known: verdicts, refusals, tables, figures, page."""

import json

import pytest
from scalingkit import LAW, write_run

from liquid_mm.errors import UserError
from liquid_mm.scaling.collect import collect
from liquid_mm.scaling.report import fit_study, plot_study, summary
from liquid_mm.scaling.study import starts

SIZES = {"a": 300, "b": 1000, "c": 3000, "d": 10000, "e": 30000}
DRAWS = 20


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Five sizes, three mixes, three seeds; four lengths of the largest; ratios; a pretrained and an untrained twin."""
    folder = tmp_path_factory.mktemp("study")
    for number, (size, body) in enumerate(SIZES.items()):
        for seed in range(3):
            options = {"size": size, "body": body, "seed": seed, "noise": 2e-3}
            write_run(folder, mix="text", **options)
            write_run(folder, mix="t2i", **options)
            write_run(folder, mix="both", cost=0.4 - 0.1 * number, **options)
    for length in (0.25, 0.5, 2):
        for size in ("a", "c", "e"):
            write_run(folder, size=size, body=SIZES[size], length=length, tokens=int(8000 * length), noise=2e-3)
    for seed in range(3):
        write_run(folder, size="c", body=3000, mix="1-1-1", seed=seed, noise=1e-3)
        write_run(folder, size="c", body=3000, mix="1-1-2", seed=seed, noise=1e-3, scale=0.9)  # helps drawing
        write_run(folder, size="c", body=3000, mix="1-2-1", seed=seed, noise=1e-3, scale=1.1)  # hurts describing
        for start, factor in (("pretrained", 4), ("random", 1)):
            write_run(
                folder, size=f"twin-{start}", body=5000, seed=seed, start=start, family="x/y", factor=factor
            )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def fitted(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables")
    return out, fit_study(study, out, draws=DRAWS)


def answers(results):
    return {v["claim"]: v["answer"] for v in results["verdicts"]}


def test_verdicts_are_those_the_runs_were_made_for(fitted):
    assert answers(fitted[1]) == {
        "law": "yes",
        "cost-text": "yes",
        "cost-text-shrinks": "yes",
        "cost-drawing": "yes",
        "cost-drawing-shrinks": "yes",
        "understanding-helps-code_loss": "yes",
        "generation-helps-caption_loss": "no",
        "pretrained-text": "yes",
        "pretrained-code": "yes",
        "pretrained-caption": "yes",
    }


def test_laws_are_recovered_from_run_folders(fitted):
    laws = {(law["mix"], law["law"], law["measure"]): law for law in fitted[1]["laws"]}
    law = laws["t2i", "L(N)", "code_loss"]
    assert (law["n"], law["runs"]) == (5, 15), "five sizes, three seeds of each"
    assert law["exponents"][0]["low"] <= LAW.exponents[0] <= law["exponents"][0]["high"]
    assert law["r_squared"] > law["r_squared_of_runs"] > 0.99
    assert abs(law["left_out_largest"]["error"]) < 0.03
    assert "needs at least 4 points, there are 1" in laws["t2i", "L(D)", "code_loss"]["refused"]
    assert "refused" not in laws["both", "L(D)", "code_loss"]
    joint = laws["both", "L(N, D)", "code_loss"]
    assert (joint["n"], joint["runs"], len(joint["exponents"])) == (5 + 9, 15 + 9, 2)
    assert 0 < joint["optimal_parameters_exponent"]["value"] < 1
    assert ("text", "L(N)", "code_loss") not in laws


def test_results_can_be_read_as_markdown(fitted):
    tables, results = fitted
    text = (tables / "scaling_results.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)
    assert sum("| **yes** |" in line for line in rows) == list(answers(results).values()).count("yes")
    law = next(law for law in results["laws"] if (law["mix"], law["law"]) == ("t2i", "L(N)"))
    assert f"| L(N) | t2i | code loss | 5 of 15 | {law['floor']['value']:.3g} [" in text
    assert "- not fitted: L(D) of code loss (t2i), a power law in 1 variable(s) needs at least 4 points" in text
    assert "| + understanding (1:1:2) | 3 |" in text


def test_twins_are_compared_and_never_fitted(study):
    found = starts(collect(study))
    assert found["factor"].to_numpy() == pytest.approx(4, rel=0.15)
    assert set(found["modality"]) == {"text", "code", "caption"}


def test_a_law_holds_where_there_is_one_and_not_where_size_stops_helping(tmp_path):
    for size, body in SIZES.items():
        write_run(tmp_path / "holds", size=size, body=body)
        write_run(tmp_path / "stalls", size=size, body=body, scale=1.2 if size == "e" else 1)
    for name, answer in (("holds", "yes"), ("stalls", "no")):
        results = fit_study(tmp_path / name, tmp_path / name, draws=DRAWS)
        assert answers(results)["law"] == answer
        assert answers(results)["cost-text"] == "untested"
        assert "It takes" in summary(results)


def test_too_few_runs_for_any_law_are_refused(tmp_path):
    write_run(tmp_path, size="a", body=300)
    message = r"too few runs for any law:\n  L\(N\) of text_loss, both: .* at least 4 points"
    with pytest.raises(UserError, match=message):
        fit_study(tmp_path, tmp_path)


def test_tables_alone_give_the_same_results_and_figures(fitted, tmp_path):
    tables, results = fitted
    again = fit_study(tables, tmp_path, draws=DRAWS)
    assert json.dumps(again) == json.dumps(results)
    for name in ("scaling.json", "scaling_results.md"):
        assert (tmp_path / name).read_bytes() == (tables / name).read_bytes()
    files = plot_study(tmp_path, tmp_path / "figures")
    names = [f"scaling_{name}.{kind}" for name in ("figure4", "figure6", "figure7", "laws") for kind in ("png", "svg")]
    assert [file.name for file in files] == [*names, "scaling.html"]
    again_files = plot_study(tmp_path, tmp_path / "again")
    for one, two in zip(files, again_files, strict=True):
        assert one.suffix == ".png" or one.read_bytes() == two.read_bytes()
    page = files[-1].read_text()
    assert page.count("data:image/svg+xml;base64,") == 4
    for text in ("+ understanding (1:1:2)", "Does training both cost text", "refused: ", "No run was left out"):
        assert text in page
    assert "http" not in page


def test_without_scaling_json_there_is_nothing_to_plot(fitted, tmp_path):
    with pytest.raises(UserError, match=r"there is no table .* `liquid scaling fit`"):
        plot_study(tmp_path, tmp_path)
