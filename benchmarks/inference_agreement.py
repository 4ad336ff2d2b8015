"""Do the fast passes give the same numbers and the same tokens as the plain network?"""

from __future__ import annotations

from typing import Any

import torch

from opencompass_llada.assets import resolve_path
from opencompass_llada.benchmarks.needle.samples import HaystackStore, NeedleCell, make_samples
from opencompass_llada.inference import FastNetwork, PassServer
from opencompass_llada.networks import LLaDAForMaskedDiffusion, load_checkpoint
from opencompass_llada.prompting.encode import load_tokenizer
from opencompass_llada.sampling import CacheOptions, SamplerConfig, SpecialTokens, sample


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    difference = (found.float() - expected.float()).norm()
    return (difference / expected.float().norm()).item()


@torch.inference_mode()
def logit_agreement(
    model: LLaDAForMaskedDiffusion, server: PassServer, prompt: list[int], num_masks: int
) -> dict[str, float]:
    """Compare logits of single passes on the same tokens: plain, full, kept.

    Args:
        model: The network.
        server: Its fast passes.
        prompt: Token ids.
        num_masks: Masks after the prompt.
    """
    device = server.network.device
    ids = torch.tensor([[*prompt, *[model.config.mask_token_id] * num_masks]], device=device)
    positions = torch.arange(len(prompt), ids.shape[1], device=device)[None]
    plain = model.logits_at(ids, positions)
    found = {}
    for dtype in ("bfloat16", "float8"):
        session = server.open([ids.shape[1]], block_length=32, cache_dtype=dtype, passes=1)
        full = session.full_pass(ids, positions, keep=True)
        kept = session.partial_pass(ids, [len(prompt)], num_masks, positions)
        found["full_error"] = relative_error(full, plain)
        found["full_argmax_agreement"] = _same(full, plain)
        found[f"kept_{dtype}_error"] = relative_error(kept, plain)
        found[f"kept_{dtype}_argmax_agreement"] = _same(kept, plain)
    return found


def _same(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.argmax(-1) == b.argmax(-1)).float().mean().item()


def tiny_agreement(
    device: torch.device, dtype: torch.dtype, lengths: tuple[int, ...], repeats: int, new: int
) -> dict[str, Any]:
    """Compare whole generations of the shipped trained model with its plain forward pass.

    Args:
        device: Where.
        dtype: Of the weights.
        lengths: Prompt and generation together, in tokens.
        repeats: Samples of each length and depth.
        new: Tokens to generate, one a step.

    Returns:
        Agreement of tokens and of whole answers with the reference, for each mode.
    """
    path = resolve_path("asset:tiny-llada")
    model = load_checkpoint(path, dtype=dtype, device=device)
    server = PassServer(FastNetwork(model))
    tokenizer = load_tokenizer(path, {})
    prompts = _prompts(lengths, repeats, tokenizer)
    tokens = SpecialTokens(
        mask_token_id=model.config.mask_token_id, eos_token_id=model.config.eos_token_id
    )
    modes = {
        "exact": CacheOptions(),
        "prompt": CacheOptions(type="prompt"),
        "prompt float8": CacheOptions(type="prompt", dtype="float8"),
    }

    def generate(model_call: Any, cache: CacheOptions) -> list[list[int]]:
        config = SamplerConfig(generation_length=new, block_length=new, num_steps=new, cache=cache)
        return [
            sample(model_call, [prompt], config, tokens, device=device).token_ids[0]
            for prompt in prompts
        ]

    reference = generate(model.logits_at, CacheOptions())
    found: dict[str, Any] = {"num_samples": len(prompts), "lengths": list(lengths)}
    for name, cache in modes.items():
        ids = generate(server, cache)
        pairs = [
            (a, b) for x, y in zip(ids, reference, strict=True) for a, b in zip(x, y, strict=True)
        ]
        found[name] = {
            "tokens": sum(a == b for a, b in pairs) / len(pairs),
            "answers": sum(x == y for x, y in zip(ids, reference, strict=True)) / len(ids),
            "answers up to the end token": sum(
                _cut(x, tokens) == _cut(y, tokens) for x, y in zip(ids, reference, strict=True)
            )
            / len(ids),
        }
    config = SamplerConfig(generation_length=new, block_length=new, num_steps=new, cache="prompt")
    ids = []
    for first in range(0, len(prompts), 10):
        batch = prompts[first : first + 10]
        ids += sample(server, batch, config, tokens, device=device).token_ids
    alone = generate(server, modes["prompt"])
    found["batches of 10 against one at a time"] = sum(
        x == y for x, y in zip(ids, alone, strict=True)
    ) / len(ids)
    early = SamplerConfig(
        generation_length=new, block_length=new, num_steps=new, cache="prompt", early_stop=True
    )
    stopped = [sample(server, [prompt], early, tokens, device=device) for prompt in prompts]
    found["early stop"] = {
        "answers": sum(
            _cut(x.token_ids[0], tokens) == _cut(y, tokens)
            for x, y in zip(stopped, alone, strict=True)
        )
        / len(alone),
        "passes": sum(x.num_forward_passes for x in stopped) / len(stopped),
    }
    found["first step"] = _first_step(model, server, prompts)
    server.release()
    return found


@torch.inference_mode()
def _first_step(
    model: LLaDAForMaskedDiffusion, server: PassServer, prompts: list[list[int]]
) -> dict[str, float]:
    """Say how close the two likeliest tokens are where the passes predict different ones."""
    gaps, differing = [], []
    for prompt in prompts:
        ids = torch.tensor([prompt + [model.config.mask_token_id] * 32])
        ids = ids.to(server.network.device)
        positions = torch.arange(len(prompt), ids.shape[1], device=ids.device)[None]
        plain = model.logits_at(ids, positions).float()
        session = server.open([ids.shape[1]], block_length=32, cache_dtype=None, passes=1)
        fast = session.full_pass(ids, positions, keep=False)
        top = plain.topk(2, dim=-1).values
        gaps.append((top[..., 0] - top[..., 1])[0])
        differing.append((plain.argmax(-1) != fast.argmax(-1))[0])
    gap, differs = torch.cat(gaps), torch.cat(differing)
    return {
        "positions": gap.numel(),
        "differing": int(differs.sum()),
        "largest gap of logits where they differ": gap[differs].max().item()
        if differs.any()
        else 0,
        "median gap of logits": gap.median().item(),
    }


def _cut(token_ids: list[int], tokens: SpecialTokens) -> list[int]:
    ends = [place for place, token in enumerate(token_ids) if token in tokens.end_token_ids]
    return token_ids[: ends[0]] if ends else token_ids


def _prompts(lengths: tuple[int, ...], repeats: int, tokenizer: Any) -> list[list[int]]:
    store = HaystackStore()
    found = []
    for length in lengths:
        for depth in (0, 25, 50, 75, 100):
            cell = NeedleCell(
                path="asset:needlebench",
                length=length,
                depth=depth,
                tokenizer="asset:tiny-llada",
                file_list=["synthetic_en.jsonl"],
                num_repeats_per_file=repeats,
                length_buffer="fit",
                guide=False,
                language="English",
                generation_reserve=32,
            )
            found += [tokenizer.encode(row["prompt"]) for row in make_samples(cell, store)]
    return found
