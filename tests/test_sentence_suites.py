"""Generated suites of sentences: metrics, solvers, chance, windows; all suites at 512 tokens."""

import json
import random
import re
import statistics

import pytest

from opencompass_llada.benchmarks.coreference.task import SPECS as COREFERENCE_SPECS
from opencompass_llada.benchmarks.coreference.task import grade
from opencompass_llada.benchmarks.counting import load_counting_tokenizer
from opencompass_llada.benchmarks.generated import prose
from opencompass_llada.benchmarks.generated.samples import Fit, SuiteSpec
from opencompass_llada.benchmarks.generated.task import (
    LANGUAGES,
    LEVELS,
    Vocabulary,
    find_task,
    list_suites,
)
from opencompass_llada.benchmarks.linked_needles.task import WORDINGS as LINKED_WORDINGS
from opencompass_llada.benchmarks.linked_needles.task import list_roles
from opencompass_llada.benchmarks.section_lists.task import SPECS as SECTION_SPECS
from opencompass_llada.benchmarks.section_lists.task import read_list

NAMES = ("coreference", "linked_needles", "section_lists")
CELLS = [(name, level, language) for name in NAMES for level in LEVELS for language in LANGUAGES]
ALL = [(name, level, language) for name in list_suites() for level in LEVELS
       for language in LANGUAGES]  # fmt: skip
SIZES = (0, 3, 12, 40, 160)  # beside the smallest


def draw(name, level, language="en", *, count=40, sizes=SIZES, **vocabulary):
    task, words = find_task(name), Vocabulary(language=language, **vocabulary)
    for number in range(count):
        size = task.smallest(level) + sizes[number % len(sizes)]
        yield task.write(random.Random(f"{name} {number}"), level, size, words)


def only_end(question, share=0.25):
    start = int(len(question.context) * (1 - share))
    return f"{question.head}{question.context[start:]}{question.question}"


@pytest.mark.parametrize(("name", "level", "language"), CELLS)
def test_a_solver_that_reads_the_prompt_alone_is_right(name, level, language):
    task = find_task(name)
    for question in draw(name, level, language):
        answer = task.solve(question.prompt)
        assert task.score(answer, question.answers) == 100, question
        assert answer.startswith(" ") == (language == "en")
        assert not question.question.endswith((" ", "\n"))
        assert not task.solve(f"{question.head}{question.question}")


@pytest.mark.parametrize(("name", "level", "language"), CELLS)
def test_chance_is_what_a_guess_reaches(name, level, language):
    task, words = find_task(name), Vocabulary(language=language)
    questions = list(draw(name, level, language, count=300))
    rng = random.Random(5)
    scores = [
        task.score(task.guess(rng, level, own.question, words), own.answers) for own in questions
    ]
    chance = statistics.mean(own.chance for own in questions)
    # Right answers have at most the spread of as many draws; where none is expected, one may be.
    expected = len(scores) * chance / 100
    assert abs(sum(scores) / 100 - expected) < 4 * expected**0.5 + 1.5
    assert 0 < chance < 40


@pytest.fixture(scope="module")
def tokenizer():
    return load_counting_tokenizer("asset:tiny-llada")


@pytest.mark.parametrize(("name", "level", "language"), ALL)
def test_prompts_and_answers_fit_from_512_tokens_on(name, level, language, tokenizer):
    for length in (512, 2048):
        spec = SuiteSpec(path="generated", benchmark=name, level=level, length=length,
                         tokenizer="asset:tiny-llada", language=language)  # fmt: skip
        fit = Fit(spec, tokenizer.count)
        for number in range(2):
            question = fit.make(number)
            answer = spec.suite.solve(question.prompt)
            assert spec.suite.score(answer, question.answers) == 100
            assert len(tokenizer.encode(f"{answer}.")) < spec.reserve
            assert 0.8 * length < tokenizer.count(question.prompt) + spec.reserve <= length


@pytest.mark.parametrize(("name", "level", "language"), [cell for cell in CELLS if cell[1] > 1])
def test_the_last_quarter_does_not_hold_the_answer(name, level, language):
    task = find_task(name)
    questions = list(draw(name, level, language, count=60, sizes=(60, 150)))
    scores = [task.score(task.solve(only_end(own)), own.answers) for own in questions]
    chance = statistics.mean(own.chance for own in questions)
    assert 100.0 not in scores
    assert statistics.mean(scores) < chance + 5
    for own in questions:
        # Whatever reads it: the needed sentence is not there, nor all of the list's.
        needed = needed_texts(name, own, language)
        assert all(text in own.context for text in needed)
        assert not all(text in only_end(own) for text in needed)


def needed_texts(name, own, language):
    answer = own.answers[0]
    if name == "linked_needles":
        sentences = re.split("(?<=[.。])", own.context)
        fact = re.compile(r"the [A-Z]\w+ tower|塔旁|看守")
        return [text for text in sentences if answer in text and fact.search(text)]
    if name == "coreference":
        # The request is one of several with its words; its reply makes it the one.
        pattern = r"(\w+) about the (\w+)\." if language == "en" else r"次写(\w+)的(\w+)\n"
        first, second = re.search(pattern, own.question).groups()
        reply = answer.partition(" ")[2]
        if language == "en":
            return [f"Write a {first} about the {second}.\nAssistant: {reply}\n"]
        return [f"写{first}的{second}\n答：{reply}\n"]
    person = re.search(r"did the (\w+) choose|节(\D+)选了什么", own.question)
    said = "The {} chose the {}." if language == "en" else "{}选了{}。"
    return [said.format(person[1] or person[2], item) for item in read_list(answer)]


@pytest.mark.parametrize("name", NAMES)
def test_texts_follow_from_the_draws_and_grow_evenly(name):
    task, words = find_task(name), Vocabulary()
    for level in LEVELS:
        first, second = (task.write(random.Random(3), level, 50, words) for _ in range(2))
        assert first == second
        sizes = [len(task.write(random.Random(3), level, size, words).prompt)
                 for size in (800, 1600, 3200)]  # fmt: skip
        assert (sizes[2] - sizes[1]) / (sizes[1] - sizes[0]) == pytest.approx(2, rel=0.1)
    assert set(task.levels) == set(LEVELS)
    assert len(set(task.levels.values())) == len(LEVELS)


@pytest.mark.parametrize("name", NAMES)
def test_training_leaves_words_for_evaluation(name):
    def words_of(**options):
        texts = (own.context for own in draw(name, 1, count=200, sizes=(8,), **options))
        nouns = {*prose.words("thing", Vocabulary()), *prose.words("person", Vocabulary())}
        facts = r"Write a \w+ about the (\w+)|[Tt]he (\w+) lives|chose the (\w+)"
        found = (re.findall(facts, text) for text in texts)
        return {word for text in found for match in text for word in match if word in nouns}

    trained, asked = words_of(for_training=True), words_of()
    assert trained < asked
    assert 0.1 < 1 - len(trained) / len(asked) < 0.45


def test_coreference_has_the_published_score():
    mrcr = pytest.importorskip("opencompass.datasets.mrcr")
    pairs = [
        ("aYooSG8CQgA tapir by the river", "aYooSG8CQgA tapir by the river"),
        ("aYooSG8CQgA tapir by the lake", "aYooSG8CQgA tapir by the river"),
        ("A tapir by the river", "aYooSG8CQgA tapir by the river"),
        ("aYooSG8CQg", "aYooSG8CQgA tapir by the river"),
        ("", "aYooSG8CQgA tapir by the river"),
        ("aYooSG8CQgThe river", "aYooSG8CQgA tapir by the river"),
        ("aYooSG8CQg" + "tapir " * 80, "aYooSG8CQg" + "river " * 40 + "tapir " * 40),
    ]
    code = "aYooSG8CQg"
    golds = [json.dumps({"answer": answer, "prefix": code}) for _, answer in pairs]
    published = mrcr.MRCREvaluator().score([own for own, _ in pairs], golds)["details"]
    assert [grade(own, answer, code) for own, answer in pairs] == [
        detail["score"] for detail in published
    ]
    assert len({detail["score"] for detail in published}) >= 4


def test_coreference_scores_one_line_and_the_best_reference():
    task, answers = find_task("coreference"), ("ab1c quiet map", "ab1c noisy lamp")
    assert task.score(" ab1c noisy lamp\nUser: Write a poem", answers) == 100
    assert task.score("quiet map", answers) == 0
    assert task.score("ab1c", answers) == 0
    assert 0 < task.score("ab1c quiet", answers) < 100
    for malformed in ("", " \n ", "\0", "a" * 10_000, "(", "[]"):
        assert task.score(malformed, answers) == 0
    assert task.score("ab1c quiet map", ()) == 0


def test_coreference_asks_for_each_of_the_same_requests():
    for level in LEVELS:
        fewest, most = COREFERENCE_SPECS[level].near
        counts, numbers = set(), set()
        for own in draw("coreference", level, count=300, sizes=(80,)):
            number, kind, topic = re.search(
                r"repeat the (\d+)\w\w (\w+) about the (\w+)\.", own.question
            ).groups()
            counts.add(own.context.count(f"Write a {kind} about the {topic}.\n"))
            numbers.add(int(number))
        assert counts == set(range(fewest, most + 1))
        last = most if level == 1 else int(0.7 * most)
        assert numbers == set(range(1, last + 1))


def test_linked_needles_have_the_published_score():
    task = find_task("linked_needles")
    # NoLiMa's "contains" on its own needle: Yuki lives next to the Semper Opera House.
    assert task.score("Yuki", ("Yuki",)) == 100
    assert task.score("The character is Yuki, who lives there.", ("Yuki",)) == 100
    assert task.score("yuki", ("Yuki",)) == 0
    assert task.score("Katie", ("Yuki", "Katie")) == 100
    for malformed in ("", " \n", "\0", "(", "Yu ki"):
        assert task.score(malformed, ("Yuki",)) == 0
    assert task.score("anything", ("",)) == 0
    assert task.score("anything", ()) == 0


#: Words that join others and say nothing of their own.
FUNCTION_WORDS = {
    *("who", "what", "has", "have", "had", "been", "is", "was", "to", "the", "a", "an", "of", "in"),
    *("next", "every", "at", "by"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_fact_and_question_share_no_content_word(language):
    def content(text):
        if language == "zh":
            return set(re.findall(r"[\u4e00-\u9fff]", text))
        return set(re.findall(r"[a-z]+", text.lower())) - FUNCTION_WORDS

    seen = 0
    for level in LEVELS:
        for own in draw("linked_needles", level, language, count=60, sizes=(0, 60)):
            person = own.answers[0]
            lines = [line.strip() for line in re.split("[.。]", own.context) if person in line]
            facts = [line for line in lines if re.search(r"the [A-Z]\w+ tower|塔旁|看守", line)]
            assert len(facts) == 1, lines
            asked = own.question.replace("Question:", "").replace("Answer:", "").replace("问：", "")
            shared = content(facts[0]) & content(asked.replace("答：", ""))
            assert not shared, (facts, own.question)
            seen += 1
    assert seen == 300
    # What the test looks for is there to be found: a literal match shares the place's name.
    literal = LINKED_WORDINGS[language].literal[0].format(person="Yuko", place="Dorvo")
    assert content(literal) & content(f"{own.question} Dorvo")


def test_linked_needles_hide_among_sentences_of_the_same_form():
    for level, literal in ((2, 0), (3, 1), (4, 4), (5, 8)):
        for own in draw("linked_needles", level, count=20, sizes=(90,)):
            place = re.search(r"been to (\w+)\?", own.question)[1]
            named = [line for line in own.context.split(".") if f" {place}" in f" {line.strip()}"]
            links = [line for line in named if re.search("stand|built|belongs|rules|part of", line)]
            assert len(named) - len(links) == literal
            assert len(links) == (3 if level == 5 else 1)
    # At level 5 there is no other filler, so that no form tells a needle from the rest.
    forms = "tower|belongs|rules over|A part of|been to|Nobody told|has been sold"
    for own in draw("linked_needles", 5, count=20, sizes=(300,)):
        other = [line for line in own.context.split(".") if not re.search(forms, line)]
        assert len([line for line in other if line.strip()]) <= 2


def test_one_person_alone_is_linked_to_the_place():
    for level in LEVELS:
        for own in draw("linked_needles", level, count=30, sizes=(200,)):
            names = re.findall(r"[A-Z]\w+(?: of \w+)?", own.context)
            if level > 1:
                # No other name holds the one asked for, or a wrong answer would contain it.
                assert {name for name in names if own.answers[0] in name} == {own.answers[0]}


def test_persons_without_names_are_not_in_each_other():
    for language in LANGUAGES:
        persons = list_roles(Vocabulary(language=language))
        assert len(persons) > 40
        assert not [(a, b) for a in persons for b in persons if a != b and a in b]
    kinds = "".join(prose.CHINESE_SYLLABLES.values())
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(
    ("found", "truth", "score"),
    [
        # Examples of MetricLCS in java-string-similarity's README, which gives distances.
        ("A,B,C,D,E,F,G", "A,B,C,D,E,F,H,J,K,L", 60),
        ("A,B,D,E,F", "A,B,D,I,F", 80),
        ("x, y", "x, y", 100),
        ("y, x", "x, y", 50),
        ("x", "x, y", 50),
        ("x, y, z, x", "x, y", 50),
        ("", "x, y", 0),
        (" \n", "x, y", 0),
        (",,, ,", "x, y", 0),
    ],
)
def test_section_lists_score_the_common_subsequence(found, truth, score):
    assert find_task("section_lists").score(found, (truth,)) == pytest.approx(score)


def test_section_lists_read_any_list():
    expected = ["map", "lamp", "oar"]
    for text in (" map, lamp, oar", "Map, the lamp, an oar.", "1. map\n2. lamp\n3. oar\n\nNow 4",
                 "- map\n- lamp\n- oar", "map、lamp、oar。", "map, lamp, and oar",
                 " map, lamp, oar\nSection: The baker chose the jar."):  # fmt: skip
        assert read_list(text) == expected
    task = find_task("section_lists")
    assert task.score("x, z", ("x, y, z", "x, z")) == 100
    assert task.score("x", ()) == 0
    assert task.score("\0(", ("x",)) == 0


def test_listing_every_section_gets_the_share_asked_for():
    task = find_task("section_lists")
    for level in (2, 3, 4, 5):
        steps = SECTION_SPECS[level].steps
        for own in draw("section_lists", level, count=30, sizes=(150,)):
            person = re.search(r"did the (\w+) choose", own.question)[1]
            everything = re.findall(rf"The {person} chose the (\w+)\.", own.context)
            fewest, most = SECTION_SPECS[level].sections
            assert fewest <= len(everything) <= most
            share = 100 * len(read_list(own.answers[0])) / len(everything)
            assert task.score(", ".join(everything), own.answers) == pytest.approx(share)
            assert share <= 100 / min(steps) + 5


def test_filler_of_sections_has_the_form_of_what_they_say():
    for level in (3, 4, 5):
        for own in draw("section_lists", level, count=5, sizes=(120,)):
            lines = re.sub(r"Section(?: \d+)?:", "", own.context).split(".")
            form = r"\s*The \w+ (chose|did not choose) the \w+"
            assert all(re.fullmatch(form, line) for line in lines if line.strip())


def test_names_are_different_and_many():
    for language in LANGUAGES:
        for training in (False, True):
            words = Vocabulary(language=language, for_training=training)
            names = prose.draw_names(
                random.Random(1), {"person": 4000, "tower": 4000, "town": 4000}, words
            )
            drawn = [name for kind in names.values() for name in kind]
            assert len(set(drawn)) == len(drawn) == 12_000
    assert prose.spread(random.Random(1), 3, 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("found", "answers", "score"),
    [
        (" 23", ("23",), 100),
        # A variable is a thing, and so is what people have: neither is another number.
        ("The value of lamp at the end is 23.", ("23",), 100),
        ("23, not 45", ("23",), 0),
        ("123", ("23",), 0),
        ("The baker has the map.", ("map",), 100),
        ("map lamp", ("map",), 0),
        ("map\nlamp", ("map",), 100),
        ("map", ("lamp", "map"), 100),
        ("最后灯笼的值是23。", ("23",), 100),
        ("有地图和灯笼", ("地图",), 0),
        ("anything", (), 0),
        ("", ("map",), 0),
        ("\0(", ("map",), 0),
    ],
)
def test_changing_state_scores_one_value_of_the_answers_form(found, answers, score):
    assert find_task("changing_state").score(found, answers) == score


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", NAMES)
def test_more_questions_on_a_text_have_other_answers(name, language):
    task, rng = find_task(name), random.Random(4)
    for level in (1, 2):
        for own in draw(name, level, language, count=20, sizes=(30,)):
            more = task.more_questions(rng, own, 4)
            assert 2 <= len(set(more)) == len(more) <= 4
            assert own.question not in more
            answers = [task.solve(f"{own.head}{own.context}{text}") for text in more]
            assert all(answers)
            assert any(task.score(answer, own.answers) < 100 for answer in answers)
