"""Averages the trained weights over the steps, exponentially and in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from opencompass_llada.finetune.adamw import SplitAdamW, local_part, zeros_like_sharded
from opencompass_llada.finetune.number_formats import join_float32, split_float32


class MovingAverage:
    """Exponential moving average of the trainable weights, in float32 and in their sharding.

    Of bfloat16 weights it is the average with their low halves: a decay of 0.999 moves a bfloat16
    average by less than it rounds.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        decay: float | None,
        *,
        on_host: bool = False,
    ) -> None:
        """Start from the weights as they are; without a decay there is no average."""
        self._network, self._optimizer, self._decay = network, optimizer, decay
        self.weights: dict[str, Tensor] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and decay is not None:
                average = zeros_like_sharded(parameter, torch.float32)
                average = average.to("cpu") if on_host else average
                local_part(average).copy_(self._exact(parameter))
                self.weights[name] = average

    def _exact(self, parameter: Tensor) -> Tensor:
        if isinstance(self._optimizer, SplitAdamW):
            return self._optimizer.exact_weight(parameter)
        return local_part(parameter.detach())

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        for name, parameter in self._network.named_parameters():
            if self._decay is not None and name in self.weights:
                average = local_part(self.weights[name])
                average.lerp_(self._exact(parameter).to(average.device), 1 - self._decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the network have the averages for its weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Exchange weights and averages; of bfloat16 weights the high halves, exactly both ways."""
        for name, parameter in self._network.named_parameters():
            if name not in self.weights:
                continue
            weight, average = local_part(parameter.detach()), local_part(self.weights[name])
            value = average.to(weight.device)
            if weight.dtype == torch.bfloat16:
                high, low = split_float32(value)
                average.copy_(join_float32(weight.view(torch.int16), low))
                weight.copy_(high.view(torch.bfloat16))
            else:
                value = value.clone()
                average.copy_(weight)
                weight.copy_(value)
