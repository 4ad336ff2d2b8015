"""Readers that are shown less never exceed their window; solvers have 100, chance what it is.

No model runs here.
"""

from __future__ import annotations

import random

import pytest

from opencompass_llada.benchmarks import opencompass_bases
from opencompass_llada.benchmarks.counting import load_counting_tokenizer
from opencompass_llada.benchmarks.longbench.dataset import LongBenchDataset, LongBenchEvaluator
from opencompass_llada.benchmarks.longbench.v2 import LongBenchV2Dataset, LongBenchV2Evaluator
from opencompass_llada.benchmarks.multi_needle.dataset import (
    MultiNeedleRetrievalDataset,
    MultiNeedleRetrievalEvaluator,
)
from opencompass_llada.benchmarks.needle.dataset import (
    NeedleBenchEvaluator,
    NeedleBenchSingleDataset,
)
from opencompass_llada.benchmarks.readers import (
    PromptParts,
    ReaderOptions,
    read_as,
    split_prompt,
)
from opencompass_llada.benchmarks.ruler.dataset import RulerDataset, RulerEvaluator

#: Of many sorts of tokens, characters of several bytes among them.
PIECES = ("The grass is green. ", "VAR X = 12345\n", "中文字符的文本，", "é😀𝔘 ", "    ", "\n\n\n")


def _parts(seed: int) -> PromptParts:
    rng = random.Random(seed)
    text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(0, 2500)))
    return PromptParts(head="Read this.\n", context=text, question="\nWhat is it? It is")


@pytest.fixture(params=["tiny-llada", "SDAR-8B-Chat", "gpt-4"])
def tokenizer(request, monkeypatch):
    """Return a tokenizer that lengths are counted by; those of real data skip without it."""
    if request.param == "tiny-llada":
        return load_counting_tokenizer("asset:tiny-llada")
    if request.param == "gpt-4":
        root = request.getfixturevalue("real_data_root")
        monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(root / "data/tiktoken"))
        return load_counting_tokenizer("gpt-4")
    return load_counting_tokenizer(str(request.getfixturevalue("published_files")(request.param)))


@pytest.mark.parametrize("as_turn", [False, True])
def test_the_last_window_is_filled_and_never_exceeded(tokenizer, as_turn: bool) -> None:
    is_cut = []
    for seed in range(12):
        parts, window = _parts(seed), random.Random(seed).randrange(80, 600)
        read = {"window": window, "answer_length": 16, "tokenizer": tokenizer, "as_turn": as_turn}
        prompt = read_as(parts, "last_window", **read)
        end = prompt.removeprefix(parts.head).removesuffix(parts.question)
        total = tokenizer.count(prompt, as_turn=as_turn)
        assert prompt == parts.head + end + parts.question
        assert parts.context.endswith(end)
        assert total <= window - 16
        is_cut.append(end != parts.context)
        if is_cut[-1]:
            assert total >= window - 16 - 8
    assert True in is_cut


def test_a_context_that_fits_is_read_whole_and_none_is_left_out() -> None:
    tokenizer = load_counting_tokenizer("asset:tiny-llada")
    parts = PromptParts(head="Read. ", context="The sky is blue.", question=" The sky is")
    total = tokenizer.count(parts.whole)
    read = {"answer_length": 4, "tokenizer": tokenizer}
    assert read_as(parts, "last_window", window=total + 4, **read) == parts.whole
    assert read_as(parts, "last_window", window=total + 3, **read) != parts.whole
    assert read_as(parts, "full", window=None, **read) == parts.whole
    assert read_as(parts, "no_context", window=None, **read) == "Read.  The sky is"
    assert split_prompt(parts.whole, parts.lengths) == parts


def test_a_window_without_room_for_the_question_is_refused_with_one_that_has() -> None:
    tokenizer = load_counting_tokenizer("asset:tiny-llada")
    parts = PromptParts(head="Read. ", context="The sky is blue.", question=" The sky is")
    needed = tokenizer.count(parts.head + parts.question)
    read = {"answer_length": 4, "tokenizer": tokenizer}
    with pytest.raises(ValueError, match=f"Use a window of at least {needed + 4}"):
        read_as(parts, "last_window", window=needed + 3, **read)
    least = read_as(parts, "last_window", window=needed + 4, **read)
    assert tokenizer.count(least) <= needed  # a full stop joins a token that is there already


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"reader": "last"}, "Did you mean 'last_window'"),
        ({"reader": "last_window"}, "window=None"),
        ({"reader": "no_context", "window": 512}, "no other has one"),
        ({"window": 512}, "no other has one"),
    ],
)
def test_a_reader_and_its_window_belong_together(given: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ReaderOptions(**given)


NEEDLES = dict(
    path="asset:needlebench", length=1024, depth=50, file_list=["synthetic_en.jsonl"],
    num_repeats_per_file=4, length_buffer="fit", language="English", generation_reserve=16,
    needle_file_name="generated", draws="independent",
)  # fmt: skip
RULER = dict(path="asset:needlebench", essay_file="synthetic_en.jsonl", num_samples=3)
TASKS = ("niah_single_1", "niah_single_3", "niah_multikey_2", "niah_multivalue", "niah_multiquery",
         "vt", "cwe", "fwe")  # fmt: skip


@pytest.fixture
def no_cache(monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")


def name_of(tokenizer, request, published_files):
    """Return what a data set calls the tokenizer of this case."""
    case = request.node.callspec.params["tokenizer"]
    if case == "gpt-4":
        return case
    return "asset:tiny-llada" if case == "tiny-llada" else str(published_files(case))


@pytest.mark.parametrize("task", ["niah_single_1", "vt", "fwe"])
def test_no_prompt_of_ruler_exceeds_its_window(tokenizer, task, request, published_files, no_cache):
    given = {**RULER, "task": task, "length": 1024, "tokens_to_generate": 48}
    given["tokenizer"] = name_of(tokenizer, request, published_files)
    whole = RulerDataset.load(**given)
    shown = RulerDataset.load(**given, reader="last_window", window=512, window_reserve=48)
    bare = RulerDataset.load(**given, reader="no_context")
    assert "reader" not in whole.column_names, "existing samples are as they were"
    assert set(shown["reader"]) == {"last_window"}
    for full, end, none in zip(whole, shown, bare, strict=True):
        assert full["num_tokens"] > 512 - 48 >= end["num_tokens"] > 512 - 48 - 8
        assert end["answer"] == full["answer"] == none["answer"]
        head = full["prompt"][:40]
        assert end["prompt"].startswith(head)
        assert none["prompt"].startswith(head)
        assert full["prompt"].endswith(none["prompt"][-60:])
        assert full["prompt"].endswith(end["prompt"][-500:]), "the end of the same context"


def test_no_prompt_of_needles_exceeds_its_window(tokenizer, request, published_files):
    given = {**NEEDLES, "tokenizer": name_of(tokenizer, request, published_files)}
    for guide in (False, True):
        read = {"reader": "last_window", "window": 512, "window_reserve": 16}
        whole = NeedleBenchSingleDataset.load(**given, guide=guide)
        shown = NeedleBenchSingleDataset.load(**given, guide=guide, **read)
        for full, end in zip(whole, shown, strict=True):
            total = tokenizer.count(end["prompt"], as_turn=guide)
            assert 512 - 16 - 8 < total <= 512 - 16
            assert full["prompt"].endswith(end["prompt"][-500:])
            assert end["answer"] == full["answer"]


@pytest.mark.parametrize("benchmark", ["longbench", "longbench_v2"])
def test_longbench_is_read_by_the_models_tokenizer(benchmark):
    tokenizer = load_counting_tokenizer("asset:tiny-llada")
    read = {"reader": "last_window", "window": 400, "window_reserve": 32}
    if benchmark == "longbench":
        kind, given = LongBenchDataset, {"task": "trec", "path": "asset:longbench"}
    else:
        kind, given = LongBenchV2Dataset, {"path": "asset:longbench/v2.jsonl"}
    with pytest.raises(ValueError, match="give window_tokenizer"):
        kind.load(**given, **read)
    read["window_tokenizer"] = "asset:tiny-llada"
    kind.check_data([{**given, **read}])
    with pytest.raises(ValueError, match="Use a window of at least"):
        kind.check_data([{**given, **read, "window": 40}])
    whole, shown = kind.load(**given), kind.load(**given, **read)
    assert max(tokenizer.count(prompt) for prompt in whole["prompt"]) > 400
    assert all(tokenizer.count(prompt) <= 400 - 32 for prompt in shown["prompt"])


@pytest.mark.parametrize("task", TASKS)
def test_rulers_solver_has_100_and_chance_0(task, no_cache):
    length = 2048 if task == "cwe" else 1024
    cell = {**RULER, "task": task, "length": length, "tokenizer": "asset:tiny-llada"}
    samples = RulerDataset.load(**cell, tokens_to_generate=48)
    evaluator = RulerEvaluator()
    blank = evaluator.score(["nothing"] * 3, samples["answer"], samples)
    assert blank["bounds"] == {
        "chance": {"score": 0.0}, "exact solver": {"score": 100.0}, "num_samples": 3
    }  # fmt: skip
    assert blank["score"] == 0, "and what a model has does not depend on it"
    cut = RulerDataset.load(
        **cell, tokens_to_generate=48, reader="last_window", window=512, window_reserve=48
    )
    assert "bounds" not in evaluator.score(["nothing"] * 3, cut["answer"], cut)


@pytest.mark.parametrize("guide", [False, True])
@pytest.mark.parametrize("depth", [0, 100])
def test_the_needles_solver_has_100(guide, depth):
    given = {**NEEDLES, "tokenizer": "asset:tiny-llada", "guide": guide}
    single = NeedleBenchSingleDataset.load(**{**given, "depth": depth, "num_repeats_per_file": 12})
    found = NeedleBenchEvaluator().score(["?"] * 12, single["answer"], single)["bounds"]
    assert found["chance"] == {"accuracy": 0.0}
    assert found["exact solver"] == {"score": 100.0, "accuracy": 100.0}
    given.pop("depth")
    several = MultiNeedleRetrievalDataset.load(**given, depths=[0, 50, 100])
    found = MultiNeedleRetrievalEvaluator().score(["?"] * 4, several["answer"], several)["bounds"]
    assert found["exact solver"]["accuracy"] == 100
    assert "chance" not in found, "nobody knows it"


def test_the_needles_solver_has_100_on_published_needles(real_data_root):
    path = str(real_data_root / "data/needlebench")
    for language, file in (("English", "en_un_asr.jsonl"), ("Chinese", "zh_all.jsonl")):
        samples = NeedleBenchSingleDataset.load(
            path=path, length=1000, depth=40, tokenizer="asset:tiny-llada", file_list=[file],
            num_repeats_per_file=12, length_buffer="fit", guide=False, language=language,
        )  # fmt: skip
        found = NeedleBenchEvaluator().score(["?"] * 12, samples["answer"], samples)["bounds"]
        assert found == {
            "exact solver": {"score": 100.0, "accuracy": 100.0}, "num_samples": 12
        }  # fmt: skip


def test_longbench_has_gold_answers_and_chance_where_it_is_known():
    samples = LongBenchDataset.load(task="trec", path="asset:longbench")
    found = LongBenchEvaluator(task="trec").score([""] * len(samples), None, samples)["bounds"]
    assert found["gold answer"] == {"score": 100.0}
    assert found["chance"]["score"] == pytest.approx(100 / len(samples[0]["all_classes"]))
    samples = LongBenchDataset.load(task="qmsum", path="asset:longbench")
    found = LongBenchEvaluator(task="qmsum").score([""] * len(samples), None, samples)["bounds"]
    assert "chance" not in found
    samples = LongBenchV2Dataset.load(path="asset:longbench/v2.jsonl")
    found = LongBenchV2Evaluator().score([""] * len(samples), None, samples)["bounds"]
    assert found["chance"] == {"accuracy": 25.0}
    assert found["gold answer"]["accuracy"] == 100


def test_bounds_are_of_a_few_samples_at_most(monkeypatch):
    monkeypatch.setattr(opencompass_bases.CompleteEvaluator, "most_bound", 2)
    samples = LongBenchDataset.load(task="trec", path="asset:longbench")
    assert len(samples) > 2
    found = LongBenchEvaluator(task="trec").score([""] * len(samples), None, samples)
    assert (found["bounds"]["num_samples"], found["num_samples"]) == (2, len(samples))
