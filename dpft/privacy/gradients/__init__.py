"""Per-example gradients in the form their layer gives them, never larger than they need to be.

A layer whose parameters meet activations ``a`` and output gradients ``g`` has the per-example gradient
``Σ_t g_t a_tᵀ``. Its norm, and its weighted sum over examples, can be had without writing it down:

* :class:`OuterGradient` keeps (a, g): linear weights.
* :class:`IndexedGradient` keeps (token ids, g): embedding tables.
* :class:`DenseGradient` keeps the per-example gradients themselves: biases, norms and scales, where they are
  tiny, and linear weights where writing them down is cheaper than not to.

Every form answers the same questions: squared norms, weighted sum, selection of examples, and the dense
per-example gradients (the slow truth, for ties between layers of different kinds and for tests).

Sources: Goodfellow 2015 (arXiv 1510.01799) for one token; Li et al. 2022 (arXiv 2110.05679), eq. 3, for the
Gram form; Bu et al. 2023 (arXiv 2210.00038) for keeping (a, g) through a single backward pass, and for
choosing between Gram form and written-out gradients layer by layer.
"""

from dpft.privacy.gradients.base import Norms, PerExampleGradient, square_norms
from dpft.privacy.gradients.dense import DenseGradient
from dpft.privacy.gradients.indexed import IndexedGradient
from dpft.privacy.gradients.outer import OuterGradient
from dpft.privacy.gradients.shared import SharedTokens, tokens
from dpft.privacy.gradients.together import Together
from dpft.privacy.gradients.uses import merge

__all__ = [
    "DenseGradient",
    "IndexedGradient",
    "Norms",
    "OuterGradient",
    "PerExampleGradient",
    "SharedTokens",
    "Together",
    "merge",
    "square_norms",
    "tokens",
]
