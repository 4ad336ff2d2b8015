"""Takes steps of SplitAdamW with equal gradients, whole or sharded, for test_finetune_precision.

Run by torchrun, or in the test's own process.
"""

from __future__ import annotations

import json
import sys

import gloo_training
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from opencompass_llada.finetune.adamw import SplitAdamW
from opencompass_llada.finetune.average import MovingAverage
from opencompass_llada.finetune.parallel import whole_tensor
from opencompass_llada.processes import stop_processes

#: Rows that two processes share unevenly, with and without blocks, and a vector.
SHAPES = {"wide": (7, 512), "narrow": (9, 48), "odd": (5, 10), "vector": (3,)}


def take_steps(moments: str, dtype: torch.dtype, output: str) -> None:
    """Take four steps and write weights, states and the average, whole, to ``output``."""
    generator = torch.Generator().manual_seed(1)
    network = torch.nn.ParameterDict(
        {
            name: torch.nn.Parameter((0.02 * torch.randn(shape, generator=generator)).to(dtype))
            for name, shape in SHAPES.items()
        }
    )
    if dist.is_initialized():
        fully_shard(network, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = SplitAdamW(
        [{"params": list(network.parameters()), "weight_decay": 0.1}],
        lr=2e-5,
        betas=(0.9, 0.95),
        moments=moments,
        seed=5,
    )
    average = MovingAverage(network, optimizer, 0.99)
    for _ in range(4):
        for parameter in network.parameters():
            grad = (1e-3 * torch.randn(parameter.shape, generator=generator)).to(dtype)
            if isinstance(parameter, DTensor):
                grad = distribute_tensor(grad, parameter.device_mesh, parameter.placements)
            parameter.grad = grad
        optimizer.step()
        average.update()
    values = {}
    for name, parameter in network.named_parameters():
        held = {"weight": parameter.detach(), "average": average.weights[name]}
        for key, value in {**held, **optimizer.state[parameter]}.items():
            if value.dtype == torch.int16:  # which gloo and NCCL do not send
                value = value.to(torch.int32)
            values[f"{name} {key}"] = whole_tensor(value).clone()
    if not dist.is_initialized() or dist.get_rank() == 0:
        torch.save(values, output)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for moments in ("float32", "bfloat16", "8bit"):
        for dtype in ("bfloat16", "float32"):
            take_steps(moments, getattr(torch, dtype), f"{sys.argv[1]}/two-{moments}-{dtype}.pt")
    gloo_training.train(f"{sys.argv[1]}/run", json.loads(sys.argv[2]))
    stop_processes()
