"""A config of the papers' own form, its imports of the model changed, run through OpenCompass.

LongLLaDA's and UltraLLaDA's evaluation configs list models as tuples and take family and path from
the abbreviation. The configs here have that form, with tiny checkpoints; what is expected follows
from the papers' wrapper, minus its faults.
"""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from opencompass.partitioners import NaivePartitioner
from opencompass.tasks import OpenICLInferTask
from tiny import tiny_tokenizer, write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_dream import write_tiny_dream

from opencompass_llada.devices import choose_dtype
from opencompass_llada.engines import AutoregressiveEngine, MaskedDiffusionEngine
from opencompass_llada.wrapper import LLaDACausalLM

SEED_CONFIG = """
from mmengine.config import read_base
from opencompass.runners import LocalRunner
from opencompass.partitioners import NaivePartitioner
from opencompass.tasks import OpenICLInferTask, OpenICLEvalTask
from opencompass_llada.wrapper import LLaDACausalLM

with read_base():
    from .data import lengths_datasets

datasets = []
datasets += lengths_datasets

num_gpus = {{
    'llama_3_8b_base': 0, 'llada_8b_base': 0, 'ultra_llada': 0, 'dream_v0_7b_base': 0,
}}

path_dict = {{
    'llama_3_8b_base': '{llama}',
    'llada_8b_base': '{llada}',
    'ultra_llada': '{llada}',
    'dream_v0_7b_base': '{dream}',
}}

models = [
    ('llama_3_8b_base-o512', {{}}, {{}}, 100, 512),
    ('llama_3_8b_base-o512-ntk4', {{'scaling_factor': 4}}, {{}}, 100, 512),
    ('llada_8b_base-o512_b64_s512', {{}}, {{'steps': 512, 'block_length': 64, }}, 100, 512),
    ('llada_8b_base-o512_b64_s512-ntk4', {{'scaling_factor': 4}},
     {{'steps': 512, 'block_length': 64, }}, 100, 512),
    ('ultra_llada-o32_b32_s16', {{'scaling_factor': 1}},
     {{'steps': 16, 'block_length': 32, }}, 100, 32),
    ('dream_v0_7b_base-o512_s512-ntk5', {{'scaling_factor': 5}}, {{'steps': 512, }}, 100, 512),
]

models = [
    dict(
        type=LLaDACausalLM, abbr=abbr, path=path_dict[abbr.split('-')[0]], drop_middle=True,
        scaling_config=scaling_config, diffusion_config=diffusion_config, seed=2025,
        model_type=abbr.split('_')[0], model_kwargs={{'flash_attention': True}},
        max_out_len=max_out_len, batch_size=1, max_seq_len=max_seq_len,
        run_cfg=dict(num_gpus=num_gpus[abbr.split('-')[0]],
                     num_procs=num_gpus[abbr.split('-')[0]]),
    ) for abbr, scaling_config, diffusion_config, max_seq_len, max_out_len in models
]

work_dir = '{work_dir}'

infer = dict(
    partitioner=dict(type=NaivePartitioner),
    runner=dict(type=LocalRunner, task=dict(type=OpenICLInferTask)),
)
eval = dict(
    partitioner=dict(type=NaivePartitioner),
    runner=dict(type=LocalRunner, max_num_workers=32,
                task=dict(type=OpenICLEvalTask, dump_details=True)),
)
"""
DATA_CONFIG = """
from opencompass.datasets import JsonlDataset
from opencompass.openicl.icl_evaluator import AccEvaluator
from opencompass.openicl.icl_inferencer import GenInferencer
from opencompass.openicl.icl_prompt_template import PromptTemplate
from opencompass.openicl.icl_retriever import ZeroRetriever

lengths_datasets = [
    dict(
        abbr=f'{{position}}_of_{{length}}', type=JsonlDataset, path='{data}',
        reader_cfg=dict(input_columns=['prompt'], output_column='answer'),
        infer_cfg=dict(
            prompt_template=dict(type=PromptTemplate, template='{{prompt}}'),
            retriever=dict(type=ZeroRetriever),
            inferencer=dict(type=GenInferencer, max_out_len=length),
        ),
        eval_cfg=dict(evaluator=dict(type=AccEvaluator)),
    ) for position, length in enumerate((512, 32, 512))
]
"""
PROMPT = (
    "A" * 100 + "B" * 100 + "C" * 100
)  # 300 tokens of the tiny tokenizers, whose tokens are bytes


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return {
        "llada": str(write_tiny_checkpoint(folder / "llada", max_sequence_length=700)),
        "llama": str(write_llama_checkpoint(folder / "llama", max_position_embeddings=700)),
        "dream": str(write_tiny_dream(folder / "dream")),
    }


@pytest.fixture(scope="module")
def cfg(tmp_path_factory, checkpoints):
    """The papers' config, as a task of OpenCompass sees it: parsed, dumped and read again."""
    folder = tmp_path_factory.mktemp("seed")
    data = folder / "data.jsonl"
    data.write_text(json.dumps({"prompt": PROMPT, "answer": "x"}) + "\n")
    (folder / "data.py").write_text(DATA_CONFIG.format(data=data))
    text = SEED_CONFIG.format(work_dir=folder / "outputs", **checkpoints)
    (folder / "eval_llada.py").write_text(text)
    first = Config.fromfile(str(folder / "eval_llada.py"), format_python_code=False)
    first.dump(str(folder / "dumped.py"))
    return Config.fromfile(str(folder / "dumped.py"), format_python_code=False)


@pytest.fixture(scope="module")
def calls(cfg):
    """Run every model on every data set; what each engine was given and what it took, by model."""
    patch = pytest.MonkeyPatch()
    seen = {}
    for kind in (MaskedDiffusionEngine, AutoregressiveEngine):
        patch.setattr(kind, "generate", watched(kind.generate, seen))
    tasks = NaivePartitioner(n=3, out_dir=f"{cfg['work_dir']}/predictions")(cfg)
    assert len(tasks) == len(cfg["models"]) == 6
    for task in tasks:
        seen["now"] = task["models"][0]["abbr"]
        OpenICLInferTask(task).run()
    patch.undo()
    seen.pop("now")
    return seen


def watched(generate, seen):
    """Return an engine's generate that notes its calls under the model that runs now."""

    def generate_and_note(engine, prompts, *, max_new_tokens, **options):
        generations = generate(engine, prompts, max_new_tokens=max_new_tokens, **options)
        note = {
            "engine": engine,
            "prompt": tiny_tokenizer().decode(prompts[0]),
            "length": max_new_tokens,
            "passes": generations[0].num_forward_passes,
        }
        seen.setdefault(seen["now"], []).append(note)
        return generations

    return generate_and_note


def test_steps_are_capped_for_a_call_and_not_for_ever(calls):
    """The papers' wrapper takes 512, 64 and 64 steps here."""
    for abbr in ("llada_8b_base-o512_b64_s512", "llada_8b_base-o512_b64_s512-ntk4"):
        assert [call["length"] for call in calls[abbr]] == [512, 32, 512]
        assert [call["passes"] for call in calls[abbr]] == [512, 64, 512]
    assert [call["passes"] for call in calls["ultra_llada-o32_b32_s16"]] == [16, 16, 16]


def test_a_prompt_that_is_too_long_is_cut_in_the_middle(calls):
    for notes in calls.values():
        assert {call["prompt"] for call in notes} == {"A" * 50 + "C" * 50}


def test_scaling_factor_multiplies_the_base(calls):
    def base(abbr):
        engine = calls[abbr][0]["engine"]
        if isinstance(engine, AutoregressiveEngine):
            return float(1 / engine.model.model.rotary_emb.inv_freq[1] ** (8 / 2))
        return engine.model.resolved_rope.rope_theta

    assert base("llada_8b_base-o512_b64_s512") == 10000.0
    assert base("llada_8b_base-o512_b64_s512-ntk4") == 40000.0
    assert base("ultra_llada-o32_b32_s16") == 10000.0
    assert base("llama_3_8b_base-o512") == pytest.approx(10000.0)
    assert base("llama_3_8b_base-o512-ntk4") == pytest.approx(40000.0)
    assert base("dream_v0_7b_base-o512_s512-ntk5") == 5000000.0


def test_dream_takes_the_defaults_of_the_papers_wrapper(calls, checkpoints):
    """32 steps, entropy rule, temperature 0.2, top-p 0.95, no blocks; steps capped a call."""
    notes = calls["dream_v0_7b_base-o512_s512-ntk5"]
    assert [note["passes"] for note in notes] == [512, 32, 512]
    model = LLaDACausalLM(checkpoints["dream"], model_type="dream", diffusion_config={})
    config = model.engine.settings.for_length(64)
    assert (config.num_steps, config.remasking, config.block_length) == (32, "entropy", None)
    assert (config.temperature, config.top_p) == (0.2, 0.95)
    model = LLaDACausalLM(checkpoints["dream"], diffusion_config={"alg": "origin", "top_p": 0.9})
    config = model.engine.settings.for_length(64)
    assert (config.remasking, config.top_p) == ("origin", 0.9)


def test_every_model_answered_every_data_set(cfg, calls):
    for model in cfg["models"]:
        for dataset in cfg["datasets"]:
            file = Path(cfg["work_dir"], "predictions", model["abbr"], f"{dataset['abbr']}.json")
            answers = json.loads(file.read_text())
            assert isinstance(answers["0"]["prediction"], str)


def test_precision_is_bfloat16_on_a_gpu_and_what_is_asked_for(checkpoints):
    assert choose_dtype(None, torch.device("cuda")) == torch.bfloat16
    for name in ("torch.float16", "torch.bfloat16"):
        model = LLaDACausalLM(
            checkpoints["llada"],
            diffusion_config={"steps": 8, "block_length": 8},
            model_kwargs={"flash_attention": True, "torch_dtype": name},
        )
        assert {str(p.dtype) for p in model.engine.model.parameters()} == {name}


@pytest.mark.parametrize(
    ("abbr", "checkpoint"),
    [
        ("llada_8b_base-o32_b32_s32", "llada"),
        ("llada_1_5_8b-o32_b32_s32", "llada"),
        ("ultra_llada-o32_b32_s16", "llada"),
        ("llama_3_8b_base-o32", "llama"),
        ("dream_v0_7b_chat-o32_s32", "dream"),
    ],
)
def test_every_model_type_that_the_papers_make_of_an_abbreviation_works(
    abbr, checkpoint, checkpoints
):
    model = LLaDACausalLM(
        checkpoints[checkpoint], model_type=abbr.split("_")[0], diffusion_config={}, seed=2025
    )
    assert isinstance(model.generate(["Hi"], max_out_len=4)[0], str)


@pytest.mark.parametrize(
    ("model_type", "checkpoint"),
    [
        ("llama", "llada"),
        ("dream", "llada"),
        ("llada", "llama"),
        ("ultra", "llama"),
        ("llada", "dream"),
        ("llama", "dream"),
    ],
)
def test_a_model_type_against_config_json_is_an_error(model_type, checkpoint, checkpoints):
    with pytest.raises(ValueError, match="but config.json of"):
        LLaDACausalLM(checkpoints[checkpoint], model_type=model_type, diffusion_config={})


def test_diffusion_options_for_an_autoregressive_model_are_an_error(checkpoints):
    """The papers' code ignore them, so that a wrong path would go unnoticed."""
    with pytest.raises(ValueError, match="num_steps"):
        LLaDACausalLM(checkpoints["llama"], diffusion_config={"steps": 32})


def test_the_lines_that_needle_configs_change_are_those_of_the_docs(tmp_path):
    page = (Path(__file__).resolve().parents[1] / "docs/reference/paper_configs.md").read_text()
    lines = page.split("```python\n")[1].split("```")[0]
    assert "read_base" in lines
    file = tmp_path / "needles.py"
    file.write_text("from mmengine.config import read_base\n" + lines)
    cfg = Config.fromfile(str(file), format_python_code=False)
    assert len(cfg["datasets"]) == 66
    assert cfg["summarizer"]["type"].__name__ == "NeedleSummarizer"
