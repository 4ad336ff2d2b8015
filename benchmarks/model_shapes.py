"""The published models' real shapes, random weights: loading, time, passes and memory of a needle.

    python benchmarks/model_shapes.py                 # one CUDA GPU of 80 GB, 50 GB of disk
    python benchmarks/model_shapes.py --tiny          # the same path at toy size, on a CPU

For each family a checkpoint in the published format is written (config.json with the hub's fields,
sharded bfloat16 safetensors, an index), loaded as the wrapper loads it, and asked a needle question
of the embedded haystack at several lengths, with full passes at every step (the reference mode).
The answers mean nothing; what is measured is what a real checkpoint would take. The tokenizer is
tiny-llada's, whose ids all these vocabularies hold. Writes one record.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from recording import ROOT, describe_run, write_record
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from opencompass_llada.assets import resolve_asset
from opencompass_llada.benchmarks.needle.samples import HaystackStore, NeedleCell, make_samples
from opencompass_llada.devices import choose_device, choose_dtype
from opencompass_llada.engines import LoadRequest, SamplerSettings
from opencompass_llada.families import find_family
from opencompass_llada.networks import NETWORKS
from opencompass_llada.prompting.encode import load_tokenizer
from opencompass_llada.rope.methods import parse_rope_scaling

GENERATION = 32
SHARD_BYTES = 4 * 2**30

#: config.json of the hub: GSAI-ML/LLaDA-8B-Base, Dream-org/Dream-v0-Base-7B,
#: meta-llama/Meta-Llama-3-8B.
PUBLISHED: dict[str, dict[str, Any]] = {
    "LLaDA-8B": {
        **{"model_type": "llada", "architectures": ["LLaDAModelLM"], "block_type": "llama"},
        **{"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32},
        **{"mlp_hidden_size": 12288, "vocab_size": 126464, "embedding_size": 126464},
        **{"max_sequence_length": 4096, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
        **{"layer_norm_type": "rms", "activation_type": "silu", "include_bias": False},
        **{"include_qkv_bias": False, "weight_tying": False, "rope_full_precision": True},
        **{"mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081},
    },
    "Dream-7B": {
        **{"model_type": "Dream", "architectures": ["DreamModel"], "hidden_act": "silu"},
        **{"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28},
        **{"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064},
        **{"max_position_embeddings": 131072, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6},
        **{"tie_word_embeddings": False, "use_sliding_window": False, "attention_dropout": 0.0},
        **{"mask_token_id": 151666, "pad_token_id": 151643, "bos_token_id": 151643},
        **{"eos_token_id": 151643},
    },
    "LLaMA-3-8B": {
        **{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu"},
        **{"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32},
        **{"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256},
        **{"max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
        **{"tie_word_embeddings": False, "attention_bias": False, "pretraining_tp": 1},
        **{"bos_token_id": 128000, "eos_token_id": 128001},
    },
}
LENGTHS = {"LLaDA-8B": (4096, 16384, 32768), "Dream-7B": (4096,), "LLaMA-3-8B": (4096,)}
#: Toy sizes that keep the ratios of heads, with ids that the tokenizer's vocabulary holds.
TOY = {
    **{"d_model": 64, "n_heads": 4, "n_kv_heads": 4, "n_layers": 2, "mlp_hidden_size": 96},
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
    **{"vocab_size": 2048, "embedding_size": 2048, "mask_token_id": 2, "eos_token_id": 0},
    **{"pad_token_id": 0, "bos_token_id": 0},
}
TOY_LENGTHS = (512,)


def shape_fields(name: str, *, tiny: bool) -> dict[str, Any]:
    """Return a model's config.json, at its own size or at a toy's."""
    fields = PUBLISHED[name]
    return {key: TOY.get(key, value) for key, value in fields.items()} if tiny else dict(fields)


def expected_tensors(fields: Mapping[str, Any], folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor of the network that config.json describes."""
    with torch.device("meta"):
        if fields["model_type"] in NETWORKS:
            network = NETWORKS[fields["model_type"]]
            model: Any = network(network.config_class.from_dict(dict(fields)))
        else:
            model = AutoModelForCausalLM.from_config(
                AutoConfig.from_pretrained(folder, trust_remote_code=False), trust_remote_code=False
            )
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def split_shards(shapes: Mapping[str, tuple[int, ...]], most: int) -> Iterator[list[str]]:
    """Yield names of tensors that fit one file of at most so many bytes in 16 bit."""
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        num_bytes = 2 * torch.Size(shape).numel()
        if names and size + num_bytes > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += num_bytes
    yield names


def write_checkpoint(folder: Path, fields: Mapping[str, Any], device: torch.device) -> int:
    """Write a random checkpoint in the published format.

    Args:
        folder: Where to; must exist.
        fields: config.json.
        device: Where the random numbers are drawn.

    Returns:
        Bytes written.
    """
    (folder / "config.json").write_text(json.dumps(dict(fields), indent=1), encoding="utf-8")
    shapes = expected_tensors(fields, folder)
    shards = list(split_shards(shapes, SHARD_BYTES))
    torch.manual_seed(0)
    weight_map, total = {}, 0
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _draw(name, shapes[name], device).cpu() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return total


def _draw(name: str, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    if len(shape) == 1 and "bias" not in name:
        return torch.ones(shape, dtype=torch.bfloat16, device=device)
    return torch.randn(shape, dtype=torch.bfloat16, device=device) * 0.02


def needle_prompt(length: int, tokenizer: Any) -> list[int]:
    """Return the ids of the first embedded needle prompt, needle in the middle."""
    cell = NeedleCell(
        path="asset:needlebench",
        tokenizer="asset:tiny-llada",
        file_list=["synthetic_en.jsonl"],
        num_repeats_per_file=1,
        length=length,
        length_buffer="fit",
        generation_reserve=GENERATION,
        depth=50,
        guide=False,
        language="English",
    )
    sample = next(iter(make_samples(cell, HaystackStore())))
    return tokenizer(sample["prompt"])["input_ids"]


def measure(name: str, folder: Path, device: torch.device, *, tiny: bool) -> dict[str, Any]:
    """Write, load and run one model.

    Args:
        name: A key of `PUBLISHED`.
        folder: Scratch space for the checkpoint.
        device: Where to run.
        tiny: Toy size.

    Returns:
        Seconds of writing and loading, bytes, and for each length seconds, passes and peak memory.
    """
    fields = shape_fields(name, tiny=tiny)
    start = time.perf_counter()
    num_bytes = write_checkpoint(folder, fields, device)
    written = time.perf_counter()
    tokenizer = load_tokenizer(resolve_asset("asset:tiny-llada"), {})
    family = find_family(fields, str(folder), None)
    sampler = {"num_steps": GENERATION} if family.generates_by == "masked_diffusion" else None
    request = LoadRequest(
        path=str(folder),
        config=fields,
        tokenizer=tokenizer,
        rope_scaling=parse_rope_scaling(None),
        settings=SamplerSettings(sampler, family.defaults()),
        dtype=choose_dtype(None, device),
        device=device,
        attention_backend="auto",
    )
    family.check(request)
    engine = family.load(request)
    loaded = time.perf_counter()
    runs = []
    for length in TOY_LENGTHS if tiny else LENGTHS[name]:
        prompt = needle_prompt(length, tokenizer)
        engine.generate([prompt[:256]], max_new_tokens=2)  # kernels load, plans are made
        runs.append(time_generation(engine, prompt, device))
        print(f"{name:<12} {runs[-1]}", flush=True)
    return {
        "family": family.name,
        "parameters": num_bytes // 2,
        "gigabytes": round(num_bytes / 1e9, 3),
        "seconds_to_write": round(written - start, 1),
        "seconds_to_load": round(loaded - written, 1),
        "runs": runs,
    }


def time_generation(engine: Any, prompt: list[int], device: torch.device) -> dict[str, Any]:
    """Generate once and return time, passes and memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    generation = engine.generate([prompt], max_new_tokens=GENERATION)[0]
    seconds = time.perf_counter() - start  # the ids are read on the CPU, so all work is done
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return {
        "prompt_tokens": len(prompt),
        "generated_tokens": len(generation.token_ids),
        "nfe": generation.num_forward_passes,
        "seconds": round(seconds, 3),
        "generated_tokens_per_second": round(len(generation.token_ids) / seconds, 2),
        "peak_gigabytes": round(peak / 1e9, 2) if peak else None,
    }


def main() -> None:
    """Measure the models and write the record."""
    parser = argparse.ArgumentParser(description="Real shapes, random weights, one needle.")
    parser.add_argument("--models", nargs="+", default=list(PUBLISHED), choices=list(PUBLISHED))
    parser.add_argument("--tiny", action="store_true", help="toy sizes, for a CPU")
    parser.add_argument(
        "--record", type=Path, default=ROOT / "benchmarks/records/model_shapes.json"
    )
    arguments = parser.parse_args()
    device = choose_device(None)
    results = {}
    for name in arguments.models:
        folder = Path(tempfile.mkdtemp())
        try:
            results[name] = measure(name, folder, device, tiny=arguments.tiny)
        finally:
            shutil.rmtree(folder)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        # After each model, so that a run that is cut short leaves what it measured.
        record = {**describe_run(), "tiny": arguments.tiny, "models": results}
        write_record(arguments.record, record)
    print(f"wrote {arguments.record}")


if __name__ == "__main__":
    main()
