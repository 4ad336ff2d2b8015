"""How easily the tutorials and how-to pages read: Flesch's reading ease, and sentences too long.

    python docs_tools/readability.py [PAGE ...]

Judged is the prose: no headings, tables, code blocks and marks. A link counts as its text, a piece
of code as one word of one syllable. Reading ease is Flesch's (1948): 206.835 - 1.015 words a
sentence - 84.6 syllables a word; 60 to 70 is plain English. Syllables are counted by groups of
vowels, since a dictionary of pronunciation is a download: over the 23,000 words of the docs that
the CMU dictionary has, that gives 0.2 % fewer syllables, which is a quarter of a point of ease.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Folders of docs/ whose pages must read easily.
FOLDERS = ("tutorials", "how_to")
LOWEST_EASE = 55.0
MOST_WORDS = 30

_BLOCKS = (
    re.compile(r"^( *)(`{3,}|~{3,}).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL),  # code
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"^[ \t]*\|.*$", re.MULTILINE),  # tables
    re.compile(r"^#+ .*$", re.MULTILINE),
    re.compile(r"^!\[.*?\]\(.*?\)$", re.MULTILINE),
)
_WORD = re.compile(r"[A-Za-z][A-Za-z'’]*|\d[\d,.:%]*")


@dataclass(frozen=True)
class Judgement:
    """What a page's prose is like."""

    ease: float
    """Flesch's reading ease; 100 for a page without prose."""
    longest: list[str]
    """Sentences of more than `MOST_WORDS` words."""


def list_sentences(text: str) -> list[str]:
    """Return the sentences of a page's prose; an item of a list ends one."""
    for block in _BLOCKS:
        text = block.sub("\n\n", text)
    text = re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"^\s*(?:[-*+]|\d+\.|>|:)\s+", "\n\n", text, flags=re.MULTILINE)
    sentences = []
    for paragraph in re.split(r"\n\s*\n", text):
        joined = " ".join(paragraph.replace("*", "").split())
        sentences += re.split(r"(?<=[.!?])[\"')]*\s+(?=[A-Z0-9\"'(]|code)", joined)
    return [sentence for sentence in sentences if _WORD.search(sentence)]


def count_syllables(word: str) -> int:
    """Return the syllables of an English word, by its vowels; a number counts as two."""
    word = re.sub(r"['’].*", "", word.lower())
    if word[:1].isdigit():
        return 2
    groups = len(re.findall(r"[aeiouy]+", word))
    # A final e is silent but after a consonant and l: file, table; so are most -es and -ed.
    silent = re.search(r"(?:[^aeiouyl]|[aeiouy]l)e$|[^aeiouytd]ed$", word)
    silent = silent or re.search(r"(?:[^aeiouyscgzxhl]|[aeiouy]l|th)es$", word)
    # Two vowels that are spoken apart: linear, idea, variable, medium; not station, special.
    apart = re.findall(
        r"(?<![tcsg])i(?:[ao]|um)|eo|[eu]a[lrt]$|(?<!q)ua[lt]|[dr]ea$|[ay]e[rd]|ayi|yi", word
    )
    return max(1, groups - bool(silent) + len(apart))


def judge(text: str) -> Judgement:
    """Judge the prose of a page."""
    sentences = list_sentences(text)
    words = [_WORD.findall(sentence) for sentence in sentences]
    number = sum(map(len, words))
    if not number:
        return Judgement(100.0, [])
    syllables = sum(count_syllables(word) for found in words for word in found)
    ease = 206.835 - 1.015 * number / len(sentences) - 84.6 * syllables / number
    too_long = [s for s, found in zip(sentences, words, strict=True) if len(found) > MOST_WORDS]
    return Judgement(ease, too_long)


def list_pages() -> list[Path]:
    """Return the pages that must read easily."""
    return [page for name in FOLDERS for page in sorted((ROOT / "docs" / name).rglob("*.md"))]


def main() -> None:
    """Print each page's ease and its sentences that are too long; 1 where one is not good."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="*", type=Path, help="Markdown files; those of FOLDERS")
    failed = False
    for page in parser.parse_args().pages or list_pages():
        found = judge(page.read_text(encoding="utf-8"))
        failed |= found.ease < LOWEST_EASE or bool(found.longest)
        print(f"{found.ease:5.1f}  {page}")
        for sentence in found.longest:
            print(f"       more than {MOST_WORDS} words: {sentence}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
