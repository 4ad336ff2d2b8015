"""Counts how much arithmetic a step takes, and says what a device can do: for MFU.

Counts multiplications and additions of matrix products and attention, forward once and backward
twice; what checkpointing computes again is not counted (model FLOPs, as arXiv 2204.02311 counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Dense 16-bit tensor throughput in operations a second, by a part of the device's name (vendors'
#: data sheets).
PEAKS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """The sizes that memory and arithmetic depend on; adapter_rank is 0 without adapters."""

    width: int
    kv_width: int
    num_layers: int
    mlp_width: int
    vocab_size: int
    adapter_rank: int = 0

    @property
    def block_parameters(self) -> int:
        """Parameters of one block's linear layers."""
        width, inner = self.width, self.mlp_width
        return 2 * width * width + 2 * width * self.kv_width + 3 * width * inner

    @property
    def head_parameters(self) -> int:
        """Parameters of the head; the embedding has as many."""
        return self.width * self.vocab_size

    @property
    def norm_parameters(self) -> int:
        """Parameters of all norms."""
        return (2 * self.num_layers + 1) * self.width

    @property
    def num_parameters(self) -> int:
        """Parameters of the network, norms included."""
        blocks = self.num_layers * self.block_parameters
        return blocks + 2 * self.head_parameters + self.norm_parameters

    @property
    def adapter_parameters(self) -> int:
        """Parameters of adapters on the seven linear layers of every block."""
        width, inner, kv = self.width, self.mlp_width, self.kv_width
        ends = 4 * width + 2 * (width + kv) + 3 * (width + inner)
        return self.num_layers * self.adapter_rank * ends


def step_flops(
    shape: NetworkShape, spans: Sequence[int], num_predicted: int, *, frozen: bool = False
) -> float:
    """Return a batch's floating-point operations, forward and backward.

    Args:
        shape: The network's.
        spans: Tokens that attend to each other, run by run.
        num_predicted: Positions that get logits.
        frozen: Weights have no gradients of their own (adapters): two passes' worth, not three.
    """
    tokens = sum(spans)
    linear = 2.0 * shape.num_layers * shape.block_parameters * tokens
    head = 2.0 * shape.head_parameters * num_predicted
    attention = 4.0 * shape.num_layers * shape.width * sum(span * span for span in spans)
    passes = 2 if frozen else 3
    adapters = 3 * 2.0 * shape.adapter_parameters * tokens
    return passes * (linear + head) + 3 * attention + adapters


def peak_flops(device_name: str) -> float | None:
    """Return a device's operations a second in 16 bit; None if it is not known."""
    return next((peak for name, peak in PEAKS.items() if name in device_name), None)
