"""Task scores: how right one answer is, between 0 and 1, by the rules that the benchmarks use."""

import re
from collections.abc import Callable, Sequence

from vitcop.calibrate.data.answers import exact_match, normalised
from vitcop.plugins.errors import InputError

Metric = Callable[[str, Sequence[str]], float]
"""From a prediction and the accepted answers to a score in [0, 1]."""

_ANLS_THRESHOLD = 0.5


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """VQA v2 accuracy (Antol et al., 2015): the mean over all ways to leave one annotator out of min(1, matches / 3).

    With a single answer, or a few, there are no annotators to agree: it is the exact match.
    """
    if len(answers) < 4:
        return exact_match(prediction, answers)
    given = normalised(prediction)
    matches = [normalised(answer) == given for answer in answers]
    total = sum(matches)
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(matches)


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Average normalised Levenshtein similarity (Biten et al., 2019) for text reading: the best answer's, 0 below 0.5.

    Case and outer or repeated spaces do not count; everything else does.
    """
    given = " ".join(prediction.lower().split())
    best = 0.0
    for answer in answers:
        wanted = " ".join(answer.lower().split())
        longest = max(len(given), len(wanted))
        best = max(best, 1.0 - levenshtein(given, wanted) / longest if longest else 1.0)
    return best if best >= _ANLS_THRESHOLD else 0.0


def multiple_choice(prediction: str, answers: Sequence[str]) -> float:
    """1 where the chosen letter is an accepted one: "B", "(B)", "B. red" and "The answer is B" all choose B."""
    letter = chosen_letter(prediction)
    return float(letter is not None and letter in {chosen_letter(answer) for answer in answers})


def chosen_letter(text: str) -> str | None:
    """The option letter that a reply chooses, or None. A lone "a" in running text is an article, not a choice."""
    text = text.strip()
    for pattern in (
        r"^\(?([A-Za-z])\)?(?:[.):,]|\s*$)",
        r"(?i:answer)(?:\s+is)?\s*:?\s*\(?([A-Za-z])\b",
        r"\(([A-Za-z])\)",
    ):
        if found := re.search(pattern, text):
            return found.group(1).upper()
    return None


def levenshtein(a: str, b: str) -> int:
    """Edit distance: insertions, deletions and substitutions of one character."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


METRICS: dict[str, Metric] = {
    "exact_match": exact_match,
    "vqa_accuracy": vqa_accuracy,
    "anls": anls,
    "multiple_choice": multiple_choice,
}


def metric_of(name: str) -> Metric:
    """A metric by name. Raises InputError with the known names."""
    if name not in METRICS:
        raise InputError(f"metric {name!r} is not one of {', '.join(METRICS)}")
    return METRICS[name]
