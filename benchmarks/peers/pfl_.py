"""pfl: one step at every user, then the average of all, by its simulated backend."""

import torch
from job import BATCH, RATE, Digits, asked, first_model, tell
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data import get_user_sampler
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.internal.ops import pytorch_ops  # noqa: F401  (chooses PyTorch)
from pfl.metrics import Weighted
from pfl.model.pytorch import PyTorchModel

nodes, steps = asked()
digits = Digits(nodes)
draw = torch.Generator().manual_seed(0)


class Model(torch.nn.Module):
    """The model with what pfl asks of one."""

    def __init__(self) -> None:
        super().__init__()
        self.net = first_model()

    def loss(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor, eval: bool = False) -> dict:
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


def batch_of(user: int) -> Dataset:
    batch = torch.randint(digits.inputs.shape[1], (BATCH,), generator=draw)
    return Dataset([digits.inputs[user, batch], digits.targets[user, batch]])


users = FederatedDataset(batch_of, get_user_sampler("minimize_reuse", list(range(nodes))))
net = Model()
model = PyTorchModel(net, torch.optim.SGD, torch.optim.SGD(net.parameters(), lr=1.0))
FederatedAveraging().run(
    algorithm_params=NNAlgorithmParams(
        central_num_iterations=steps, evaluation_frequency=steps + 1,
        train_cohort_size=nodes, val_cohort_size=None,
    ),
    backend=SimulatedBackend(training_data=users, val_data=None),
    model=model,
    model_train_params=NNTrainHyperParams(
        local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH
    ),
    model_eval_params=NNEvalHyperParams(local_batch_size=BATCH),
)  # fmt: skip
tell("pfl", digits.accuracy(net.net.state_dict()))
