"""The job in this project."""

import tempfile

import torch
from job import BATCH, RATE, Digits, asked, first_model, tell
from torch.nn.functional import cross_entropy

import decentral

nodes, steps = asked()
digits = Digits(nodes)
task = decentral.Task(
    model=first_model,
    loss=cross_entropy,
    train=(digits.inputs.flatten(0, 1), digits.targets.flatten()),
    test=digits.test,
    owners=torch.arange(nodes).repeat_interleave(digits.inputs.shape[1]),
)
with tempfile.TemporaryDirectory() as folder:
    run = decentral.launch(
        task=task, nodes=nodes, steps=steps, local_steps=1, batch=BATCH, optimizer="sgd",
        learning_rate=RATE, topology="ring", communication="constant", engine="local",
        eval_every=steps, log_every=steps, checkpoint_every=steps, threads=1,
        out=f"{folder}/run",
    )  # fmt: skip
    tell("decentral", digits.accuracy(run.merged_model().state_dict()))
