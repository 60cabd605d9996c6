"""The private step: Poisson sampling, exact per-example clipping, keyed noise, and the plan that binds them.

Nothing here knows of transformers or PEFT: a model is a ``torch.nn.Module`` whose trainable parameters
belong to layers that a rule in :mod:`dpft.privacy.rules` can differentiate per example.
"""
