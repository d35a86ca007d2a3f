"""decent-bench: its adapt-then-combine gradient descent over a ring, Metropolis weights."""

import networkx
import torch
from decent_array import interoperability as iop
from decent_array.types import Devices, Frameworks
from decent_bench import benchmark
from decent_bench.agents import Agent
from decent_bench.algorithms.p2p import ATC
from decent_bench.costs import PyTorchCost
from decent_bench.networks import P2PNetwork
from job import BATCH, RATE, Digits, asked, first_model, tell
from torch.nn.utils import parameters_to_vector, vector_to_parameters

nodes, steps = asked()
digits = Digits(nodes)
benchmark.configure(Frameworks.PYTORCH, Devices.CPU, seed=0)
agents = [
    Agent(
        PyTorchCost(
            list(zip(x, y, strict=True)), first_model(), torch.nn.CrossEntropyLoss(),
            batch_size=BATCH,
        ),
        state_snapshot_period=steps,
    )
    for x, y in zip(digits.inputs, digits.targets, strict=True)
]  # fmt: skip
network = P2PNetwork(networkx.cycle_graph(nodes), agents)
begin = parameters_to_vector(first_model().parameters()).detach()
ATC(step_size=RATE, x0=iop.from_numpy(begin.numpy())).run(network, steps)

mean = torch.stack([torch.as_tensor(iop.to_numpy(agent.x)) for agent in agents]).mean(0)
model = first_model()
vector_to_parameters(mean.float(), model.parameters())
tell("decent-bench", digits.accuracy(model.state_dict()))
