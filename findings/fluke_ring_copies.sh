#!/usr/bin/env bash
# fluke-fl 0.8.1 (torch 2.13.0, CPU), 2026-11-28.
#
# fluke's decentralized algorithm, GossipDFL, does not average on fluke's own ring. Topology.ring
# links node i to i + 1 only, one way. The policy "aggregate" averages the models that a client was
# sent, with eta (1.0 by default) as the share that they get: its own model counts for nothing. On
# the ring everybody is sent one model, so that the "aggregate" is a copy. Clients of one round go
# in random order and see what was sent earlier in it, so that some models are overwritten and
# others copied twice: after some rounds every client holds the model of one of them, and what the
# others began with is gone, though all report an average. With eta=0.5 they agree on a value near
# the mean, not on it. Who studies consensus with it has to set eta and both directions.
#
# Output seen (models are one number each, 0 to 5 at first, mean 2.5; local steps move nothing):
#   links of Topology.ring(6): [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
#   models after 50 rounds, policy aggregate: [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
#   the same with eta=0.5: [2.321, 2.321, 2.321, 2.321, 2.321, 2.321]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.13.0 fluke-fl==0.8.1
cat >"$folder/ring.py" <<'PY'
import random, sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class Absent(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


# Data sets and vision models, which nothing here uses; its wheels do not fit every build of torch.
for name in ("", ".models", ".datasets", ".datasets.utils", ".transforms"):
    made = sys.modules["torchvision" + name] = Absent("torchvision" + name)
    made.__spec__, made.__path__ = ModuleSpec(made.__name__, None), []

import numpy as np
import torch
from fluke import FlukeENV
from fluke.algorithms.decentralized import GossipDFL, Topology
from fluke.algorithms.decentralized.client import GossipClient
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.evaluation import ClassificationEval

env = FlukeENV()
env.set_seed(0)
env.set_device("cpu")
env.set_evaluator(ClassificationEval(eval_every=1000, n_classes=2))
env.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=False)


def gossip(rounds, **settings):
    """Return six models of one number after some rounds whose local steps move nothing."""
    random.seed(0), np.random.seed(0)
    topology = Topology.ring(6)
    x, y = torch.zeros(4, 1), torch.zeros(4, dtype=torch.long)
    clients = []
    for node in range(6):
        model = torch.nn.Linear(1, 2, bias=False)
        torch.nn.init.constant_(model.weight, float(node))
        clients.append(
            GossipClient(
                index=node, model=model, neighbours=topology[node], test_set=None,
                train_set=FastDataLoader(x, y, num_labels=2, batch_size=4),
                optimizer_cfg=OptimizerConfigurator({"name": torch.optim.SGD, "lr": 0.1}),
                loss_fn=torch.nn.CrossEntropyLoss(), local_epochs=1, **settings,
            )
        )
    federation = GossipDFL(6, None, {}, topology=topology, clients=clients)
    federation.run(rounds)
    for client in clients:
        client._load_from_cache()
    return [round(client.model.weight[0, 0].item(), 3) for client in clients]


ways = sorted(Topology.ring(6).edges())
default = gossip(50, policy="aggregate")
half = gossip(50, policy="aggregate", eta=0.5)
print("links of Topology.ring(6):", ways)
print("models after 50 rounds, policy aggregate:", default)
print("the same with eta=0.5:", half)

assert ways == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0)]
assert len(set(default)) == 1 and default[0] in range(6), "one client's model, not a mean"
assert len(set(half)) == 1 and half[0] not in (2.5, *range(6))
PY
cd "$folder" && env/bin/python ring.py 2>&1 | grep -E "links|models|same|Error"
