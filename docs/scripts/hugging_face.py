"""A model of transformers, made from its config, on batches that are dicts."""

import torch
from transformers import BertConfig, BertForSequenceClassification

import decentral

sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
config = BertConfig(vocab_size=50, intermediate_size=64, num_labels=2, **sizes)

tokens = torch.randint(3, 50, (400, 12))
labels = (tokens[:, 0] > 25).long()
train = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}

task = decentral.Task(
    model=lambda: BertForSequenceClassification(config),
    loss=torch.nn.functional.cross_entropy,
    train=train,
)
run = decentral.launch(
    task=task, nodes=4, split="iid", optimizer="adamw", lr=0.01, steps=60
)
print(run.summary["final"]["accuracy/merged"], type(run.model(0)).__name__)
