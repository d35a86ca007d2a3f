"""A loop as one writes it without a framework: one model after the other, then the mixing."""

import torch
from job import BATCH, RATE, Digits, asked, first_model, mean_state, ring, tell
from torch.nn.functional import cross_entropy

nodes, steps = asked()
digits = Digits(nodes)
models = [first_model() for _ in range(nodes)]
optimizers = [torch.optim.SGD(m.parameters(), lr=RATE) for m in models]
weights = torch.from_numpy(ring(nodes)).float()
draw = torch.Generator().manual_seed(0)

for _ in range(steps):
    for node, (net, optimizer) in enumerate(zip(models, optimizers, strict=True)):
        batch = torch.randint(digits.inputs.shape[1], (BATCH,), generator=draw)
        optimizer.zero_grad()
        cross_entropy(
            net(digits.inputs[node, batch]), digits.targets[node, batch]
        ).backward()
        optimizer.step()
    with torch.no_grad():
        for numbers in zip(*(net.parameters() for net in models), strict=True):
            rows = torch.stack(numbers).flatten(1)
            for parameter, row in zip(numbers, weights @ rows, strict=True):
                parameter.copy_(row.view_as(parameter))

tell("torch", digits.accuracy(mean_state([m.state_dict() for m in models])))
