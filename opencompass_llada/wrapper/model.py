"""Gives OpenCompass LLaDACausalLM, its model class for this package: strings in, strings out."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from opencompass.models.base import BaseModel
from opencompass.utils.prompt import PromptList

from opencompass_llada.assets import resolve_path
from opencompass_llada.devices import choose_device, choose_dtype
from opencompass_llada.engines import EndTokens, Engine, LoadRequest, length_buckets
from opencompass_llada.families import find_family
from opencompass_llada.likelihood import TextScorer
from opencompass_llada.networks.adapted_config import read_adapted_config
from opencompass_llada.networks.adapters import merge_adapter, open_adapter
from opencompass_llada.networks.attention_pattern import FULL
from opencompass_llada.old_names import PACKAGE
from opencompass_llada.processes import connect, own_device, read_variable
from opencompass_llada.prompting.chat import ChatRenderer, Turn, read_turns
from opencompass_llada.prompting.encode import (
    PromptEncoder,
    VerbatimText,
    load_tokenizer,
)
from opencompass_llada.prompting.truncate import (
    cut_at_stop_strings,
    cut_at_token_ids,
    cut_is_settled,
    merge_stop_strings,
    truncate,
)
from opencompass_llada.shared_weights import weights_of_its_own
from opencompass_llada.wrapper.keywords import WrapperOptions, parse_keywords

logger = logging.getLogger(__name__)


class ChatTemplateParser(ChatRenderer):
    """Renders prompts by a chat template; the wrapper's ``template_parser`` if ``chat`` is set."""

    def parse_template(self, prompt_template: Any, mode: str) -> Any:
        """Render one prompt to a `PromptText`, or each of a batch.

        A prompt is a text, which is one turn of the user (a `VerbatimText` and an empty one stay as
        they are), OpenCompass's PromptList, or a list of messages with role and content. Mode
        ``gen`` opens the turn to be generated and leaves out what the data set holds of it; ``ppl``
        gives the whole conversation, ending in its last turn's own words.
        """
        assert mode in ("gen", "ppl"), mode
        prompt = prompt_template
        if isinstance(prompt, str):
            return self.render_text(prompt, mode)
        is_messages = all(isinstance(item, Mapping) and "role" in item for item in prompt)
        if isinstance(prompt, PromptList) or (prompt and is_messages):
            turns = read_turns(prompt, mode)
            return self.render(turns, for_answer=mode == "gen") if turns else ""
        return [self.parse_template(each, mode) for each in prompt]

    def render_text(self, text: str, mode: str = "gen") -> str:
        """Render a text as one turn of the user, unless it says that it is to stay as it is."""
        if not text or isinstance(text, VerbatimText):
            return text
        return self.render([Turn("user", text)], for_answer=mode == "gen")


class LLaDACausalLM(BaseModel):
    """A language model for OpenCompass's generation and likelihood tasks.

    Its keywords are OpenCompass's own (``meta_template``, ``sync_rank``, ``tokenizer_only``), those
    of the papers' wrappers (`keywords`), and the ones that docs/reference/models.md describes.
    """

    _scorer: TextScorer | None = None

    def __init__(self, path: str, **keywords: Any) -> None:
        """Check every argument, read config.json and tokenizer, then load the weights.

        With OpenCompass's tokenizer_only no weights are loaded, and only token counts work.
        """
        options = parse_keywords({"path": path, **keywords}, fetch=True)
        template = keywords.get("meta_template")
        tokenizer_only = keywords.get("tokenizer_only", False)
        _check_processes(options.placement.sequence_parallel, loads=not tokenizer_only)
        super().__init__(
            path=path,
            max_seq_len=options.length_limit.max_seq_len,
            tokenizer_only=tokenizer_only,
            meta_template=dict(template) if template else None,
            generation_kwargs={},
            sync_rank=keywords.get("sync_rank", False),
        )
        self.options = options
        self.engine: Engine | None = None
        self._warned_too_long = False
        folder = resolve_path(options.path)
        config = read_adapted_config(folder, options.mask_token_id, options.adapter)
        family = find_family(config, options.path, options.family)
        tokenizer_path = resolve_path(options.tokenizer_path)
        self.tokenizer = load_tokenizer(tokenizer_path, options.tokenizer_kwargs)
        self.special_tokens: EndTokens = family.special_tokens(folder, config, self.tokenizer)
        self._check_ids()
        self._encoder = PromptEncoder(self.tokenizer, self.special_tokens.mask_token_id)
        if options.chat is not None:
            self.template_parser = ChatTemplateParser(self.tokenizer, options.chat)
        adapter = None if options.adapter is None else open_adapter(options.adapter, folder)
        if tokenizer_only:
            return
        if options.preset is not None:
            level = logging.WARNING if options.preset.misfits else logging.INFO
            logger.log(level, "%s: %s", options.path, options.preset.describe())
        device, group = choose_device(options.placement.device), None
        if options.placement.sequence_parallel > 1:
            device = own_device(device)
            # OpenCompass's writing of answers goes by this, too: the first process alone writes.
            group = connect(device)
            if dist.get_rank(group) > 0:  # the task's log is that of all
                logging.getLogger(PACKAGE).setLevel(logging.WARNING)
        request = LoadRequest(
            path=folder,
            config=config,
            tokenizer=self.tokenizer,
            rope_scaling=options.rope_scaling,
            settings=options.settings,
            attention_block=options.attention_block,
            passes=options.passes,
            dtype=choose_dtype(options.placement.dtype, device),
            device=device,
            attention_backend=options.placement.attention_backend,
            context_length=options.length_limit.max_seq_len,
            sequence_parallel=options.placement.sequence_parallel,
            group=group,
        )
        # What is merged or quantised is of this model alone.
        is_changed = adapter is not None or options.passes.precision == "float8"
        with weights_of_its_own() if is_changed else nullcontext():
            self.engine = family.load(request)
        if adapter is not None:
            merge_adapter(adapter, self.engine.model)
        self.engine.finish_loading()
        self._scorer = TextScorer(
            tokens=self.engine.scorer,
            encode=self._ids_to_score,
            count_bytes=self._encoder.count_bytes,
            start_token_id=self.tokenizer.bos_token_id,
            limit=options.length_limit,
            options=options.likelihood,
        )
        if options.length_limit.max_seq_len is not None:
            logger.info("Prompts %s", options.length_limit.describe())
        weakref.finalize(self, _log_totals, self.engine, options.path)

    @property
    def scorer(self) -> TextScorer | None:
        """Scores texts with the loaded model; None where only the tokenizer was loaded."""
        self.options.refuse_scoring()
        return self._scorer

    @staticmethod
    def check_arguments(path: str, **keywords: Any) -> WrapperOptions:
        """Check the arguments as far as they, and a config.json on this machine, can tell."""
        return parse_keywords({"path": path, **keywords}, fetch=False)

    def generate(
        self,
        inputs: Sequence[str],
        max_out_len: int | None = None,
        stopping_criteria: Sequence[str] | str | None = None,
    ) -> list[str]:
        """Generate an answer to each prompt, cut at the first end token and stop string.

        ``max_out_len`` is in tokens, None the model's own; the data set's ``stopping_criteria`` are
        added to the model's. A prompt beyond the limit under policy ``error``, or steps that do not
        fit the length, are a ValueError.
        """
        engine = _loaded(self.engine)
        stops = merge_stop_strings(self.options.stop_words, stopping_criteria)
        length = self.options.generation_length(max_out_len)
        prompts = [self._prompt_ids(self._as_prompt(text, "gen"), length) for text in inputs]
        size = self.options.batch_size or max(len(prompts), 1)

        answers = [""] * len(prompts)

        def is_complete(token_ids: list[int]) -> bool:
            return cut_is_settled(self._encoder.decode(token_ids), stops)

        for places in length_buckets([len(prompt) for prompt in prompts], size):
            batch = engine.generate(
                [prompts[place] for place in places],
                max_new_tokens=length,
                is_complete=is_complete if stops else None,
            )
            for place, generation in zip(places, batch, strict=True):
                ids = cut_at_token_ids(generation.token_ids, self.special_tokens.end_token_ids)
                answers[place] = cut_at_stop_strings(self._encoder.decode(ids), stops)
        return answers

    def get_ppl(
        self, inputs: Sequence[str], mask_length: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """Return the negative log-likelihood of each text in nats a token, for PPLInferencer.

        Exact for an autoregressive model, for a masked diffusion model an estimate of its bound.
        Not scored are the ``mask_length`` leading tokens of each, which are given, and a first
        token that nothing predicts (OpenCompass's own wrappers divide by it all the same).
        """
        scorer = _loaded(self.scorer)
        given = [0] * len(inputs) if mask_length is None else [int(n) for n in mask_length]
        texts = [self._as_prompt(text, "ppl") for text in inputs]
        pairs = zip(texts, given, strict=True)
        return np.array([scorer.score_text(text, count).nll_per_token for text, count in pairs])

    def get_loglikelihood(self, inputs: Sequence[str], conts: Sequence[str]) -> NDArray[np.float64]:
        """Return the log-likelihood of each whole text's ending given the rest, for LLInferencer.

        In nats; for a masked diffusion model a lower bound in expectation.
        """
        scorer = _loaded(self.scorer)
        texts = [self._as_prompt(text, "ppl") for text in inputs]
        pairs = zip(texts, conts, strict=True)
        return np.array([-scorer.score_continuation(text, cont).nll for text, cont in pairs])

    def get_ppl_tokenwise(self, *args: Any, **keywords: Any) -> NoReturn:
        """Refuse."""
        raise NotImplementedError(
            "get_ppl_tokenwise asks for the loss of each token, and a masked diffusion model has "
            "a likelihood bound of the whole text only: its tokens are predicted in every order. "
            "Use PPLInferencer, LLInferencer or opencompass_llada.benchmarks.short.inferencer."
        )

    def get_token_len(self, prompt: str) -> int:
        """Return how many tokens a prompt has before any truncation."""
        return len(self._encoder.encode(str(prompt)))

    def encode(self, prompt: str | PromptList) -> torch.Tensor:
        """Return a prompt's ids, int64 [tokens]."""
        return torch.tensor(self._encoder.encode(str(prompt)), dtype=torch.int64)

    def decode(self, tokens: torch.Tensor) -> str:
        """Return the text of int64 [tokens], special tokens left out."""
        return self._encoder.decode(tokens.tolist())

    def _as_prompt(self, text: str | PromptList, mode: str) -> str:
        """Return a prompt as it is to be read: with a chat template around it if it has none."""
        parser = self.template_parser
        return str(text) if self.options.chat is None else parser.render_text(str(text), mode)

    def _ids_to_score(self, text: str) -> list[int]:
        token_ids = self._encoder.encode(text)
        self._warn_if_too_long(min(len(token_ids), self.options.length_limit.max_seq_len or 2**63))
        return token_ids

    def _prompt_ids(self, text: str, generation_length: int) -> list[int]:
        token_ids = self._encoder.encode(text)
        start = self.tokenizer.bos_token_id
        if self.options.add_bos and token_ids[:1] != [start]:
            token_ids = [start, *token_ids]
        limit = self.options.length_limit.prompt_limit(generation_length)
        if limit is not None:
            token_ids = truncate(token_ids, limit=limit, policy=self.options.length_limit.policy)
        self._warn_if_too_long(len(token_ids) + generation_length)
        return token_ids

    def _warn_if_too_long(self, length: int) -> None:
        assert self.engine is not None, "prompts are read for a loaded engine only"
        rope = self.engine.rope
        if rope is None or length <= rope.longest_context or self._warned_too_long:
            return
        self._warned_too_long = True
        sees_all = getattr(self.engine.model, "attention_pattern", None) == FULL
        logger.warning(
            "A prompt and its generation take %d tokens, more than the %d that the %s; answers may "
            "fall apart. Set rope_scaling=dict(type='%s', target_length=%d) or more. "
            "Said once.",
            length,
            rope.longest_context,
            "model was trained on" if rope.method == "none" else "RoPE scaling was computed for",
            "diffusion_ntk" if sees_all else "ntk",  # the other is refused
            length,
        )

    def _check_ids(self) -> None:
        given, found = self.options.mask_token_id, self.special_tokens.mask_token_id
        if given is not None and given != found:
            raise ValueError(
                f"mask_token_id={given} (mask_id in diffusion_config), but the checkpoint's is "
                f"{found}; leave it out"
            )
        if self.options.add_bos and self.tokenizer.bos_token_id is None:
            raise ValueError(
                f"add_bos=True, but the tokenizer at {self.options.tokenizer_path!r} names no "
                "bos_token; leave add_bos out, or name one in tokenizer_kwargs"
            )


def _loaded(part: Any) -> Any:
    if part is None:
        raise RuntimeError("tokenizer_only=True loads no weights; build the model without it")
    return part


def _check_processes(sequence_parallel: int, *, loads: bool) -> None:
    """Refuse other processes than those that split the model's passes."""
    number = read_variable("WORLD_SIZE", lowest=1) if "LOCAL_RANK" in os.environ else 1
    if number > 1 and sequence_parallel == 1:
        raise ValueError(
            "run_cfg asks for several processes a model (num_procs), and OpenCompass would give "
            "each of them every sample; set run_cfg=dict(num_gpus=1, num_procs=1) and spread the "
            f"data sets over tasks instead, or sequence_parallel={number} for prompts that are too "
            "long for one GPU"
        )
    if loads and number != sequence_parallel:
        wanted = sequence_parallel
        raise ValueError(
            f"sequence_parallel={wanted} needs {wanted} processes, and this is one of {number}; "
            f"set run_cfg=dict(num_gpus={wanted}, num_procs={wanted}), which starts them for a "
            f"task (not under --debug), or use torchrun --nproc_per_node {wanted}"
        )


def _log_totals(engine: Engine, path: str) -> None:
    if engine.totals.num_prompts:
        logger.info("%s: %s", path, engine.totals.describe())


# The public name, which dumped configs hold.
LLaDACausalLM.__module__ = "opencompass_llada.wrapper"
