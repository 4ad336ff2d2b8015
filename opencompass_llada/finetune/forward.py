"""Computes a batch's loss in one module, which is compiled, sharded, checkpointed and tiled.

Shape suffixes: B rows, L positions (of block diffusion 2 L, of clean and noisy rows), M hidden
size, N predicted positions.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils import checkpoint as checkpoints
from torch.utils.checkpoint import CheckpointPolicy, checkpoint
from transformers import LlamaForCausalLM, PreTrainedModel

from opencompass_llada.finetune.objective import weighted_cross_entropy
from opencompass_llada.finetune.offload import Offload
from opencompass_llada.finetune.packing import find_strategy
from opencompass_llada.finetune.recipe import Recipe
from opencompass_llada.finetune.rows import Batch
from opencompass_llada.networks import BidirectionalNetwork
from opencompass_llada.networks.attention import StretchedAttention
from opencompass_llada.networks.attention_pattern import Documents
from opencompass_llada.networks.doubled import attend_under, doubled_mask
from opencompass_llada.networks.sequence_parallel import ulysses_attend
from opencompass_llada.networks.transformer import Attend, Block, Rotation, rotation_at

#: Operators whose outputs `keep_attention` keeps: PyTorch's attention kernels by their names in
#: torch.ops. Plain matrix products are none of them, so that the math backend is computed again.
_ATTENTION = (
    "aten._scaled_dot_product_cudnn_attention",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "torch_attn._varlen_attn",
)

#: Mean tokens of a document from which a call each is faster on CUDA than a variable-length one,
#: and tokens from which cuDNN's plan for a new length pays for itself
#: (docs/explanation/post_training_scale.md).
LONG_DOCUMENT = 4096


def hidden_states(model: PreTrainedModel, input_ids_BL: Tensor) -> Tensor:
    """Run a network, one of ours or Llama, up to its final norm: [B, L, M]."""
    if isinstance(model, BidirectionalNetwork):
        return model.hidden_states(input_ids_BL)
    assert isinstance(model, LlamaForCausalLM), type(model)
    return model.model(input_ids=input_ids_BL, use_cache=False).last_hidden_state


def document_attend(documents: Documents, device: torch.device) -> Attend:
    """Return attention inside the documents of a batch of packed rows, laid end to end."""
    on_cuda, total = device.type == "cuda", sum(documents.lengths)
    along = StretchedAttention(
        documents.stretches(total),
        lambda queries, keys: "cudnn_first" if on_cuda and queries >= LONG_DOCUMENT else None,
        in_one_call=total < LONG_DOCUMENT * len(documents.lengths),
    )

    def attend(q_BHLD: Tensor, k_BGLD: Tensor, v_BGLD: Tensor) -> Tensor:
        lines = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHLD, k_BGLD, v_BGLD))
        return along(*lines).unflatten(0, (q_BHLD.shape[0], -1)).transpose(1, 2)

    return attend


def run_network(
    model: BidirectionalNetwork, ids_BL: Tensor, rotation: Rotation, mask: BlockMask | Tensor
) -> Tensor:
    """Run a network up to its final norm, at positions and under a mask given: [B, L, M]."""
    return model.run_blocks(model.get_input_embeddings()(ids_BL), rotation, attend_under(mask))


def split_rows(spans: Sequence[int], length: int) -> list[tuple[int, ...]]:
    """Return the spans of each row of a batch: of 2, 2, 4 in rows of 4 ``[(2, 2), (4,)]``."""
    rows: list[tuple[int, ...]] = [()]
    for span in spans:
        rows = [*rows, ()] if sum(rows[-1]) == length else rows
        rows[-1] += (span,)
    return rows


def run_checkpointed(
    recipe: Recipe, offload: Offload | None, block: nn.Module, *inputs: Any
) -> Tensor:
    """Run a block so that the backward pass computes its activations again."""
    run = functools.partial(checkpoint, block, *inputs, use_reentrant=False)
    if recipe.keep_attention:
        contexts = checkpoints.create_selective_checkpoint_contexts
        run = functools.partial(run, context_fn=functools.partial(contexts, _policy))
    # The block's own tensors are saved under the checkpoint's hooks, its input under these.
    with contextlib.nullcontext() if offload is None else offload.hooks():
        return run()


# Each of these is a function of its own: torch.compile keeps 8 compiled forms of one.


def _inputs_again(attention_inputs: Callable[..., Any]) -> Callable[..., Any]:
    """Return a block's step before attention, which is computed again from its input."""

    def again(*inputs: Any) -> Any:
        return checkpoint(attention_inputs, *inputs, use_reentrant=False)

    return again


def _mlp_again(add_mlp: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a block's MLP step, which is computed again from its input."""

    def again(x_BLM: Tensor) -> Tensor:
        return checkpoint(add_mlp, x_BLM, use_reentrant=False)

    return again


def _keep_gates(block: Block) -> Callable[[Tensor], Tensor]:
    """Return a block's MLP step, of whose tensors the first two products' are kept."""

    def again(x_BLM: Tensor) -> Tensor:
        gates = checkpoint(block.gates, x_BLM, use_reentrant=False)
        return checkpoint(block.add_gated, x_BLM, *gates, use_reentrant=False)

    return again


def _policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Keep what attention kernels return."""
    name, _, _ = str(operator).rpartition(".")  # without its overload
    return CheckpointPolicy.MUST_SAVE if name in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE


def tile_mlp(add_mlp: Callable[[Tensor], Tensor], tile: int) -> Callable[[Tensor], Tensor]:
    """Return a block's MLP step, of whose inner tensors only one tile's exist at a time."""

    def tiled(x_BLM: Tensor) -> Tensor:
        if x_BLM.shape[1] <= tile:
            return add_mlp(x_BLM)
        tiles = x_BLM.split(tile, dim=1)
        return torch.cat([checkpoint(add_mlp, part, use_reentrant=False) for part in tiles], dim=1)

    return tiled


class TrainingNetwork(nn.Module):
    """A network with its objective; ``forward`` returns a batch's summed loss."""

    def __init__(
        self,
        model: PreTrainedModel,
        recipe: Recipe,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Set the network up for training."""
        super().__init__()
        self.model = model
        self._recipe, self._device, self._group = recipe, device, group
        self.offload = Offload(pinned=device.type == "cuda") if recipe.offload_checkpoints else None
        self._rotation: Rotation | None = None
        self._masks: dict[tuple[int, int], BlockMask | Tensor] = {}
        self._whole: Callable[[Tensor], Tensor] = lambda ids: hidden_states(model, ids)
        self._whole_doubled = run_network
        if isinstance(model, BidirectionalNetwork):
            self._rotation = model.prepare(recipe.trained_length, device)
            if recipe.mlp_tile is not None:
                for block in model.blocks:
                    block.add_mlp = tile_mlp(block.add_mlp, recipe.mlp_tile)  # type: ignore
            if recipe.keep_projections:
                self._divide(model.blocks)
        if recipe.compile:
            self._compile()

    def _divide(self, blocks: Sequence[Block]) -> None:
        """Let the backward pass compute parts of blocks again where it would whole ones.

        Attention keeps what goes in and comes out itself. What its inputs are made of is computed
        again for adapters, and compiled code leaves the products out of that.
        """
        for number, block in enumerate(blocks):
            block.attention_inputs = _inputs_again(block.attention_inputs)  # type: ignore
            keeps = self._keeps_gates(number)
            mlp = _keep_gates(block) if keeps else _mlp_again(block.add_mlp)
            block.add_mlp = mlp  # type: ignore

    def _keeps_gates(self, number: int) -> bool:
        """Whether a block keeps tensors of its MLP: the last ones, done with before others."""
        num_blocks = len(cast(BidirectionalNetwork, self.model).blocks)
        return number >= num_blocks - self._recipe.keep_mlp

    def _compile(self) -> None:
        """Compile the whole network, or where blocks are run one by one the parts around attention.

        Attention over documents stays as it is: its bounds change with every batch. So does the
        MLP's last product, which a block or a tile that is computed again then leaves out
        (nothing saved for the backward pass comes after it); compiled code runs as a whole. Tiles
        are calls of one compiled function, however many a row has. Only an MLP whose gates are kept
        is compiled with its checkpoints inside: there the compiler decides what it keeps.
        """
        recipe = self._recipe
        by_block = (
            find_strategy(recipe.strategy).attends_documents
            or recipe.restart_positions
            or recipe.random_length_share > 0
            or recipe.activation_checkpointing
            or self._group is not None
        )
        if not by_block:
            self._whole = torch.compile(self._whole, dynamic=False)
            self._whole_doubled = torch.compile(self._whole_doubled, dynamic=False)
            return
        for number, block in enumerate(cast(BidirectionalNetwork, self.model).blocks):
            mlp = "add_mlp" if self._keeps_gates(number) else "inner_states"
            for name in ("attention_inputs", "add_attention", mlp):
                setattr(block, name, torch.compile(getattr(block, name)))

    def forward(self, batch: Batch | Callable[[PreTrainedModel], Any]) -> Any:
        """Return the sum of a batch's scaled cross entropies, with a group this rank's part of it.

        Or what a function of the network returns: sharded weights are whole inside this module's
        forward alone.
        """
        if callable(batch):
            return batch(self.model)
        on_device = {
            name: value.to(self._device, non_blocking=True) if torch.is_tensor(value) else value
            for name, value in batch.items()
        }
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
            return self._loss(on_device)

    def _loss(self, batch: Batch) -> Tensor:
        ids_BL, targets_BL, scale_BL = batch["input_ids"], batch["targets"], batch["scale"]
        if isinstance(self.model, LlamaForCausalLM):
            # The hidden state at i predicts token i + 1; nothing predicts the first.
            hidden_NM = self._whole(ids_BL)[:, :-1][targets_BL[:, 1:]]
        else:
            noisy_BL = torch.where(targets_BL, self.model.config.mask_token_id, ids_BL)
            if batch.get("block_length") is not None:
                # The clean rows first, which predict nothing.
                noisy_BL = torch.cat([ids_BL, noisy_BL], 1)
                targets_BL, scale_BL = (
                    torch.cat([torch.zeros_like(x), x], 1) for x in (targets_BL, scale_BL)
                )
                ids_BL = ids_BL.repeat(1, 2)
            hidden_BLM = self._diffusion_states(noisy_BL, batch)
            ids_BL, targets_BL, scale_BL = map(self._own, (ids_BL, targets_BL, scale_BL))
            hidden_NM = hidden_BLM[targets_BL]
        head = cast(Callable[[Tensor], Tensor], self.model.get_output_embeddings())
        return weighted_cross_entropy(
            head, hidden_NM, ids_BL[targets_BL], scale_BL[targets_BL], self._recipe.loss_chunk
        )

    def _own(self, x_BL: Tensor) -> Tensor:
        """Return this rank's stretch of every row."""
        if self._group is None:
            return x_BL
        return x_BL.chunk(dist.get_world_size(self._group), dim=1)[dist.get_rank(self._group)]

    def _diffusion_states(self, noisy_BL: Tensor, batch: Batch) -> Tensor:
        """Return the hidden states of this rank's stretch of every row."""
        recipe, spans, positions_BL = self._recipe, batch["spans"], batch["positions"]
        model = cast(BidirectionalNetwork, self.model)
        simple = spans is None and positions_BL is None and self._group is None
        simple = simple and not recipe.activation_checkpointing
        num_rows, length = noisy_BL.shape
        if block_length := batch.get("block_length"):
            length //= 2
            mask = self._doubled_mask(block_length, length, spans)
            if positions_BL is None:
                positions_BL = torch.arange(length, device=self._device)[None]
            rotation = self._rotate(positions_BL.repeat(1, 2), length)
            if simple:
                return self._whole_doubled(model, noisy_BL, rotation, mask)
            attend = attend_under(mask)
        elif simple:
            return self._whole(noisy_BL)
        else:
            documents = Documents(tuple(spans or (length,) * num_rows), model.attention_pattern)
            attend = document_attend(documents, self._device)
            rotation = self._rotate(positions_BL, length)
        if self._group is not None:
            attend = ulysses_attend(attend, self._group)
        x_BLM = model.get_input_embeddings()(self._own(noisy_BL))
        if self.offload is not None:
            self.offload.new_pass()
        whole_again = recipe.activation_checkpointing and not recipe.keep_projections
        for block in model.blocks:
            run = functools.partial(run_checkpointed, recipe, self.offload, block)
            x_BLM = (run if whole_again else block)(x_BLM, rotation, attend)
        return model.final_norm(x_BLM)

    def _doubled_mask(
        self, block_length: int, length: int, spans: tuple[int, ...] | None
    ) -> BlockMask | Tensor:
        """Return the mask of clean and noisy rows; where rows are one document it is made once."""
        key = block_length, length
        if spans is None and key in self._masks:
            return self._masks[key]
        rows = [(length,)] if spans is None else split_rows(spans, length)
        mask = doubled_mask(rows, block_length, self._device)
        made = mask.tiles() if self._device.type == "cuda" else mask.dense()
        if spans is None:
            self._masks[key] = made
        return made

    def _rotate(self, positions_BL: Tensor | None, length: int) -> Rotation:
        assert self._rotation is not None
        if positions_BL is not None:
            return rotation_at(self._rotation, self._own(positions_BL))
        positions_L = torch.arange(length, device=self._device)
        own_L = self._own(positions_L[None])[0]
        return self._rotation[0][own_L], self._rotation[1][own_L]
