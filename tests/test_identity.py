"""What is kept apart, what is joined, and what the leaderboard says of each."""

import json
import shutil

import pytest
from work_dirs import make_model, niah_cell, ruler_cell, write_run

from opencompass_llada.cli import main as run_command
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.identity import (
    describe_protocol,
    describe_sampler,
    find_kind,
    hash_protocol,
)
from opencompass_llada.report.scores import rank_scores
from opencompass_llada.runs.run_folder import MODEL_KEYS, WAYS_TO_RUN
from opencompass_llada.wrapper.keywords import KEYWORDS

GRID = [niah_cell(length, depth) for length in (2000, 4000) for depth in (0, 100)]
ONE = [make_model("one")]


def read(*folders):
    collection = collect(folders)
    scores, remarks = rank_scores(make_board(collection))
    return collection, scores, "\n".join([*collection.notes, *remarks])


def whole(scores, entry):
    """Return an entry's mean over all needle cells."""
    [score] = [
        s for s in scores if s.entry == entry and s.length is None and s.metric == "accuracy"
    ]
    return score


def test_two_runs_of_different_lengths_complete_each_other(tmp_path):
    write_run(tmp_path / "a", ONE, GRID[:2])
    write_run(tmp_path / "b", ONE, GRID[2:])
    collection, scores, notes = read(tmp_path)
    assert notes == ""
    assert {score.entry for score in scores} == {"one"}
    assert whole(scores, "one").num_cells == 4
    assert {row.run for row in collection.rows} == {"a", "b"}


@pytest.mark.parametrize(
    ("model", "cells", "options", "said"),
    [
        ({"sampler": {"block_length": 32, "num_steps": 8}}, GRID, {}, "sampler"),
        ({"max_seq_len": 3500, "drop_middle": True}, GRID, {}, "limit on prompts"),
        ({}, [{**cell, "tokenizer": "other"} for cell in GRID], {}, "tokenizer that counts"),
        ({}, [{**cell, "num_repeats_per_file": 5} for cell in GRID], {}, "samples (2, 5)"),
        ({}, GRID, {"word": "letter"}, "prompt hash"),
        ({}, [{**cell, "length_buffer": 9} for cell in GRID], {}, "prompt template"),
    ],
)  # fmt: skip
def test_runs_that_disagree_are_kept_apart_and_said(tmp_path, model, cells, options, said):
    write_run(tmp_path / "a", ONE, GRID)
    write_run(tmp_path / "b", [make_model("one", **model)], cells, quality=0.1, **options)
    collection, scores, notes = read(tmp_path)
    assert {row.entry for row in collection.rows} == {"one", "one [run b]"}
    assert "runs a and b disagree" in notes
    assert said in notes
    first, second = whole(scores, "one"), whole(scores, "one [run b]")
    assert first.score > 50 > second.score, "nothing is averaged over both"


def test_a_line_kept_apart_has_the_names_of_the_runs_whose_numbers_are_shown(tmp_path):
    """It had the first run's name, where the later run's number was shown."""
    more = [{**cell, "num_repeats_per_file": 5} for cell in GRID]
    for name, cells, quality in (("a", GRID, 1.0), ("b", more, 1.0), ("c", more, 0.0)):
        write_run(tmp_path / name, ONE, cells, quality=quality)
    _, scores, _ = read(tmp_path)
    assert {score.entry for score in scores} == {"one", "one [run c]"}
    assert whole(scores, "one [run c]").score == 0
    shutil.rmtree(tmp_path / "c")
    write_run(tmp_path / "c", ONE, more[:2], quality=0.0)
    _, scores, _ = read(tmp_path)
    assert {score.entry for score in scores} == {"one", "one [runs b, c]"}


def test_disagreement_is_seen_where_no_cell_is_shared(tmp_path):
    write_run(tmp_path / "a", ONE, GRID[:2])
    longer = [{**cell, "num_repeats_per_file": 6} for cell in GRID[2:]]
    write_run(tmp_path / "b", ONE, longer)
    _, scores, notes = read(tmp_path)
    assert {score.entry for score in scores} == {"one", "one [run b]"}
    assert "number of samples (2, 6)" in notes


def test_the_same_measurement_twice_is_one_and_never_averaged(tmp_path):
    write_run(tmp_path / "a", ONE, GRID, quality=1.0)
    write_run(tmp_path / "b", ONE, GRID, quality=0.0)
    collection, scores, notes = read(tmp_path)
    assert len(collection.rows) == 2 * len(GRID)
    assert whole(scores, "one").score == 0
    assert "the later number is shown, by the order of the runs as given" in notes


@pytest.mark.parametrize("sources", ["cells", "models", "runs", "folders"])
def test_the_later_number_is_the_one_recorded_later(tmp_path, sources):
    """It was the last in the order of the arguments: 75 one way, 100 the other."""
    names = ("20260202_100000", "20260101_100000") if sources == "folders" else ("new", "old")
    for name, quality, day in zip(names, (1.0, 0.0), ("2026-02-02", "2026-01-01"), strict=True):
        folder = write_run(tmp_path / name, ONE, GRID, quality=quality)
        (file,) = (folder / "configs").glob("*.py")
        if sources == "folders":
            continue
        file.rename(file.with_name("a.py"))
        if sources == "runs":
            record = {"started": f"{day}T10:00:00+00:00"}
            (folder / "provenance/run_a.json").write_text(json.dumps(record))
            continue
        path = folder / "provenance/one.jsonl"
        kind = '"kind": "dataset"' if sources == "cells" else '"kind": "model"'
        text = path.read_text().replace(kind, f'{kind}, "started": "{day}T10:00:00+00:00"')
        path.write_text(text)
    for given in (names, names[::-1]):
        _, scores, notes = read(*(tmp_path / name for name in given))
        assert {score.entry for score in scores} == {"one"}
        assert whole(scores, "one").score == 100
        assert "the later number is shown, and none" in notes


def test_which_line_keeps_its_name_goes_by_time_too(tmp_path):
    for name, number in (("20260202_100000", 6), ("20260101_100000", 2)):
        cells = [{**cell, "num_repeats_per_file": number} for cell in GRID]
        write_run(tmp_path / name, ONE, cells)
    for given in (("20260202_100000", "20260101_100000"), ("20260101_100000", "20260202_100000")):
        collection, _, _ = read(*(tmp_path / name for name in given))
        later = {row.entry for row in collection.rows if row.n == 6}
        assert later == {"one [run 20260202_100000]"}


def test_a_folder_resumed_under_new_names_of_data_sets(tmp_path):
    """Names of tokenizers in abbreviations changed once: both are read, the later one counts."""
    write_run(tmp_path / "old", ONE, GRID, quality=0.0)
    named = [{**cell, "abbr": cell["abbr"] + "_by-content"} for cell in GRID]
    folder = write_run(tmp_path / "new", ONE, named, quality=1.0)
    for part in ("predictions/one", "results/one", "configs"):
        for path in (tmp_path / "old" / part).iterdir():
            name = "0_old.py" if part == "configs" else path.name
            shutil.copy(path, folder / part / name)
    _, scores, notes = read(folder)
    assert whole(scores, "one").score == 100
    assert whole(scores, "one").num_cells == len(GRID)
    assert "run new measured some cells alike under two names" in notes


def test_versions_that_differ_are_named(tmp_path):
    for name, torch in (("a", "2.8.0"), ("b", "2.9.1")):
        path = write_run(tmp_path / name, ONE, GRID) / "provenance/one.jsonl"
        versions = {"opencompass-llada": "1.0", "torch": torch, "numpy": torch}
        found = f'"device": "cpu", "git_commit": "{name * 40}", "packages": {json.dumps(versions)}'
        path.write_text(path.read_text().replace('"device": "cpu"', found))
    _, _, notes = read(tmp_path)
    assert "different versions of torch: 2.8.0 (a), 2.9.1 (b)" in notes
    assert "of opencompass-llada: 1.0 at aaaaaaaa (a), 1.0 at bbbbbbbb (b)" in notes
    assert "numpy" not in notes
    _, _, notes = read(tmp_path / "a")
    assert notes == ""


def test_a_missing_repetition_does_not_hide_a_number(tmp_path):
    write_run(tmp_path / "a", ONE, GRID, quality=1.0)
    write_run(tmp_path / "b", ONE, GRID, quality=1.0)
    shutil.rmtree(tmp_path / "b/results")
    _, scores, _ = read(tmp_path)
    assert whole(scores, "one").score == 100


def test_one_abbr_for_two_checkpoints_of_two_runs(tmp_path):
    write_run(tmp_path / "a", ONE, GRID, quality=1.0)
    write_run(tmp_path / "b", [make_model("one", path="elsewhere/other")], GRID, quality=0.0)
    _, scores, notes = read(tmp_path)
    entries = {"one [somewhere/one]", "one [elsewhere/other]"}
    assert {score.entry for score in scores} == entries
    assert "the abbr 'one' stands for 2 models" in notes


def test_adapters_on_one_checkpoint_are_models_of_their_own(tmp_path):
    write_run(tmp_path / "a", ONE, GRID, quality=1.0)
    write_run(tmp_path / "b", [make_model("one", peft_path="my/lora")], GRID, quality=0.0)
    _, scores, notes = read(tmp_path)
    entries = {"one [somewhere/one]", "one [somewhere/one + my/lora]"}
    assert {score.entry for score in scores} == entries
    assert "the abbr 'one' stands for 2 models" in notes


def test_a_checkpoint_that_changed_under_its_path(tmp_path):
    for name, content in (("a", "1" * 16), ("b", "2" * 16)):
        folder = write_run(tmp_path / name, ONE, GRID)
        path = folder / "provenance/one.jsonl"
        path.write_text(path.read_text().replace("0" * 16, content))
    _, scores, notes = read(tmp_path)
    entries = {f"one [weights {content * 16}]" for content in "12"}
    assert {score.entry for score in scores} == entries
    assert "2 models are called 'one'" in notes


def test_two_models_of_one_config_with_one_abbr_have_no_numbers(tmp_path):
    models = [make_model("one"), make_model("one", path="elsewhere/other"), make_model("two")]
    write_run(tmp_path / "a", models, GRID)
    collection, scores, notes = read(tmp_path)
    assert "'one' is the abbr of more than one model" in notes
    assert {row.status for row in collection.rows if row.model == "one"} == {"failed"}
    assert all(row.score is None for row in collection.rows if row.model == "one")
    assert whole(scores, "two").score is not None


def test_models_that_were_asked_otherwise_are_not_ranked_together(tmp_path):
    write_run(tmp_path / "a", [make_model("one"), make_model("two")], GRID, quality=1.0)
    write_run(tmp_path / "b", [make_model("three")], GRID, word="letter", quality=1.0)
    _, scores, notes = read(tmp_path)
    assert "ranks count within one + two; three" in notes
    assert {s.protocol for s in scores if s.entry == "one"}.isdisjoint(
        s.protocol for s in scores if s.entry == "three"
    )
    assert {(s.rank, s.undecided) for s in scores if s.entry == "three"} == {
        (None, "no other line was asked the same")
    }
    assert {(s.rank, s.lowest_rank) for s in scores if s.entry == "one"} == {(1, 2)}


def test_a_resumed_run_with_another_model_under_the_name_is_said(tmp_path):
    folder = write_run(tmp_path / "a", ONE, GRID)
    text = next((folder / "configs").glob("*.py")).read_text()
    (folder / "configs" / "b_2.py").write_text(text.replace("somewhere/one", "somewhere/else"))
    _, _, notes = read(tmp_path)
    assert "was run again in this folder with another path" in notes


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("'num_steps': 32", "'num_steps': 8", "sampler"),
        ("'abbr': 'one'", "'run_cfg': {}, 'abbr': 'one'", None),
        ("'abbr': 'one'", "'abbr': 'one', 'chat': True", "chat"),
        ("'abbr': 'one'", "'abbr': 'one', 'precision': 'float8'", "precision"),
        ("'abbr': 'one'", "'abbr': 'one', 'prefill': {'type': 'float8'}", "prefill"),
        ("'abbr': 'one'", "'abbr': 'one', 'attention_block': 8", "attention_block"),
        ("'abbr': 'one'", "'abbr': 'one', 'sequence_parallel': 2", None),
    ],
)
def test_a_resumed_run_with_other_settings_is_said(tmp_path, old, new, said):
    folder = write_run(tmp_path / "a", ONE, GRID)
    text = next((folder / "configs").glob("*.py")).read_text()
    (folder / "configs" / "b_2.py").write_text(text.replace(old, new))
    _, _, notes = read(tmp_path)
    assert (f"run again in this folder with another {said}" in notes) == (said is not None)


def test_every_keyword_of_ours_is_known_to_change_answers_or_not():
    change_nothing = {"model_type", "batch_size", "device", "attention_backend", "pad_token_id"}
    in_other_forms = {"model_kwargs"}  # a dtype beside a device
    sorted_out = {*MODEL_KEYS, *WAYS_TO_RUN, *change_nothing, *in_other_forms, "sequence_parallel"}
    assert set(KEYWORDS) <= sorted_out


def test_hosts_that_shared_the_work_join(tmp_path):
    folder = write_run(tmp_path / "a", ONE, GRID)
    whole_config = next((folder / "configs").glob("*.py"))
    text = whole_config.read_text()
    first, second = text, text
    for cell in GRID[:2]:
        first = first.replace(f", {cell!r}", "").replace(f"{cell!r}, ", "")
    for cell in GRID[2:]:
        second = second.replace(f", {cell!r}", "").replace(f"{cell!r}, ", "")
    whole_config.write_text(first)
    (folder / "configs" / "host2.py").write_text(second)
    assert first != second
    collection, _, notes = read(tmp_path)
    assert len({row.dataset for row in collection.rows}) == 4
    assert notes == ""


def test_a_tokenizer_counts_by_its_content_and_not_by_its_name(tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text('{"same": 1}')
    for name in ("first", "second"):
        cells = [{**cell, "tokenizer": str(tmp_path / name)} for cell in GRID]
        write_run(tmp_path / "runs" / name, [make_model(name)], cells)
    gpt4 = [{**cell, "abbr": cell["abbr"] + "_gpt-4"} for cell in GRID]
    write_run(tmp_path / "runs" / "third", [make_model("first")], gpt4)
    collection, scores, notes = read(tmp_path / "runs")
    assert {row.tokenizer for row in collection.rows} == {"first", "gpt-4"}, "cut"
    scores = [score for score in scores if "gpt-4" not in score.series]
    assert len({whole(scores, name).series for name in ("first", "second")}) == 1
    assert "kept apart" in notes
    assert len({whole(scores, name).protocol for name in ("first", "second")}) == 1


@pytest.mark.parametrize(
    ("record", "config", "kind"),
    [
        ({"generates_by": "masked_diffusion", "model_type": "sdar"}, {}, "diffusion"),
        ({"generates_by": "autoregressive", "model_type": "llada2"}, {}, "autoregressive"),
        ({"engine": "MaskedDiffusionEngine", "model_type": "other"}, {}, "diffusion"),
        ({"model_type": "Dream"}, {}, "diffusion"),
        ({"model_type": "qwen2"}, {}, "autoregressive"),
        ({"model_type": "dreamy"}, {}, "unknown"),
        ({"model_type": "sdar"}, {}, "diffusion"),
        ({"generates_by": "uniform_diffusion"}, {}, "diffusion"),
        ({"model_type": "diffusion_gemma"}, {}, "diffusion"),
        ({"model_type": "no_such_family"}, {}, "unknown"),
        (None, {"path": "asset:tiny-llada"}, "diffusion"),
        (None, {"path": "asset:tiny-ar"}, "autoregressive"),
        (None, {"path": "x/y", "model_type": "ultra"}, "diffusion"),
        (None, {"path": "x/y", "type": "opencompass.models.LLaDAModel"}, "unknown"),
    ],
)
def test_the_kind_of_a_model_is_its_familys_and_no_prefixs(record, config, kind):
    assert find_kind(config, record) == kind


def test_a_family_added_from_outside_is_filed_by_what_it_says(monkeypatch):
    from opencompass_llada import families

    monkeypatch.setitem(families.FAMILIES, "mdlm", families.FAMILIES["llada"])
    assert find_kind({}, {"model_type": "mdlm"}) == "diffusion"


def test_perplexities_in_tokens_of_unknown_kinds_are_not_ranked_together(tmp_path):
    cell = {**niah_cell(2000, 0), "benchmark": "perplexity", "target": "whole"}
    del cell["tokenizer"]
    run = write_run(tmp_path / "a", [make_model("one"), make_model("two")], [cell])
    one, two = collect([run]).rows
    assert hash_protocol(one) != hash_protocol(two)
    path = run / "provenance/one.jsonl"
    path.write_text(path.read_text().replace('"device"', '"tokenizer_hash": "abc", "device"'))
    assert [row.tokenizer_hash for row in collect([run]).rows] == ["abc", None]


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        collect([tmp_path])
    with pytest.raises(ValueError, match="no folder"):
        collect([tmp_path / "nowhere"])


def test_a_config_is_read_and_never_run(tmp_path, capsys):
    folder = write_run(tmp_path / "a", ONE, [ruler_cell("vt", 4096)])
    file = next((folder / "configs").glob("*.py"))
    file.write_text(file.read_text() + f"x = open({str(tmp_path / 'made')!r}, 'w')\n")
    with pytest.raises(ValueError, match="is not what a dumped config"):
        collect([tmp_path])
    assert run_command(["report", str(tmp_path), "-o", str(tmp_path / "report")]) == 1
    assert "is not what a dumped config" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_what_mmengine_dumps_is_read_as_mmengine_reads_it(tmp_path):
    config = pytest.importorskip("mmengine.config")
    values = {
        "models": [{"abbr": "a", "weights": (1, -2.5), "text": "q\"uo'te\n{x}", "none": None}],
        "parts": {"0-4k": "score_0-4k", "all": True},
        "names": {"x", "y"},
    }
    cfg = config.Config(json.loads(json.dumps({**values, "names": []})))
    cfg.names = values["names"]
    cfg.dump(str(tmp_path / "dump.py"))
    from opencompass_llada.runs.run_folder import read_dumped_config

    own = read_dumped_config(tmp_path / "dump.py")
    theirs = config.Config.fromfile(str(tmp_path / "dump.py"))._cfg_dict.to_dict()
    assert {**own, "names": sorted(own["names"])} == {**theirs, "names": sorted(theirs["names"])}


def test_precision_keeps_runs_apart_and_paths_in_names_are_cut(tmp_path):
    cells = [niah_cell(2000, 0)]
    runs = [write_run(tmp_path / name, [make_model("x", dtype=name)], cells) for name in ("a", "b")]
    assert any("disagree on precision (a, b)" in note for note in collect(runs).notes)
    places = [write_run(tmp_path / f"{name}2", [make_model("x", path=f"/home/me/{name}/final")],
                        [niah_cell(2000, 0, tokenizer=f"/home/me/{name}/final")])
              for name in "ab"]  # fmt: skip
    found = collect(places).results
    assert set(found.entry) == {"x [a/final]", "x [b/final]"}
    assert set(found.tokenizer) == {"a/final", "b/final"}


def test_precision_draws_and_the_seed_of_random_sampling_are_part_of_a_protocol():
    plain = {"sampler": {"num_steps": 4}, "seed": 1}
    assert describe_sampler(plain) == describe_sampler({**plain, "seed": 2}) == "num_steps=4"
    warm = {"sampler": {"num_steps": 4, "temperature": 0.2}, "seed": 1}
    assert "seed=1" in describe_sampler(warm)
    for given in ({"dtype": "float16"}, {"model_kwargs": {"torch_dtype": "float16"}}):
        own = describe_protocol({**plain, **given}, {})
        assert (own["dtype"], own["sampler"]) == ("float16", "num_steps=4"), "no sampler's option"
    assert "draws=16" in describe_sampler({**plain, "likelihood": {"num_draws": 16}})
