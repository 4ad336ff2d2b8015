"""Variants of a run's cells, and whether the order of its models holds under them."""

import json

import pytest
from work_dirs import make_model, niah_cell, write_json, write_run

from opencompass_llada.report import robustness
from opencompass_llada.report.averages import make_board
from opencompass_llada.report.collect import collect
from opencompass_llada.report.publish import write_report
from opencompass_llada.runs.planning import plan_run
from opencompass_llada.runs.robustness import add_variants
from opencompass_llada.runs.run_folder import find_runs

NIAH = {"data": "embedded", "lengths": [512], "depths": [50], "repeats": 1}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def plan(benchmark="niah", models=("tiny_llada", "tiny_ar"), **settings):
    return plan_run(benchmark, {"models": list(models), **settings}, 0, announce=False)


def variants_of(run):
    """Return setting -> (abbrs of its models, their samplers, its first data set)."""
    found = {}
    for group in run.combinations or []:
        cell = group["datasets"][0]
        models, samplers = found.setdefault(cell.get("setting", ""), ([], []))
        models += [model["abbr"] for model in group["models"]]
        samplers += [
            {**model.get("sampler", {}), **({"seed": model["seed"]} if "seed" in model else {})}
            for model in group["models"]
        ]
    return found


def test_a_run_without_robustness_is_as_it_was():
    run = plan(**NIAH)
    assert run.combinations is None
    assert not any("setting" in cell for cell in run.datasets)


def test_each_kind_makes_variants_of_what_it_changes():
    found = variants_of(plan(**NIAH, robustness=["generation_lengths", "seeds", "decodings"]))
    own = {"num_steps": 4, "block_length": 16}
    assert found == {
        "": (["tiny-llada", "tiny-ar"], [own, {}]),
        "generation_lengths: 2 times the tokens": (
            ["tiny-llada", "tiny-ar"], [{**own, "num_steps": 8}, {}]),
        "generation_lengths: 4 times the tokens": (
            ["tiny-llada", "tiny-ar"], [{**own, "num_steps": 16}, {}]),
        "decodings: half the steps": (["tiny-llada"], [{**own, "num_steps": 2}]),
        "decodings: random remasking": (["tiny-llada"], [{**own, "remasking": "random"}]),
        "decodings: temperature 0.5": (["tiny-llada"], [{**own, "temperature": 0.5}]),
        **{
            f"seeds: {name}, seed {seed}": (["tiny-llada"], [{**own, **changed, "seed": seed}])
            for seed in (1, 2)
            for name, changed in (
                ("random remasking", {"remasking": "random"}),
                ("temperature 0.5", {"temperature": 0.5}),
            )
        },
    }  # fmt: skip


def test_wordings_are_those_of_the_data_and_the_published_one_is_the_run_itself():
    found = variants_of(plan(**NIAH, robustness=["wordings"]))
    assert [*found] == ["", *(f"wordings: wording {number}" for number in range(4))]
    run = plan(**NIAH, robustness=["wordings"])
    assert [group["datasets"][0].get("wording") for group in run.combinations] == [None, 0, 1, 2, 3]
    published = variants_of(plan(**NIAH, needle_draws="published", robustness=["wordings"]))
    assert [*published] == ["", *(f"wordings: wording {number}" for number in (1, 2, 3))]
    with pytest.raises(ValueError, match="Unknown .* 'wordings'"):
        plan("ruler", data="embedded", robustness=["wordings"])


def test_a_wording_changes_the_words_alone():
    from opencompass_llada.benchmarks.needle.haystack import HaystackStore
    from opencompass_llada.benchmarks.needle.samples import NeedleCell, make_samples

    [base] = plan(**NIAH).datasets
    names = NeedleCell.__dataclass_fields__
    own = {name: value for name, value in base.items() if name in names}
    rows = [[*make_samples(NeedleCell(**own, wording=number), HaystackStore())][0]
            for number in (0, 3)]  # fmt: skip
    assert rows[0]["needle"] == rows[1]["needle"]
    assert rows[0]["prompt"] != rows[1]["prompt"]
    with pytest.raises(ValueError, match="wording=4 must be a number from 0 to 3"):
        NeedleCell(**own, wording=4)


def test_longer_answers_stay_within_the_length_and_names_differ():
    run = plan(**NIAH, robustness=["generation_lengths"])
    cells = [group["datasets"][0] for group in run.combinations]
    lengths = [cell["infer_cfg"]["inferencer"]["max_out_len"] for cell in cells]
    assert lengths == [cell["generation_reserve"] for cell in cells] == [16, 32, 64]
    assert len({cell["abbr"] for cell in cells}) == 3
    ruler = plan("ruler", tasks=["vt"], lengths=[1024], data="embedded", samples=1,
                 robustness=["generation_lengths"])  # fmt: skip
    assert {c["tokens_to_generate"] for group in ruler.combinations for c in group["datasets"]} == {
        30, 60, 120,
    }  # fmt: skip


def test_data_sets_without_room_for_longer_answers_are_left_out_with_a_note(caplog):
    settings = {"tasks": ["vt", "niah_multikey_3"], "data": "embedded", "samples": 1}
    run = plan("ruler", lengths=[512], **settings, robustness=["generation_lengths"])
    found = [sorted(cell["task"] for cell in group["datasets"]) for group in run.combinations]
    assert found == [["niah_multikey_3", "vt"], ["niah_multikey_3"]], "and none of 4 times"
    assert "1 of 2 data sets are not run with generation_lengths: 2 times" in caplog.text
    assert "2 of 2 data sets are not run with generation_lengths: 4 times" in caplog.text
    assert "too small for RULER's vt" in caplog.text


def test_what_changes_nothing_or_is_unknown_is_refused(monkeypatch, caplog):
    with pytest.raises(ValueError, match="robustness='seeds' changes nothing: no model .* random"):
        plan(**NIAH, robustness=["seeds"])
    alone = {**NIAH, "models": ["tiny_ar"]}
    for kinds in (["decodings"], ["decodings", "seeds"]):
        with pytest.raises(ValueError, match="'decodings' changes nothing: .* add a diffusion mo"):
            plan(**alone, robustness=kinds)
    monkeypatch.setenv("LLADA_ROBUSTNESS", "seed")
    with pytest.raises(ValueError, match="Did you mean 'seeds'"):
        plan(**NIAH)
    monkeypatch.delenv("LLADA_ROBUSTNESS")
    found = variants_of(plan(models=["tiny_llada", "tiny_block"], **NIAH, robustness=["decodings"]))
    assert found["decodings: half the steps"][0] == ["tiny-llada"]
    assert "tiny-block is not run with decodings: half the steps: num_steps" in caplog.text


@pytest.fixture
def run(tmp_path):
    """A leads b and c as run; c overtakes a under one setting; d is never varied."""
    models = [make_model(name) for name in "abcd"]
    models[0] |= {"sampler": {"num_steps": 32, "remasking": "random"}}
    base = [{"models": models, "datasets": [niah_cell(2000, depth) for depth in (0, 50)]}]
    for model in models:
        model["max_out_len"] = 32
    folder = write_run(tmp_path / "run", models, base[0]["datasets"])
    groups = [base[0]]
    scores = {"": (90, 80, 70, 60)}
    for name, own in (
        ("decodings: random remasking", (90, 85, 95)),
        ("decodings: half the steps", (85, 85, 10)),
        ("seeds: seed 1", (84, None, None)),
        ("seeds: seed 2", (96, None, None)),
    ):
        scores[name] = own
        cells = [{**c, "abbr": f"{c['abbr']}_{name[-6:]}", "setting": name}
                 for c in base[0]["datasets"]]  # fmt: skip
        groups.append({"models": [m for m, s in zip(models, own, strict=False) if s is not None],
                       "datasets": cells})  # fmt: skip
    for group in groups:
        for place, model in enumerate(group["models"]):
            for cell in group["datasets"]:
                score = scores[cell.get("setting", "")][place]
                path = folder / f"predictions/{model['abbr']}/{cell['abbr']}.json"
                write_json(path, {str(n): {"origin_prompt": f"{n}", "prediction": "x", "gold": "y"}
                                  for n in range(2)})  # fmt: skip
                write_json(folder / f"results/{model['abbr']}/{cell['abbr']}.json",
                           {"score": score, "accuracy": score, "num_samples": 2})  # fmt: skip
    config = next((folder / "configs").glob("*.py"))
    config.write_text(f"model_dataset_combinations={groups!r}\nwork_dir={str(folder)!r}\n")
    return folder


def test_the_order_is_compared_under_every_setting_that_changed_one_of_two(run):
    settings = robustness.find_settings(collect([run]))
    orders = {(own.first, own.second): own for own in robustness.find_orders(settings)}
    assert len(orders) == 6, "every pair, d among them, whose own score stays"
    first = orders["a", "b"]
    assert (first.lead, first.num_settings, first.num_held) == (10, 4, 3)
    assert first.not_held == ("decodings: half the steps",), "equal scores are no order"
    assert orders["a", "c"].not_held == ("decodings: random remasking",)
    assert (orders["c", "d"].num_settings, orders["c", "d"].share) == (2, 0.5)
    assert orders["a", "d"].share == 1.0
    deviations = {own.entry: own.seed_deviation for own in settings}
    assert deviations["a"] == pytest.approx(6.0), "of 90, 84 and 96"
    assert deviations["b"] is None
    [sentence] = robustness.describe_orders(list(orders.values()))
    assert sentence.startswith("Needle in a haystack: under up to 4 other settings 2 of 6 pairs")
    assert "a before b in 3 of 4 (75%)" in sentence


def test_a_setting_with_a_missing_cell_counts_for_none(run):
    next(run.glob("results/c/*asking.json")).unlink()  # one of random remasking's
    [ac] = [own for own in robustness.find_orders(robustness.find_settings(collect([run])))
            if (own.first, own.second) == ("a", "c")]  # fmt: skip
    assert (ac.num_settings, ac.num_held) == (3, 3)


def write_settings(folder, scores):
    """Write a run from setting -> length -> score of each model; recorded from the last on."""
    models = [make_model(name) for name in next(iter(scores[""].values()))]
    groups = []
    for setting, own in scores.items():
        cells = [niah_cell(length, 0) | ({"setting": setting} if setting else {}) for length in own]
        for cell in cells:
            cell["abbr"] += setting[-1:]
            for name, score in own[cell["length"]].items():
                asked = {str(n): {"origin_prompt": f"{cell['length']} {n}", "prediction": "x",
                                  "gold": "y"} for n in range(2)}  # fmt: skip
                write_json(folder / f"predictions/{name}/{cell['abbr']}.json", asked)
                write_json(folder / f"results/{name}/{cell['abbr']}.json",
                           {"score": score, "accuracy": score, "num_samples": 2})  # fmt: skip
        groups.append({"models": models, "datasets": cells})
    records = [{"kind": "dataset", "model": model["abbr"], "dataset": cell["abbr"],
                "num_samples": 2, "started": f"2026-01-01T00:00:{59 - place}+00:00"}
               for place, group in enumerate(groups) for cell in group["datasets"]
               for model in models]  # fmt: skip
    for name in {record["model"] for record in records}:
        path = folder / f"provenance/{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        own = [record for record in records if record["model"] == name]
        path.write_text("".join(json.dumps(record) + "\n" for record in own))
    (folder / "configs").mkdir()
    text = f"model_dataset_combinations={groups!r}\nwork_dir={str(folder)!r}\n"
    (folder / "configs/run_1.py").write_text(text)
    return folder


def test_cells_and_lines_of_runs_without_settings_turn_no_order(tmp_path):
    """In the cells that were reworded a leads by 10 in all settings; elsewhere it is behind."""
    varied = write_settings(tmp_path / "varied", {"": {2000: {"a": 90, "b": 80}},
                            "wordings: wording 1": {2000: {"a": 85, "b": 75}}})  # fmt: skip
    longer = write_settings(tmp_path / "longer", {"": {4000: {"a": 10, "b": 60}}})
    other = write_settings(tmp_path / "other", {"": {2000: {"c": 82}}})
    again = write_settings(tmp_path / "again", {"": {2000: {"a": 91, "b": 80}}})
    for runs, lead in (([varied], 10), ([varied, longer, other], 10), ([varied, again], 11)):
        [order] = robustness.find_orders(robustness.find_settings(collect(runs)))
        assert (order.first, order.lead, order.num_held, order.num_settings) == ("a", lead, 1, 1)


def test_variants_are_no_lines_and_no_cells_of_the_leaderboard(run, tmp_path):
    collection = collect([run])
    assert {score.entry for score in make_board(collection)} == {*"abcd"}
    assert len(collection.results.dataset.unique()) == 2
    write_report(find_runs([run]), tmp_path / "report")
    text = (tmp_path / "report/leaderboard.md").read_text()
    assert "Does the order hold?" in text
    assert "2 of 6 pairs of models keep their order" in text[: text.index("## Leaderboard")]
    assert "Scores by setting: Needle in a haystack" in text
    assert (tmp_path / "report/tables/order.csv").is_file()


def test_an_empty_list_of_kinds_adds_nothing():
    groups = [{"models": [], "datasets": []}]
    assert add_variants(groups, []) == groups
