"""The NeedleBench data set: equal to the stock one, exact in length, clear when it cannot be."""

import json
import random

import pytest
from needle_data import FILES, write_lines, write_needlebench
from tiny import tiny_tokenizer
from tiny_chat import write_chat_checkpoint

from opencompass_llada.benchmarks import data_files
from opencompass_llada.benchmarks.counting import TIKTOKEN_FILES
from opencompass_llada.benchmarks.data_checks import check_data
from opencompass_llada.benchmarks.data_files import MissingDataError
from opencompass_llada.benchmarks.multi_needle.dataset import MultiNeedleRetrievalDataset
from opencompass_llada.benchmarks.needle.dataset import (
    NeedleBenchSingleDataset,
)
from opencompass_llada.benchmarks.needle.prompts import FIT_TOLERANCE, fit_prompt, write_question
from opencompass_llada.benchmarks.needle.samples import (
    HaystackStore,
    make_samples,
    read_needles,
    read_reasoning_needles,
    read_retrieval_needles,
)
from opencompass_llada.benchmarks.ruler.dataset import RulerDataset
from opencompass_llada.wrapper import LLaDACausalLM


@pytest.fixture(scope="module")
def tokenizer_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    return str(write_needlebench(tmp_path_factory.mktemp("needlebench")))


@pytest.fixture
def options(data_path, tokenizer_path):
    return {
        "path": data_path,
        "length": 1500,
        "depth": 50,
        "tokenizer": tokenizer_path,
        "file_list": [FILES["English"]],
        "num_repeats_per_file": 3,
        "length_buffer": "fit",
        "guide": False,
        "language": "English",
        "generation_reserve": 16,
    }


@pytest.fixture
def real_tiktoken(real_data_root, monkeypatch):
    folder = real_data_root / "data" / "tiktoken"
    if not (folder / TIKTOKEN_FILES["gpt-4"][1]).is_file():
        pytest.skip("no tiktoken file beside the real data")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(folder))


STOCK_CELLS = [(1000, 0, 3), (2000, 30, 10), (4000, 77, 2), (8000, 100, 2)]


@pytest.mark.parametrize("guide", [True, False])
@pytest.mark.parametrize(
    ("language", "file", "buffer"),
    [("English", "en_un_asr.jsonl", 600), ("Chinese", "zh_all.jsonl", 200)],
)
def test_prompts_equal_the_stock_data_set(
    real_data_root, real_tiktoken, monkeypatch, language, file, buffer, guide
):
    from opencompass.datasets.needlebench.origin import NeedleBenchOriginDataset

    monkeypatch.setenv("COMPASS_DATA_CACHE", str(real_data_root))
    for length, depth, repeats in STOCK_CELLS:
        common = {
            "path": "opencompass/needlebench",
            "length": length,
            "depth": depth,
            "file_list": [file],
            "num_repeats_per_file": repeats,
            "length_buffer": buffer,
            "guide": guide,
            "language": language,
            "needle_file_name": "needles.jsonl",
        }
        stock = NeedleBenchOriginDataset.load(tokenizer_model="gpt-4", **common)
        ours = NeedleBenchSingleDataset.load(tokenizer="gpt-4", **common)
        assert list(ours["prompt"]) == list(stock["prompt"])
        assert list(ours["answer"]) == list(stock["answer"])
    assert len(set(ours["prompt"])) == len(ours)


def test_every_real_question_becomes_what_stock_makes_of_it(real_data_root):
    lines = (real_data_root / "data/needlebench/needles.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    cut = {"English": 10, "Chinese": 16}  # what the stock code cuts off the end
    drop = {"English": "Please answer in the format '", "Chinese": "请按照'"}
    for row in rows:
        language = row["language"]
        guided = write_question(row["retrieval_question"], language, guide=True)
        prefix = write_question(row["retrieval_question"], language, guide=False)
        assert prefix == guided.replace(drop[language], "")[: -cut[language]]
    assert len(rows) > 300


def test_stock_position_start_in_english_and_text_in_chinese(real_data_root, real_tiktoken):
    from opencompass.datasets.needlebench.origin import NeedleBenchOriginDataset

    common = {
        "path": str(real_data_root / "data" / "needlebench"),
        "length": 1000,
        "depth": 50,
        "num_repeats_per_file": 2,
        "length_buffer": 300,
        "guide": True,
        "needle_file_name": "needles.jsonl",
        "position": "Start",
    }
    english = {**common, "file_list": ["en_un_asr.jsonl"], "language": "English"}
    stock = NeedleBenchOriginDataset.load(tokenizer_model="gpt-4", **english)
    ours = NeedleBenchSingleDataset.load(tokenizer="gpt-4", **english)
    assert list(ours["prompt"]) == list(stock["prompt"])
    chinese = {**common, "file_list": ["zh_all.jsonl"], "language": "Chinese"}
    prompt = NeedleBenchSingleDataset.load(tokenizer="gpt-4", **chinese)["prompt"][0]
    assert isinstance(prompt, str)
    assert prompt.index("现在请问") < prompt.index("用户现在给你的文档是")


@pytest.mark.parametrize("length", [1024, 1500, 1501, 2048])
@pytest.mark.parametrize("depth", [0, 33, 100])
def test_fit_makes_the_length_exact(options, tokenizer_path, length, depth):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, trust_remote_code=False)
    samples = NeedleBenchSingleDataset.load(**{**options, "length": length, "depth": depth})
    for prompt in samples["prompt"]:
        assert len(tokenizer(prompt)["input_ids"]) == length - 16


@pytest.mark.parametrize("language", ["English", "Chinese"])
def test_fit_with_gpt4s_merges_is_a_few_tokens_below_at_most(
    real_data_root, real_tiktoken, language
):
    import tiktoken

    encoding = tiktoken.get_encoding("cl100k_base")
    file = {"English": "en_un_asr.jsonl", "Chinese": "zh_all.jsonl"}[language]
    for length, depth in [(256, 0), (257, 50), (1024, 70), (2000, 100)]:
        samples = NeedleBenchSingleDataset.load(
            path=str(real_data_root / "data" / "needlebench"),
            length=length,
            depth=depth,
            tokenizer="gpt-4",
            file_list=[file],
            num_repeats_per_file=5,
            length_buffer="fit",
            guide=False,
            language=language,
            generation_reserve=32,
        )
        short = [length - 32 - len(encoding.encode(prompt)) for prompt in samples["prompt"]]
        assert min(short) >= 0
        assert max(short) <= FIT_TOLERANCE


def test_fit_steps_over_totals_that_cannot_be_had():
    # Counts jump from 8 to 11, so that 10 cannot be had and 8 is the best below it.
    totals = [4, 5, 6, 7, 8, 11, 12, 13]
    prompt = fit_prompt(lambda n: "x" * n, lambda text: totals[len(text)], target=10, most=7)
    assert len(prompt) == 4


@pytest.mark.parametrize("depth", [0, 25, 50, 100])
def test_needle_stands_at_its_depth(options, depth):
    for sample in NeedleBenchSingleDataset.load(**{**options, "depth": depth}):
        context = sample["prompt"].split("given to you by the user is ")[1].split("\n\nNow, the")[0]
        hidden = f"\n{sample['needle']}\n"
        assert context.count(sample["needle"]) == 1
        before = context.index(hidden)
        assert abs(before - (len(context) - len(hidden)) * depth / 100) <= 1


def test_prompt_ends_in_the_answer_prefix_or_asks(options):
    base = NeedleBenchSingleDataset.load(**options)[0]
    chat = NeedleBenchSingleDataset.load(**{**options, "guide": True})[0]
    assert base["needle"].startswith(base["prompt"].split("question. ")[-1])
    assert base["prompt"][-1].isalpha()
    assert chat["prompt"].endswith("is________.'")
    assert base["answer"] == f"\n{base['needle']}\n*{base['keyword']}"


def test_same_options_give_same_prompts_and_repeats_differ(options):
    first = NeedleBenchSingleDataset.load(**options)["prompt"]
    again = list(make_samples(NeedleBenchSingleDataset.check_options(**options), HaystackStore()))
    assert list(first) == [sample["prompt"] for sample in again]
    assert len(set(first)) == options["num_repeats_per_file"]


def test_documents_are_tokenized_once_for_all_cells(options):
    store = HaystackStore()
    tokenizer = store.tokenizer(options["tokenizer"])
    seen = []
    encode = tokenizer.encode
    tokenizer.encode = lambda text: seen.append(text) or encode(text)
    for length in (1200, 1800):
        for depth in (0, 50, 100):
            cell = {**options, "length": length, "depth": depth}
            list(make_samples(NeedleBenchSingleDataset.check_options(**cell), store))
    documents = [text for text in seen if not text.startswith("\nThe item")]
    assert documents
    assert len(documents) == len(set(documents))


def test_store_keeps_a_bounded_number(data_path, tmp_path, tokenizer_path):
    store = HaystackStore(max_entries=2)
    kept = []
    for number in range(5):
        path = tmp_path / f"{number}.jsonl"
        write_lines(path, [{"text": f"text {number}"}])
        kept.append(store.haystack(path, tokenizer_path))
    assert store._read.cache_info().currsize == 2
    assert store.haystack(tmp_path / "4.jsonl", tokenizer_path) is kept[4]
    assert store.haystack(tmp_path / "0.jsonl", tokenizer_path) is not kept[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lenght": 5}, "Did you mean 'length'"),
        ({"language": "english"}, "Did you mean 'English'"),
        ({"position": "Middle"}, "position"),
        ({"depth": 101}, "0 to 100"),
        ({"length": 0}, "at least 1"),
        ({"file_list": []}, "at least one"),
        ({"length_buffer": "fitt"}, "number of tokens or 'fit'"),
        ({"length_buffer": 100}, "generation_reserve=16 has no effect"),
        ({"length_buffer": -1, "generation_reserve": 0}, "length_buffer=-1 must not be below 0"),
        ({"generation_reserve": -1}, "generation_reserve=-1 must not be below 0"),
        ({"tokenizer": "model"}, "does not know the model"),
        ({"length": 300}, "smallest length that fits this sample is"),
        ({"length": 10**6}, "longer haystack"),
        ({"length_buffer": 2000, "generation_reserve": 0}, "smallest length that fits"),
        ({"file_list": ["absent.jsonl"]}, "synthetic_en.jsonl"),
        ({"path": "/nowhere/needlebench"}, "COMPASS_DATA_CACHE"),
        ({"tokenizer": "/nowhere/tokenizer"}, "could not be loaded"),
    ],
)
def test_faults_are_said_with_their_remedy(options, change, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")) as caught:
        NeedleBenchSingleDataset.load(**{**options, **change})
    assert "\n" not in str(caught.value)


def test_smallest_length_that_is_named_fits(options):
    with pytest.raises(ValueError, match="smallest length") as caught:
        NeedleBenchSingleDataset.load(**{**options, "length": 300, "num_repeats_per_file": 1})
    smallest = int(str(caught.value).rstrip(".").rsplit(" ", 1)[1])
    fitting = {**options, "length": smallest, "num_repeats_per_file": 1}
    assert len(NeedleBenchSingleDataset.load(**fitting)) == 1
    with pytest.raises(ValueError, match="smallest length"):
        NeedleBenchSingleDataset.load(**{**fitting, "length": smallest - 1})


def test_missing_keyword_is_named(options):
    del options["depth"]
    with pytest.raises(ValueError, match="depth"):
        NeedleBenchSingleDataset.load(**options)


def test_missing_tiktoken_file_names_folder_and_file(options, tmp_path, monkeypatch):
    import tiktoken.registry

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(NeedleBenchSingleDataset, "store", HaystackStore())
    with pytest.raises(MissingDataError, match="TIKTOKEN_CACHE_DIR") as caught:
        NeedleBenchSingleDataset.load(**{**options, "tokenizer": "gpt-4"})
    assert TIKTOKEN_FILES["gpt-4"][1] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message"), [(OSError("no network\nat all"), "no network"), (AssertionError(), "Ass")]
)
def test_missing_opencompass_data_is_said_after_its_download_failed(
    options, monkeypatch, error, message
):
    def fail(path):
        raise error

    monkeypatch.delenv("COMPASS_DATA_CACHE", raising=False)
    monkeypatch.setattr(data_files, "opencompass_location", fail)
    with pytest.raises(MissingDataError, match=f"{message}.*asset:needlebench"):
        NeedleBenchSingleDataset.load(**{**options, "path": "opencompass/needlebench"})


def test_needle_with_the_dividing_star_is_refused(options, tmp_path):
    folder = write_needlebench(tmp_path / "starred")
    row = json.loads((folder / "needles.jsonl").read_text("utf-8").splitlines()[0])
    write_lines(folder / "needles.jsonl", [{**row, "arg2": "a*b"}])
    with pytest.raises(ValueError, match="divide needle from keyword"):
        NeedleBenchSingleDataset.load(**{**options, "path": str(folder)})


@pytest.mark.parametrize("keyword", ["", "  ", None, "Ruby"])
def test_a_keyword_that_answers_cannot_be_told_by_is_refused(options, tmp_path, keyword):
    """An empty one scores 100 for ever, one that the needle lacks 0."""
    write_needlebench(tmp_path)
    path = tmp_path / "needles.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["arg2"] = keyword
    write_lines(path, rows)
    message = r"needles\.jsonl, line 3: the keyword arg2=.* must be a part of the needle"
    with pytest.raises(ValueError, match=message):
        NeedleBenchSingleDataset.load(**options | {"path": str(tmp_path)})
    with pytest.raises(ValueError, match=message):
        read_retrieval_needles(path, "English", 6)
    records = [{"derivation_count": 2, "derivations": ["a is b", "b is c"], "question": "?",
                "answer": answer} for answer in ("c", keyword)]  # fmt: skip
    (tmp_path / "reasoning.json").write_text(json.dumps(records))
    if keyword != "Ruby":  # an answer such as yes stands in no needle
        with pytest.raises(ValueError, match=r"reasoning\.json, record 2: answer="):
            read_reasoning_needles(tmp_path / "reasoning.json", 2)


def test_the_check_finds_a_fault_in_the_longest_cell(options):
    kind = "opencompass_llada.benchmarks.needle.dataset.NeedleBenchSingleDataset"
    configs = [{**options, "abbr": str(n), "type": kind, "length": n} for n in (1200, 10**6)]
    check_data(configs[:1])
    with pytest.raises(ValueError, match="longer haystack"):
        check_data(configs)


def test_the_check_finds_a_needle_that_does_not_fit_the_shortest_cell(options, tmp_path):
    folder = write_needlebench(tmp_path / "uneven")
    rows = [json.loads(line) for line in (folder / "needles.jsonl").read_text("utf-8").splitlines()]
    first = random.Random(0).choice(read_needles(folder / "needles.jsonl", "English"))
    for row in rows:
        if row["needle"] != first.text:
            row["needle"] += " And so on." * 40
    write_lines(folder / "needles.jsonl", rows)
    config = {**options, "path": str(folder), "length": 700, "num_repeats_per_file": 8}
    NeedleBenchSingleDataset.check_data([{**config, "num_repeats_per_file": 1}])
    with pytest.raises(ValueError, match="smallest length"):
        NeedleBenchSingleDataset.check_data([config])


def test_opencompass_builds_it_with_reader(options):
    dataset = NeedleBenchSingleDataset(
        reader_cfg={"input_columns": ["prompt"], "output_column": "answer"},
        abbr="cell",
        **options,
    )
    assert len(dataset.test) == options["num_repeats_per_file"]
    assert {"prompt", "answer", "needle", "keyword", "subdivision", "idx"} <= set(
        dataset.test.column_names
    )


def test_a_chat_models_prompts_have_their_length_with_the_template(options, tmp_path, monkeypatch):
    """32,008 of 32,000 tokens before: the template's own were not counted."""
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")
    path = write_chat_checkpoint(tmp_path / "chat")
    model = LLaDACausalLM(path, chat=True, tokenizer_only=True)

    def lengths(made):
        return [
            len(model._encoder.encode(model.parse_template(text, mode="gen")))
            for text in made["prompt"]
        ]

    cell = options | {"tokenizer": path, "length": 1600}
    single = NeedleBenchSingleDataset.load(**cell | {"guide": True})
    assert lengths(single) == [1600 - 16] * 3
    plain = NeedleBenchSingleDataset.load(**cell)
    assert min(lengths(plain)) > 1600 - 16, "the base form is of models without a template"
    del cell["depth"]
    several = MultiNeedleRetrievalDataset.load(
        **cell | {"guide": True, "depths": [20, 60], "length": 2000}
    )
    assert lengths(several) == [2000 - 16] * 3
    ruler = {"task": "niah_single_1", "length": 1024, "num_samples": 2, "tokenizer": path,
             "tokens_to_generate": 32}  # fmt: skip
    assert max(lengths(RulerDataset.load(**ruler, chat=True))) <= 1024 - 32
    longest = max(RulerDataset.load(**ruler, chat=True)["num_tokens"])
    assert longest == max(lengths(RulerDataset.load(**ruler, chat=True)))


def test_a_line_separator_inside_a_needle_cuts_no_line(tmp_path):
    file = tmp_path / "needles.jsonl"
    row = {"language": "English", "arg1": "x", "arg2": "key", "needle": "a \u2028 key\u0085.",
           "retrieval_question": "which?"}  # fmt: skip
    file.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    [needle] = read_retrieval_needles(file, "English", 1)
    assert needle.text == row["needle"]
