"""Generates text from a grammar: words, sentence rules and their random expansion.

Knows no needles, no tokens and no files.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])")

_WORDS = {
    "person": """
        clerk, farmer, teacher, sailor, doctor, painter, baker, judge, mayor, captain, student,
        gardener, printer, surgeon, driver, engineer, librarian, merchant, miller, musician,
        nurse, officer, pilot, porter, potter, ranger, reporter, scholar, shepherd, singer,
        smith, soldier, tailor, trader, traveller, waiter, weaver, widow, writer, carpenter,
        chemist, cook, dancer, editor, fisherman, grocer, guard, hunter, inspector, lawyer,
        mason, mechanic, minister, neighbour, orphan, professor, senator, sculptor, tenant,
        translator, veteran, visitor""",
    "thing": """
        letter, map, basket, lantern, ledger, bridge, fence, barrel, ladder, mirror, hammer,
        violin, carriage, kettle, notebook, painting, parcel, pump, quilt, radio, ribbon, rope,
        saddle, statue, stove, suitcase, table, telescope, tent, ticket, tower, tractor,
        trumpet, umbrella, vase, wagon, wheel, window, bottle, bucket, button, candle, chair,
        clock, coin, compass, curtain, drum, engine, envelope, flag, glove, helmet, jar, kite,
        knife, lamp, necklace, oar, pillow, plough, poster, ring, shovel, spoon, thread, tray,
        wallet, whistle""",
    "place": """
        market, station, harbour, valley, library, garden, bakery, quarry, museum, orchard,
        monastery, theatre, workshop, hospital, village, forest, meadow, lighthouse, warehouse,
        kitchen, courthouse, cellar, chapel, canal, mine, mill, palace, park, pier, plaza,
        prison, ranch, school, shore, stable, stadium, studio, suburb, tavern, temple, terrace,
        tunnel, university, vineyard, wharf, barn, beach, bank, camp, castle, cave, college,
        corridor, cottage, factory, farm, ferry, field, gallery, hall, hotel, inn, island,
        laboratory""",
    "idea": """
        plan, rumour, law, promise, debt, theory, lesson, contract, habit, question, decision,
        proposal, budget, agreement, argument, custom, dream, election, festival, journey,
        meeting, method, mistake, policy, problem, project, purchase, reform, report, rule,
        schedule, secret, signal, strike, survey, tax, tradition, treaty, trial, warning,
        wedding""",
    "quality": """
        quiet, narrow, ancient, bright, careful, cheap, distant, empty, faithful, famous,
        gentle, heavy, honest, humble, joyful, lazy, modest, noisy, patient, plain, polite,
        proud, rough, rusty, shallow, silent, simple, slow, stern, strange, stubborn, sudden,
        tall, thin, tired, urgent, useful, weak, wide, wild, wise, wooden, young, bitter, brave,
        busy, calm, clever, cold, cruel, curious, damp, dark, deep, dry, dusty, early, eager,
        fair, fresh, frozen, grey, green, golden, hollow""",
    "manner": """
        slowly, quietly, carefully, reluctantly, suddenly, openly, politely, eagerly, calmly,
        honestly, secretly, at once, without delay, in silence, with great care, by mistake, for
        the third time, against all advice, before dawn, after lunch, in good order, at the last
        minute""",
    "did": """
        carried, repaired, sold, painted, described, measured, borrowed, hid, returned, bought,
        broke, cleaned, copied, counted, covered, delivered, dropped, examined, exchanged,
        finished, found, guarded, inherited, inspected, kept, lent, lifted, lost, moved,
        noticed, offered, opened, photographed, polished, praised, pulled, pushed, remembered,
        replaced, saved, sketched, stole, studied, tested, traded, turned, used, washed,
        weighed, wrapped""",
    "thought": """
        believed, announced, doubted, insisted, admitted, argued, claimed, complained,
        confessed, denied, discovered, explained, feared, forgot, guessed, hoped, imagined,
        knew, learned, mentioned, predicted, proved, realised, remarked, repeated, replied,
        reported, said, suspected, understood, warned, wrote""",
    "went": """
        walked, travelled, hurried, drove, sailed, wandered, rode, returned, climbed, marched,
        ran, moved, cycled, rowed, flew, retreated, crawled, drifted""",
    "season": """
        spring, summer, autumn, winter, January, February, March, April, May, June, July,
        August, September, October, November, December""",
    "link": "because, although, while, since, before, after, until, unless, even though",
    "opening": """
        However, In the end, As a rule, For years, Of course, By contrast, In those days, On the
        other hand, According to the paper, At the time, For example, In short, After all,
        Meanwhile, Soon afterwards, Strangely enough, Even today, Not long ago""",
    "unit": """
        miles, pounds, days, barrels, pages, hours, coins, bushels, yards, weeks, tons, crates""",
    "start": "B, D, F, G, H, K, L, M, N, P, R, S, T, V, W, Br, Ch, Cr, Dr, Gr, Sh, St, Th, Tr",
    "vowel": "a, e, i, o, u, ai, ea, ou",
    "middle": "b, d, g, l, ll, m, n, nd, r, rr, rt, s, st, t, th, v, x, z",
    "end": "n, r, l, s, m, th, nd, ck, rd, x, ston, ford, ley, by, wick, mont, dor",
}
RULES: dict[str, list[str]] = {
    name: [" ".join(word.split()) for word in words.split(",")] for name, words in _WORDS.items()
} | {
    "digit": list("0123456789"),
    "number": ["{digit}", "1{digit}", "{digit}{digit}", "1{digit}0", "{digit}{digit}00"],
    "year": ["1{digit}{digit}{digit}", "19{digit}{digit}", "20{digit}{digit}"],
    "name": [
        "{start}{vowel}{end}",
        "{start}{vowel}{middle}{vowel}{end}",
        "{start}{vowel}{middle}o",
    ],
    "someone": [
        "the {person}",
        "the {quality} {person}",
        "a {person} from {name}",
        "{name} {name}",
        "{name}",
        "the {person} of the {place}",
        "every {person}",
    ],
    "something": [
        "the {thing}",
        "a {quality} {thing}",
        "the {quality} {thing}",
        "{number} {unit} of {thing}s",
        "the {thing} in the {place}",
        "the {idea}",
        "a {quality} {idea}",
    ],
    "somewhere": [
        "in the {place}",
        "near the {quality} {place}",
        "behind the {place}",
        "at the {place} of {name}",
        "on the road to {name}",
        "between the {place} and the {place}",
    ],
    "when": [
        "in {season}",
        "in the {season} of {year}",
        "in {year}",
        "{number} {unit} later",
        "on the {digit}th of {season}",
    ],
    "clause": [
        "{someone} {did} {something}",
        "{someone} {did} {something} {somewhere}",
        "{someone} {went} {somewhere}",
        "{someone} {thought} that {clause}",
        "{something} was {quality}",
        "there were {number} {thing}s {somewhere}",
    ],
    "sentence": [
        "{Clause} {when}.",
        "{Clause} {link} {clause}.",
        "{opening}, {clause}.",
        "{Clause}, and {clause}.",
        "{Clause} {manner}.",
        '"{Clause}," said {someone}.',
        "{Something} {somewhere} cost {number} {unit}, which {someone} {thought} was {quality}.",
        "Why {something} was {quality}, nobody {somewhere} ever {thought}.",
        "{When}, {clause} {link} {clause}.",
        "{Someone} and {someone} {did} {something}; {clause}.",
    ],
}


def expand(rule: str, rng: random.Random) -> str:
    """Expand a key of `RULES` at random; a capital first letter capitalises the expansion."""
    text = fill(rng.choice(RULES[rule[0].lower() + rule[1:]]), rng)
    text = _ARTICLE.sub(r"\1n ", text)
    return text[0].upper() + text[1:] if rule[0].isupper() else text


def fill(template: str, rng: random.Random) -> str:
    """Expand every ``{rule}`` slot of a template, left to right."""
    return _SLOT.sub(lambda match: expand(match.group(1), rng), template)


def paragraph(rng: random.Random, num_sentences: int) -> str:
    """Return random sentences."""
    return " ".join(expand("sentence", rng) for _ in range(num_sentences))


def generate_documents(seed: int, num_documents: int) -> Iterator[dict[str, str]]:
    """Generate documents of 4 to 12 paragraphs of random sentences, which never repeat in a cycle.

    Args:
        seed: Same seed, same documents.
        num_documents: How many.

    Yields:
        ``{"title": ..., "text": ...}`` as in NeedleBench's haystack files.
    """
    rng = random.Random(f"haystack-{seed}")
    for _ in range(num_documents):
        title = f"The {expand('quality', rng)} {expand('thing', rng)} of {expand('name', rng)}"
        paragraphs = [paragraph(rng, rng.randint(3, 9)) for _ in range(rng.randint(4, 12))]
        yield {"title": title, "text": "\n".join(paragraphs) + "\n"}
