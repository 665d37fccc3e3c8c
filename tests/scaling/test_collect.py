import json

import pandas as pd
import pytest
from scalingkit import LAW, ROWS, write_model, write_run

from liquid_mm.errors import UserError
from liquid_mm.scaling.collect import DIVERGED, Tables, collect, diverged, load_tables, save_tables
from liquid_mm.scaling.folder import parameters


@pytest.mark.parametrize("tied", [True, False])
def test_embedding_tables_are_not_of_the_body_but_the_head_works(tmp_path, tied):
    assert parameters(write_model_at(tmp_path, tied)) == (500, 4 * ROWS)
    assert parameters(tmp_path / "m").flops(10) == 6 * (500 + 4 * ROWS) * 10


def write_model_at(tmp_path, tied):
    write_model(tmp_path / "m", 500, tied=tied)
    return tmp_path / "m"


def test_a_run_becomes_a_line_and_its_curve(tmp_path):
    write_run(tmp_path, size="s", body=500, mix="both", length=0.5, seed=3, tokens=4000, score=12.5)
    runs, curves, left_out = collect(tmp_path)
    (run,) = runs.itertuples()
    assert (run.cell, run.size, run.mix, run.length, run.seed) == ("s_both_x0.5_s3", "s", "both", 0.5, 3)
    assert (run.start, run.family, run.trained) == ("random", "shape", "text+code+caption")
    assert (run.parameters, run.head, run.tokens, run.seconds) == (500, 4 * ROWS, 4000, pytest.approx(4))
    assert run.flops == 6 * (500 + 4 * ROWS) * 4000
    assert run.code_loss == pytest.approx(LAW([[500, 4000]])[0])
    assert (run.score, run.score_higher_is_better) == (12.5, False)
    assert curves["tokens"].tolist() == [500.0 * i for i in range(1, 9)]
    assert curves["code_loss"].is_monotonic_decreasing
    assert left_out == []


def test_what_a_mix_never_learnt_is_empty(tmp_path):
    write_run(tmp_path, size="s", body=500, mix="text")
    (run,) = collect(tmp_path).runs.itertuples()
    assert run.trained == "text"
    assert pd.isna(run.code_loss)


def test_validations_between_reports_are_placed_between_them(tmp_path):
    folder = write_run(tmp_path, size="s", body=500, tokens=8000)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["kind"] == "validation" or line["step"] % 4 == 0]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    assert collect(tmp_path).curves["tokens"].tolist() == [1000.0 * i for i in range(1, 9)]


def rewrite(folder, change):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def test_reports_of_skipped_steps_have_no_loss_but_count_their_tokens(tmp_path):
    folder = write_run(tmp_path, size="s", body=500, tokens=8000)
    before = collect(tmp_path)

    def skip(line):
        skipped = line["kind"] == "train" and line["step"] in (3, 8)
        return {key: value for key, value in line.items() if "loss" not in key} if skipped else line

    rewrite(folder, skip)
    after = collect(tmp_path)
    assert after.left_out == []
    assert after.runs.equals(before.runs)
    assert after.curves.equals(before.curves)


def unfinished(folder):
    (folder / "final").rename(folder / "gone")


def failed(folder):
    unfinished(folder)
    cell = json.loads((folder / "cell.json").read_text())
    (folder / "cell.json").write_text(json.dumps(cell | {"failure": "exit code 2: the loss is not finite"}))


def blown_up(folder):
    rewrite(folder, lambda line: line | ({"loss": line["loss"] + 2 * DIVERGED} if line["step"] > 5 else {}))


REASONS = {
    "not finished yet": unfinished,
    "the loss is not finite": failed,
    "not validated after its last step, 8": lambda folder: (
        (folder / "config.yaml").write_text("steps: 8\n")
        and rewrite(folder, lambda line: line | ({"kind": "train"} if line["step"] == 8 else {}))
    ),
    "a loss is not a number": lambda folder: rewrite(folder, lambda line: line | {"loss": float("nan")}),
    "it diverged": blown_up,
    "a loss is not a number (null in validation)": lambda folder: rewrite(
        folder, lambda line: line | ({"loss": None} if line["kind"] == "validation" else {})
    ),
    "a loss is not a number (null in training)": lambda folder: rewrite(
        folder, lambda line: line | ({"loss": None} if line["kind"] == "train" and line["step"] == 3 else {})
    ),
    "a loss is not a number (absent)": lambda folder: rewrite(
        folder, lambda line: {k: v for k, v in line.items() if line["kind"] == "train" or k != "loss"}
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_a_run_that_cannot_be_used_is_left_out_by_name(tmp_path, reason):
    write_run(tmp_path, size="good", body=500)
    REASONS[reason](write_run(tmp_path, size="bad", body=900))
    tables = collect(tmp_path)
    assert tables.runs["size"].tolist() == ["good"]
    ((cell, why),) = tables.left_out
    assert cell == "bad_both_x1_s0"
    assert reason.split(" (")[0] in why


def test_divergence_is_a_rise_that_lasts_in_the_training_loss():
    falling = [5, 4, 3.5, 3, 2.8, 2.7, 2.6, 2.5]
    assert not diverged(falling)
    assert not diverged([*falling, 2.6, 3.9])  # one spike: 0.4 nats over three reports
    assert not diverged([2.5, 2.4, 2.3, 9.0, 2.5, 2.4, 2.4, 2.4])  # recovered
    assert diverged([*falling, 3.2, 3.3, 3.4])
    assert not diverged([2, 3, 4])  # too short to tell


def test_a_study_without_usable_runs_says_why(tmp_path):
    with pytest.raises(UserError, match="holds no run folders"):
        collect(tmp_path)
    unfinished(write_run(tmp_path, size="bad", body=900))
    with pytest.raises(UserError, match="bad_both_x1_s0: it has no final/"):
        collect(tmp_path)


def test_a_score_that_is_not_there_is_named(tmp_path):
    folder = write_run(tmp_path, size="s", body=500, score=3)
    (folder / "eval" / "results.json").write_text('{"fid": {}}')
    with pytest.raises(UserError, match=r"no number at 'fid.value' \(the grid's score.key\)"):
        collect(tmp_path)


def test_tables_come_back_as_they_went(tmp_path):
    write_run(tmp_path, size="1", body=500, mix="1-1-1", score=3)  # names that look like numbers stay names
    write_run(tmp_path, size="l", body=900, noise=0.1)
    unfinished(write_run(tmp_path, size="bad", body=900))
    tables = collect(tmp_path)
    save_tables(tables, tmp_path / "tables")
    first = load_tables(tmp_path / "tables")
    assert isinstance(first, Tables)
    assert first.runs["size"].tolist() == tables.runs["size"].tolist()
    assert first.runs["code_loss"].to_numpy() == pytest.approx(tables.runs["code_loss"].to_numpy(), rel=1e-5)
    assert first.left_out == tables.left_out
    save_tables(first, tmp_path / "again")
    for file in (tmp_path / "tables").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    with pytest.raises(UserError, match="there is no table"):
        load_tables(tmp_path)
