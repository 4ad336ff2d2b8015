"""Loads masked diffusion checkpoints: a network, its sampler's settings and its special tokens."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from opencompass_llada.engines.base import (
    CheckRequest,
    Engine,
    Family,
    LoadRequest,
    PromptSeeds,
    SamplerSettings,
)
from opencompass_llada.inference import (
    FastNetwork,
    MemoryPlan,
    NetworkSize,
    PassOptions,
    PassServer,
    card_budget,
    check_attention,
    check_cache,
    check_float8,
    check_plan,
    check_sizes,
    mlp_chunk_of,
    prefill_chunk,
    quantise_network,
)
from opencompass_llada.likelihood import BlockScorer, MaskedScorer, sliced_entropies
from opencompass_llada.networks import (
    NETWORKS,
    BidirectionalNetwork,
    load_checkpoint,
    open_checkpoint,
    read_config,
)
from opencompass_llada.networks.attention_pattern import AttentionPattern, Blocks, with_blocks
from opencompass_llada.networks.sequence_parallel import check_passes
from opencompass_llada.prompting.encode import check_token_id, check_vocabulary, find_token_id
from opencompass_llada.sampling import (
    IsComplete,
    SamplerOutput,
    SpecialTokens,
    StepListener,
    make_progress,
    sample,
)

logger = logging.getLogger(__name__)


class MaskedDiffusionEngine(Engine):
    """Generates and scores with a masked diffusion model."""

    generates_by = "masked_diffusion"
    scorer: MaskedScorer | BlockScorer

    def __init__(
        self,
        model: BidirectionalNetwork,
        settings: SamplerSettings,
        special_tokens: SpecialTokens,
        *,
        progress: StepListener | None = None,
        passes: PassOptions | None = None,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Put the parts together; no ``progress`` is a bar where stderr is a terminal.

        The processes of a ``group`` split passes and must be asked the same.
        """
        super().__init__(model, model.resolved_rope)
        self._group = group
        self.settings = settings
        self.passes = passes or PassOptions()
        self.special_tokens = special_tokens
        self.scorer = self._make_scorer(special_tokens.mask_token_id)
        self._progress = make_progress() if progress is None else progress
        self._seeds = PromptSeeds(settings.seed)

    def begin_data_set(self) -> None:
        """Forget the prompts that were met: repeats count within a data set."""
        self._seeds.restart()

    @cached_property
    def server(self) -> PassServer:
        """The fast passes; made when first asked for, since adapters replace parameters before."""
        network = FastNetwork(self.model)
        return PassServer(network, prefill=self.passes.prefill, group=self._group)

    def finish_loading(self) -> None:
        """Quantise the weights, if asked."""
        if self.passes.precision == "float8":
            quantise_network(self.model)

    def _make_scorer(self, mask_token_id: int) -> MaskedScorer | BlockScorer:
        pattern = self.model.attention_pattern
        if isinstance(pattern, Blocks):
            return BlockScorer(lambda: self.server, mask_token_id, pattern.block_length)
        head = self.model.get_output_embeddings()
        entropies = sliced_entropies(self.model.hidden_states, head)
        return MaskedScorer(entropies, mask_token_id, self.device)

    def _generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, is_complete: IsComplete | None
    ) -> SamplerOutput:
        config = self.settings.for_length(max_new_tokens)
        self.passes.prefill.check_answer(config.plan().padded_length)
        for prompt in prompts:
            self.scorer.refuse_masks(prompt)
        return sample(
            self.server,
            prompts,
            config,
            self.special_tokens,
            seeds=[self._seeds.next(prompt) for prompt in prompts] if config.draws else None,
            device=self.device,
            progress=self._progress,
            is_complete=is_complete,
        )


@dataclass(frozen=True, kw_only=True)
class MaskedDiffusionFamily(Family):
    """A family of native masked diffusion networks."""

    generates_by: ClassVar[str] = MaskedDiffusionEngine.generates_by
    has_sampler: ClassVar[bool] = True
    label: str
    """Its name in messages."""
    turn_end: str
    """Text of the token that ends a chat turn; a tokenizer without it has none."""

    def special_tokens(
        self, path: str, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
    ) -> SpecialTokens:
        """Read mask and end of text from config.json, the end of a turn from the tokenizer.

        What the family's published config.json leaves out is its network's default.
        """
        needed = ("mask_token_id", "eos_token_id")
        network = NETWORKS[self.name].config_class
        found = {n: getattr(network, n) for n in needed if n in network.optional}
        found |= {name: config[name] for name in needed if config.get(name) is not None}
        missing = [name for name in needed if name not in found]
        if missing:
            also = "; the mask's id may also be given as mask_token_id=... of the model"
            raise ValueError(
                f"config.json has no {' and no '.join(missing)}, which no other checkpoint's value "
                f"can stand for. Add what {self.label}'s authors publish to the checkpoint's "
                f"config.json{also if 'mask_token_id' in missing else ''}."
            )
        remedies = {
            "mask_token_id": "set it to the mask's, as the tokenizer has it",
            "eos_token_id": "set it to the end of text's. The end of a turn, which a list of "
            f"generation_config.json adds, is known without it: {self.turn_end} of the tokenizer",
        }
        ids = {n: check_token_id(f"config.json: {n}", found[n], remedies[n]) for n in needed}
        check_vocabulary(tokenizer, config.get("embedding_size") or config.get("vocab_size"))
        return SpecialTokens(**ids, eot_token_id=find_token_id(tokenizer, self.turn_end))

    def read_pattern(self, config: Mapping[str, Any]) -> AttentionPattern:
        """Return who sees whom by config.json."""
        return read_config(NETWORKS[self.name], config).attention_pattern

    def check(self, request: CheckRequest) -> None:
        """Check files, scaling, and that the settings fit the network."""
        self._open(request)

    def _open(self, request: CheckRequest) -> tuple[BidirectionalNetwork, SamplerSettings]:
        """Return the network without weights and its sampler's settings."""
        pattern, block = self.read_pattern(request.config), request.attention_block
        pattern = with_blocks(pattern, block)
        if block is not None:
            longest = read_config(NETWORKS[self.name], request.config).trained_length
            if block > longest:  # a block is denoised whole, however short the answer
                raise ValueError(
                    f"attention_block={block} is more than the {longest} tokens that the "
                    "checkpoint was trained on at all; use a block length of its training, or "
                    "leave it out"
                )
        settings = request.settings.for_pattern(pattern)
        if request.passes.prefill.enabled and isinstance(pattern, Blocks):
            raise ValueError(
                f"prefill type={request.passes.prefill.type!r} is for networks in which all tokens "
                f"see each other, and in {request.path!r} they see blocks before them alone; leave "
                "prefill out"
            )
        network, _ = open_checkpoint(
            request.path,
            rope_scaling=request.rope_scaling,
            attention_pattern=pattern,
            fields=request.config,
        )
        check_passes(network.config, pattern, request.sequence_parallel)
        if request.passes.precision == "float8":
            check_sizes("precision='float8'", network.config.shape)
        return network, settings

    def load(self, request: LoadRequest) -> MaskedDiffusionEngine:
        """Load the weights, if one row at least fits the card."""
        progress = make_progress()  # reads a variable, whose fault shows before the weights load
        tokens = self.special_tokens(request.path, request.config, request.tokenizer)
        network, settings = self._open(request)
        if settings.unset:
            what = "Sampler options that are not given are %s's own: %s"
            logger.info(what, self.label, settings.unset)
        if request.attention_block is not None:
            what = "attention_block=%d takes the place of the checkpoint's own: %s"
            logger.info(what, request.attention_block, self.read_pattern(request.config))
        _check_card(request, network, settings)
        _plan_memory(request, network, settings)
        model = load_checkpoint(
            request.path,
            rope_scaling=request.rope_scaling,
            dtype=request.dtype,
            device=request.device,
            attention_backend=request.attention_backend,
            attention_pattern=network.attention_pattern,
            fields=request.config,
        )
        return MaskedDiffusionEngine(
            model,
            settings,
            tokens,
            progress=progress,
            passes=request.passes,
            group=request.group,
        )


def _check_card(
    request: LoadRequest, network: BidirectionalNetwork, settings: SamplerSettings
) -> None:
    """Refuse what the device has no kernels for, before weights load."""
    place, passes = (network.config.shape, request.device), request.passes
    if passes.precision == "float8":
        check_float8("precision='float8'", *place)
    if passes.prefill.enabled:
        check_attention(f"prefill type={passes.prefill.type!r}", *place)
    check_cache(settings.resolved.cache.dtype, *place)


def _plan_memory(
    request: LoadRequest, network: BidirectionalNetwork, settings: SamplerSettings
) -> None:
    """Log what one row of the longest context will take, or refuse it, before weights load."""
    budget = card_budget(request.device)
    if request.context_length is None or budget is None:
        return
    sampler = settings.for_length(settings.default_length or 1)
    plan = MemoryPlan(
        size=NetworkSize.of(network, request.dtype, precision=request.passes.precision),
        row_lengths=(request.context_length,),
        block_length=sampler.block_length or sampler.generation_length,
        cache_dtype=sampler.cache.dtype,
        mlp_chunk=mlp_chunk_of(network.config.shape),
        guided=sampler.cfg_scale > 0,
        prefix_chunk=prefill_chunk(network),
        prefill=request.passes.prefill,
        ranks=request.sequence_parallel,
    )
    plan = check_plan(plan, budget)
    logger.info("Memory plan: %s, of %.1f GB at hand", plan.describe(), budget / 1e9)
