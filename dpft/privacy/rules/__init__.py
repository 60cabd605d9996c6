"""One small file per layer type: how its parameters' per-example gradients follow from what it saw."""
