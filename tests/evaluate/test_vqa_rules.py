import pytest

from liquid_mm.evaluate.vqa_rules import (
    exact_match,
    mme_label,
    normalise,
    normalise_text_vqa,
    vqa_accuracy,
    yes_or_no,
)


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("The red apple.", "red apple"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # both apostrophes missing: not in the official table
        ("couldn'tve", "couldn't've"),
        ("1,000", "1000"),
        ("1,000-x", "1000x"),  # a number with commas: every mark falls away
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("3.5", "3.5"),
        ("yes\n", "yes"),
        ("a", ""),
    ],
)
def test_answers_are_normalised_as_the_official_scorer_does(raw, normal):
    assert normalise(raw) == normal


def test_text_vqa_sets_the_genitive_apart():
    assert normalise_text_vqa("Dog's, bed?") == "dog 's bed"
    assert normalise("dog's bed") == "dog's bed"


@pytest.mark.parametrize(
    ("agree", "accuracy"),
    # Leaving each person out in turn: m·min(1, (m-1)/3) + (10-m)·min(1, m/3), over 10.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_accuracy_over_ten_answers(agree, accuracy):
    assert vqa_accuracy("2", ["2"] * agree + ["3"] * (10 - agree)) == pytest.approx(accuracy)


def test_exact_match_forgives_case_and_punctuation_alone():
    assert exact_match("Boat.", "boat")
    assert not exact_match("boats", "boat")


@pytest.mark.parametrize(
    ("said", "label"),
    [("Yes", "yes"), ("No, it is red.", "no"), ("There is not. Yes", "no"), ("", "yes"), ("nothing", "yes")],
)
def test_popes_rule(said, label):
    assert yes_or_no(said) == label


@pytest.mark.parametrize(
    ("said", "label"),
    [("Yes.", "yes"), ("y", "yes"), ("N", "no"), ("x", "other"), ("no, it", "no"), ("It is: yes", "other")],
)
def test_mmes_rule(said, label):
    assert mme_label(said) == label
