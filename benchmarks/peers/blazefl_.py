"""BlazeFL: one step at every client, then the average of all, by its single-threaded trainer."""

import torch
from blazefl.contrib.fedavg import FedAvgBaseClientTrainer, FedAvgBaseServerHandler
from job import BATCH, RATE, Digits, asked, first_model, tell

nodes, steps = asked()
digits = Digits(nodes)


class Model:
    def select_model(self, model_name: str) -> torch.nn.Module:
        return first_model()


class Data:
    """Gives every client a batch of its own samples."""

    def get_dataloader(
        self, type_: str, cid: int, batch_size: int, generator: torch.Generator
    ):
        batch = torch.randint(digits.inputs.shape[1], (batch_size,), generator=generator)
        return [(digits.inputs[cid, batch], digits.targets[cid, batch])]


server = FedAvgBaseServerHandler(
    Model(), "mlp", Data(), steps, nodes, 1.0, "cpu", BATCH, 0
)
trainer = FedAvgBaseClientTrainer(Model(), "mlp", Data(), "cpu", nodes, 1, BATCH, RATE, 0)
while not server.if_stop():
    clients, package = server.sample_clients(), server.downlink_package()
    trainer.local_process(package, clients)
    for pack in trainer.uplink_package():
        server.load(pack)

tell("blazefl", digits.accuracy(server.model.state_dict()))
