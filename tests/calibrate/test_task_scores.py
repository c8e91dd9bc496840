"""Task scores on cases whose right value is known."""

import pytest

from vitcop.calibrate.data.task_scores import (
    METRICS,
    anls,
    chosen_letter,
    exact_match,
    levenshtein,
    metric_of,
    multiple_choice,
    normalised,
    vqa_accuracy,
)
from vitcop.plugins.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Red Ball.", "red ball"),
        ("two", "2"),
        ("none", "0"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("10:30.", "10:30"),
        ("Yes, it is", "yes it is"),
        ("don't", "dont"),
        ("red/blue", "red blue"),
        ("  A  an  the ", ""),
        ("", ""),
    ],
)
def test_normalised(text, expected):
    assert normalised(text) == expected


def test_exact_match_takes_any_accepted_answer():
    assert exact_match("Two.", ["2"]) == 1.0
    assert exact_match("a dog", ["cat", "Dog"]) == 1.0
    assert exact_match("dogs", ["dog"]) == 0.0


@pytest.mark.parametrize(
    ("matching", "expected"),
    # n of 10 annotators agree: leaving one out, min(1, ·/3) averaged; 0.3·n up to three, 1 from four on.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_of_ten_annotators(matching, expected):
    answers = ["red"] * matching + ["blue"] * (10 - matching)
    assert vqa_accuracy("Red", answers) == pytest.approx(expected)


def test_vqa_accuracy_of_one_answer_is_exact_match():
    assert vqa_accuracy("red", ["red"]) == 1.0 and vqa_accuracy("blue", ["red"]) == 0.0


def test_anls():
    assert anls("hello", ["hello"]) == 1.0
    assert anls("HELLO  world", ["hello world"]) == 1.0
    assert anls("hallo", ["hello"]) == pytest.approx(0.8)
    assert anls("help!", ["zzzzz", "hello"]) == pytest.approx(0.6)
    assert anls("hxxlx", ["hello"]) == 0.0  # 0.4 is below the threshold of one half.
    assert anls("", [""]) == 1.0 and anls("", ["a"]) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("ab", "ba", 2)]
)
def test_levenshtein(a, b, distance):
    assert levenshtein(a, b) == levenshtein(b, a) == distance


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. red", "B"),
        ("B) red", "B"),
        ("Answer: C", "C"),
        ("The answer is (D).", "D"),
        ("It is (C) because", "C"),
        ("a red ball", None),
        ("red", None),
        ("", None),
    ],
)
def test_chosen_letter(text, letter):
    assert chosen_letter(text) == letter


def test_multiple_choice():
    assert multiple_choice("(b) red", ["B"]) == 1.0
    assert multiple_choice("C", ["B"]) == 0.0
    assert multiple_choice("something", ["nothing"]) == 0.0


def test_metric_by_name():
    assert metric_of("anls") is anls and set(METRICS) == {"exact_match", "vqa_accuracy", "anls", "multiple_choice"}
    with pytest.raises(InputError, match="bleu"):
        metric_of("bleu")
