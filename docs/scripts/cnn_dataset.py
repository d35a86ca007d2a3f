"""A CNN of one's own, on a data set of torch."""

import torch
from sklearn.datasets import load_digits
from torch import nn

import decentral


class Digits(torch.utils.data.Dataset):
    def __init__(self):
        self.images, self.labels = load_digits(return_X_y=True)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        image = torch.tensor(self.images[i] / 16, dtype=torch.float32)
        return image.view(1, 8, 8), int(self.labels[i])


cnn = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
task = decentral.Task(model=cnn, loss=nn.functional.cross_entropy, train=Digits())
run = decentral.launch(task=task, nodes=8, topology="ring", lr=0.1, steps=300)
print(run.summary["final"]["accuracy/merged"], run.model(0)[0].weight.shape)
