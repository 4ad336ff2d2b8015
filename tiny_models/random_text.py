"""Draws random strings and words, made-up or of a text, to be copied exactly.

Tokens of natural text never teach that a digit must not be dropped.
"""

from __future__ import annotations

import random
import re
import string

from opencompass_llada.synthetic.grammar import RULES

_ALPHABETS = (
    *(string.digits,) * 3,
    string.ascii_uppercase,
    string.ascii_lowercase,
    string.digits + "abcdef",
    string.ascii_uppercase + string.digits,
)

#: Words that follow each other with nothing but a space between them.
_WORD = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
_RUN = re.compile(rf"(?<![\w'’-]){_WORD}(?: {_WORD})*(?![\w'’-])")

#: Templates of values longer than `synthetic.grammar.VALUES`, for ordinary needles.
LONG_VALUES = (
    "{digit}" * 7,
    "{digit}" * 8,
    "{digit}" * 12,
    "{Name} {Name} {Name}",
    "the {quality} {thing} of {Name} {Name}",
    "{Quality} {Thing} and {Quality} {Thing}",
    "a {quality} {thing}, a {quality} {thing} and a {thing}",
    "{clause}",
    "{quality}-{thing}-{digit}{digit}{digit}",
    "{Name}-{Name} {digit}{digit}{digit}{digit}",
)


def draw_string(rng: random.Random) -> str:
    """Draw a string of 4 to 32 characters, whole or in groups parted by hyphens."""
    alphabet = rng.choice(_ALPHABETS)
    length = rng.choice((rng.randint(4, 10), rng.randint(4, 10), rng.randint(8, 32)))
    text = "".join(rng.choices(alphabet, k=length))
    if rng.random() < 0.25:
        size = rng.randint(3, 5)
        text = "-".join(text[start : start + size] for start in range(0, length, size))
    return text


def draw_words(rng: random.Random) -> str:
    """Draw one to three made-up capitalised words of one to five syllables.

    The grammar's own words are few, and a model that knows them all needs not copy them.
    """
    words = []
    for _ in range(rng.choice((1, 2, 2, 2, 3))):
        begin, vowel, middle, end = (RULES[name] for name in ("start", "vowel", "middle", "end"))
        word = rng.choice(begin).lower() if rng.random() < 0.75 else ""
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 4))):
            word += rng.choice(vowel) + rng.choice(middle)
        word += rng.choice(vowel) + (rng.choice(end) if rng.random() < 0.75 else "")
        words.append(word.capitalize())
    return rng.choice((" ", " ", " ", " ", "-", " the ", " of ")).join(words)


def draw_text_words(text: str, rng: random.Random) -> str:
    """Draw one to five neighbouring words of a text; the last may get capitals, like titles.

    A word is letters, with hyphens and apostrophes inside; numbers and punctuation part neighbours.
    """
    count = rng.choice((1, 2, 2, 3, 3, 4, 5))
    runs = [run.split(" ") for run in _RUN.findall(text)]
    places = [(run, start) for run in runs for start in range(len(run) - count + 1)]
    if not places:
        return draw_words(rng)
    run, start = rng.choice(places)
    plain = rng.randint(0, count)
    chosen = run[start : start + count]
    return " ".join([*chosen[:plain], *(word[0].upper() + word[1:] for word in chosen[plain:])])
