"""Whether an answer in words is an accepted one, by the rules of visual question answering."""

import re
import string
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
} | {"none": "0"}
_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation if mark not in "'.,:"} | {"'": ""})


def normalised(text: str) -> str:
    """Lower case, number words as digits, no articles, no punctuation but inside numbers ("3.5", "10:30")."""
    text = text.lower().strip().translate(_PUNCTUATION)
    text = re.sub(r"(?<=\d),(?=\d)", "", text)
    text = re.sub(r"(?<!\d)[.:,]|[.:,](?!\d)", " ", text)
    return " ".join(_NUMBERS.get(word, word) for word in text.split() if word not in _ARTICLES)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the normalised prediction is one of the normalised answers."""
    return float(normalised(prediction) in {normalised(answer) for answer in answers})
