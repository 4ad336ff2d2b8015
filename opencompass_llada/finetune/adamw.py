"""Steps AdamW with bfloat16 weights that lose no update, and with moments in fewer bytes.

A bfloat16 weight has 8 bits of precision: at 0.02 its neighbours are 1.2e-4 away, and AdamW's step
at a rate of 2e-5 rounds away. Here the optimiser keeps the 16 bits that complete each weight to
float32. Weights move as float32 ones do, and the network sees the nearest bfloat16.

torchao's AdamW with stochastic rounding was considered (0.18) and does not serve:

- rounding at random keeps the update's mean, but its noise outweighs the update
  (benchmarks/low_precision.py has both);
- the moments of bfloat16 weights are bfloat16 or 8 bit, never float32;
- random numbers are the global generator's: a run that is resumed, or that has other processes,
  would be another run;
- its 8-bit moments are a tensor class of its own, which reading a state would have to unpickle, and
  their blocks follow the shards.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.distributed.tensor as sharded
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.optim import Optimizer

from opencompass_llada.finetune.number_formats import (
    decode,
    encode,
    join_float32,
    random_bits,
    read_bfloat16,
    round_to_bfloat16,
    split_float32,
)

Moments = Literal["float32", "bfloat16", "8bit"]
#: Bytes of both moments of a weight; 8 bits have two bytes more a block.
MOMENT_BYTES: dict[str, float] = {"float32": 8, "bfloat16": 4, "8bit": 2 + 2 / 256}
#: Numbers that share a scale, at most and at least; a matrix that has no such divisor, and every
#: vector, has float32 moments.
_BLOCK, _SMALLEST_BLOCK = 256, 16
_LOW, _FIRST, _SECOND = "low_bits", "exp_avg", "exp_avg_sq"


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class _Job(NamedTuple):
    """A part of a parameter: `_update`'s tensors, key and index of its first number, numbers."""

    parts: list[Any]
    place: tuple[int, int, int, int]
    numbers: list[float]


class SplitAdamW(Optimizer):
    """AdamW (arXiv 1711.05101, Algorithm 2) over float32 weights, or bfloat16 ones in two halves.

    Each random number is a function of the seed, the step, the weight's place in its matrix and the
    matrix's in the groups: equal gradients give equal bits on any number of processes.
    """

    #: Numbers of a part that is updated at once: what a cache holds, or what one kernel does.
    CHUNK: ClassVar[dict[str, int]] = {"cpu": 2**16, "cuda": 2**22, "compiled": 2**26}

    def __init__(
        self,
        parameters: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        moments: Moments,
        seed: int,
        compiled: bool = False,
        eps: float = 1e-8,
    ) -> None:
        """Take groups of parameters as torch's AdamW does, each with its ``weight_decay``.

        ``compiled`` needs CUDA: one kernel a part instead of some sixty.
        """
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self._moments, self._seed, self._is_compiled = moments, seed, compiled
        self._update: Callable[..., None] = torch.compile(_update) if compiled else _update

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; there is no closure."""
        jobs: list[_Job] = []
        number = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                number += 1
                if parameter.grad is not None:
                    jobs += self._jobs(parameter, group, number)
        if not jobs:
            return
        device = jobs[0].parts[0].device  # numbers go there once, so that no kernel waits for them
        places = torch.tensor([job.place for job in jobs], dtype=torch.int32, device=device)
        numbers = torch.tensor([job.numbers for job in jobs], device=device)
        for job, place, own in zip(jobs, places.unbind(), numbers.unbind(), strict=True):
            self._update(*job.parts, place, own)

    def _jobs(self, parameter: Tensor, group: dict[str, Any], number: int) -> Iterator[_Job]:
        """Count a parameter's step and yield what is to be done, part by part."""
        state = self.state[parameter]
        if not state:
            self._begin(parameter, state)
        state["step"] += 1
        step = int(state["step"].item())
        numbers = _numbers(group, step)
        text = f"{self._seed} {step} {number}".encode()
        key = int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big", signed=True)
        kind = "compiled" if self._is_compiled else local_part(parameter).device.type
        first = _first_index(parameter)
        for start, parts in _chunks(parameter, state, self.CHUNK[kind]):
            if self._is_compiled:  # one kernel for all sizes
                for part in parts:
                    if part is not None:
                        torch._dynamo.maybe_mark_dynamic(part, 0)
            place = (first + start + 2**31) % 2**32 - 2**31  # as int32, which goes round
            # Four numbers are 16 bytes, as compiled code wants them aligned.
            yield _Job(parts, (key, place, 0, 0), numbers)

    def _begin(self, parameter: Tensor, state: dict[str, Any]) -> None:
        state["step"] = torch.tensor(0.0)
        if parameter.dtype == torch.bfloat16:
            state[_LOW] = zeros_like_sharded(parameter, torch.int16)
        block = block_size(parameter) if self._moments == "8bit" else 0
        for name in (_FIRST, _SECOND):
            if block:
                state[name] = zeros_like_sharded(parameter, torch.uint8)
                shape = (*parameter.shape[:-1], parameter.shape[-1] // block)
                state[f"{name}_scale"] = zeros_like_sharded(parameter, torch.uint8, shape)
            else:
                small = self._moments == "bfloat16" and parameter.dim() > 1
                state[name] = zeros_like_sharded(
                    parameter, torch.bfloat16 if small else torch.float32
                )

    def exact_weight(self, parameter: Tensor) -> Tensor:
        """Return this process's part of a weight in float32, with its low half."""
        weight = local_part(parameter.detach())
        low = self.state.get(parameter, {}).get(_LOW)  # none before the first step
        if low is None:
            return weight.float()
        return join_float32(weight.view(torch.int16), local_part(low))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state in its own dtypes; torch's method casts everything to the weights'."""
        for group, given in zip(self.param_groups, state_dict["param_groups"], strict=True):
            for parameter, name in zip(group["params"], given["params"], strict=True):
                if name in state_dict["state"]:
                    self.state[parameter] = dict(state_dict["state"][name])
            group.update({name: value for name, value in given.items() if name != "params"})


def block_size(parameter: Tensor) -> int:
    """Return how many numbers share a scale in 8 bit; 0 where moments stay float32."""
    block = math.gcd(parameter.shape[-1], _BLOCK)
    return block if parameter.dim() > 1 and block >= _SMALLEST_BLOCK else 0


def _numbers(group: dict[str, Any], step: int) -> list[float]:
    """Return what is the same for all weights of a group in a step."""
    (beta1, beta2), rate = group["betas"], float(group["lr"])
    size = rate / (1 - beta1**step)
    correction = 1 / math.sqrt(1 - beta2**step)
    decay = 1 - rate * group["weight_decay"]
    return [decay, beta1, 1 - beta1, beta2, 1 - beta2, size, correction, group["eps"]]


def zeros_like_sharded(
    parameter: Tensor, dtype: torch.dtype, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Return zeros of a dtype, and perhaps another last dimension, sharded as a parameter is."""
    shape = tuple(parameter.shape) if shape is None else shape
    if isinstance(parameter, DTensor):
        mesh, places = parameter.device_mesh, parameter.placements
        return sharded.zeros(*shape, dtype=dtype, device_mesh=mesh, placements=places)
    return torch.zeros(shape, dtype=dtype, device=parameter.device)


def _first_index(parameter: Tensor) -> int:
    """Return the number, in the whole tensor, of the first element of this process's part."""
    if not isinstance(parameter, DTensor):
        return 0
    mesh, places = parameter.device_mesh, parameter.placements
    _, offset = compute_local_shape_and_global_offset(parameter.shape, mesh, places)
    assert not any(offset[1:]), (offset, "FSDP shards the first dimension")
    return offset[0] * math.prod(parameter.shape[1:])


def _chunks(
    parameter: Tensor, state: dict[str, Any], size: int
) -> Iterator[tuple[int, list[Tensor | None]]]:
    """Yield views of what belongs together, with the place of the first number of each.

    Numbers in blocks are [N, B], others [N]; bfloat16 ones are given by their bits.
    """
    names = (_LOW, _FIRST, _SECOND, f"{_FIRST}_scale", f"{_SECOND}_scale")
    assert parameter.grad is not None
    weight, grad = local_part(parameter.detach()), local_part(parameter.grad).contiguous()
    low, first, second, *scales = (
        local_part(state[name]) if name in state else None for name in names
    )
    assert first is not None
    assert second is not None
    shape = (-1,) if scales[0] is None else (-1, block_size(parameter))
    whole = [_bits(weight), grad, low, _bits(first), _bits(second)]
    lines = [None if value is None else value.view(shape) for value in whole]
    lines += [None if scale is None else scale.view(-1) for scale in scales]
    block = shape[-1] if len(shape) > 1 else 1
    step = max(1, size // block)
    for start in range(0, weight.numel() // block, step):
        yield (
            start * block,
            [None if line is None else line[start : start + step] for line in lines],
        )


def _bits(value: Tensor) -> Tensor:
    return value.view(torch.int16) if value.dtype == torch.bfloat16 else value


def _update(
    weight: Tensor,
    grad: Tensor,
    low: Tensor | None,
    first: Tensor,
    second: Tensor,
    first_scale: Tensor | None,
    second_scale: Tensor | None,
    place: Tensor,
    numbers: Tensor,
) -> None:
    """Update a part in place: weights, their low halves, and both moments.

    Sums of products are written out: a fused operation rounds otherwise in the vectors of a loop
    than in its rest, and a weight's value would depend on where shards and chunks begin.
    """
    decay, beta1, more1, beta2, more2, size, correction, eps = numbers.unbind()
    master = weight if low is None else join_float32(weight, low)
    grad = grad.float()
    if first_scale is not None and second_scale is not None:
        mean = decode(first, first_scale, signed=True)
        square = decode(second, second_scale, signed=False)
    elif first.dtype == torch.int16:
        mean, square = read_bfloat16(first), read_bfloat16(second)
    else:
        mean, square = first, second
    mean = mean * beta1 + grad * more1
    square = square * beta2 + grad * grad * more2
    update = mean / (square.sqrt() * correction + eps)
    master = master * decay - update * size
    if low is None:
        weight.copy_(master)
    else:
        for target, half in zip((weight, low), split_float32(master), strict=True):
            target.copy_(half)
    if first.dtype == torch.float32:
        first.copy_(mean)
        second.copy_(square)
        return
    index = torch.arange(grad.numel(), dtype=torch.int32, device=grad.device).view(grad.shape)
    random = random_bits(index + place[1], place[0])
    one, other = random & 0xFFFF, (random >> 16) & 0xFFFF
    if first_scale is not None and second_scale is not None:
        for target, made in zip((first, first_scale), encode(mean, one, signed=True), strict=True):
            target.copy_(made)
        pair = encode(square, other, signed=False)
        for target, made in zip((second, second_scale), pair, strict=True):
            target.copy_(made)
    else:
        first.copy_(round_to_bfloat16(mean, one))
        second.copy_(round_to_bfloat16(square, other))
