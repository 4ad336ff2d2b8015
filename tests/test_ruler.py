"""RULER's samples: OpenCompass's own byte for byte, of the right length, never an endless loop."""

import random
import re

import pytest
import wonderwords.random_word
from ruler_data import stock_samples, write_ruler

from opencompass_llada.assets import resolve_asset
from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.ruler import prompts, samples, sources, writers
from opencompass_llada.benchmarks.ruler.dataset import RulerDataset
from opencompass_llada.benchmarks.ruler.prompts import PUBLISHED_FROM, TASKS
from opencompass_llada.benchmarks.ruler.sources import AdjectiveNouns

TOKENIZER = "asset:tiny-llada"
WITHOUT_DATA = [task for task in TASKS if not task.startswith("qa_")]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")


@pytest.fixture(scope="module")
def ruler_folder(tmp_path_factory):
    return write_ruler(tmp_path_factory.mktemp("ruler"))


@pytest.fixture
def fewer_words(monkeypatch):
    """Give both sides one word in twenty: the stock class lists all pairs for every data set."""
    read = wonderwords.random_word._get_words_from_text_file

    def read_some(name):
        return read(name) if name == "verblist.txt" else read(name)[::20]

    monkeypatch.setattr(wonderwords.random_word, "_get_words_from_text_file", read_some)
    sources.word_lists.cache_clear()
    sources.adjective_nouns.cache_clear()
    yield
    sources.word_lists.cache_clear()
    sources.adjective_nouns.cache_clear()


def load(task, length, num_samples=3, **options):
    options = {"tokenizer": TOKENIZER, **options}
    return RulerDataset.load(task=task, length=length, num_samples=num_samples, **options)


def embedded(task, length, **options):
    return load(task, length, path="asset:needlebench", essay_file="synthetic_en.jsonl", **options)


def test_pairs_equal_the_sorted_list_of_all_pairs():
    draw = random.Random(1)
    letters = ["a", "b", "-", "'", " ", "c"]
    for _ in range(200):
        adjectives = ["".join(draw.choices(letters, k=draw.randint(1, 5))) for _ in range(12)]
        nouns = ["".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(6)]
        expected = sorted({f"{a}-{n}" for a in adjectives for n in nouns})
        pairs = AdjectiveNouns(adjectives, nouns)
        assert len(pairs) == len(expected)
        assert [pairs[i] for i in range(len(pairs))] == expected


def test_real_pairs_are_ordered_and_never_listed():
    pairs = sources.adjective_nouns()
    assert len(pairs) > 5_000_000
    sample = sorted(random.Random(0).sample(range(len(pairs)), 5000))
    texts = [pairs[index] for index in sample]
    assert texts == sorted(set(texts))
    listed = sum(len(block) for block in pairs._blocks if isinstance(block, list))
    assert listed < 0.02 * len(pairs)


@pytest.mark.parametrize("task", list(TASKS))
def test_prompts_equal_the_stock_class(task, ruler_folder, fewer_words):
    length = 6000 if task == "qa_hotpotqa" else 4500
    tokenizer = str(resolve_asset(TOKENIZER))
    expected = stock_samples(task, length, 3, ruler_folder, tokenizer)
    made = load(task, length, tokenizer=tokenizer, path=str(ruler_folder), fwe_room=False)
    assert list(zip(made["prompt"], made["answer"], strict=True)) == expected
    assert len(set(made["prompt"])) == 3


@pytest.mark.parametrize("task", list(TASKS))
def test_prompts_equal_the_stock_class_on_real_data(task, real_data_root, monkeypatch, fewer_words):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(real_data_root / "data" / "tiktoken"))
    folder = real_data_root / "data" / "ruler"
    expected = stock_samples(task, 8192, 3, folder, "gpt-4")
    made = load(task, 8192, tokenizer="gpt-4", path=str(folder), fwe_room=False)
    assert list(zip(made["prompt"], made["answer"], strict=True)) == expected


@pytest.mark.parametrize("task", WITHOUT_DATA)
def test_small_windows_are_filled_and_never_exceeded(task):
    for length in (1200, 2048):
        made = embedded(task, length, num_samples=6, tokens_to_generate=64)
        longest = max(made["num_tokens"])
        assert longest + 64 <= length
        assert longest + 64 > 0.8 * length
        store = RulerDataset.store.tokenizer(TOKENIZER)
        assert made["num_tokens"] == [store.count(prompt) for prompt in made["prompt"]]


@pytest.mark.parametrize("task", list(TASKS))
def test_prompt_and_answer_have_the_length_at_published_lengths_too(task, ruler_folder):
    room, length = TASKS[task].tokens_to_generate, 6000 if task == "qa_hotpotqa" else 4500
    made = load(task, length, num_samples=6, path=str(ruler_folder))
    assert max(made["num_tokens"]) + room <= length
    if task == "fwe":
        assert min(made["num_tokens"]) + room > 0.85 * length
        # The originals' form, which the papers' configs ask for.
        published = load(task, length, num_samples=6, fwe_room=False)
        assert length - room < max(published["num_tokens"]) <= length


@pytest.mark.parametrize("task", WITHOUT_DATA)
def test_too_small_is_an_error_that_names_a_length_that_fits(task):
    with pytest.raises(ValueError, match="too small") as caught:
        embedded(task, 120)
    smallest = int(re.search(r"smallest length that fits is (\d+)", str(caught.value))[1])
    assert smallest > 120
    assert len(embedded(task, smallest)["prompt"]) == 3


@pytest.mark.parametrize("task", ["qa_squad", "qa_hotpotqa"])
def test_too_small_for_the_questions_own_documents(task, ruler_folder):
    with pytest.raises(ValueError, match="smallest length that fits is"):
        load(task, 150, path=str(ruler_folder))


def test_too_small_above_the_published_threshold(ruler_folder):
    # Room for the answer may be what is too large.
    with pytest.raises(ValueError, match="smallest length that fits is"):
        load("cwe", 4096, tokens_to_generate=4000)


@pytest.mark.parametrize("task", WITHOUT_DATA)
def test_answers_can_be_found_in_the_context(task):
    made = embedded(task, 2048)
    for prompt, answers in zip(made["prompt"], made["answer"], strict=True):
        question = max(prompt.rfind("\nWhat"), prompt.rfind("\nQuestion"))
        context = prompt[:question]
        assert answers
        assert len(set(answers)) == len(answers)
        assert all(answer in context for answer in answers)
        assert all(answer not in prompt[question:] for answer in answers)


@pytest.mark.parametrize("task", ["cwe", "fwe"])
def test_counted_answers_are_the_most_frequent_words(task):
    made = embedded(task, 2048)
    for prompt, answers in zip(made["prompt"], made["answer"], strict=True):
        context = prompt[: prompt.rfind("\nQuestion")].rsplit("\n", 1)[-1]
        texts = re.sub(r"\d+\. ", "", context).split() if task == "cwe" else context.split()
        counts = {text: texts.count(text) for text in set(texts) - {"..."}}
        others = [n for text, n in counts.items() if text not in answers]
        assert min(counts[answer] for answer in answers) > max(others)


def test_a_chain_leads_to_all_its_variables():
    made = embedded("vt", 1024)
    for prompt, answers in zip(made["prompt"], made["answer"], strict=True):
        value = re.search(r"assigned the value (\d+) in", prompt)[1]
        assigned = {name: value for name in re.findall(rf"VAR (\w+) = {value}", prompt)}
        for new, old in re.findall(r"VAR (\w+) = VAR (\w+)", prompt):
            assigned[new] = assigned[old]
        assert set(assigned) == set(answers)


def test_fewer_samples_are_the_first_of_more():
    few, more = embedded("niah_multikey_1", 1024), embedded("niah_multikey_1", 1024, num_samples=7)
    assert more["prompt"][:3] == few["prompt"]


def test_more_samples_than_questions_is_an_error(ruler_folder):
    with pytest.raises(ValueError, match="12 questions"):
        load("qa_hotpotqa", 4500, num_samples=13, path=str(ruler_folder))


def test_documents_that_run_out_are_reported(ruler_folder, caplog, monkeypatch):
    import logging

    monkeypatch.setattr(logging.getLogger("opencompass_llada"), "propagate", True)
    made = load("qa_squad", 131072, num_samples=1, path=str(ruler_folder))
    assert made["prompt"][0].count("\n\nDocument ") == 120
    assert "all 120 items of dev-v2.0.json" in caplog.text


def test_essays_begin_anew_where_a_length_is_beyond_their_end(ruler_folder, monkeypatch):
    once = load("niah_single_2", 65536, 1, path=str(ruler_folder))[0]
    monkeypatch.setattr(prompts, "PUBLISHED_UP_TO", 32768)
    again = load("niah_single_2", 65536, 1, path=str(ruler_folder))[0]
    assert once["num_tokens"] < 65536 - 20000
    assert 65536 - 2000 < again["num_tokens"] + 128 <= 65536
    assert all(f" is: {answer}." in again["prompt"] for answer in again["answer"])
    essays = (ruler_folder / "PaulGrahamEssays.jsonl").read_text()
    first = essays.split('"')[3].split(". ")[0]
    assert once["prompt"].count(first) == 1 < again["prompt"].count(first)


@pytest.mark.parametrize("task", ["niah_multikey_2", "niah_multikey_3", "vt", "cwe"])
def test_beyond_the_published_lengths_few_sizes_are_drawn(task, monkeypatch):
    count = RulerDataset.store.tokenizer(TOKENIZER).count

    def search():
        writer = samples.make_writer(
            prompts.RulerSpec(task=task, length=12000, tokenizer=TOKENIZER), None
        )
        draw, sizes = writer.draw, []
        monkeypatch.setattr(
            writer, "draw", lambda index, items: (sizes.append(items), draw(index, items))[1]
        )
        return writer, draw, sizes, writers.find_num_items(writer, count, 12000)

    _, _, every, _ = search()
    monkeypatch.setattr(prompts, "PUBLISHED_UP_TO", PUBLISHED_FROM)
    writer, draw, sizes, found = search()
    assert len(sizes) < max(6, len(every))
    assert count(writer.with_answer(draw(0, found)())) <= 12100
    assert count(writer.with_answer(draw(0, found + 2 * writer.step)())) > 12000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "niah_single_4", "length": 512}, "Did you mean 'niah_single_"),
        ({"task": "vt", "length": 0}, "length=0"),
        ({"task": "vt", "length": 512, "num_sample": 3}, "num_samples"),
        ({"task": "vt"}, "length"),
        ({"task": "vt", "length": 512, "tokens_to_generate": -1}, "tokens_to_generate=-1"),
        (
            {"task": "fwe", "length": 512, "fwe_room": "no"},
            "fwe_room='no' must be a boolean",
        ),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        RulerDataset.load(**options)


def test_missing_files_say_what_to_do(tmp_path):
    with pytest.raises(MissingDataError, match="COMPASS_DATA_CACHE.*need no files"):
        load("qa_squad", 4500, path=str(tmp_path))
