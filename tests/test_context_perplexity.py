"""Perplexity of the same target tokens over context length, of a checkpoint."""

import json
import math
import sys

import pytest
from conftest import REPOSITORY_ROOT

sys.path.insert(0, str(REPOSITORY_ROOT / "benchmarks"))

import context_perplexity  # noqa: E402
from needle_grid import load_engine  # noqa: E402

from opencompass_llada.finetune.evaluation import context_windows  # noqa: E402
from opencompass_llada.likelihood import LikelihoodOptions  # noqa: E402


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")


@pytest.fixture(scope="module")
def engine():
    return load_engine("asset:tiny-llada", 16, 4, None)


def measure(engine, lengths, **changes):
    tokens = context_perplexity.np.array(engine[1]("A short text to score. " * 40)["input_ids"])
    options = {"targets": 16, "texts": 3, "draws": 4, "batch_tokens": 512} | changes
    return tokens, context_perplexity.measure_contexts(engine[0], tokens, lengths, **options)


def test_figures_are_those_of_the_engine(engine):
    tokens, figures = measure(engine, [32, 128])
    assert list(figures) == ["32", "128"]
    for length, windows in context_windows(tokens, [32, 128], 3).items():
        scores = [
            engine[0].scorer.score(window[:-16], window[-16:], LikelihoodOptions(num_draws=4))
            for window in windows
        ]
        mean = sum(score.nll_per_token for score in scores) / 3
        found = figures[str(length)]
        assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-4)
        variance = sum((score.nll_per_token - mean) ** 2 for score in scores) / 2 / 3
        expected = math.exp(mean) * math.sqrt(variance)
        assert found["standard_error"] == pytest.approx(expected, rel=1e-3)
        assert found["masks_standard_error"] > 0


def test_windows_of_all_lengths_end_at_the_same_places():
    tokens = context_perplexity.np.arange(1000)
    places = context_windows(tokens, [32, 400], 4)
    for short, long in zip(places[32], places[400], strict=True):
        assert (len(short), len(long)) == (32, 400)
        assert long[-32:] == short
    assert [window[-1] for window in places[400]] == [399, 599, 799, 999]
    few = context_windows(
        tokens[:402], [32, 400], 8
    )  # not one window many times, which is one text
    assert [window[-1] for window in few[400]] == [399, 400, 401]


def test_batches_change_nothing(engine):
    _, together = measure(engine, [64], batch_tokens=4096)
    _, alone = measure(engine, [64], batch_tokens=1)
    for name, value in alone["64"].items():
        assert together["64"][name] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("lengths", "changes", "message"),
    [
        ([8], {}, "lengths must be at least targets=16, got 8"),
        ([10**6], {}, "lengths ask for 1000000 tokens"),
        ([64], {"texts": 1}, "texts=1 must be at least 2"),
        ([128], {"texts": 500}, "500 targets that share none, which the error supposes, need 8112"),
    ],
)
def test_what_cannot_be_measured_is_said(engine, lengths, changes, message):
    with pytest.raises(ValueError, match=message):
        measure(engine, lengths, **changes)


@pytest.mark.parametrize("model", ["tiny-llada", "tiny-ar"])
def test_the_command_writes_a_record(tmp_path, monkeypatch, model):
    for name in ("opencompass", "mmengine"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "text.txt").write_text("The rain fell on the old town all day. " * 30)
    sizes = ["--lengths", "32", "64", "--targets", "8", "--texts", "2", "--draws", "4"]
    text = ["--text", str(tmp_path / "*.txt"), "--record", str(tmp_path / "record.json")]
    context_perplexity.main([f"asset:{model}", *sizes, *text])
    record = json.loads((tmp_path / "record.json").read_text())
    assert set(record["perplexity"]) == {"32", "64"}
    assert all(figures["perplexity"] > 1 for figures in record["perplexity"].values())
    assert (record["perplexity"]["32"]["masks_standard_error"] == 0) == (model == "tiny-ar")
    assert record["versions"]["torch"]


def test_a_scaling_beside_none_is_compared_text_by_text(tmp_path):
    """Whole texts; pairs share texts and masks: a smaller error than of two that share nothing."""
    sizes = ["--lengths", "64", "600", "--texts", "3", "--draws", "4", "--whole"]
    scaling, record = ["--scaling", "ntk", "2048"], tmp_path / "record.json"
    arguments = ["asset:tiny-llada", *sizes, "--paired", "--record", str(record)]
    with pytest.raises(ValueError, match="--paired compares a scaling with none"):
        context_perplexity.main(arguments)
    context_perplexity.main([*arguments, *scaling])
    written = json.loads(record.read_text())
    assert written["targets"] is None
    for length in ("64", "600"):
        ours, plain = written["perplexity"][length], written["unscaled"][length]
        apart = [a - b for a, b in zip(ours["nats_by_text"], plain["nats_by_text"], strict=True)]
        difference = written["difference"][length]
        assert difference["nats"] == pytest.approx(sum(apart) / 3)
        ratio = math.log(ours["perplexity"] / plain["perplexity"])
        assert difference["nats"] == pytest.approx(ratio, rel=1e-6)
        alone = [own["standard_error"] / own["perplexity"] for own in (ours, plain)]
        assert difference["standard_error"] < math.hypot(*alone)


def test_a_scaling_is_measured_and_recorded(tmp_path):
    sizes = ["--lengths", "600", "--targets", "8", "--texts", "2", "--draws", "4"]
    perplexities = []
    for place, scaling in enumerate([[], ["--scaling", "diffusion_ntk", "2048"]]):
        record = tmp_path / f"{place}.json"
        options = [*sizes, *scaling, "--record", str(record)]
        context_perplexity.main(["asset:tiny-llada", *options])
        written = json.loads(record.read_text())
        perplexities.append(written["perplexity"]["600"]["perplexity"])
    assert written["scaling"] == {"type": "diffusion_ntk", "target_length": 2048}
    assert perplexities[0] != perplexities[1]
    for method, target, message in [
        ("ntk", "long", "--scaling ntk long: the second is a number of tokens"),
        ("ntq", "2048", "ntq.*ntk"),
    ]:
        with pytest.raises(ValueError, match=message):
            context_perplexity.main(["asset:tiny-llada", "--scaling", method, target])
