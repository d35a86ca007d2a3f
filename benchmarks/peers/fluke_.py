"""fluke: its decentralized algorithm, in which everybody sends to one random neighbour."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import networkx
import torch
from job import BATCH, RATE, Digits, asked, first_model, mean_state, ring, tell


class _Absent(ModuleType):
    """Stands for torchvision, whose wheels fit other builds of torch; the job needs none of it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for name in ("", ".models", ".datasets", ".datasets.utils", ".transforms"):
    made = sys.modules[f"torchvision{name}"] = _Absent(f"torchvision{name}")
    made.__spec__, made.__path__ = ModuleSpec(made.__name__, None), []

from fluke import FlukeENV  # noqa: E402
from fluke.algorithms.decentralized import GossipDFL, Topology  # noqa: E402
from fluke.algorithms.decentralized.client import GossipClient  # noqa: E402
from fluke.config import OptimizerConfigurator  # noqa: E402
from fluke.data import FastDataLoader  # noqa: E402
from fluke.evaluation import ClassificationEval  # noqa: E402

nodes, steps = asked()
digits = Digits(nodes)
env = FlukeENV()
env.set_seed(0)
env.set_device("cpu")
env.set_evaluator(ClassificationEval(eval_every=steps, n_classes=10))
env.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)
graph = networkx.from_numpy_array(ring(nodes))
graph.remove_edges_from(networkx.selfloop_edges(graph))
topology = Topology(graph)
computed = 0


class Counted(GossipClient):
    """Counts its steps: who was sent nothing does not compute."""

    def fit(self, override_local_epochs: int = 0) -> float:
        global computed
        computed += 1
        return super().fit(override_local_epochs)


clients = [
    Counted(
        index=node, model=first_model(), neighbours=topology[node], test_set=None,
        train_set=FastDataLoader(
            digits.inputs[node], digits.targets[node], num_labels=10, batch_size=BATCH,
            shuffle=True, single_batch=True,
        ),
        optimizer_cfg=OptimizerConfigurator({"name": torch.optim.SGD, "lr": RATE}),
        loss_fn=torch.nn.CrossEntropyLoss(), local_epochs=1, policy="aggregate", eta=0.5,
    )
    for node in range(nodes)
]  # fmt: skip
federation = GossipDFL(nodes, None, {}, topology=topology, clients=clients)
federation.run(steps)
for client in clients:
    client._load_from_cache()
states = [client.model.state_dict() for client in clients]
tell("fluke-fl", digits.accuracy(mean_state(states)), computed)
