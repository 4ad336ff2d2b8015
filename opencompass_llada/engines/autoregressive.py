"""Loads autoregressive checkpoints, the baselines; decodes greedily by transformers' `generate`.

Shape letters: B rows, L row length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines.base import (
    CausalTokens,
    CheckRequest,
    Engine,
    Family,
    LoadRequest,
)
from opencompass_llada.likelihood import CausalScorer, causal_logits
from opencompass_llada.networks import check_causal, load_causal, locate_checkpoint
from opencompass_llada.networks.checkpoint import read_json_object
from opencompass_llada.prompting.encode import (
    EOT_TOKEN,
    check_token_id,
    check_vocabulary,
    find_token_id,
)
from opencompass_llada.prompting.truncate import cut_at_token_ids
from opencompass_llada.rope.frequencies import ResolvedRope
from opencompass_llada.sampling import IsComplete, SamplerOutput

#: Ends of a turn of widespread chat formats, counted as ends where the tokenizer has them.
_TURN_ENDS = (EOT_TOKEN, "<|im_end|>")
#: What else changes greedy decoding: options of generation_config.json and what leaves them out.
_WITHOUT_EFFECT: dict[str, Any] = {
    **{"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0},
    **dict.fromkeys(("min_new_tokens", "suppress_tokens", "begin_suppress_tokens")),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "exponential_decay_length_penalty")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "stop_strings", "max_time")),
}


class AutoregressiveEngine(Engine):
    """Generates greedily with an AutoModelForCausalLM."""

    generates_by = "autoregressive"

    def __init__(
        self,
        model: Any,
        *,
        end_token_ids: Sequence[int],
        pad_token_id: int,
        rope: ResolvedRope | None = None,
    ) -> None:
        """Take a network of transformers and at least one id after which a row ends."""
        super().__init__(model, rope)
        self.end_token_ids = tuple(end_token_ids)
        self._pad_token_id = pad_token_id
        self.scorer = CausalScorer(causal_logits(model), device=self.device)

    @torch.inference_mode()
    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, is_complete: IsComplete | None
    ) -> SamplerOutput:
        """Generate up to end tokens alone; ``is_complete`` is not asked."""
        empty = [index for index, prompt in enumerate(prompts) if not prompt]
        if empty:
            raise ValueError(
                f"prompt {empty[0]} of the batch has no token, and an autoregressive model needs "
                "one to go on from; give it text, or a tokenizer that adds a beginning of sequence"
            )
        prompts_L = [torch.tensor(prompt, device=self.device) for prompt in prompts]
        pad = partial(pad_sequence, batch_first=True, padding_side="left")  # answers in one column
        ids_BL = pad(prompts_L, padding_value=self._pad_token_id)
        output_BL = self.model.generate(
            input_ids=ids_BL,
            attention_mask=pad([torch.ones_like(prompt_L) for prompt_L in prompts_L]),
            max_new_tokens=max_new_tokens,
            eos_token_id=list(self.end_token_ids),
            pad_token_id=self._pad_token_id,
            logits_processor=[refuse_non_finite],
            **_greedy_options(self.model.generation_config),
        )
        answers = output_BL[:, ids_BL.shape[1] :].tolist()
        # What follows a row's first end token is padding for longer rows.
        rows = [row[: len(cut_at_token_ids(row, self.end_token_ids)) + 1] for row in answers]
        passes = [len(row) for row in rows]
        return SamplerOutput(
            token_ids=rows, num_forward_passes=max(passes), passes_per_prompt=passes
        )


def refuse_non_finite(ids_BL: Tensor, logits_BV: Tensor) -> Tensor:
    """Raise where a logit is NaN or infinite: the largest of them would be no answer."""
    if not bool(torch.stack(torch.aminmax(logits_BV)).isfinite().all()):  # one wait for the GPU
        raise FloatingPointError(
            "The model's logits are not finite; load it in bfloat16 or float32, and check the "
            "checkpoint."
        )
    return logits_BV


def _greedy_options(generation_config: Any) -> dict[str, Any]:
    """Return the options of greedy decoding, whatever a checkpoint's generation_config says.

    The cache is on: many fine-tuned checkpoints leave ``use_cache`` false behind. Options of
    sampling are put back to their defaults, since transformers would warn of them at every call.
    """
    defaults = type(generation_config)()
    names = ("temperature", "top_p", "top_k", "min_p", "typical_p")
    neutral = {name: getattr(defaults, name) for name in names if hasattr(defaults, name)}
    return {"do_sample": False, "use_cache": True, **_WITHOUT_EFFECT, **neutral}


def gather_end_tokens(
    path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> CausalTokens:
    """Gather all end tokens: of config.json, generation_config.json, tokenizer, chat turns."""
    text = config.get("text_config")
    check_vocabulary(tokenizer, (text if isinstance(text, dict) else config).get("vocab_size"))
    name = "generation_config.json"  # where chat checkpoints list theirs
    file = locate_checkpoint(path, files=["config.json", name]) / name
    generation = read_json_object(file) if file.is_file() else {}
    remedy = "correct it, or a list of such numbers, in that file"
    ids: dict[int, None] = {}
    for source, group in {"config.json": config, name: generation}.items():
        given = group.get("eos_token_id")
        listed = given if isinstance(given, list | tuple) else [given]
        where = f"{source}: eos_token_id"
        ids |= {check_token_id(where, i, remedy): None for i in listed if i is not None}
    own = (tokenizer.eos_token_id, *(find_token_id(tokenizer, t) for t in _TURN_ENDS))
    ids |= {i: None for i in own if i is not None}
    if not ids:
        raise ValueError(
            "config.json has no eos_token_id and the tokenizer no end of sequence; add "
            "eos_token_id to the checkpoint's config.json"
        )
    return CausalTokens(tuple(ids))


@dataclass(frozen=True, kw_only=True)
class AutoregressiveFamily(Family):
    """Every autoregressive checkpoint; its config.json names one of transformers' architectures."""

    generates_by: ClassVar[str] = AutoregressiveEngine.generates_by

    def special_tokens(
        self, path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> CausalTokens:
        """Gather all end tokens; see `gather_end_tokens`."""
        return gather_end_tokens(path, config, tokenizer)

    def check(self, request: CheckRequest) -> None:
        """Refuse sampler options, and check files and scaling."""
        if request.settings.given:
            raise ValueError(
                f"sampler options ({', '.join(request.settings.given)}) say how a masked diffusion "
                f"model samples, and {request.path!r} is autoregressive: it decodes greedily, one "
                "token a step. Leave sampler (or diffusion_config) out."
            )
        if request.attention_block is not None:
            raise ValueError(
                f"attention_block={request.attention_block} is the block length of a block-causal "
                f"checkpoint, and {request.path!r} is autoregressive; leave it out."
            )
        request.refuse_pass_options("is autoregressive")
        check_causal(request.path, rope_scaling=request.rope_scaling)

    def load(self, request: LoadRequest) -> AutoregressiveEngine:
        """Load the weights."""
        self.check(request)
        tokens = self.special_tokens(request.path, request.config, request.tokenizer)
        model, rope = load_causal(
            request.path,
            rope_scaling=request.rope_scaling,
            dtype=request.dtype,
            device=request.device,
            attention_backend=request.attention_backend,
        )
        pad, ends = request.tokenizer.pad_token_id, tokens.end_token_ids
        pad = ends[0] if pad is None else pad
        return AutoregressiveEngine(model, end_token_ids=ends, pad_token_id=pad, rope=rope)
