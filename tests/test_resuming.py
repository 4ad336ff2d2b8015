"""Resumed runs: an answer is kept only where the present config would make it, over every field.

Most tests run OpenCompass's own main() in this process (``--debug``), on a random tiny checkpoint.
A run that was made once is copied, one thing is changed, and it is resumed beside a model of the
same settings that has no answers yet: what that one answers is what is right.
"""

import copy
import json
import shutil

import pytest
from tiny import write_tiny_checkpoint
from tiny_jobs import ROWS, SPLIT, Job, prepare, stop_half_way

from opencompass_llada.report.collect import collect
from opencompass_llada.runs import launch as launch_module
from opencompass_llada.runs.checks import check_form
from opencompass_llada.runs.hashes import hash_values
from opencompass_llada.runs.makers import (
    describe_maker,
    list_differences,
    read_options,
    set_aside,
)
from opencompass_llada.runs.provenance import hash_files, read_provenance, record_model
from opencompass_llada.runs.recorded_files import find_finished
from opencompass_llada.runs.tasks import read_cell_answers


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return [write_tiny_checkpoint(folder / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture
def job(tmp_path, checkpoints, monkeypatch):
    prepare(monkeypatch, tmp_path)
    return Job(tmp_path, checkpoints[0])


@pytest.fixture(scope="module")
def made(checkpoints, tmp_path_factory):
    """Return the run of a finished model and of one that was stopped after two samples."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        prepare(patch, folder)
        job = Job(folder, checkpoints[0])
        job.rest["abbrs"] = ("finished",)
        assert job.run() == 0
    run = job.path
    shutil.copytree(run / "predictions/finished", run / "predictions/half")
    stop_half_way(run / "predictions/half/set.json")
    return run


@pytest.fixture
def resumed(job, made):
    """Return a job beside a copy of that run, with a third model that has no answers yet."""
    shutil.copytree(made, job.work_dir / made.name)
    job.rest["abbrs"] = ("finished", "half", "fresh")
    return job


def other_weights(job, checkpoints):
    shutil.copy(checkpoints[1] / "model.safetensors", job.checkpoint)


def steps(job, _):
    job.model["sampler"]["num_steps"] = 2


def generation_length(job, _):
    job.model["max_out_len"] = 4


def generation_length_of_the_data_set(job, _):
    job.rest["options"] = dict(max_out_len=4)


def dtype(job, _):
    job.model["dtype"] = "bfloat16"


def seed(job, _):
    job.model["seed"] = 4


def scaling(job, _):
    job.model["rope_scaling"] = dict(type="ntk", theta_multiplier=4.0)


def stop_words(job, _):
    job.model["stop_words"] = ["a", "e"]


def template(job, _):
    job.model["meta_template"] = dict(
        round=[dict(role="HUMAN", begin="Q: "), dict(role="BOT", begin="A: ", generate=True)]
    )


def chat(job, _):
    job.folder.joinpath("chat.jinja").write_text(
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    )
    job.model["chat"] = dict(template=str(job.folder / "chat.jinja"))


def wording(job, _):
    job.rest["template"] = "Tell {question} is"


def text(job, _):
    job.write_rows([{**row, "question": row["question"] + "!"} for row in ROWS])


def reference(job, _):
    job.write_rows([{**row, "answer": [*row["answer"], "!"]} for row in ROWS])


def more_samples(job, _):
    job.write_rows(ROWS + [{"question": "five", "answer": ["5"]}])


def fewer_samples(job, _):
    job.write_rows(ROWS[:3])


def tokenizer(job, _):
    path = job.checkpoint / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "eos_token": "<|eot_id|>"}))


CHANGES = {
    other_weights: "checkpoint", steps: "sampler.num_steps", dtype: "dtype", seed: "seed",
    generation_length: "generation_length", generation_length_of_the_data_set: "generation_length",
    scaling: "scaling.", stop_words: "options.stop_words", template: "wording", chat: "chat",
    wording: "wording", text: "samples", reference: "samples", more_samples: "samples",
    fewer_samples: "samples", tokenizer: "tokenizer",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_answers_are_made_again_after_a_change(resumed, checkpoints, caplog, change):
    job, before = resumed, resumed.answers("finished")
    change(job, checkpoints)
    assert job.run("-r", job.path.name) == 0
    said = [r.getMessage() for r in caplog.records if "are made again" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith("2 of 2 cells"), "the fresh one has nothing to be compared"
    assert f"2 for {CHANGES[change]}" in said[0]
    assert job.answers("finished") == job.answers("half") == job.answers("fresh")
    (old,) = (job.path / "superseded").iterdir()
    assert json.loads((old / "predictions/finished/set.json").read_text()) == before
    assert (old / "predictions/half/tmp_set.jsonl").is_file()
    assert (old / "results/finished/set.json").is_file()
    caplog.clear()
    if change is other_weights:
        assert job.run("-r") == 0
        assert "are made again" not in caplog.text, "what was made again is this config's"


def test_answers_of_another_maker_are_set_aside_by_the_task_too(resumed, checkpoints, monkeypatch):
    # As where OpenCompass's own command line starts the task.
    monkeypatch.setattr(launch_module, "_resume", lambda *_: None)
    other_weights(resumed, checkpoints)
    resumed.rest["abbrs"] = ("half", "fresh")
    assert resumed.run("-r", resumed.path.name) == 0
    assert resumed.answers("half") == resumed.answers("fresh")


def batch_size(job, _):
    job.model["batch_size"] = 3


def place(job, _):
    job.checkpoint = job.checkpoint.rename(job.folder / "elsewhere")
    job.model["path"] = str(job.checkpoint)


def name_of_the_data(job, _):
    job.data = job.data.rename(job.folder / "other.jsonl")


def form_of_the_sampler(job, _):
    job.model["diffusion_config"] = dict(steps=4, block_length=4, temperature=0.7)
    del job.model["sampler"]


@pytest.mark.parametrize("change", [batch_size, place, name_of_the_data, form_of_the_sampler])
def test_what_decides_no_answer_keeps_it(resumed, checkpoints, change):
    job = resumed
    folder = job.path / "predictions"
    (folder / "half/tmp_set.jsonl").unlink()
    shutil.copy(folder / "finished/set.json", folder / "half/set.json")
    stop_half_way(folder / "half/set.json", mark="KEPT ")
    finished = [job.path / f"{folder}/finished/set.json" for folder in ("predictions", "results")]
    times = [path.stat().st_mtime_ns for path in finished]
    change(job, checkpoints)
    assert job.run("-r", job.path.name) == 0
    kept = [row["prediction"].startswith("KEPT ") for row in job.answers("half").values()]
    assert kept == [True, True, False, False]
    assert [path.stat().st_mtime_ns for path in finished] == times
    assert not (job.path / "superseded").exists()


def test_answers_without_a_record_are_made_again_and_that_is_said(resumed, caplog):
    for path in resumed.path.rglob("*.maker"):
        path.unlink()
    assert resumed.run("-m", "viz", "-r", resumed.path.name) == 1, "two models have no result"
    assert "cannot be compared with this config and are shown as they are" in caplog.text
    assert resumed.run("-r", resumed.path.name) == 0
    assert "2 for no record of what made them" in caplog.text
    assert resumed.answers("finished") == resumed.answers("fresh")


def test_a_run_of_another_machine_is_shown_here(resumed):
    maker = resumed.path / "predictions/finished/set.maker"
    recorded = json.loads(maker.read_text())
    maker.write_text(json.dumps({**recorded, "dtype": "bfloat16"}))
    result = resumed.path / "results/finished/set.maker"
    answers = hash_values([json.loads(maker.read_text())])
    result.write_text(json.dumps({**json.loads(result.read_text()), "answers": answers}))
    resumed.rest["abbrs"] = ("finished",)
    del resumed.model["dtype"]
    resumed.checkpoint.rename(resumed.folder / "not-here")
    assert resumed.run("-m", "viz", "-r", resumed.path.name) == 0


@pytest.mark.parametrize("mode", ["viz", "eval"])
def test_where_nothing_can_be_made_another_makers_answers_are_refused(resumed, checkpoints, mode):
    steps(resumed, checkpoints)
    said = resumed.run("-m", mode, "-r", resumed.path.name)
    assert "2 of 2 cells" in str(said)
    assert "sampler.num_steps" in str(said)
    assert not (resumed.path / "superseded").exists()


def test_another_way_of_scoring_keeps_the_answers_and_scores_again(resumed):
    answers = resumed.path / "predictions/finished/set.json"
    before = answers.stat().st_mtime_ns
    resumed.rest["abbrs"] = ("finished",)
    resumed.rest["evaluator"] = dict(
        pred_postprocessor=dict(type="opencompass.utils.text_postprocessors.general_postprocess")
    )
    assert resumed.run("-m", "eval", "-r", resumed.path.name) == 0
    assert answers.stat().st_mtime_ns == before
    (old,) = (resumed.path / "superseded").iterdir()
    assert (old / "results/finished/set.json").is_file()
    assert not (old / "predictions").exists()


def test_r_alone_takes_the_newest_run_of_the_same_cells(resumed):
    for name, abbr in (("20990101_000000", "other"), ("20990102_000000", "another")):
        folder = resumed.work_dir / name / "configs"
        folder.mkdir(parents=True)
        folder.joinpath("a.py").write_text(
            f"models=[dict(abbr='{abbr}')]\ndatasets=[dict(abbr='set')]\n"
        )
    resumed.work_dir.joinpath("zzz").mkdir()
    resumed.rest["abbrs"] = ("finished",)
    assert resumed.run("-r") == 0
    assert not list(resumed.work_dir.glob("2099*/predictions"))
    resumed.rest["abbrs"] = ("finished", "more")
    said = str(resumed.run("-r"))
    assert "no run in" in said
    assert "(1 of this config's 2 cells)" in said
    assert "20990102_000000" in said


@pytest.mark.parametrize("field", ["model", "set"])
@pytest.mark.parametrize("name", ["../../x", "/x", "a/b", "..", "", "x" * 300, "a\x00b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(field, name):
    abbrs = {"model": "m", "set": "d", field: name}
    cfg = {"models": [{"type": "t", "abbr": abbrs["model"], "path": "p"}],
           "datasets": [{"type": "t", "abbr": abbrs["set"]}]}  # fmt: skip
    with pytest.raises(
        ValueError, match="names files in the run's folder|must name the results' files"
    ):
        check_form(cfg, "viz")


@pytest.mark.parametrize("now", [1, 3, 4])
def test_another_number_of_splits_asks_each_sample_once(job, now):
    job.rest["partitioner"] = SPLIT.format(2)
    assert job.run() == 0
    folder = job.path / "predictions/model"
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "set_0-2of4.json", "set_2-4of4.json"]  # fmt: skip
    golds = {row["gold"][0] for path in folder.glob("*.json") for row in read(path).values()}
    assert golds == {"0", "1", "2", "3"}
    (folder / "set_0-2of4.json").rename(job.folder / "kept.json")
    stop_half_way(folder / "set_2-4of4.json", kept=1)
    job.rest["partitioner"] = SPLIT.format(now)
    assert job.run("-r") == 0
    rows = [row for file in find_finished(folder, "set") for row in read(file.path).values()]
    assert [row["gold"] for row in rows] == [row["answer"] for row in ROWS]
    assert read(job.path / "results/model/set.json")["score"] == 0.0
    assert not (job.folder / ".cache").exists(), "sizes of data sets are counted, not remembered"


def read(path):
    return json.loads(path.read_text())


def test_shards_that_are_named_by_number_are_not_mixed_with_others(job, caplog):
    job.rest["partitioner"] = SPLIT.format(2)
    assert job.run() == 0
    folder = job.path / "predictions/model"
    for number, name in enumerate(("set_0-2of4", "set_2-4of4")):
        for suffix in (".json", ".maker"):
            (folder / f"{name}{suffix}").rename(folder / f"set_{number}{suffix}")
    assert job.run("-m", "eval", "-r") == 0, "they are whole, and each is scored for its samples"
    shutil.copy(folder / "set_0.json", folder / "set_1.json")
    shutil.copy(folder / "set_0.maker", folder / "set_1.maker")
    shutil.rmtree(job.path / "results")
    assert job.run("-m", "eval", "-r") == 1
    assert "model on set has no score" in caplog.text
    assert "set_1.json answers other samples" in caplog.text
    for path in folder.glob("*.maker"):
        path.unlink()
    caplog.clear()
    assert job.run("-m", "eval", "-r") == 1
    assert "was stored with the reference" in caplog.text
    assert job.run("-r") == 0
    assert "shards named by number alone" in caplog.text
    assert [file.path.name for file in find_finished(folder, "set")] == [
        "set_0-2of4.json", "set_2-4of4.json"]  # fmt: skip


def test_a_reference_is_compared_as_it_is_stored(tmp_path):
    file = tmp_path / "predictions/model/set.json"
    file.parent.mkdir(parents=True)
    golds = [float("nan"), {"b": 1, "a": (2,)}]
    rows = {str(i): {"prediction": "x", "gold": gold} for i, gold in enumerate(golds)}
    file.write_text(json.dumps(rows))
    samples = [{"answer": gold} for gold in golds]
    files = find_finished(file.parent, "set")
    assert len(read_cell_answers(file.parent, files, samples, "answer")) == 2
    with pytest.raises(ValueError, match="sample 0 .* was stored with the reference"):
        read_cell_answers(file.parent, files, samples[::-1], "answer")


def test_a_data_set_named_like_a_numbered_shard_is_none(job, caplog):
    """`set_0` beside `set`: its answers were set aside at every -r, and a shard was passed over."""
    job.rest["sets"] = ("set", "set_0")
    assert job.run() == 0
    folder = job.path / "predictions/model"
    other = (folder / "set_0.json").stat().st_ino
    (folder / "set.json").unlink()
    shutil.rmtree(job.path / "results")
    job.rest["partitioner"] = SPLIT.format(2)
    assert job.run("-r") == 0, caplog.text
    names = ["set_0-2of4.json", "set_0.json", "set_2-4of4.json"]
    assert sorted(path.name for path in folder.glob("*.json")) == names
    assert (folder / "set_0.json").stat().st_ino == other
    assert not (job.path / "superseded").exists()
    rows = {row.dataset: row for row in collect([job.path]).rows}
    assert {name: row.status for name, row in rows.items()} == {"set": "ok", "set_0": "ok"}
    stop_half_way(folder / "set_0.json")
    assert collect([job.path]).rows[0].status == "ok", "what set_0 lacks, set does not"


def test_a_record_of_superseded_answers_is_taken_back(resumed):
    assert read_provenance(resumed.path).datasets["finished", "set"]["num_samples"] == 4
    set_aside(resumed.path, [resumed.path / "predictions/finished/set.json"])
    assert read_provenance(resumed.path).datasets == {}


def test_other_cells_of_a_name_do_not_pass_to_its_new_model(resumed, checkpoints):
    folder = resumed.path
    for kind in ("predictions", "results"):
        for suffix in (".json", ".maker"):
            shutil.copy(
                folder / kind / f"finished/set{suffix}", folder / kind / f"finished/old{suffix}"
            )
    resumed.rest["abbrs"] = ("finished",)
    steps(resumed, checkpoints)
    # Steps that fit the length of this data set alone are no fault of the others.
    del resumed.model["max_out_len"]
    resumed.rest["options"] = {"max_out_len": 8}
    assert resumed.run("-r", folder.name) == 0
    assert (folder / "results/finished/old.json").is_file(), "the same model, described by its own"
    other_weights(resumed, checkpoints)
    assert resumed.run("-r", folder.name) == 0
    assert not (folder / "results/finished/old.json").exists()
    assert not list((folder / "predictions/finished").glob("old*"))
    assert len(list(folder.glob("superseded/*/predictions/finished/old.json"))) == 1


MODEL = {"type": "opencompass_llada.wrapper.LLaDACausalLM", "abbr": "m", "dtype": "float32",
         "sampler": {"block_length": 4, "num_steps": 4}, "max_out_len": 8}  # fmt: skip
TEXTS = {"abbr": "d", "infer_cfg": {"retriever": {"type": "ZeroRetriever"}, "inferencer": {
    "type": "opencompass_llada.benchmarks.perplexity.inferencer.PerplexityInferencer",
    "window": {"context_length": 32, "target": "whole"},
    "likelihood": {"num_draws": 8, "seed": 0}}}}  # fmt: skip


def maker_of(model, dataset, checkpoint, data=None):
    model = {"path": str(checkpoint), **model}
    files = hash_files(model, fetch=False)
    return describe_maker(
        model,
        dataset,
        files=files,
        data=data or {},
        dtype="float32",
        options=read_options(model, fetch=False),
    )


def with_inferencer(dataset, **options):
    changed = copy.deepcopy(dataset)
    changed["infer_cfg"]["inferencer"].update(options)
    return changed


def test_an_option_that_earlier_versions_did_not_record_is_at_its_default():
    recorded = {"sampler": {"num_steps": 4}}
    now = {"sampler": {"num_steps": 4, "variable_length": False, "sub_block_length": None}}
    assert list_differences(recorded, now) == []
    assert list_differences(recorded, {"sampler": {**now["sampler"], "variable_length": True}}) == [
        "sampler.variable_length"
    ]
    assert list_differences({"sampler": {"variable_length": True}}, now) == [
        "sampler.num_steps",
        "sampler.variable_length",
    ]


def test_what_scores_texts_goes_by_likelihood_options_and_not_by_the_sampler(checkpoints):
    first = maker_of(MODEL, TEXTS, checkpoints[0])
    same = [
        {**MODEL, "sampler": {"block_length": 4, "num_steps": 2}},
        {**MODEL, "max_out_len": 4},
        {**MODEL, "batch_size": 7, "run_cfg": {"num_gpus": 2}, "abbr": "other", "device": "cpu"},
    ]
    for model in same:
        assert list_differences(first, maker_of(model, TEXTS, checkpoints[0])) == []
    changes = {
        "likelihood.num_draws": (MODEL | {"likelihood": {"num_draws": 8}}, TEXTS),
        "inference.window": (MODEL, with_inferencer(TEXTS, window={"context_length": 16})),
        "inference.likelihood": (MODEL, with_inferencer(TEXTS, likelihood={"num_draws": 4})),
        "options.length_limit": (MODEL | {"max_seq_len": 32}, TEXTS),
        "scaling": (
            MODEL | {"rope_scaling": {"type": "diffusion_ntk", "target_length": 256}},
            TEXTS,
        ),
    }
    for field, (model, dataset) in changes.items():
        found = list_differences(first, maker_of(model, dataset, checkpoints[0]))
        assert found, field
        assert all(name.startswith(field) for name in found), (field, found)
    other = maker_of(MODEL, TEXTS, checkpoints[1], data={"samples": "x"})
    assert list_differences(first, other) == ["checkpoint", "samples"]
    assert list_differences(other, first) == ["checkpoint"], "what is not known is not compared"
    assert list_differences(None, first) == ["no record of what made them"]
    assert list_differences({**first, "versions": {}}, first) == [
        f"versions.{name}" for name in ("opencompass_llada", "torch", "transformers")]  # fmt: skip


def test_an_adapter_counts_by_its_content(checkpoints, tmp_path):
    model = {"type": "other.Model", "path": str(checkpoints[0]), "peft_path": str(tmp_path)}
    first = hash_files({"path": str(checkpoints[0])}, fetch=False)
    assert first["adapter"] == ("", "")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1" * 64)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 8}')
    hashes = [hash_files(model, fetch=False)]
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    hashes.append(hash_files(model, fetch=False))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"2" * 64)
    hashes.append(hash_files(model, fetch=False))
    assert len({found["adapter"] for found in hashes} | {("", "")}) == 4
    assert {found["checkpoint"] for found in hashes} == {first["checkpoint"]}


def test_another_wrappers_options_count_and_no_secret_is_written(checkpoints):
    model = {"type": "other.Model", "path": "gone", "generation_kwargs": {"temperature": 0.5},
             "key": "sk-secret", "batch_size": 4, "max_out_len": 16}  # fmt: skip
    dataset = {"infer_cfg": {"inferencer": {"type": "GenInferencer"}}}
    first = describe_maker(model, dataset, files={}, data={}, dtype=None, options=None)
    assert "sk-secret" not in str(first)
    for field, value in {"generation_kwargs": {}, "key": "x", "max_out_len": 8}.items():
        other = describe_maker({**model, field: value}, dataset, files={}, data={}, dtype=None,
                               options=None)  # fmt: skip
        name = "generation_length" if field == "max_out_len" else f"options.{field}"
        assert list_differences(first, other) == [name]


def test_no_weights_are_fetched_for_a_tokenizer(tmp_path, monkeypatch):
    """The chat template is fetched with the rest: its hash must not depend on who asked first."""
    asked = {}

    def fetch(name, allow_patterns=None, **_):
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    hash_files({**MODEL, "path": "maker/model", "tokenizer_path": "maker/tokenizer"}, fetch=True)
    assert "*.safetensors" in asked["maker/model"]
    assert "*.safetensors" not in asked["maker/tokenizer"]
    assert all("*.jinja" in patterns for patterns in asked.values())


def test_nothing_is_fetched_for_another_wrappers_model(tmp_path, monkeypatch):
    """A service's model may be named as on the hub; the working folder is nobody's checkpoint."""
    import huggingface_hub

    def fetch(name, local_files_only=False, **_):
        assert local_files_only, f"{name} would be downloaded"
        raise FileNotFoundError(name)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    (tmp_path / "own.py").write_text("x = 1")
    monkeypatch.chdir(tmp_path)
    for path in ({"path": "large/Model"}, {"path": ""}, {}):
        model = {"type": "opencompass.models.OpenAISDK", "abbr": "a", **path}
        files = hash_files(model, fetch=True)
        assert set(files.values()) <= {("", "")}
        described = record_model(tmp_path / "run", None, model, files)
        assert described["checkpoint_hash"] is described["tokenizer_hash"] is None
