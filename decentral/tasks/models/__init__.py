"""Models: functions ``(input_shape, outputs) -> torch.nn.Module``."""
