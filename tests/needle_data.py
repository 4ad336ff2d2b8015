"""A small NeedleBench folder for tests, in the published format."""

from __future__ import annotations

import json
import random
from pathlib import Path

WORDS = {
    "English": [
        "amber",
        "bridge",
        "candle",
        "dune",
        "ember",
        "field",
        "glass",
        "harbour",
        "iron",
        "jacket",
        "kettle",
        "lamp",
    ],
    "Chinese": ["山", "水", "火", "木", "金", "土", "日", "月", "星", "云", "风", "雨"],
}
QUESTIONS = {
    "English": (
        "What is hidden on {place}? Please answer in the format "
        "'The item hidden on {place} is________.'"
    ),
    "Chinese": "{place}上隐藏着什么？请按照'{place}上隐藏的物品是________。'的格式回答。",
}
NEEDLES = {
    "English": "The item hidden on {place} is the {thing}.",
    "Chinese": "{place}上隐藏的物品是{thing}。",
}
FILES = {"English": "synthetic_en.jsonl", "Chinese": "zh_all.jsonl"}


def write_needlebench(
    directory: Path, *, num_documents: int = 30, words_a_document: int = 80, num_needles: int = 6
) -> Path:
    """Write haystacks and needles in both languages and return the folder."""
    directory.mkdir(parents=True, exist_ok=True)
    draw = random.Random(5)
    needles = []
    for language, words in WORDS.items():
        joint = " " if language == "English" else ""
        documents = [
            {"title": "", "text": joint.join(draw.choices(words, k=words_a_document)) + "\n"}
            for _ in range(num_documents)
        ]
        write_lines(directory / FILES[language], documents)
        for number in range(num_needles):
            place, thing = f"Isle{number}", f"Stone{number}{number}"
            needles.append(
                {
                    "needle": NEEDLES[language].format(place=place, thing=thing),
                    "retrieval_question": QUESTIONS[language].format(place=place),
                    "gold_standard_answer": "",
                    "arg1": place,
                    "arg2": thing,
                    "type": 0,
                    "language": language,
                }
            )
    write_lines(directory / "needles.jsonl", needles)
    return directory


def write_lines(path: Path, rows: list[dict]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
