"""Every family's published format, loaded and run through OpenCompass; and what is refused.

A family more is one more entry of `FAMILIES`. That logits equal an independent implementation is
asserted beside each network (test_modeling, test_dream, test_autoregressive).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import write_tiny_checkpoint
from tiny_causal import write_llama_checkpoint
from tiny_choices import ROWS, choices, model_config, questions, run
from tiny_dream import write_tiny_dream
from tiny_experts import write_tiny_llada2, write_tiny_llada_moe
from tiny_fast_dllm import write_tiny_fast_dllm
from tiny_illada import write_tiny_illada
from tiny_sdar import write_tiny_sdar

from opencompass_llada.benchmarks.short.inferencer import OptionScoringInferencer
from opencompass_llada.likelihood import LikelihoodOptions
from opencompass_llada.networks import CheckpointError
from opencompass_llada.wrapper import LLaDACausalLM

PROMPTS = [[72, 101], [15, 16, 17, 18, 19, 20, 21], [200], [72, 101, 102]]
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


@dataclass(frozen=True)
class Published:
    """How a family's tiny checkpoint is written, and what goes with it."""

    write: Callable[..., Path]
    width: str
    """Field of config.json that holds the network's width."""
    masks: bool = True
    """Whether it denoises masks."""
    names_mask: bool = True
    """Whether config.json has to name the mask."""
    adapted: str = "q_proj"
    """A module for an adapter."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords of the wrapper."""


FAMILIES = {
    "llada": Published(
        write_tiny_checkpoint, "d_model", options={"sampler": {"block_length": 4, "num_steps": 4}}
    ),
    "dream": Published(write_tiny_dream, "hidden_size"),
    "illada": Published(
        write_tiny_illada, "d_model", options={"sampler": {"block_length": 4, "num_steps": 4}}
    ),
    "sdar": Published(write_tiny_sdar, "hidden_size"),
    "fast_dllm": Published(write_tiny_fast_dllm, "hidden_size", names_mask=False),
    "llada2": Published(
        write_tiny_llada2, "hidden_size", names_mask=False, adapted="query_key_value"
    ),
    "llada_moe": Published(
        write_tiny_llada_moe,
        "hidden_size",
        names_mask=False,
        options={"sampler": {"block_length": 4, "num_steps": 4}},
    ),
    "llama": Published(write_llama_checkpoint, "hidden_size", masks=False, names_mask=False),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    return {name: family.write(folder / name) for name, family in FAMILIES.items()}


each_family = pytest.mark.parametrize("name", FAMILIES)


def load(name, path, **options):
    return LLaDACausalLM(str(path), dtype="float32", **{**FAMILIES[name].options, **options})


@pytest.fixture(scope="module")
def work_dir(paths, tmp_path_factory):
    """One run of OpenCompass over all families, base and chat, generating and scoring."""
    models = []
    for name, path in paths.items():
        options = {**FAMILIES[name].options, "likelihood": {"num_draws": 4}, "dtype": "float32"}
        template = path.parent / "template.jinja"
        template.write_text(TEMPLATE)
        for kind, chat in (("base", None), ("chat", {"template": str(template)})):
            models.append({**model_config(path, **options, chat=chat), "abbr": f"{name}-{kind}"})
    folder = tmp_path_factory.mktemp("run")
    run(folder, models, [questions(), choices(OptionScoringInferencer)])
    return folder


@each_family
@pytest.mark.parametrize("kind", ["base", "chat"])
def test_it_runs_through_opencompass(work_dir, paths, name, kind):
    def read(stage, data):
        return json.loads((work_dir / stage / f"{name}-{kind}/{data}.json").read_text())

    answers, options = read("predictions", "questions"), read("predictions", "choices")
    assert len(answers) == len(options) == len(ROWS)
    prompt = "Q: sky" if kind == "base" else "[user] Q: sky\n[assistant] "
    assert answers["0"]["origin_prompt"] == prompt
    model = load(name, paths[name])
    assert answers["0"]["prediction"] == model.generate([prompt], max_out_len=8)[0]
    start = "Q: sky\nA: is blue" if kind == "base" else "[user] Q: sky\n[assistant] A: is blue"
    assert options["0"]["label: A"]["prompt"] == start
    hits = sum(options[str(i)]["prediction"] == row["answer"] for i, row in enumerate(ROWS))
    assert read("results", "choices")["accuracy"] == pytest.approx(100 * hits / len(ROWS))


@each_family
def test_a_ragged_batch_gives_the_ids_of_one_at_a_time(paths, name):
    def ids(prompts):
        engine = load(name, paths[name]).engine
        return [g.token_ids for g in engine.generate(prompts, max_new_tokens=8)]

    together = ids(PROMPTS)
    assert together == [ids([prompt])[0] for prompt in PROMPTS]
    assert len({tuple(row) for row in together}) == len(PROMPTS), "prompts must matter"


@each_family
def test_the_next_token_is_scored_as_the_network_says(paths, name):
    engine, prefix, candidates = load(name, paths[name]).engine, [72, 101, 108], [65, 66, 67]
    mask = [engine.special_tokens.mask_token_id] if FAMILIES[name].masks else []
    logits = engine.model(torch.tensor([prefix + mask])).logits[0, -1].double().log_softmax(-1)
    expected = [-logits[token].item() for token in candidates]
    scored = [estimate.nll for estimate in engine.scorer.score_next(prefix, candidates)]
    assert scored == pytest.approx(expected, rel=1e-5)
    options = LikelihoodOptions(num_draws=4)
    alone = [engine.scorer.score(prefix, [token], options).nll for token in candidates]
    assert alone == pytest.approx(expected, rel=1e-5)


def edited(path, folder, **fields):
    """Copy a checkpoint with other fields in its config.json; None takes one out."""
    folder.mkdir()
    for file in path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = {**json.loads((path / "config.json").read_text()), **fields}
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@each_family
def test_an_unknown_family_is_refused(paths, tmp_path, name):
    other = edited(paths[name], tmp_path / "other", model_type="sedd", architectures=["SEDD"])
    with pytest.raises(ValueError, match=r"model_type='sedd'.*no family that is supported: llada"):
        load(name, other)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.names_mask])
def test_a_config_without_mask_is_refused(paths, tmp_path, name):
    other = edited(paths[name], tmp_path / "other", mask_token_id=None)
    with pytest.raises(ValueError, match=r"config\.json has no mask_token_id.*Add"):
        load(name, other)


@each_family
def test_a_lora_for_another_shape_is_refused(paths, tmp_path, name):
    family = FAMILIES[name]
    wide = load(name, family.write(tmp_path / "wide", **{family.width: 64})).engine.model
    get_peft_model(wide, LoraConfig(target_modules=[family.adapted])).save_pretrained(
        tmp_path / "lora"
    )
    with pytest.raises(CheckpointError, match=r"wrongly shaped: .*lora_A.*another shape"):
        load(name, paths[name], peft_path=str(tmp_path / "lora"))


@each_family
def test_a_missing_chat_template_is_refused(paths, name):
    with pytest.raises(ValueError, match=r"no chat template\. Leave chat out for a base model"):
        load(name, paths[name], chat=True)
