"""Gives suites of sentences their words, names, filler and places, in English and Chinese.

English words are those of `synthetic.grammar`, each one token of the shipped models; Chinese ones
those of ``prose_zh.json``. Every name is made up of syllables, so that no training text
knows what belongs to it. Holds no task.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from opencompass_llada.benchmarks.generated.task import Vocabulary
from opencompass_llada.synthetic import grammar

#: Filler sentences at hand for each vocabulary; a longer text repeats some.
NUM_SENTENCES = 4096
#: More English names in one text than this are long ones, of which there are 470,016.
MOST_SHORT_NAMES = 600
#: Kind of thing -> the characters of its Chinese names, three each; no two kinds share one.
CHINESE_SYLLABLES = {
    "person": "伊安露玛菲苏娜琳杰凯莉乔汉彼丽雅薇茜杜康",
    "tower": "布雷卡格鲁维森托莫巴克哈温艾奥古鲍弗詹赫",
    "town": "多尼索拉米罗德林纳科斯洛梅奇萨加诺佩里图",
    "land": "阿比切丹俄法基霍英约肯兰曼努帕昆瑞桑泰乌",
}
_SLOT = re.compile(r"\{(\w+)\}")


@lru_cache(maxsize=1)
def _chinese_rules() -> dict[str, list[str]]:
    path = Path(__file__).with_name("prose_zh.json")
    rules: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return rules


def words(rule: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the words of a rule that a text may hold: person, thing, place, quality."""
    rules = grammar.RULES if vocabulary.language == "en" else _chinese_rules()
    return vocabulary.allowed(rules[rule])


@lru_cache(maxsize=8)
def filler_sentences(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return `NUM_SENTENCES` sentences that no question is about, other ones for training."""
    rng = random.Random(f"filler {vocabulary}")
    if vocabulary.language == "en":
        return tuple(grammar.expand("sentence", rng) for _ in range(NUM_SENTENCES))
    rules = _chinese_rules()
    return tuple(
        _SLOT.sub(lambda match: rng.choice(rules[match[1]]), rng.choice(rules["sentence"]))
        for _ in range(NUM_SENTENCES)
    )


def draw_filler(rng: random.Random, count: int, vocabulary: Vocabulary) -> list[str]:
    """Draw filler sentences."""
    return rng.choices(filler_sentences(vocabulary), k=count)


def draw_names(
    rng: random.Random, counts: Mapping[str, int], vocabulary: Vocabulary
) -> dict[str, list[str]]:
    """Draw different names of kinds of `CHINESE_SYLLABLES`, as many of each as asked for.

    In English all kinds have names of one sort: Brando, or Theallastorm where there are many.
    """
    if vocabulary.language == "zh":
        return {
            kind: _draw(rng, count, [CHINESE_SYLLABLES[kind]] * 3, vocabulary)
            for kind, count in counts.items()
        }
    rules = grammar.RULES
    total = sum(counts.values())
    syllables = [rules["start"], rules["vowel"], rules["middle"]]
    syllables += [["o"]] if total <= MOST_SHORT_NAMES else [rules["vowel"], rules["end"]]
    names = iter(_draw(rng, total, syllables, vocabulary))
    return {kind: [next(names) for _ in range(count)] for kind, count in counts.items()}


def count_names(kind: str, vocabulary: Vocabulary) -> int:
    """Return how many names a guesser must choose from, at least."""
    if vocabulary.language == "zh":
        return len(CHINESE_SYLLABLES[kind]) ** 3
    return len(grammar.RULES["start"]) * len(grammar.RULES["vowel"]) * len(grammar.RULES["middle"])


def _draw(
    rng: random.Random, count: int, syllables: list[list[str]] | list[str], vocabulary: Vocabulary
) -> list[str]:
    """Draw different names, a syllable of each alphabet, that the vocabulary allows."""
    most = 1
    for alphabet in syllables:
        most *= len(alphabet)
    names: list[str] = []
    # A vocabulary for training allows three names in four.
    surplus = 2 * count + 32 if vocabulary.for_training else count
    for number in rng.sample(range(most), min(surplus, most)):
        name = ""
        for alphabet in syllables:
            number, digit = divmod(number, len(alphabet))
            name += alphabet[digit]
        names.append(name)
    return list(vocabulary.allowed(names))[:count]


def spread(rng: random.Random, count: int, total: int) -> list[int]:
    """Draw ``count`` of ``total`` places, one in each of as many equal parts, in order."""
    return [
        rng.randrange(part * total // count, (part + 1) * total // count) for part in range(count)
    ]
