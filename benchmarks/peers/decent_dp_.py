"""Decent-DP: a process per node, and a ring with one neighbour a step, a half each."""

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from job import BATCH, RATE, Digits, asked, first_model, tell
from torch.nn.functional import cross_entropy


def train(rank: int, nodes: int, steps: int, accuracy: "mp.Queue") -> None:
    from decent_dp.ddp import DecentralizedDataParallel

    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29611",
        "LOCAL_WORLD_SIZE": "1",
    }
    dist.init_process_group("gloo", rank=rank, world_size=nodes)
    digits = Digits(nodes)
    inputs, targets = digits.inputs[rank], digits.targets[rank]
    net = DecentralizedDataParallel(
        first_model(), lambda named: torch.optim.SGD([p for _, p in named], lr=RATE),
        topology="ring",
    )  # fmt: skip
    draw = torch.Generator().manual_seed(rank)
    net.train()
    for _ in range(steps):
        batch = torch.randint(len(inputs), (BATCH,), generator=draw)
        net.zero_grad()
        # Updates and communication hang on the backward pass.
        cross_entropy(net(inputs[batch]), targets[batch]).backward()
    net.global_avg(will_revert=False)
    if rank == 0:
        found = {k: v.detach().clone() for k, v in net._model.state_dict().items()}
        accuracy.put(digits.accuracy(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    nodes, steps = asked()
    said = mp.get_context("spawn").SimpleQueue()
    mp.spawn(train, (nodes, steps, said), nprocs=nodes)
    tell("decent-dp", said.get())
