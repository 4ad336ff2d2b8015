"""Runs DiffusionGemma by transformers' own network and `generate`, from transformers 5.11 on.

A causal encoder reads all that is final. A canvas of ``canvas_length`` tokens, at first random,
is denoised with full attention to itself, and each step draws what it does not accept anew. There
is no mask, so that this package's sampler and its likelihood bound have no part in it. Steps,
temperatures and stopping are those of the checkpoint's generation_config.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
import transformers
from torch import nn
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from opencompass_llada.engines import (
    CausalTokens,
    CheckRequest,
    Engine,
    Family,
    LoadRequest,
    PromptSeeds,
    SamplerSettings,
    gather_end_tokens,
    refuse_non_finite,
)
from opencompass_llada.networks import check_causal, load_causal
from opencompass_llada.networks.checkpoint import read_json_object
from opencompass_llada.sampling import IsComplete, SamplerOutput

_NETWORK = "DiffusionGemmaForBlockDiffusion"


class NoScorer:
    """Stands where other engines have a scorer."""

    def score(self, *_: Any) -> NoReturn:
        """Refuse."""
        raise NotImplementedError(
            "DiffusionGemma has no likelihood here: its tokens are replaced by random ones and not "
            "by a mask, so that neither LLaDA's bound nor next-token probabilities are its own. "
            "Use data sets that generate, or another model for this one."
        )

    score_next = score


class UniformDiffusionEngine(Engine):
    """Generates one prompt at a time, each with a seed of its own.

    In a batch the rows would share random numbers, and an answer depend on its neighbours.
    """

    generates_by = "uniform_diffusion"
    scorer: Any

    def __init__(
        self,
        model: Any,
        *,
        end_token_ids: Sequence[int],
        seed: int = 0,
        entropy_bound: float | None = None,
    ) -> None:
        """Take a network, ids after which an answer ends, and the bound if it is not its own."""
        super().__init__(model, None)
        self.scorer = NoScorer()
        self._ends, self._seeds, self._options = list(end_token_ids), PromptSeeds(seed), {}
        if entropy_bound is not None:
            bound = transformers.EntropyBoundSamplerConfig(entropy_bound=float(entropy_bound))
            self._options["sampler_config"] = bound
        self._num_passes = 0
        for part in (model.model.encoder, model.model.decoder):
            part.register_forward_hook(self._count)

    def begin_data_set(self) -> None:
        """Forget the prompts that were met: repeats count within a data set."""
        self._seeds.restart()

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, is_complete: IsComplete | None
    ) -> SamplerOutput:
        """Generate whole canvases, up to an end token; ``is_complete`` is not asked."""
        if empty := [index for index, prompt in enumerate(prompts) if not prompt]:
            raise ValueError(
                f"prompt {empty[0]} of the batch has no token, and DiffusionGemma's encoder needs "
                "one; give it text, or a tokenizer that adds a beginning of sequence"
            )
        rows, passes = [], []
        for prompt in prompts:
            before = self._num_passes
            rows.append(self._answer(prompt, max_new_tokens))
            passes.append(self._num_passes - before)
        return SamplerOutput(
            token_ids=rows, num_forward_passes=sum(passes), passes_per_prompt=passes
        )

    def _answer(self, prompt: Sequence[int], length: int) -> list[int]:
        """Return the tokens of one prompt's answer, cut or filled with end tokens."""
        is_cuda = self.device.type == "cuda"
        with torch.random.fork_rng([self.device] if is_cuda else []):
            torch.manual_seed(self._seeds.next(prompt))
            output = self.model.generate(
                input_ids=torch.tensor([prompt], device=self.device),
                max_new_tokens=length,
                max_length=None,  # it would be taken for 256 new tokens
                eos_token_id=self._ends,
                pad_token_id=self._ends[0],
                disable_compile=True,
                return_dict_in_generate=True,
                logits_processor=LogitsProcessorList([refuse_non_finite]),
                **self._options,
            )
        ids = output.sequences[0, len(prompt) :][:length].tolist()
        return [*ids, *[self._ends[0]] * (length - len(ids))]

    def _count(self, module: nn.Module, *_: Any) -> None:
        self._num_passes += 1


@dataclass(frozen=True, kw_only=True)
class DiffusionGemmaFamily(Family):
    """DiffusionGemma's checkpoints."""

    generates_by: ClassVar[str] = UniformDiffusionEngine.generates_by

    def special_tokens(
        self, path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> CausalTokens:
        """Gather all end tokens; there is no mask."""
        return gather_end_tokens(path, config, tokenizer)

    def check(self, request: CheckRequest) -> None:
        """Check transformers' version and the files; refuse options that have no meaning here."""
        if getattr(transformers, _NETWORK, None) is None:
            raise ValueError(
                f"{request.path!r} is a DiffusionGemma, which transformers has from 5.11 on, and "
                f"transformers {transformers.__version__} is installed; pip install "
                "'transformers>=5.11', or leave the model out"
            )
        _read_bound(request.settings)
        scaling, block = request.rope_scaling, request.attention_block
        if scaling.type != "none":
            raise ValueError(
                f"rope_scaling {scaling.type!r}: DiffusionGemma's layers have RoPE of two kinds, "
                "trained to its whole length; leave rope_scaling out"
            )
        if block is not None:
            raise ValueError(
                f"attention_block={block} is the block length of a block-causal checkpoint of this "
                "package's networks; DiffusionGemma's canvas is that of its config.json. Leave it "
                "out."
            )
        request.refuse_pass_options("runs in transformers' own network")
        folder, *_ = check_causal(request.path)
        _check_generation_config(folder)

    def load(self, request: LoadRequest) -> UniformDiffusionEngine:
        """Load the weights."""
        self.check(request)
        model, _ = load_causal(
            request.path,
            dtype=request.dtype,
            device=request.device,
            attention_backend=request.attention_backend,
            network=getattr(transformers, _NETWORK),
        )
        tokens = self.special_tokens(request.path, request.config, request.tokenizer)
        return UniformDiffusionEngine(
            model,
            end_token_ids=tokens.end_token_ids,
            seed=request.settings.seed,
            entropy_bound=_read_bound(request.settings),
        )


def _check_generation_config(folder: Path) -> None:
    """Refuse what is no JSON object, which transformers skips, and options of other models.

    Those transformers would refuse after the weights are read.
    """
    file = folder / "generation_config.json"
    if not file.is_file():  # transformers takes its defaults
        return
    read_json_object(file)
    try:
        getattr(transformers, _NETWORK).generation_config_class.from_pretrained(folder)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"generation_config.json does not fit transformers' DiffusionGemma ({error}). "
            "Correct it there; stop strings are given as stop_words=[...] of the model, and "
            "answers are cut at the first one."
        ) from error


def _read_bound(settings: SamplerSettings) -> float | None:
    """Return the one option of the sampler that has its meaning here; others are a ValueError."""
    rule = settings.resolved.acceptance
    taken = ["acceptance"] if rule.type == "entropy_bound" else []
    if wrong := [name for name in settings.given if name not in taken]:
        raise ValueError(
            f"sampler options ({', '.join(wrong)}) say how masks are revealed, and DiffusionGemma "
            "has none: each step draws what is not accepted anew. Leave them out; seed and "
            "acceptance=dict(type='entropy_bound', value=...) have their meaning, all else stands "
            "in the checkpoint's generation_config.json"
        )
    if rule.value == 0:
        raise ValueError("acceptance value=0 accepts nothing in DiffusionGemma; use 0.1")
    return rule.value if taken else None


FAMILY = DiffusionGemmaFamily(name="diffusion_gemma")
