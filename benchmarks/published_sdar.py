"""Runs SDAR's published sampler and network beside ours, on our weights.

The folder holds ``generate.py`` of JetAstra/SDAR and ``modeling_sdar.py`` and
``configuration_sdar.py`` of its training/model/SDAR-8B-Chat, made to import with the transformers
at hand; they are no part of this project.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Any

import torch
from inference_ceilings import synchronize
from torch import Tensor

from opencompass_llada.networks import SDARForMaskedDiffusion


class PublishedSDAR:
    """The published network with the weights of ours, and its sampler."""

    def __init__(self, folder: Path, ours: SDARForMaskedDiffusion) -> None:
        """Import the published files and give their network our weights, without a copy."""
        sys.path.insert(0, str(folder))
        try:
            self._network, self._sampler, configuration = (
                importlib.import_module(name)
                for name in ("modeling_sdar", "generate", "configuration_sdar")
            )
        finally:
            sys.path.remove(str(folder))
        fields = {name: getattr(ours.config, name) for name in ours.config.published_fields()}
        options = {"rope_scaling": None, "sliding_window": None, "fuse_cross_entropy": False}
        config = configuration.SDARConfig(**fields, **options)
        wrong = {
            n: getattr(config, n, None) for n in fields if getattr(config, n, None) != fields[n]
        }
        if wrong:
            raise ValueError(f"the published configuration holds {wrong}, and ours {fields}")
        self.device = ours.device
        with torch.device("meta"):
            model = self._network.SDARForCausalLM(config)
        model.load_state_dict(ours.state_dict(), assign=True)
        model.model.rotary_emb = type(model.model.rotary_emb)(config, self.device)
        self._model = model.eval().requires_grad_(False)
        self._mask = ours.config.mask_token_id
        self._network.REPEATS_KEYS = False
        self.repeats_keys_since: str | None = None

    def generate(self, prompt: list[int], new: int, block: int) -> tuple[dict[str, Any], Tensor]:
        """Generate in one step a token; return seconds, and the logits of the first step.

        Where PyTorch's kernel for grouped heads beside a dense mask, which is not a fused one, does
        not fit the card, key/value heads are repeated for one that is.
        """
        try:
            return self._generate(prompt, new, block)
        except RuntimeError as error:  # out of memory is one
            if self.repeats_keys_since is not None:
                raise
            self.repeats_keys_since = f"{type(error).__name__}: {error}"[:200]
        torch.cuda.empty_cache()
        self._network.REPEATS_KEYS = True
        return self._generate(prompt, new, block)

    def _generate(self, prompt: list[int], new: int, block: int) -> tuple[dict[str, Any], Tensor]:
        watched = _Watched(self._model, self.device)
        synchronize(self.device)
        start = time.perf_counter()
        self._sampler.block_diffusion_generate(
            watched,
            {"input_ids": torch.tensor([prompt], device=self.device)},
            self._mask,
            gen_length=new,
            block_length=block,
            denoising_steps=block,
            temperature=1.0,
            remasking_strategy="low_confidence_static",
        )
        synchronize(self.device)
        end, (prefilled, logits) = time.perf_counter(), watched.first
        times = {
            "prefill_seconds": prefilled - start,
            "denoising_seconds": end - prefilled,
            "tokens": new,
            "passes": watched.calls,
            "repeats_keys_since": self.repeats_keys_since,
        }
        return times, logits


class _Watched:
    """The published network as its sampler calls it; notes when the prompt's pass is done."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self.model, self.device, self.calls = model, device, 0
        self._prefilled = 0.0
        self._logits: Tensor | None = None

    @property
    def first(self) -> tuple[float, Tensor]:
        """When the prompt's pass was done, and the logits of the pass after it."""
        assert self._logits is not None, "a prompt of whole blocks is followed by a step"
        return self._prefilled, self._logits

    def eval(self) -> None:
        """Do nothing; the network is."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        output = self.model(*arguments, **options)
        self.calls += 1
        if self.calls == 1:
            synchronize(self.device)
            self._prefilled = time.perf_counter()
        elif self.calls == 2:
            self._logits = output.logits
        return output
