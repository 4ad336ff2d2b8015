"""Generated suites: fitting to a length, the cache, data sets; graph walks and changing state."""

import random
import re
import statistics

import pytest

from opencompass_llada.benchmarks.changing_state.task import STEPS
from opencompass_llada.benchmarks.counting import load_counting_tokenizer
from opencompass_llada.benchmarks.generated import samples
from opencompass_llada.benchmarks.generated.samples import SuiteSpec, build_samples
from opencompass_llada.benchmarks.generated.task import (
    LANGUAGES,
    LEVELS,
    AsksMore,
    Vocabulary,
    find_task,
    list_suites,
)
from opencompass_llada.benchmarks.graph_walks.task import search

TINY = "asset:tiny-llada"
OWN = ("graph_walks", "changing_state")
CELLS = [(name, level, language) for name in OWN for level in LEVELS for language in LANGUAGES]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", str(tmp_path))
    return tmp_path / "generated"


def make(benchmark, level=1, length=700, tokenizer=TINY, **options):
    spec = SuiteSpec(
        benchmark=benchmark, level=level, length=length, tokenizer=tokenizer,
        **{"num_samples": 2, **options},
    )  # fmt: skip
    return spec, build_samples(spec, load_counting_tokenizer(tokenizer))


def draw(name, level, language="en", count=40, sizes=(0, 5, 40, 160)):
    task, words = find_task(name), Vocabulary(language=language)
    for number in range(count):
        size = task.smallest(level) + sizes[number % len(sizes)]
        yield task.write(random.Random(f"{name} {number}"), level, size, words)


def test_the_suites_are_five_with_five_levels_each():
    assert list_suites() == (
        *("changing_state", "coreference", "graph_walks", "linked_needles", "section_lists"),
    )
    for name in list_suites():
        assert find_task(name).name == name
        assert tuple(find_task(name).levels) == LEVELS


@pytest.mark.parametrize(("name", "level", "language"), CELLS)
def test_a_solver_that_reads_the_prompt_alone_is_right(name, level, language):
    task = find_task(name)
    for question in draw(name, level, language):
        answer = task.solve(question.prompt)
        assert task.score(answer, question.answers) == 100, question
        assert not question.question.endswith((" ", "\n"))
        assert not task.solve(f"{question.head}{question.question}")


@pytest.mark.parametrize(("name", "level", "language"), CELLS)
def test_chance_is_what_a_guess_reaches(name, level, language):
    task, words, rng = find_task(name), Vocabulary(language=language), random.Random(5)
    questions = list(draw(name, level, language, 300, (20, 60)))
    guesses = [task.guess(rng, level, own.question, words) for own in questions]
    scores = [task.score(g, own.answers) for g, own in zip(guesses, questions, strict=True)]
    chance = statistics.mean(own.chance for own in questions)
    error = statistics.stdev([*scores, 100.0]) / len(scores) ** 0.5
    assert abs(statistics.mean(scores) - chance) < 4 * error
    assert 0 < chance < 8


@pytest.mark.parametrize(("name", "level", "language"), [cell for cell in CELLS if cell[1] > 1])
def test_the_last_quarter_does_not_hold_the_answer(name, level, language):
    """Of parents some stand there, which earn a part of the F1; all of them never."""
    task, scores, expected = find_task(name), [], []
    for question in draw(name, level, language, 60, (60, 150)):
        end = question.context[int(0.75 * len(question.context)) :]
        scores.append(
            task.score(task.solve(question.head + end + question.question), question.answers)
        )
        expected.append(50 if "BFS" not in question.question and name == "graph_walks" else 0)
    assert 100 not in scores
    if language == "en":
        assert statistics.mean(scores) <= statistics.mean(expected)


@pytest.mark.parametrize("name", list_suites())
@pytest.mark.parametrize(("level", "language"), [(1, "en"), (3, "en"), (1, "zh")])
@pytest.mark.parametrize("length", [900, 4096])
def test_prompt_and_answer_fill_the_length_and_never_more(name, level, language, length):
    spec, made = make(name, level, length, language=language)
    count = load_counting_tokenizer(TINY).count
    for question in made:
        total = count(question.prompt) + find_task(name).generation_length(level)
        assert 0.8 * length < total <= length
        answer = find_task(name).solve(question.prompt)
        assert find_task(name).score(answer, question.answers) == 100
        assert count(f"{answer}.") < find_task(name).generation_length(level)
    assert made[0] != made[1]


@pytest.mark.parametrize("tokenizer", ["SDAR-8B-Chat", "gpt-4"])
def test_other_tokenizers_are_filled_alike(tokenizer, real_data_root, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data/tiktoken"))
    folder = real_data_root / "data/published" / tokenizer
    path = tokenizer if tokenizer == "gpt-4" else str(folder)
    if not (
        folder.is_dir() or (tokenizer == "gpt-4" and (real_data_root / "data/tiktoken").is_dir())
    ):
        pytest.skip(f"no {tokenizer} on this machine")
    count = load_counting_tokenizer(path).count
    for name in list_suites():
        spec, made = make(name, 2, 2048, path)
        for question in made:
            assert 0.8 * 2048 < count(question.prompt) + spec.reserve <= 2048


def test_a_length_that_is_too_small_names_one_that_fits():
    with pytest.raises(ValueError, match="level 5 of graph_walks") as error:
        make("graph_walks", 5, 200)
    needed = int(re.search(r"use a length of (\d+)", str(error.value))[1])
    make("graph_walks", 5, needed, num_samples=1)


def test_samples_are_kept_and_their_own_draws(cache, monkeypatch):
    made = []
    original = samples._make_samples
    monkeypatch.setattr(
        samples, "_make_samples", lambda *given: (made.append(1), original(*given))[1]
    )
    first = make("changing_state", num_samples=3)[1]
    assert make("changing_state", num_samples=3)[1] == first
    assert len(made) == 1
    # The second is the same draws, though what an item takes was learnt from fewer samples.
    asked = [own.answers for own in make("changing_state", num_samples=2)[1]]
    assert asked == [own.answers for own in first[:2]]
    others = [{"level": 2}, {"length": 701}, {"seed": 2}, {"language": "zh"}]
    assert all(make("changing_state", **other)[1] != first for other in others)
    assert len(list(cache.iterdir())) == 2 + len(others)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"level": 6}, "level=6"), ({"language": "de"}, "'de'"), ({"reader": "last"}, "'last'")],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make("graph_walks", **options)


@pytest.mark.parametrize("name", list_suites())
def test_further_questions_are_answered_by_the_same_text(name):
    task = find_task(name)
    if not isinstance(task, AsksMore):
        pytest.skip("one question a text")
    for question in draw(name, 1, count=10):
        found = task.more_questions(random.Random(1), question, 4)
        assert question.question not in found
        assert len(set(found)) == len(found) <= 4
        for text in found:
            assert task.solve(question.head + question.context + text)


# What huggingface.co/datasets/openai/graphwalks says of its scores, and what its README shows.
@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("Final Answer: [uvwx, efgh]", 100),
        ("I search.\nFinal Answer: [efgh,uvwx]", 100),
        (" uvwx, efgh.", 100),
        (" uvwx, efgh\n\nOperation:\nFind the parents", 100),
        (" [uvwx, efgh] and no others", 100),
        ("uvwx", 200 / 3),
        ("uvwx, efgh, alke", 80),
        ("uvwx, uvwx", 200 / 3),
        ("alke", 0),
        ("", 0),
        ("[]", 0),
        ("Final Answer:", 0),
        ("\n\n,,[ ", 0),
    ],
)
def test_graph_walks_score_the_f1_of_sets(prediction, score):
    assert find_task("graph_walks").score(prediction, ("uvwx", "efgh")) == pytest.approx(score)


def test_an_empty_set_is_equal_to_itself_alone():
    task = find_task("graph_walks")
    assert task.score("Final Answer: []", ()) == 100
    assert task.score("alke", ()) == 0


def test_a_search_returns_nodes_at_exactly_its_depth():
    edges = [("uvwx", "alke"), ("abcd", "uvwx"), ("abcd", "efgh"), ("efgh", "uvwx")]
    assert search(edges, "abcd", 1) == ["uvwx", "efgh"]
    assert search(edges, "abcd", 2) == ["alke"]  # uvwx was reached before
    assert search(edges, "alke", 1) == []


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        (" 42.", 100),
        ("42\n\nQuestion: What", 100),
        ("The value is 42", 100),
        ("I think so.\nAnswer: 42", 100),
        ("42 or 43", 0),
        ("420", 0),
        ("", 0),
        ("lamp", 0),
        ("\n\n", 0),
    ],
)
def test_changing_state_takes_the_value_and_no_other(prediction, score):
    assert find_task("changing_state").score(prediction, ("42",)) == score


def test_chinese_values_are_found_without_spaces():
    task = find_task("changing_state")
    assert task.score("安静。", ("安静",)) == 100
    assert task.score("安静又古老", ("安静",)) == 0


@pytest.mark.parametrize("level", [2, 3, 5])
def test_the_value_passes_through_other_entities(level):
    """Without copies and swaps the answer would be another, and its places spread over the text."""
    task = find_task("changing_state")
    changed = 0
    for question in draw("changing_state", level, count=40, sizes=(40, 90)):
        lines = question.context.splitlines(keepends=True)
        kept = "".join(
            line for line in lines if not re.search("same as|value of|think as|[Ss]wap", line)
        )
        changed += (
            task.solve(question.head + kept + question.question).strip() not in question.answers
        )
    assert changed > 30
    assert STEPS[level][0] == {2: 2, 3: 3, 5: 8}[level]


def test_data_sets_have_prompt_answer_and_chance_and_every_reader():
    from opencompass_llada.benchmarks.generated.dataset import GeneratedDataset, GeneratedEvaluator

    options = dict(benchmark="graph_walks", level=2, length=900, tokenizer=TINY, num_samples=3)
    full = GeneratedDataset.load(**options)
    assert set(full.column_names) == {"prompt", "answer", "chance"}
    window = GeneratedDataset.load(**options, reader="last_window", window=400)
    count = load_counting_tokenizer(TINY).count
    for sample, less in zip(full, window, strict=True):
        assert 380 < count(less["prompt"]) <= 400
        assert less["answer"] == sample["answer"]
        assert sample["prompt"].endswith(less["prompt"][-120:])
    evaluator = GeneratedEvaluator("graph_walks")
    predictions = [evaluator.solve(sample) for sample in full]
    found = evaluator.score(["", *predictions[1:]], full["answer"], full)
    assert found["score"] == found["exact"] == pytest.approx(200 / 3)
    assert found["bounds"]["exact solver"]["score"] == 100
    assert 0 < found["bounds"]["chance"]["score"] < 5


def test_one_run_of_all_suites_pairs_models_suites_levels_and_lengths(monkeypatch):
    from opencompass_llada.benchmarks.generated.plan import plan_suites

    monkeypatch.setenv("LLADA_LENGTHS", "512,1k")
    settings = {"models": ["tiny_llada", "tiny_ar"], "levels": [1], "samples": 1}
    run = plan_suites(settings, 0)
    assert [model["abbr"] for model in run.models] == ["tiny-llada", "tiny-ar"]
    assert run.models[0]["sampler"] == {"num_steps": None, "block_length": None}
    assert "sampler" not in run.models[1]
    cells = [(cell["task"], cell["length"]) for cell in run.datasets]
    assert cells == [(f"{name}_level1", n) for name in list_suites() for n in (512, 1024)]
    for cell in run.datasets:
        room = find_task(cell["benchmark"]).generation_length(1)
        assert cell["infer_cfg"]["inferencer"]["max_out_len"] == room == cell["generation_length"]
    chosen = plan_suites(
        {**settings, "suites": ["changing_state"], "language": "zh"} | {"levels": [2]}, 0
    )
    assert {cell["abbr"].partition("_length")[0] for cell in chosen.datasets} == {
        "changing_state_zh_level2"
    }


def test_a_level_that_is_none_is_refused():
    from opencompass_llada.benchmarks.generated.plan import plan_suites

    with pytest.raises(ValueError, match=r"levels=\[6\] .*must be of"):
        plan_suites({"models": ["tiny_llada"], "levels": [1, 6]}, 0)
