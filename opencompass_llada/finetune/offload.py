"""Keeps activation checkpoints in host memory, copied while the device computes.

A block's input leaves for pinned memory while the block runs. In the backward pass the input of the
block before comes back while the block after it is computed again. PyTorch's
``torch.autograd.graph.save_on_cpu`` makes the device wait for every copy. Copies change no bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def piece_bytes(pinned: bool) -> int:
    """Return the bytes of a piece of host memory.

    PyTorch rounds pinned memory up to a power of two: whole tensors would take up to twice theirs.
    """
    return 64 * 2**20 if pinned else 2**16


def host_bytes(num_tensors: int, tensor_bytes: int, *, pinned: bool) -> int:
    """Return the host memory that tensors of one size take."""
    piece = piece_bytes(pinned)
    return num_tensors * -(-tensor_bytes // piece) * piece


class HostPool:
    """Pieces of host memory of one size, used again from step to step."""

    def __init__(self, piece: int, *, pinned: bool) -> None:
        """Start without a piece; each has ``piece`` bytes."""
        self.piece = piece
        self._pinned = pinned
        self.num_pieces = 0
        """How many were made."""
        self._free: list[Tensor] = []

    def take(self, num_bytes: int) -> list[Tensor]:
        """Return pieces, uint8, that hold so many bytes together.

        Raises:
            MemoryError: If the host has no such memory left to pin.
        """
        pieces = []
        for _ in range(-(-num_bytes // self.piece)):
            pieces.append(self._free.pop() if self._free else self._make())
        return pieces

    def give(self, pieces: list[Tensor]) -> None:
        """Take pieces back."""
        self._free += pieces

    def _make(self) -> Tensor:
        try:
            made = torch.empty(self.piece, dtype=torch.uint8, pin_memory=self._pinned)
        except RuntimeError as error:
            held = self.num_pieces * self.piece / 1e9
            raise MemoryError(
                f"offload_checkpoints: no more than {held:.1f} GB of host memory could be pinned "
                f"by this process ({error}). Use shorter rows, more devices that share a row "
                "(sequence_parallel), or offload_checkpoints=false."
            ) from error
        self.num_pieces += 1
        return made


class _Saved:
    """A tensor in host memory, and on the device again once it is asked for."""

    def __init__(self, tensor: Tensor, pool: HostPool, previous: _Saved | None) -> None:
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device
        self.pieces = pool.take(tensor.nbytes)
        self._pool = pool
        self.previous = None if previous is None else weakref.ref(previous)
        """What was saved before it, and so is asked for after it."""
        self.loaded: tuple[Tensor, Any] | None = None
        """On the device, with the event of its copy."""

    def parts(self, tensor: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return pieces of host memory, each with its bytes of a contiguous tensor."""
        split = tensor.reshape(-1).view(torch.uint8).split(self._pool.piece)
        return [(host[: len(part)], part) for host, part in zip(self.pieces, split, strict=True)]

    def __del__(self) -> None:
        # Whatever still reads them comes before what is written next: both on one stream.
        self._pool.give(self.__dict__.pop("pieces", []))


class Offload:
    """Saves the tensors of a forward pass in host memory; `new_pass` begins another pass.

    Its `hooks` go around each call of ``torch.utils.checkpoint.checkpoint``.
    """

    def __init__(self, *, pinned: bool, piece: int | None = None) -> None:
        """Hold no memory until something is saved; CUDA's copies want pinned memory."""
        self.pool = HostPool(piece or piece_bytes(pinned), pinned=pinned)
        self._stream: torch.cuda.Stream | None = None
        self._last: weakref.ref[_Saved] | None = None
        self._leaving: tuple[Tensor, Any] | None = None

    @property
    def num_bytes(self) -> int:
        """Host memory that this process has taken."""
        return self.pool.num_pieces * self.pool.piece

    def new_pass(self) -> None:
        """Begin a forward pass: what was saved before it is not asked for after it."""
        self._last = None

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Return a context in which what autograd saves goes to the host."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    @torch.no_grad()
    def _pack(self, tensor: Tensor) -> _Saved | Tensor:
        if tensor.numel() == 0:  # of the checkpoint's own (torch 2.11)
            return tensor
        tensor = tensor.detach().contiguous()
        self._settle()
        saved = _Saved(tensor, self.pool, None if self._last is None else self._last())
        self._last = weakref.ref(saved)
        if not tensor.is_cuda:
            for host, part in saved.parts(tensor):
                host.copy_(part)
            return saved
        with self._beside(tensor.device) as stream:
            for host, part in saved.parts(tensor):
                host.copy_(part, non_blocking=True)
            self._leaving = tensor, stream.record_event()
        return saved

    @torch.no_grad()
    def _unpack(self, saved: _Saved | Tensor) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        self._settle()
        tensor, event = saved.loaded or self._load(saved)
        saved.loaded = None
        if event is not None:
            torch.cuda.current_stream(saved.device).wait_event(event)
        before = None if saved.previous is None else saved.previous()
        if before is not None and before.loaded is None:
            before.loaded = self._load(before)
        return tensor

    def _load(self, saved: _Saved) -> tuple[Tensor, Any]:
        """Start a tensor's copy to the device, which memory of the present stream holds."""
        tensor = torch.empty(saved.shape, dtype=saved.dtype, device=saved.device)
        if not tensor.is_cuda:
            for host, part in saved.parts(tensor):
                part.copy_(host)
            return tensor, None
        with self._beside(saved.device) as stream:
            for host, part in saved.parts(tensor):
                part.copy_(host, non_blocking=True)
            return tensor, stream.record_event()

    def _settle(self) -> None:
        """Let go of the last tensor that left, which must live until it is copied."""
        if self._leaving is not None:
            tensor, event = self._leaving
            torch.cuda.current_stream(tensor.device).wait_event(event)
            self._leaving = None

    @contextmanager
    def _beside(self, device: torch.device) -> Iterator[torch.cuda.Stream]:
        """Enter the stream of the copies, behind what the present stream has been given."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            yield self._stream
