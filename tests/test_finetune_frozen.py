"""Frozen weights in float8 under adapters: products, gradients, what is written, and what fits."""

from __future__ import annotations

import collections
import dataclasses
import functools
import gc
import itertools
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from finetune_runs import LONGER, RECIPE, first_batches, small_recipe, small_trainer
from functorch.compile import make_boxed_func
from safetensors.torch import load_file
from tiny import tiny_config, write_tiny_checkpoint
from tiny_sdar import write_tiny_sdar

from opencompass_llada.finetune import network, resources
from opencompass_llada.finetune.frozen import FrozenLinear, frozen_layers, input_gradient
from opencompass_llada.finetune.recipe import Lora
from opencompass_llada.inference import float8
from opencompass_llada.inference.kv_cache import dequantise, quantise
from opencompass_llada.networks import LLaDAConfig

pytest.importorskip("peft")

FLOAT8 = {"rank": 4, "alpha": 8, "frozen_precision": "float8"}
RATES = {"learning_rate": 0.05, "warmup_steps": 0, "evaluation": {"retrieval_rows": 0}}
KEPT = {"activation_checkpointing": True, "keep_attention": True, "keep_projections": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("base"), max_sequence_length=128)


def trainer_in(folder, base, **changes):
    return small_trainer(
        folder, LONGER, **{**RATES, "lora": FLOAT8, "init_from": str(base), **changes}
    )


def layer_of(weight_NK, bias=False):
    linear = torch.nn.Linear(*weight_NK.shape[::-1], bias=bias)
    linear.weight.data = weight_NK
    return FrozenLinear(linear.requires_grad_(False))


@pytest.mark.parametrize("bias", [False, True])
def test_a_product_and_its_gradient_are_those_of_the_quantised_numbers(bias):
    torch.manual_seed(0)
    weight_NK, x_TK = torch.randn(96, 64), torch.randn(2, 7, 64).requires_grad_(True)
    layer = layer_of(weight_NK, bias)
    out = layer(x_TK)
    seen_NK = dequantise(layer.weight, layer.scales, torch.float32)
    seen_TK = dequantise(*quantise(x_TK.detach()), torch.float32)
    expected = torch.nn.functional.linear(seen_TK, seen_NK, layer.bias)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    gradient_TN = torch.randn(2, 7, 96)
    out.backward(gradient_TN)
    scaled = dequantise(*quantise(gradient_TN * layer.scales), torch.float32)
    assert x_TK.grad is not None
    torch.testing.assert_close(x_TK.grad, scaled @ layer.weight.float(), rtol=1e-4, atol=1e-4)
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_the_gradient_of_the_inputs_is_near_the_exact_one_whatever_the_channels_sizes():
    """Scaled after the sum, or not before it is rounded, it would be off by all of its norm."""
    torch.manual_seed(0)
    weight_NK = torch.randn(96, 64) * torch.logspace(-2, 2, 96)[:, None]
    gradient_TN = torch.randn(50, 96)
    layer = layer_of(weight_NK)
    exact_TK = gradient_TN @ weight_NK
    found_TK = input_gradient(gradient_TN, layer.weight, layer.scales, torch.float32)
    assert (found_TK - exact_TK).norm() / exact_TK.norm() < 0.05
    assert (found_TK - exact_TK).norm() > 0


def test_all_linear_layers_are_quantised_and_adapters_learn_through_them(tmp_path, base):
    losses = {}
    for precision in (None, "float8"):
        lora = {**FLOAT8, "frozen_precision": precision, "target_modules": ["q_proj", "ff_out"]}
        trainer = trainer_in(tmp_path / str(precision), base, lora=lora)
        layers = frozen_layers(trainer.model)
        losses[precision] = trainer.network(first_batches(trainer)[0])
        losses[precision].backward()
    stored = load_file(base / "model.safetensors")
    assert layers.keys() == {n for n in stored if "blocks" in n and "norm" not in n}
    for name, layer in layers.items():
        value_NK = dequantise(layer.weight, layer.scales, torch.float32)
        torch.testing.assert_close(value_NK, stored[name].float(), rtol=1 / 16, atol=1e-3)
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert {n for n, p in trained.items() if "lora_B" in n and p.grad.abs().max() > 0} == {
        n for n in trained if "lora_B" in n
    }
    assert losses["float8"].item() != losses[None].item()
    assert losses["float8"].item() == pytest.approx(losses[None].item(), rel=0.01)


def test_block_diffusion_trains_adapters_over_float8_and_refuses_what_keeps_more(tmp_path):
    base = write_tiny_sdar(tmp_path / "base", max_position_embeddings=128)
    blocks = {"objective": "block_diffusion", "block_length": 4}
    blocks["phases"] = [{"sequence_length": 128, "num_steps": 2, "rows_per_step": 2}]
    losses, finals = {}, {}
    for precision in (None, "float8"):
        lora = {**FLOAT8, "frozen_precision": precision}
        trainer = trainer_in(tmp_path / str(precision), base, lora=lora, **blocks)
        losses[precision] = trainer.network(first_batches(trainer)[0]).item()
        finals[precision] = trainer.train()
    assert losses["float8"] != losses[None]
    assert losses["float8"] == pytest.approx(losses[None], rel=0.02)
    assert (finals["float8"] / "model.safetensors").is_file()
    checkpointing = {"activation_checkpointing": True}
    for kept in (KEPT, {**KEPT, "keep_mlp": 1}):
        names = ", ".join(f"{n}={v}".lower() for n, v in kept.items() if n not in checkpointing)
        with pytest.raises(ValueError, match=f"block_diffusion' does not work with {names}: .*out"):
            trainer_in(tmp_path / "kept", base, **blocks, **kept)


@pytest.mark.parametrize("save", ["both", "merged"])
def test_adapters_are_merged_into_the_weights_that_the_run_began_with(tmp_path, base, save):
    before = load_file(base / "model.safetensors")
    trainer = trainer_in(tmp_path / "out", base, lora={**FLOAT8, "save": save})
    final = trainer.train()
    after, own = load_file(final / "model.safetensors"), dict(trainer.model.named_parameters())
    assert after.keys() == before.keys()
    for name in frozen_layers(trainer.model):
        stem = name.removesuffix(".weight")
        down, up = (own[f"{stem}.lora_{side}.default.weight"] for side in "AB")
        merged = before[name].float() + 2 * (up @ down).detach()
        torch.testing.assert_close(after[name], merged, rtol=0, atol=1e-6)
        assert (up @ down).abs().max() > 0.01


def test_a_run_goes_on_exactly(tmp_path, base):
    phases = [{"sequence_length": 128, "num_steps": 4, "rows_per_step": 2}]
    trainer_in(tmp_path / "whole", base, phases=phases).train()
    begun = trainer_in(tmp_path / "parts", base, phases=phases)
    for phase, batches in begun._steps():
        begun.take_step(phase, batches)
        if begun.step == 2:
            break
    begun.index.write()
    begun.save({})
    again = trainer_in(tmp_path / "parts", base, phases=phases)
    assert again.step == 2
    final = again.train()
    whole, parts = (load_file(f / "model.safetensors") for f in (tmp_path / "whole/final", final))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    changed = {**FLOAT8, "frozen_precision": None}
    with pytest.raises(ValueError, match="another recipe .lora: "):
        trainer_in(tmp_path / "parts", base, phases=phases, lora=changed)


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="Linux says what is mapped")
@pytest.mark.parametrize(
    ("lora", "is_read_again"),
    [
        (None, False),
        ({"rank": 4}, False),
        ({**FLOAT8, "save": "adapter"}, False),
        (FLOAT8, True),
        ({**FLOAT8, "save": "merged"}, True),
    ],
)
def test_files_of_the_start_are_open_only_where_weights_are_read_again(
    tmp_path, lora, is_read_again
):
    """And then they may be gone from the disk when the run ends."""
    base = write_tiny_checkpoint(tmp_path / "base", max_sequence_length=128)
    trainer = trainer_in(tmp_path / "out", base, lora=lora)
    gc.collect()
    assert (str(base) in Path("/proc/self/maps").read_text()) is is_read_again
    shutil.rmtree(base)
    final = trainer.train()
    written = "adapter/adapter_model.safetensors" if lora and lora.get("save") == "adapter" else ""
    assert (final / (written or "model.safetensors")).is_file()


class Graphs:
    """A backend of torch.compile that counts what the backward graphs compute.

    Gradients of frozen products, other products, and quantisations.
    """

    def __init__(self):
        self.backward = collections.Counter()

    def __call__(self, module, inputs):
        from torch._dynamo.backends.common import aot_autograd
        from torch._functorch.partitioners import min_cut_rematerialization_partition

        return aot_autograd(
            fw_compiler=lambda graph, _: make_boxed_func(graph.forward),
            bw_compiler=self.count,
            partition_fn=min_cut_rematerialization_partition,
        )(module, inputs)

    def count(self, graph, _):
        targets = [str(node.target) for node in graph.graph.nodes]
        gradients = sum("frozen_input_gradient" in target for target in targets)
        products = targets.count("aten.mm.default")
        self.backward[gradients, products, targets.count("aten.amax.default")] += 1
        return make_boxed_func(graph.forward)


@pytest.mark.parametrize("tile", [None, 128])
@pytest.mark.parametrize("kept", [0, 1])
def test_compiled_parts_compute_the_same_and_leave_out_products(
    tmp_path, base, monkeypatch, kept, tile
):
    if kept and tile:
        pytest.skip("refused together")
    graphs = Graphs()
    compiled = functools.partial(torch.compile, backend=graphs)
    monkeypatch.setattr(torch, "compile", compiled)
    found = []
    for changes in ({}, {**KEPT, "keep_mlp": kept, "mlp_tile": tile, "compile": True}):
        torch._dynamo.reset()
        trainer = trainer_in(tmp_path / str(len(changes)), base, **changes)
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.manual_seed(0))
        trainer.network(first_batches(trainer)[0]).backward()
        found.append({n: p.grad for n, p in trainer.model.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        distance = (found[1][name] - gradient).norm() / gradient.norm()
        assert distance < 1e-3, name
    if tile is None:
        # A layer has the gradient of its frozen product backward, and four products of its adapter.
        # Besides, attention's three inputs and a kept MLP need the adapters' inner products again,
        # 3 of them; no frozen product, and so no quantisation, is computed again. An MLP of which
        # nothing is kept is computed again outside these graphs, by one form for all blocks.
        inputs, output, mlp, kept_mlp = (3, 12 + 3, 0), (1, 4, 0), (2, 8, 0), (3, 12 + 3, 0)
        expected = collections.Counter({inputs: 2, output: 2, mlp: 1})
        expected[kept_mlp] += kept
        assert graphs.backward == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_projections": True}, ["keep_projections=true", "keep_attention=false"]),
        ({**KEPT, "offload_checkpoints": True}, ["keep_projections=true", "offload_checkpoints"]),
        ({"keep_mlp": 2}, ["keep_mlp=2", "keep_projections=false"]),
        ({**KEPT, "keep_mlp": 2, "mlp_tile": 64}, ["keep_mlp=2", "mlp_tile=64"]),
        ({"lora": FLOAT8}, ["lora.frozen_precision='float8'", "needs init_from"]),
        ({"lora": {"frozen_precision": "float4"}}, ["frozen_precision='float4'", "float8"]),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=".") as error:
        small_recipe(RECIPE, **changes)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_cards_and_sizes_without_float8_are_refused_before_weights_load(
    tmp_path, base, monkeypatch
):
    odd = write_tiny_checkpoint(tmp_path / "odd", d_model=40, max_sequence_length=128)
    monkeypatch.setattr(network, "open_checkpoint", None)
    with pytest.raises(ValueError, match=r"lora.frozen_precision=float8 .*of 16, got \[40\]"):
        trainer_in(tmp_path / "out", odd)
    monkeypatch.setattr(float8, "float8_obstacle", lambda _: "A100 has compute capability 8.0")
    with pytest.raises(ValueError, match="lora.frozen_precision=float8 .*A100.* H200"):
        trainer_in(tmp_path / "out", base)


@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_more_blocks_than_there_are_are_refused_before_weights_load(
    tmp_path, base, monkeypatch, from_checkpoint
):
    monkeypatch.setattr(network, "open_checkpoint", None)
    monkeypatch.setattr(network, "LLaDAForMaskedDiffusion", None)
    make = functools.partial(trainer_in, base=base) if from_checkpoint else small_trainer
    with pytest.raises(ValueError, match="recipe: keep_mlp=3 .* 2 blocks.* keep_mlp=2 "):
        make(tmp_path / "out", **KEPT, keep_mlp=3)


def test_the_plan_counts_every_byte_of_the_weights(tmp_path, base):
    trainer = trainer_in(tmp_path / "out", base)
    plan = resources.plan_memory(trainer.recipe, trainer.shape, 1, on_cuda=False)
    assert plan.weights == sum(p.numel() * p.itemsize for p in trainer.model.parameters())
    shared = resources.plan_memory(trainer.recipe, trainer.shape, 2, on_cuda=False)
    whole = sum(
        p.numel() for layer in frozen_layers(trainer.model).values() for p in [layer.weight]
    )
    assert shared.weights > plan.weights / 2 + whole / 2, "they are whole on every device"


def test_the_plan_of_what_is_kept():
    sizes = {"phases": [{"sequence_length": 1024, "num_steps": 1, "rows_per_step": 1}]}
    shape = resources.NetworkShape(tiny_config().shape, adapter_rank=4)
    plans = [
        resources.plan_memory(small_recipe(RECIPE, **sizes, **changes), shape, 1, on_cuda=True).kept
        for changes in ({**KEPT, "keep_projections": False}, KEPT, {**KEPT, "keep_mlp": 1})
    ]
    width, inner = shape.sizes.width, shape.sizes.mlp_width
    assert plans[1] - plans[0] == shape.sizes.num_layers * 1024 * 2 * 4 * width
    assert plans[2] - plans[1] == 1024 * 2 * 2 * inner


LLADA_8B = resources.NetworkShape(
    LLaDAConfig(
        **{"d_model": 4096, "n_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288},
        **{"vocab_size": 126464, "mask_token_id": 0, "eos_token_id": 0},
    ).shape,
    adapter_rank=64,
)
LONG = {
    **{"init_from": "x", "lora": {"rank": 64}, "loss_chunk": 4096, "mlp_tile": None},
    "phases": [{"sequence_length": 32768, "num_steps": 1, "rows_per_step": 1}],
}


def refusal(available, world_size=1, more=None, **changes):
    """Return what a plan that needs more than so many GB is refused with, and the recipe."""
    recipe = small_recipe(LONGER, **{**LONG, **changes})
    with pytest.raises(ValueError, match="The step needs") as error:
        resources.check_memory(
            recipe, LLADA_8B, world_size, available * 1e9, on_cuda=True, **(more or {})
        )
    return str(error.value), recipe


def needed(recipe, world_size=1, **changes):
    changed = dataclasses.replace(recipe, **changes)
    return resources.plan_memory(changed, LLADA_8B, world_size, on_cuda=True).total / 1e9


def test_a_plan_with_what_is_kept_says_what_less_of_it_saves():
    """As many blocks as fit stay kept; what saves nothing is not named."""
    text, recipe = refusal(100, lora=FLOAT8, **KEPT, keep_mlp=32)
    number = int(re.search(r"that fit: keep_mlp=(\d+) \(", text)[1])
    assert 0 < number < 32
    assert needed(recipe, keep_mlp=number) <= 100 < needed(recipe, keep_mlp=number + 1)
    saved = needed(recipe) - needed(recipe, keep_mlp=number)
    assert f"({needed(recipe, keep_mlp=number):.1f} GB; keep_mlp saves {saved:.1f} GB)" in text
    assert "frozen_precision" not in text, "it has it"
    text, recipe = refusal(60, lora=FLOAT8, **KEPT, keep_mlp=32)
    fewer = {"keep_mlp": 0, "keep_projections": False}
    assert f"keep_mlp=0 keep_projections=false ({needed(recipe, **fewer):.1f} GB; " in text
    saved = needed(recipe, keep_mlp=0) - needed(recipe, **fewer)
    assert f", keep_projections {saved:.1f} GB)" in text


def test_a_plan_under_adapters_says_what_float8_saves():
    float8 = {"lora": Lora(rank=64, frozen_precision="float8")}
    text, recipe = refusal(45, **KEPT)
    saved = needed(recipe) - needed(recipe, **float8)
    assert saved > 6
    assert "Nearest settings that fit: " in text
    assert f"lora.frozen_precision=float8 would save {saved:.1f} GB" in text
    assert "rounds" in text
    assert "output_dir" in text
    enough = needed(recipe, **float8)
    text, _ = refusal(enough + 0.1, **KEPT)
    assert f"lora.frozen_precision=float8 alone fits, too ({enough:.1f} GB" in text


def test_where_only_float8_makes_it_fit_it_is_the_remedy():
    text, recipe = refusal(22)
    least = {"activation_checkpointing": True, "mlp_tile": 4096, "offload_checkpoints": True}
    float8 = {"lora": Lora(rank=64, frozen_precision="float8")}
    assert needed(recipe, **least, **float8) < 22 < needed(recipe, **least)
    total = needed(recipe, **least, **float8)
    assert f"use lora.frozen_precision=float8 ({total:.1f} GB with all of these" in text
    assert "use lora, " not in text, "it has adapters"
    assert text.count("parameter_dtype=bfloat16") == 1
    assert "keep_mlp" not in text, "nothing is kept"


@pytest.mark.parametrize(
    ("case", "more", "changes"),
    [
        ("no adapters", {}, {"lora": None}),
        ("from scratch", {}, {"init_from": None}),
        ("no card of it", {"takes_float8": False}, {}),
        ("whole on each of many", {"world_size": 8}, {}),
    ],
)
def test_float8_is_not_named_where_it_is_no_help(case, more, changes):
    more = {**more}
    if case == "from scratch":
        changes = {**changes, "vocab_size": 400, "model": RECIPE["model"]}
        changes["lora"] = {"rank": 64, "save": "merged"}
    world_size = more.pop("world_size", 1)
    text, _ = refusal(8, world_size, more, **changes)
    assert "frozen_precision" not in text
    assert ("use lora, " in text) is (case == "no adapters")


def kept_bytes(trainer):
    """Return the bytes of what a forward pass leaves for the backward one, without parameters."""
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in trainer.model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        trainer.network(first_batches(trainer)[0]).backward()
    return sum(size for size, _ in kept.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [None, "float8"])
def test_compiled_steps_keep_no_gates_that_are_not_asked_for(tmp_path, base, precision):
    """The compiler once kept those of frozen float8 weights in every block: 52 GB at 32K tokens."""
    lora = {**FLOAT8, "frozen_precision": precision}
    sizes = {
        (compiled, keep): kept_bytes(
            trainer_in(
                tmp_path / f"{compiled}{keep}",
                base,
                **KEPT,
                lora=lora,
                compile=compiled,
                keep_mlp=keep,
            )
        )
        for compiled, keep in ((False, 0), (True, 0), (True, 1))
    }
    assert sizes[True, 0] < 1.1 * sizes[False, 0], sizes
    assert sizes[True, 1] > sizes[True, 0], sizes


@pytest.mark.parametrize("name", ["activation_checkpointing", "mlp_tile"])
def test_the_small_twin_is_not_told_of_what_saves_it_nothing(name):
    """Its network is transformers': both had no effect, and were counted in its plan."""
    twin = {"objective": "autoregressive", "retrieval_share": 0.0}
    value = {"activation_checkpointing": True, "mlp_tile": 64}[name]
    with pytest.raises(ValueError, match=f"{name}={value} does not work with objective='autoreg"):
        small_recipe(RECIPE, **twin, **{name: value})
    phases = [{"sequence_length": 8192, "num_steps": 1, "rows_per_step": 1}]
    recipe = small_recipe(RECIPE, **twin, phases=phases)
    with pytest.raises(ValueError, match="No setting of loss_chunk makes it fit: use ") as error:
        resources.check_memory(recipe, LLADA_8B, 1, 1e9, on_cuda=True)
    assert name not in str(error.value)


def test_the_pages_say_what_the_plan_counts(repository_root):
    docs = repository_root / "docs"
    page = (docs / "how_to" / "post_train.md").read_text(encoding="utf-8")
    block, told = re.search(
        r"```yaml\n(# LLaDA-8B.* (\d+) GB by plan\..*?)```", page, re.S
    ).groups()
    recipe = small_recipe(LONGER, **{**LONG, **yaml.safe_load(block)})
    assert recipe.lora.frozen_precision == "float8"
    assert recipe.keep_mlp
    assert f"{needed(recipe):.0f}" == told
    assert all(f"| `{name}` |" in page for name in ("lora.frozen_precision", *list(KEPT)[2:]))

    page = (docs / "explanation" / "post_training_scale.md").read_text(encoding="utf-8")
    plain, float8 = (
        small_recipe(LONGER, **{**LONG, **KEPT, "keep_projections": False, "lora": lora})
        for lora in ({"rank": 64}, {"rank": 64, "frozen_precision": "float8"})
    )
    eight = f"{needed(float8, 8):.1f} GB in place of {needed(plain, 8):.1f} at 32K"
    assert eight in page
    sizes = [
        needed(float8, keep_attention=False),
        needed(float8),
        needed(float8, keep_projections=True),
        needed(float8, keep_projections=True, keep_mlp=1),
    ]
    for name, more in zip(
        ("keep_attention", "keep_projections", "keep_mlp: N"),
        (after - before for before, after in itertools.pairwise(sizes)),
        strict=True,
    ):
        assert re.search(rf"\| `{name}` \| [^|]* \| {more:.1f} GB", page), (name, more)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_card_computes_what_the_plain_form_does(is_compiled):
    if obstacle := float8.float8_obstacle(torch.device("cuda")):
        pytest.skip(obstacle)
    torch.manual_seed(0)
    layer = layer_of((torch.randn(512, 256) * 0.05).to(torch.bfloat16))
    x, gradient = (torch.randn(4, 100, n).to(torch.bfloat16) for n in (256, 512))
    found = []
    for device in ("cpu", "cuda"):
        layer, own = layer.to(device), x.to(device, copy=True).requires_grad_(True)
        run = torch.compile(layer) if is_compiled and device == "cuda" else layer
        out = run(own)
        out.backward(gradient.to(device))
        found.append([each.detach().float().cpu() for each in (out, own.grad)])
    for plain, ours in zip(*found, strict=True):
        assert (ours - plain).norm() / plain.norm() < 0.01
