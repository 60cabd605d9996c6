"""Fine-tune modes: each marks which parameters of a model train, and saves, loads and merges them."""
