"""A regression on a pandas frame, whose column says who owns a row, over one's own graph."""

import networkx as nx
import numpy as np
import pandas as pd
from torch import nn

import decentral

draw = np.random.default_rng(0)
houses = pd.DataFrame({"area": draw.normal(size=600), "age": draw.normal(size=600)})
houses["price"] = 3 * houses.area - houses.age + 0.1 * draw.normal(size=600)
houses["town"] = draw.integers(0, 6, 600)

roads = nx.Graph([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3)])
task = decentral.Task(
    model=lambda: nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)),
    loss=nn.functional.mse_loss,
    train=houses, target="price", owners="town",
)  # fmt: skip
swept = decentral.sweep(
    {"lr": [0.03, 0.1], "seed": 2}, task=task, topology=roads, steps=100
)
print(swept.means.frame()[["lr", "loss/merged", "loss/merged std"]])
print(swept.best("loss")["lr"], swept.runs[0].model("mean")[0].weight)
