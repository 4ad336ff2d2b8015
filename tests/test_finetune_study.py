"""The study of post-training: prompts kept, batches answered, parts joined, failures said."""

import json
import sys

import numpy as np
import pytest
from conftest import REPOSITORY_ROOT

sys.path[:0] = [str(REPOSITORY_ROOT / name) for name in ("studies", "benchmarks")]

import answering  # noqa: E402
import finetune_study  # noqa: E402
import prompt_sets  # noqa: E402
from finetune_study_report import GRID, VARIANT  # noqa: E402

MODEL = "asset:tiny-llada"


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("OPENCOMPASS_LLADA_CACHE", "none")


def plan(kind="needle", length=512, samples=1):
    return prompt_sets.PromptPlan(kind=kind, length=length, samples=samples, checkpoint=MODEL)


def arguments(tmp_path, *extra):
    given = ["--prompts", str(tmp_path / "prompts"), "--record", str(tmp_path / "record.json")]
    return finetune_study.make_parser().parse_args([*given, "--tiny", *extra])


def test_a_set_is_read_as_it_was_made(tmp_path):
    plans = [plan(), plan("ruler")]
    paths = prompt_sets.prepare_sets(plans, tmp_path, workers=1)
    for wanted, path in zip(plans, paths, strict=True):
        read = prompt_sets.read_set(path)
        made = [prompt_sets.make_group((wanted, group)) for group in wanted.groups]
        expected = [prompt for group in made if not isinstance(group, str) for prompt in group]
        assert len(read.prompts) == len(expected) > 0
        for one, other in zip(read.prompts, expected, strict=True):
            assert np.array_equal(one.token_ids, other.token_ids)
            assert (one.group, one.answers) == (other.group, other.answers)
            assert len(one.token_ids) + one.new_tokens <= wanted.length
    assert list(read.unfit) == ["cwe"]
    assert "length=512 is too small" in read.unfit["cwe"]


def test_sets_hold_no_paths_and_are_made_once(tmp_path):
    (path,) = prompt_sets.prepare_sets([plan()], tmp_path, workers=1)
    before = path.stat().st_mtime_ns
    assert prompt_sets.prepare_sets([plan()], tmp_path, workers=1) == [path]
    assert path.stat().st_mtime_ns == before
    assert "/" not in json.dumps(plan().key())
    others = [plan(samples=2), plan(length=513), plan("ruler")]
    assert len({other.path(tmp_path) for other in [plan(), *others]}) == 4


def test_a_damaged_set_is_named(tmp_path):
    path = tmp_path / "needle_512.npz.xz"
    path.write_bytes(b"no prompts")
    with pytest.raises(ValueError, match=r"needle_512\.npz\.xz is no set of prompts.*delete it"):
        prompt_sets.read_set(path)


def test_batches_answer_as_one_at_a_time(tmp_path):
    paths = prompt_sets.prepare_sets([plan(), plan("ruler")], tmp_path, workers=1)
    prompts = [prompt for path in paths for prompt in prompt_sets.read_set(path).prompts]
    folder = prompt_sets.resolve_path(MODEL)
    batched, single = (answering.Answerer.load(folder, size) for size in (16384, 1))
    batches = answering.token_batches(prompts, 2000)
    assert sorted(place for batch in batches for place in batch) == list(range(len(prompts)))
    for batch in batches:
        assert len({prompts[place].new_tokens for place in batch}) == 1
        longest = max(len(prompts[place].token_ids) for place in batch)
        assert len(batch) * (longest + prompts[batch[0]].new_tokens) <= 2000
    assert len(batches) < len(prompts) == len(answering.token_batches(prompts, 1))
    answers = batched.answer(prompts)
    assert answers == single.answer(prompts)
    assert any(prompt.answers[0] in text for prompt, text in zip(prompts, answers, strict=True))


def test_parts_cover_the_grid_once(tmp_path):
    given = arguments(tmp_path, "--factors", "4", "32", "--methods", "full", "lora", "--seeds", "0")
    given.strategies, given.scalings = ["adaptive", "eod", "direct"], ["none", "ntk"]
    cells = finetune_study.list_cells(given)
    assert len({finetune_study.identity(cell) for cell in cells}) == len(cells) == 24
    parts = [cells[part::4] for part in range(4)]
    assert sorted(map(str, cells)) == sorted(str(cell) for part in parts for cell in part)
    for part in parts:
        assert {(cell["factor"], cell["method"]) for cell in part} == {
            (factor, method) for factor in (4, 32) for method in ("full", "lora")
        }


def test_lengths_measured(tmp_path):
    given = arguments(tmp_path)
    given.tiny = False
    cell = finetune_study.list_cells(given)[0] | {"factor": 16}
    lengths = {(plan.kind, plan.length) for plan in finetune_study.prompt_plans(cell, given)}
    assert lengths == {("needle", n) for n in (512, 4096, 8192, 16384)} | {
        ("ruler", n) for n in (512, 8192)
    }
    assert finetune_study.perplexity_lengths(cell) == [512, 2048, 8192, 16384]


def test_a_failed_cell_is_said_and_run_again(tmp_path, monkeypatch, capsys):
    given = arguments(tmp_path, "--seeds", "0", "1")
    cells = finetune_study.list_cells(given)

    def run(cell, _):
        if cell["seed"] == 0:
            raise RuntimeError("no memory left")
        return cell | {"minutes": 1.0}

    monkeypatch.setattr(finetune_study, "run_cell", run)
    finetune_study.run_cells(cells, given)
    rows = json.loads(given.record.read_text())["rows"]
    assert rows[0]["error"] == "RuntimeError: no memory left"
    assert "minutes" not in rows[0]
    assert rows[1]["minutes"] == 1.0
    assert "no memory left" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(finetune_study, "run_cell", lambda c, _: asked.append(c) or c)
    finetune_study.run_cells(cells, given)
    assert [cell["seed"] for cell in asked] == [0]


def test_no_cell_is_begun_that_would_end_too_late(tmp_path, monkeypatch):
    given = arguments(tmp_path, "--seeds", "0", "1", "--seconds", "0.0")
    asked = []
    monkeypatch.setattr(finetune_study, "run_cell", lambda c, _: asked.append(c) or c)
    finetune_study.run_cells(finetune_study.list_cells(given), given)
    assert asked == []


def test_a_record_of_other_settings_or_parts_is_refused(tmp_path, monkeypatch):
    given = arguments(tmp_path, "--part", "0/2")
    monkeypatch.setattr(finetune_study, "run_cell", lambda cell, _: cell)
    finetune_study.run_cells(finetune_study.list_cells(given), given)
    given.part = "1/2"
    with pytest.raises(ValueError, match="belongs to part 0/2, and this call is part 1/2"):
        finetune_study.run_cells([], given)
    given.part, given.samples = "0/2", 7
    with pytest.raises(ValueError, match="name another --record"):
        finetune_study.run_cells([], given)


def record(tmp_path, name, rows, settings=None):
    facts = dict.fromkeys(("command", "date", "machine", "device", "versions"), name)
    path = tmp_path / name
    path.write_text(json.dumps(facts | {"settings": settings or {}, "part": name, "rows": rows}))
    return path


def test_merging_joins_parts_and_drops_failures_mended_since(tmp_path):
    cells = [dict.fromkeys((*GRID, *VARIANT), 0) | {"seed": seed} for seed in range(3)]
    failed = [cells[0] | {"error": "x"}, cells[1] | {"error": "y"}]
    good = [cells[0] | {"minutes": 1}, cells[2] | {"minutes": 3}]
    paths = [record(tmp_path, "0", failed), record(tmp_path, "1", good)]
    finetune_study.main(["--merge", *map(str, paths), "--record", str(tmp_path / "all.json")])
    merged = json.loads((tmp_path / "all.json").read_text())
    assert merged["rows"] == [good[0], failed[1], good[1]]
    assert len(merged["runs"]) == 2
    assert finetune_study.merge_records(paths[::-1])["rows"] == merged["rows"]
    more = record(tmp_path, "3", [cells[1] | {"minutes": 2}])
    again = finetune_study.merge_records([tmp_path / "all.json", more])
    assert again["rows"] == [good[0], cells[1] | {"minutes": 2}, good[1]]
    assert [run["command"] for run in again["runs"]] == ["0", "1", "3"]
    twice = finetune_study.merge_records([tmp_path / "all.json", paths[0]])
    assert twice["runs"] == merged["runs"]
    other = record(tmp_path, "2", [cells[0] | {"minutes": 2}])
    with pytest.raises(ValueError, match="holds other figures"):
        finetune_study.merge_records([*paths, other])
    other = record(tmp_path, "2", [], {"samples": 7})
    with pytest.raises(ValueError, match="different settings"):
        finetune_study.merge_records([*paths, other])


@pytest.mark.parametrize("text", ["4/4", "1", "a/b"])
def test_parts_are_checked(text, tmp_path):
    with pytest.raises(SystemExit):
        arguments(tmp_path, "--part", text)


def test_tiny_trains_and_measures_a_cell(tmp_path):
    given = ["--tiny", "--factors", "2", "--workers", "1"]
    given += ["--prompts", str(tmp_path / "prompts"), "--record", str(tmp_path / "record.json")]
    finetune_study.main([*given, "--only-prompts"])
    assert not (tmp_path / "record.json").exists()
    finetune_study.main(given)
    (row,) = json.loads((tmp_path / "record.json").read_text())["rows"]
    assert {name: set(row[name]) for name in ("needle", "ruler", "perplexity")} == {
        "needle": {"512", "1024", "2048"},
        "ruler": {"512", "1024"},
        "perplexity": {"256", "512", "1024", "2048"},
    }
    assert set(row["needle"]["512"]) == set(map(str, prompt_sets.DEPTHS))
    assert row["ruler"]["512"]["cwe"] is None
    assert set(row["perplexity"]["512"]) == {
        *("perplexity", "standard_error", "masks_standard_error", "nats_by_text")
    }
    assert set(row["seconds"]) == {"start", "train", "needle", "ruler", "perplexity"}
    assert row["minutes"] == pytest.approx(row["seconds"]["train"] / 60)
