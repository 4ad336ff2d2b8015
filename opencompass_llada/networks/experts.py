"""Mixture of experts: a router chooses a few small MLPs for each token, and their sum is weighted.

All experts of a layer run in two grouped products, whatever the routing; none is looped over.
Shape suffixes: B rows, P positions, T tokens, M hidden size, E experts, K experts of a token,
S places (T times K), F an expert's inner size, G gate and up (2 F), C groups of experts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_grouped = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)

STRIDE = 8
"""The grouped products read 16 bytes at a time, so that sizes are multiples of 8 in 16 bit."""

_PARTS = ("gate_proj", "up_proj", "down_proj")
_MERGED = re.compile(rf"(.*\.experts)\.({'|'.join(_PARTS)})")


@dataclass(frozen=True, kw_only=True)
class ExpertDimensions:
    """Sizes and routing rule of a network's sparse layers."""

    number: int
    """Experts of a layer."""
    per_token: int
    """Experts that a token uses."""
    width: int
    """Inner size of an expert."""
    shared_width: int
    """Inner size of the expert that every token uses; 0 where there is none."""
    sparse_layers: tuple[bool, ...]
    """For each layer whether it has experts; the others have the dense MLP."""
    score: str
    """``sigmoid`` or ``softmax`` of the router's logits."""
    bias: str | None = None
    """Name within the MLP of what is added to the scores; None where nothing is."""
    weighs_bias: bool = False
    """Whether the bias changes the experts' weights, too, and not their choice alone."""
    num_groups: int = 1
    """Groups of experts that lie together; `groups_used` of them are open to a token."""
    groups_used: int = 1
    normalised: bool = False
    """Whether a token's weights are divided by their sum."""
    scale: float = 1.0
    """What the weights are multiplied with."""


class Stacked(NamedTuple):
    """The weights of all experts of a layer."""

    gate_up_EGM: Tensor
    down_EMF: Tensor


class ExpertSteps:
    """Computes what stands before, between and after the grouped products.

    Plain PyTorch, the oracle; `FusedExpertSteps` of ``inference/triton/experts.py`` are kernels.
    """

    def choose(
        self, h_TM: Tensor, router_EM: Tensor, bias_E: Tensor | None, experts: ExpertDimensions
    ) -> tuple[Tensor, Tensor]:
        """Return each token's experts, an integer [T, K], and their weights, float32 [T, K]."""
        # Differs from LLaDA-MoE's code, which routes in the weights' dtype: float32 for all.
        return route(F.linear(h_TM.float(), router_EM.float()), bias_E, experts)

    def spread(self, h_TM: Tensor, tokens_S: Tensor) -> Tensor:
        """Return the token at each place, [S, M]."""
        return h_TM[tokens_S]

    def gate(self, inner_SG: Tensor) -> Tensor:
        """Return ``silu(gate) * up``, [S, F]."""
        gate_SF, up_SF = inner_SG.chunk(2, dim=-1)
        return F.silu(gate_SF) * up_SF

    def weigh(self, out_SM: Tensor, places_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """Return each token's sum, in float32 and rounded once, of what its experts return."""
        if out_SM.requires_grad:  # a gather each would have a backward pass over all places each
            return torch.einsum("tkm,tk->tm", out_SM[places_TK].float(), weights_TK).to(
                out_SM.dtype
            )
        sum_TM = out_SM.new_zeros((len(places_TK), out_SM.shape[1]), dtype=torch.float32)
        for places_T, weights_T in zip(places_TK.unbind(1), weights_TK.unbind(1), strict=True):
            sum_TM.addcmul_(out_SM[places_T].float(), weights_T[:, None])
        return sum_TM.to(out_SM.dtype)


PLAIN_STEPS = ExpertSteps()


class Expert(nn.Module):
    """Holds an expert's weights under their published names; `SparseMLP` computes with them."""

    def __init__(self, width: int, inner: int) -> None:
        """Make the three products."""
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)


class SparseMLP(nn.Module):
    """Routes each token to its experts; the expert that all tokens share is the block's own."""

    def __init__(self, width: int, experts: ExpertDimensions) -> None:
        """Make the router and the experts, in the published layout."""
        super().__init__()
        if _grouped is None:
            raise ValueError(
                f"torch {torch.__version__} has no grouped products, which a mixture of experts "
                "runs by. Install torch 2.10 or later, which has torch.nn.functional.grouped_mm."
            )
        self.rule = experts
        self.gate = nn.Linear(width, experts.number, bias=False)
        made = (Expert(width, experts.width) for _ in range(experts.number))
        self.experts = nn.ModuleList(made)
        if experts.bias is not None:
            owner, _, name = experts.bias.rpartition(".")
            self.get_submodule(owner).register_buffer(name, torch.zeros(experts.number))

    def forward(self, h_BPM: Tensor) -> Tensor:
        """Return the weighted sum of each token's experts."""
        return self.mix(h_BPM.flatten(0, -2), self.stacked()).view_as(h_BPM)

    def mix(self, h_TM: Tensor, stacked: Stacked, steps: ExpertSteps = PLAIN_STEPS) -> Tensor:
        """Return the weighted sum of each token's experts, [T, M], given all weights."""
        bias_E = None if self.rule.bias is None else self.get_buffer(self.rule.bias).float()
        routed = steps.choose(h_TM, self.gate.weight, bias_E, self.rule)
        return run_experts(h_TM, *routed, stacked, steps)

    def stacked(self) -> Stacked:
        """Return the experts' weights as one tensor each, which their own become views of.

        Weights that are being trained are copied instead, so that gradients reach them.
        """
        gate, up, down = self._weights()
        both = [weight for pair in zip(gate, up, strict=True) for weight in pair]
        return Stacked(_stack(both, len(gate)), _stack(down, len(down)))

    def _weights(self) -> Iterator[list[Tensor]]:
        for part in _PARTS:
            modules = [getattr(expert, part) for expert in self.experts]
            if odd := {type(m).__name__ for m in (self.gate, *modules) if type(m) is not nn.Linear}:
                raise ValueError(
                    f"experts whose weights are held by {', '.join(odd)} are not run in one "
                    "product; merge the adapter into the weights first"
                )
            yield [module.weight for module in modules]


def route(
    logits_TE: Tensor, bias_E: Tensor | None, experts: ExpertDimensions
) -> tuple[Tensor, Tensor]:
    """Return each token's experts, int64 [T, K], and their weights, float32 [T, K]."""
    scores_TE = logits_TE.sigmoid() if experts.score == "sigmoid" else logits_TE.softmax(-1)
    ranked_TE = scores_TE if bias_E is None else scores_TE + bias_E
    if experts.weighs_bias:
        scores_TE = ranked_TE
    if experts.num_groups > 1:
        ranked_TE = ranked_TE.masked_fill(~_open_experts(ranked_TE, experts), -torch.inf)
    chosen_TK = ranked_TE.topk(experts.per_token, dim=-1).indices
    weights_TK = scores_TE.gather(-1, chosen_TK)
    if experts.normalised:
        weights_TK = weights_TK / (weights_TK.sum(-1, keepdim=True) + 1e-20)
    return chosen_TK, weights_TK * experts.scale


def _open_experts(ranked_TE: Tensor, experts: ExpertDimensions) -> Tensor:
    """Return which experts are in the groups whose two best sum highest, bool [T, E]."""
    grouped = ranked_TE.unflatten(-1, (experts.num_groups, -1))
    sums_TC = grouped.topk(2, dim=-1).values.sum(-1)
    best = sums_TC.topk(experts.groups_used, dim=-1).indices
    open_TC = torch.zeros_like(sums_TC, dtype=torch.bool).scatter(-1, best, True)
    return open_TC[..., None].expand_as(grouped).flatten(-2)


def run_experts(
    h_TM: Tensor,
    chosen_TK: Tensor,
    weights_TK: Tensor,
    stacked: Stacked,
    steps: ExpertSteps = PLAIN_STEPS,
) -> Tensor:
    """Return the weighted sum of each token's experts, [T, M]; `memory_of` says what it takes."""
    number, per_token = len(stacked.down_EMF), chosen_TK.shape[-1]
    # In 16 bit it is sorted in half the passes of 32 bit.
    experts_S, order_S = chosen_TK.flatten().to(torch.int16).sort(stable=True)
    experts_E = torch.arange(number, dtype=torch.int16, device=h_TM.device)
    ends_E = torch.searchsorted(experts_S, experts_E, right=True, out_int32=True)
    x_SM = steps.spread(h_TM, order_S // per_token)
    inner_SG = _product(x_SM, stacked.gate_up_EGM, ends_E)
    del x_SM
    gated_SF = steps.gate(inner_SG)
    del inner_SG
    out_SM = _product(gated_SF, stacked.down_EMF, ends_E)
    del gated_SF
    places_S = torch.empty_like(order_S)
    places_S[order_S] = torch.arange(len(order_S), device=order_S.device)
    return steps.weigh(out_SM, places_S.view_as(chosen_TK), weights_TK)


def memory_of(experts: ExpertDimensions, width: int, element_size: int) -> int:
    """Return the bytes of a token's activations in `run_experts`, without its input and output.

    At its worst these are its places' input beside gate and up, those two beside what is made of
    them in plain PyTorch, or what its experts return beside their sum.
    """
    inner = max(width + 2 * experts.width, 4 * experts.width)
    outputs = experts.per_token * width * element_size
    rounded = 0 if element_size == 4 else element_size
    return max(experts.per_token * inner * element_size, outputs + width * (8 + rounded))


def _product(x: Tensor, weights: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply each expert's places with its weights; those of expert e end at ``ends[e]``."""
    assert _grouped is not None, "checked when the network is made"
    return _grouped(x, weights.transpose(1, 2), offs=ends_E)


def graph_obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return why the grouped products cannot be captured in a CUDA graph, or None if they can."""
    if device.type != "cuda":
        return None
    major, _ = torch.cuda.get_device_capability(device)
    if dtype == torch.bfloat16 and major >= 9:
        return None
    return "experts in one product wait for the host but in bfloat16 on cards since the H100"


def _stack(weights: Sequence[Tensor], number: int) -> Tensor:
    """Return weights end to end, as many rows of each expert."""
    trained = any(weight.requires_grad for weight in weights)
    joined = torch.cat(list(weights)) if trained else join(weights)
    return joined.unflatten(0, (number, -1))


def join(parameters: Sequence[Tensor]) -> Tensor:
    """Lay parameters end to end and make them views of the result; once is enough."""
    first = parameters[0].detach()
    sizes = [parameter.shape[0] for parameter in parameters]
    end = first.data_ptr()
    ends = []
    for parameter in parameters:
        ends.append((parameter.data_ptr(), end))
        end = parameter.data_ptr() + parameter.numel() * parameter.element_size()
    storage = first.untyped_storage()
    whole = end - storage.data_ptr() <= storage.nbytes()
    if whole and all(start == expected for start, expected in ends):
        return first.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    with torch.inference_mode(False):  # else what is joined while sampling could never be trained
        joined = torch.cat([parameter.detach() for parameter in parameters])
        for parameter, part in zip(parameters, joined.split(sizes), strict=True):
            parameter.data = part
    return joined


def split_merged(stored: Mapping[str, Any], experts: ExpertDimensions | None) -> dict[str, Any]:
    """Return tensors, or shapes, by name, those of all experts in one as each expert's own.

    dFactory's converter writes ``mlp.experts.gate_proj`` [E, F, M] for training, and published
    files ``mlp.experts.0.gate_proj.weight`` [F, M] and so on; tensors are split as views.
    """
    if experts is None:
        return dict(stored)
    split: dict[str, Any] = {}
    for name, value in stored.items():
        found, shape = _MERGED.fullmatch(name), getattr(value, "shape", value)
        if found is None or len(shape) != 3 or shape[0] != experts.number:
            split[name] = value
            continue
        owner, part = found.groups()
        own = value.unbind(0) if torch.is_tensor(value) else [shape[1:]] * experts.number
        split |= {f"{owner}.{i}.{part}.weight": each for i, each in enumerate(own)}
    return split
