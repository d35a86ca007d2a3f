"""Models: what a task is learned by; functions
``(input_shape, outputs) -> torch.nn.Module``.
"""
