"""Prompting: what a user would try first. A behaviour's positive texts stand before the prompt, and nothing is steered."""

import numpy as np

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.model.lm import LanguageModel
from fgaa_utils.names import PROMPTING, Cell, VectorName


def example_prefixes(
    lm: LanguageModel, behaviours: list[Behaviour], *, tokens: int, orders: int, seed: int
) -> dict[Cell, list[int]]:
    """Token ids of `orders` example prefixes of each behaviour, named by cell, `draw=1` and so on.

    A prefix holds positive texts, a line each, in random order and repeated as often as it takes; its front is cut
    to `tokens`, so that all prefixes are of one length.
    """
    prefixes = {}
    for behaviour in behaviours:
        rng = np.random.default_rng([seed, *behaviour.key.encode()])
        lines = lm.encode([f"{text}\n" for text in behaviour.positive], bos=False)
        for order in range(1, orders + 1):
            ids: list[int] = []
            while len(ids) < tokens:
                ids += [token for i in rng.permutation(len(lines)) for token in lines[i]]
            prefixes[VectorName(behaviour.key, PROMPTING, draw=order).cell] = ids[-tokens:]
    return prefixes
