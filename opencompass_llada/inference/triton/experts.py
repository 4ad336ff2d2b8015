"""Runs Triton kernels for what stands around the experts' products.

Shape suffixes: T tokens, M hidden size, E experts, K experts of a token, S places (T times K), F an
expert's inner size, G gate and up (2 F), C groups of experts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from opencompass_llada.inference.triton.elementwise import gate_over
from opencompass_llada.networks.experts import ExpertDimensions, ExpertSteps, route

_TOKENS = 8
"""Tokens that a program routes."""


@triton.jit
def _best(values_TE, places_E):
    """Return where each row's largest value is, of equal ones the first, as a mask and a place."""
    best_T = tl.argmax(values_TE, axis=1)
    return places_E[None, :] == best_T[:, None], best_T


@triton.jit
def _open_groups(ranked_TE, GROUPS: tl.constexpr, USED: tl.constexpr):
    """Return the values of the groups whose two best sum highest, and -inf for the others."""
    tokens: tl.constexpr = ranked_TE.shape[0]
    size: tl.constexpr = ranked_TE.shape[1] // GROUPS
    grouped = tl.reshape(ranked_TE, (tokens, GROUPS, size))
    first_TC = tl.max(grouped, axis=2)
    place_TC = tl.argmax(grouped, axis=2)
    is_first = tl.arange(0, size)[None, None, :] == place_TC[:, :, None]
    sums_TC = first_TC + tl.max(tl.where(is_first, float("-inf"), grouped), axis=2)
    groups_C = tl.arange(0, GROUPS)
    open_TC = tl.zeros((tokens, GROUPS), tl.int32)
    for _ in tl.static_range(USED):
        hit_TC, _place = _best(sums_TC, groups_C)
        open_TC = tl.where(hit_TC, 1, open_TC)
        sums_TC = tl.where(hit_TC, float("-inf"), sums_TC)
    grouped = tl.where(open_TC[:, :, None] > 0, grouped, float("-inf"))
    return tl.reshape(grouped, (tokens, GROUPS * size))


@triton.jit
def _choose_kernel(
    logits_ptr,
    bias_ptr,
    chosen_ptr,
    weights_ptr,
    num_tokens,
    number,
    scale,
    TOKENS: tl.constexpr,
    BLOCK_E: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PER_TOKEN: tl.constexpr,
    GROUPS: tl.constexpr,
    GROUPS_USED: tl.constexpr,
    SIGMOID: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WEIGHS_BIAS: tl.constexpr,
    NORMALISED: tl.constexpr,
):
    rows_T = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    experts_E = tl.arange(0, BLOCK_E)
    keep_T, real_E = rows_T < num_tokens, experts_E < number
    place = logits_ptr + rows_T.to(tl.int64)[:, None] * number + experts_E[None, :]
    logits = tl.load(place, mask=keep_T[:, None] & real_E[None, :], other=0.0)
    logits = tl.where(real_E[None, :], logits, float("-inf"))
    if SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-logits))
    else:
        raised = tl.exp(logits - tl.max(logits, axis=1)[:, None])
        scores = raised / tl.sum(raised, axis=1)[:, None]
    ranked = scores
    if HAS_BIAS:
        ranked = scores + tl.load(bias_ptr + experts_E, mask=real_E, other=0.0)[None, :]
    if WEIGHS_BIAS:
        scores = ranked
    ranked = tl.where(real_E[None, :], ranked, float("-inf"))
    if GROUPS > 1:
        ranked = _open_groups(ranked, GROUPS, GROUPS_USED)
    slots_K = tl.arange(0, BLOCK_K)
    chosen = tl.zeros((TOKENS, BLOCK_K), tl.int32)
    weights = tl.zeros((TOKENS, BLOCK_K), tl.float32)
    for k in tl.static_range(PER_TOKEN):
        hit, best_T = _best(ranked, experts_E)
        own_T = tl.sum(tl.where(hit, scores, 0.0), axis=1)
        ranked = tl.where(hit, float("-inf"), ranked)
        is_slot = slots_K[None, :] == k
        chosen = tl.where(is_slot, best_T[:, None], chosen)
        weights = tl.where(is_slot, own_T[:, None], weights)
    if NORMALISED:
        weights = weights / (tl.sum(weights, axis=1)[:, None] + 1e-20)
    targets = rows_T.to(tl.int64)[:, None] * PER_TOKEN + slots_K[None, :]
    written = keep_T[:, None] & (slots_K < PER_TOKEN)[None, :]
    tl.store(chosen_ptr + targets, chosen.to(chosen_ptr.dtype.element_ty), mask=written)
    tl.store(weights_ptr + targets, weights * scale, mask=written)


@triton.jit
def _spread_kernel(
    h_ptr, tokens_ptr, out_ptr, num_places, width, PLACES: tl.constexpr, BLOCK: tl.constexpr
):
    places = tl.program_id(0).to(tl.int64) * PLACES + tl.arange(0, PLACES)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = places < num_places
    tokens = tl.load(tokens_ptr + places, mask=real, other=0)
    keep = real[:, None] & (cols < width)[None, :]
    values = tl.load(h_ptr + tokens[:, None] * width + cols[None, :], mask=keep)
    tl.store(out_ptr + places[:, None] * width + cols[None, :], values, mask=keep)


@triton.jit
def _weigh_kernel(
    out_ptr,
    places_ptr,
    weights_ptr,
    sum_ptr,
    width,
    PER_TOKEN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    keep = cols < width
    total = tl.zeros((BLOCK,), tl.float32)
    for k in tl.static_range(PER_TOKEN):
        place = tl.load(places_ptr + token * PER_TOKEN + k).to(tl.int64)
        weight = tl.load(weights_ptr + token * PER_TOKEN + k)
        total += weight * tl.load(out_ptr + place * width + cols, mask=keep, other=0.0).to(
            tl.float32
        )
    tl.store(sum_ptr + token * width + cols, total.to(sum_ptr.dtype.element_ty), mask=keep)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _serves(experts: ExpertDimensions) -> bool:
    """Tell whether the kernel can route so: at most 1,024 experts, groups in powers of two.

    Of another number of experts NaN could choose a place behind the last.
    """
    powers = _is_power_of_two(experts.number) and _is_power_of_two(experts.num_groups)
    return powers and experts.number <= 1024


class FusedExpertSteps(ExpertSteps):
    """The kernels; of equal scores they choose the first expert, where PyTorch may any."""

    def choose(
        self, h_TM: Tensor, router_EM: Tensor, bias_E: Tensor | None, experts: ExpertDimensions
    ) -> tuple[Tensor, Tensor]:
        """Return each token's experts, int16 [T, K], and their weights, float32 [T, K]."""
        if h_TM.dtype == torch.float32:
            logits_TE = F.linear(h_TM, router_EM.float())
        else:  # the products of 16-bit numbers are exact in float32, and so on tensor cores
            logits_TE = torch.mm(h_TM, router_EM.t(), out_dtype=torch.float32)
        if not _serves(experts):
            return route(logits_TE, bias_E, experts)
        return choose_experts(logits_TE, bias_E, experts)

    def spread(self, h_TM: Tensor, tokens_S: Tensor) -> Tensor:
        """Copy whole rows, which PyTorch's indexing copies slower."""
        h_TM, width = h_TM.contiguous(), h_TM.shape[1]
        x_SM = h_TM.new_empty((len(tokens_S), width))
        block = min(triton.next_power_of_2(width), 2048)
        places = 2 if len(tokens_S) > 4096 else 1
        _spread_kernel[(triton.cdiv(len(tokens_S), places), triton.cdiv(width, block))](
            h_TM, tokens_S, x_SM, len(tokens_S), width, PLACES=places, BLOCK=block
        )
        return x_SM

    def gate(self, inner_SG: Tensor) -> Tensor:
        """Gate in one launch."""
        gate_SF, up_SF = inner_SG.chunk(2, dim=-1)
        return gate_over(gate_SF, up_SF)

    def weigh(self, out_SM: Tensor, places_TK: Tensor, weights_TK: Tensor) -> Tensor:
        """Sum in one launch, which reads each expert's output once."""
        (num_tokens, per_token), width = places_TK.shape, out_SM.shape[1]
        sum_TM = out_SM.new_empty((num_tokens, width))
        block = min(triton.next_power_of_2(width), 2048)
        _weigh_kernel[(num_tokens, triton.cdiv(width, block))](
            out_SM, places_TK, weights_TK, sum_TM, width, PER_TOKEN=per_token, BLOCK=block
        )
        return sum_TM


def choose_experts(
    logits_TE: Tensor, bias_E: Tensor | None, experts: ExpertDimensions
) -> tuple[Tensor, Tensor]:
    """Return what `route` does in one launch, the experts as int16."""
    num_tokens, number = logits_TE.shape
    shape = num_tokens, experts.per_token
    chosen_TK = torch.empty(shape, dtype=torch.int16, device=logits_TE.device)
    weights_TK = torch.empty(shape, dtype=torch.float32, device=logits_TE.device)
    _choose_kernel[(triton.cdiv(num_tokens, _TOKENS),)](
        logits_TE,
        logits_TE if bias_E is None else bias_E,
        chosen_TK,
        weights_TK,
        num_tokens,
        number,
        experts.scale,
        TOKENS=_TOKENS,
        BLOCK_E=triton.next_power_of_2(number),
        BLOCK_K=triton.next_power_of_2(experts.per_token),
        PER_TOKEN=experts.per_token,
        GROUPS=experts.num_groups,
        GROUPS_USED=experts.groups_used,
        SIGMOID=experts.score == "sigmoid",
        HAS_BIAS=bias_E is not None,
        WEIGHS_BIAS=experts.weighs_bias,
        NORMALISED=experts.normalised,
        num_warps=4,
    )
    return chosen_TK, weights_TK
