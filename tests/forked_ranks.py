"""Trains recipes in several processes that find each other as torchrun's do, by its variables.

They are forks of one process that has imported what they need, which takes seconds of a core; a
torchrun starts those of test_finetune_precision and test_sequence_split.

    python forked_ranks.py NUMBER RECIPES
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable

import gloo_training
from torch.distributed import TCPStore


def start(number: int, work: Callable[[], None]) -> int:
    """Call a function in so many processes; return 0, or 1 as soon as one of them has failed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        running = {_fork(rank, number, port, work) for rank in range(number)}
        # It outlives all ranks, as that of torchrun's agent.
        store = TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )  # fmt: skip
    while running:
        pid, status = os.wait()
        running.discard(pid)
        if status:
            for other in running:
                os.kill(other, signal.SIGKILL)
            return 1
    del store
    return 0


def _fork(rank: int, number: int, port: int, work: Callable[[], None]) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(number),
            LOCAL_WORLD_SIZE=str(number), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
            TORCHELASTIC_USE_AGENT_STORE="True",
        )  # fmt: skip
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    recipes = json.loads(sys.argv[2])
    raise SystemExit(start(int(sys.argv[1]), lambda: gloo_training.train_all(recipes)))
