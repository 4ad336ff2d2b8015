"""Estimates what cells cost, in seconds, from their configs: loads no weights and no data.

What a forward pass takes is products, 2 operations a parameter and token, and attention, 4 a pair
of tokens, layer and channel; a step over cached keys reads the weights and the cache. The rates
are fits to `benchmarks/records/inference_h100.json` (LLaDA-8B's shape, bfloat16): full passes of
4,096 to 131,072 tokens come out within 5 %, answers of 32 to 512 tokens within 10 %. Another device
is off by a factor of its own, which `Calibration` takes from cells that are finished; how cells
compare with each other is what a plan goes by.
"""

from __future__ import annotations

import functools
import json
import logging
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from opencompass_llada.benchmarks.benchmark import benchmark_of
from opencompass_llada.families import find_family
from opencompass_llada.likelihood import LikelihoodOptions
from opencompass_llada.networks.checkpoint import read_model_config
from opencompass_llada.runs import recorded_files as recorded
from opencompass_llada.runs.hashes import find_folder
from opencompass_llada.runs.model_table import KNOWN_MODELS
from opencompass_llada.runs.provenance import Provenance
from opencompass_llada.sampling import SamplerConfig
from opencompass_llada.wrapper import LLaDACausalLM
from opencompass_llada.wrapper.keywords import WrapperOptions

logger = logging.getLogger(__name__)

#: Tokens of a prompt that nothing states, and new ones of a model that is not ours.
UNKNOWN_LENGTH, UNKNOWN_ANSWER = 2048, 256
#: Options that a question of multiple choice has, as most do.
_OPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Rates:
    """How fast a device computes with 16-bit weights (a CPU: with 32-bit ones)."""

    products: float
    """Operations a second of matrix products."""
    attention: float
    """Operations a second of attention."""
    bytes: float
    """Bytes of weights and cached keys read a second."""
    reread: float
    """How often a small step reads the weights, counted with its launches."""
    load_bytes: float
    """Bytes of a checkpoint read from disk and placed a second."""
    launch: float = 0.0
    """Seconds of a pass beside its operations."""


#: 16.03 GB load in 3.2 s from the page cache (model_shapes.json); a disk of a cluster is slower.
GPU = Rates(products=6e14, attention=5.8e14, bytes=3.0e12, reread=1.35, load_bytes=2e9)
#: One core of a machine of 2026, tiny-llada in 32 bit at 128 to 4,096 tokens; within 15 % there.
CPU = Rates(products=6e10, attention=7e10, bytes=1e10, reread=1.0, load_bytes=5e8, launch=5e-3)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a network that its time goes with."""

    linear: float
    """Parameters that every token passes: of experts, the active ones."""
    head: float
    """Parameters of the head, which masked positions alone pass."""
    stored: float
    """All of them."""
    num_layers: int
    query_width: int
    """Channels of all heads of queries."""
    kv_width: int


#: Of a checkpoint whose config.json is not on this machine.
LLADA_8B = Shape(
    linear=6.98e9, head=0.52e9, stored=8.02e9, num_layers=32, query_width=4096, kv_width=4096
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one sample asks of a network."""

    prompt_length: int
    generated: int = 0
    """New tokens; 0 where the prompt is scored."""
    full_passes: float = 1.0
    """Passes over prompt and answer together."""
    steps: float = 0.0
    """Passes over cached keys besides."""
    step_tokens: float = 1.0
    """Tokens that such a step computes."""


def read_shape(path: str) -> Shape:
    """Return the shape of a checkpoint by its config.json, LLaDA-8B's where that is not here."""
    folder = find_folder(path, fetch=False, weights=False)
    file = None if folder is None else folder / "config.json"
    if file is None or not file.is_file():
        return LLADA_8B
    return _read_shape(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _read_shape(file: Path, _time: int) -> Shape:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
        return shape_of(fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        logger.info("%s says no sizes (%r); costs are those of LLaDA-8B's shape.", file, error)
        return LLADA_8B


def shape_of(fields: Mapping[str, Any]) -> Shape:
    """Return the shape that a config.json describes, LLaDA's names of fields or transformers'."""

    def first(*names: str, default: float | None = None) -> float:
        found = next((fields[name] for name in names if fields.get(name)), default)
        if found is None:
            raise KeyError(names[0])
        return float(found)

    width, layers = first("d_model", "hidden_size"), first("n_layers", "num_hidden_layers")
    heads = first("n_heads", "num_attention_heads")
    query = heads * first("head_dim", default=width / heads)
    kv = query * first("n_kv_heads", "num_key_value_heads", default=heads) / heads
    mlp = first("mlp_hidden_size", "intermediate_size", default=4 * width)
    num_experts = first("num_experts", "n_routed_experts", default=1)
    own = first("moe_intermediate_size", "expert_intermediate_size", default=mlp)
    active = first("num_experts_per_tok", default=1) if num_experts > 1 else 1
    mlp = own if num_experts > 1 else mlp
    attention, head = 2 * query + 2 * kv, width * first("embedding_size", "vocab_size")
    return Shape(
        linear=layers * width * (attention + 3 * mlp * active),
        head=head,
        stored=layers * width * (attention + 3 * mlp * num_experts) + 2 * head,
        num_layers=int(layers),
        query_width=int(query),
        kv_width=int(kv),
    )


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """What a model's passes cost on a device."""

    shape: Shape
    rates: Rates
    weight_bytes: int = 2
    """Of one parameter."""

    @property
    def load_seconds(self) -> float:
        """Seconds to read and place the weights."""
        return self.shape.stored * self.weight_bytes / self.rates.load_bytes

    def pass_seconds(self, length: float) -> float:
        """Return the seconds of a full forward pass over so many tokens."""
        shape, rates = self.shape, self.rates
        products = 2 * shape.linear * length / rates.products
        pairs = length * length
        attention = 4 * pairs * shape.query_width * shape.num_layers / rates.attention
        return self._slowdown * (products + attention) + rates.launch

    def step_seconds(self, tokens: float, length: float) -> float:
        """Return the seconds of a pass over a few tokens, with cached keys of ``length`` tokens."""
        shape, rates = self.shape, self.rates
        weights = rates.reread * (shape.linear + shape.head) * self.weight_bytes
        cache = 2 * length * shape.kv_width * shape.num_layers * self.weight_bytes
        products = 2 * shape.linear * tokens / rates.products
        return (weights + cache) / rates.bytes + self._slowdown * products + rates.launch

    def sample_seconds(self, work: Work) -> float:
        """Return the seconds of one sample."""
        length = work.prompt_length + work.generated
        steps = work.steps * self.step_seconds(work.step_tokens, length) if work.steps else 0.0
        return work.full_passes * self.pass_seconds(length) + steps

    @property
    def _slowdown(self) -> float:
        """Tensor cores take 32-bit weights at about a tenth of their 16-bit rate."""
        return 10.0 if self.weight_bytes == 4 and self.rates is GPU else 1.0


def cost_of_model(model: Mapping[str, Any]) -> ModelCost:
    """Return what a model config's passes cost, on a GPU where its ``run_cfg`` asks for one."""
    on_gpu = bool((model.get("run_cfg") or {}).get("num_gpus", 0))
    dtype = None
    if recorded.is_ours(model):
        placement = LLaDACausalLM.check_arguments(**recorded.model_keywords(model)).placement
        dtype = placement.dtype
    size = (2 if on_gpu else 4) if dtype is None else dtype.itemsize
    rates = GPU if on_gpu else CPU
    return ModelCost(shape=read_shape(str(model.get("path", ""))), rates=rates, weight_bytes=size)


def describe_work(model: Mapping[str, Any], dataset: Mapping[str, Any]) -> Work:
    """Return what a sample of a data set asks of a model, by both configs.

    A prompt is as long as the data set's ``length`` says, else as the model's ``max_seq_len``
    allows. An answer that may end early counts as if none did.
    """
    inferencer = (dataset.get("infer_cfg") or {}).get("inferencer") or {}
    limit, stated = model.get("max_seq_len"), dataset.get("length")
    stated = stated if isinstance(stated, int) else None  # other data sets mean other things by it
    prompt = int(stated or limit or UNKNOWN_LENGTH)
    prompt = min(prompt, int(limit)) if limit else prompt
    kind = recorded.type_name(inferencer)
    if not recorded.is_ours(model):
        answer = int(inferencer.get("max_out_len") or model.get("max_out_len") or UNKNOWN_ANSWER)
        scores = kind in recorded.SCORING
        return Work(prompt_length=prompt) if scores else _token_by_token(prompt, answer)
    options = LLaDACausalLM.check_arguments(**recorded.model_keywords(model))
    by_token = _is_autoregressive(options)
    if kind in recorded.SCORING:
        return _scoring(prompt, kind, inferencer, None if by_token else options.likelihood)
    answer = options.generation_length(inferencer.get("max_out_len") or None)
    if by_token:
        return _token_by_token(prompt, answer)
    return _denoising(prompt, options.settings.for_length(answer))


def _is_autoregressive(options: WrapperOptions) -> bool:
    """Say whether a checkpoint writes token by token: by config.json, the table or the config."""
    folder = find_folder(options.path, fetch=False, weights=False)
    if folder is not None and (folder / "config.json").is_file():
        family = find_family(read_model_config(folder), options.path, options.family)
        return not family.has_sampler
    known = (own.is_autoregressive for own in KNOWN_MODELS.values() if own.path == options.path)
    return next(known, options.family == "autoregressive")


def _token_by_token(prompt: int, answer: int) -> Work:
    return Work(prompt_length=prompt, generated=answer, steps=max(answer - 1, 0))


def _scoring(
    prompt: int, kind: str, inferencer: Mapping[str, Any], likelihood: LikelihoodOptions | None
) -> Work:
    """Return the passes that score a text: one a draw, or one an option where it is exact."""
    if likelihood is None:
        return Work(
            prompt_length=prompt, full_passes=1 if kind == "PerplexityInferencer" else _OPTIONS
        )
    if inferencer.get("likelihood"):
        likelihood = LikelihoodOptions(**inferencer["likelihood"])
    draws = 1 if likelihood.estimator == "confidence" else likelihood.draws
    windows = (inferencer.get("window") or {}).get("windows_per_text") or 1
    passes: float = draws * windows if kind == "PerplexityInferencer" else draws * _OPTIONS
    if likelihood.estimator == "longllada":  # a chunk after the other, each with all before it
        passes *= max(1, prompt // likelihood.chunk_length) / 2
    return Work(prompt_length=prompt, full_passes=passes)


def _denoising(prompt: int, sampler: SamplerConfig) -> Work:
    """Return the passes of the sampler: all full without a cache, one a block or so with one."""
    plan = sampler.plan()
    steps, blocks = plan.num_steps, max(1, plan.padded_length // plan.block_length)
    guided = 2 if sampler.cfg_scale > 0 else 1
    if not sampler.cache.enabled:
        return Work(prompt_length=prompt, generated=plan.padded_length, full_passes=guided * steps)
    refresh, full = sampler.cache.refresh, 1
    if isinstance(refresh, int):
        full = -(-steps // refresh)
    elif refresh == "block":
        full = blocks
    tokens: float = plan.block_length
    if sampler.cache.type == "prompt":  # what follows the block is computed, too
        tokens = (plan.padded_length + plan.block_length) / 2
    return Work(
        prompt_length=prompt,
        generated=plan.padded_length,
        full_passes=min(full, steps),
        steps=max(steps - full, 0),
        step_tokens=tokens,
    )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How many times as long as estimated finished cells took."""

    factors: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By the names of a model and a benchmark."""

    def factor(self, model: Mapping[str, Any], dataset: Mapping[str, Any]) -> float:
        """Return the factor of a cell: its own benchmark's, else its model's, else the middle."""
        name = recorded.model_name(model)
        own = self.factors.get((name, benchmark_of(dataset).name))
        if own is not None:
            return own
        of_model = [value for (other, _), value in self.factors.items() if other == name]
        known = of_model or list(self.factors.values())
        return statistics.median(known) if known else 1.0


class Estimates:
    """Estimates the samples of many cells, each model and each kind of work once."""

    def __init__(self) -> None:
        """Begin with none."""
        self._models: dict[int, tuple[Any, ModelCost]] = {}  # the config is kept, so its id is
        self._works: dict[tuple[int, str], Work] = {}
        self._draws: dict[int, bool] = {}

    def draws(self, model: Mapping[str, Any]) -> bool:
        """Say whether a model's answers depend on random numbers, as far as its config tells."""
        self.model(model)
        if id(model) not in self._draws:
            own = recorded.is_ours(model)
            settings = (
                LLaDACausalLM.check_arguments(**recorded.model_keywords(model)).settings
                if own
                else None
            )
            self._draws[id(model)] = settings is not None and settings.resolved.draws
        return self._draws[id(model)]

    def model(self, model: Mapping[str, Any]) -> ModelCost:
        """Return what a model's passes cost."""
        if id(model) not in self._models:
            self._models[id(model)] = (model, cost_of_model(model))
        return self._models[id(model)][1]

    def sample(self, model: Mapping[str, Any], dataset: Mapping[str, Any]) -> float:
        """Return the seconds that a sample of a cell takes, not calibrated."""
        cost = self.model(model)
        inferencer = (dataset.get("infer_cfg") or {}).get("inferencer")
        key = (id(model), f"{dataset.get('length')} {inferencer}")
        if key not in self._works:
            self._works[key] = describe_work(model, dataset)
        return cost.sample_seconds(self._works[key])

    def calibrate(
        self, pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], known: Provenance
    ) -> Calibration:
        """Compare the recorded seconds of a run's cells, shards among them, with the estimates."""
        totals: dict[tuple[str, str], tuple[float, float]] = {}
        names = {name for _, name in known.datasets}
        for model, dataset in pairs if known.datasets else ():
            name = recorded.model_name(model)
            for record in known.of_cell(name, recorded.dataset_name(dataset), names).values():
                seconds = record.get("seconds") or record.get("wall_seconds") or 0.0
                prompts = record.get("num_prompts") or record.get("num_samples") or 0
                if seconds > 0 and prompts:
                    key = (name, benchmark_of(dataset).name)
                    took, told = totals.get(key, (0.0, 0.0))
                    estimate = prompts * self.sample(model, dataset)
                    totals[key] = (took + seconds, told + estimate)
        return Calibration(factors={key: took / told for key, (took, told) in totals.items()})
