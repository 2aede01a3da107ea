"""The next token, for engines that leave the choice to us."""

from __future__ import annotations

import numpy as np

from slmops.core.tensor import Floats
from slmops.engines import Sampling


def pick(logits: Floats, sampling: Sampling, generator: np.random.Generator) -> int:
    """The next token: the greatest logit, or a draw at a temperature from the top k and then the top p of them."""
    if sampling.temperature <= 0:
        return int(logits.argmax())
    count = sampling.top_k if 0 < sampling.top_k < len(logits) else len(logits)
    best = np.argpartition(logits, -count)[-count:] if count < len(logits) else np.arange(count)
    best = best[np.argsort(-logits[best], kind="stable")]
    scaled = logits[best].astype(np.float64) / sampling.temperature
    weights = np.exp(scaled - scaled[0])
    weights /= weights.sum()
    if sampling.top_p < 1:
        # As many as it takes to reach top_p, and always one.
        kept = 1 + int(np.searchsorted(np.cumsum(weights), sampling.top_p))
        best, weights = best[:kept], weights[:kept] / weights[:kept].sum()
    return int(generator.choice(best, p=weights))
