"""What a peer's process does: load, work once to warm up, then work again at every line that comes in."""

import sys
import time
from collections.abc import Callable

import numpy as np

PROMPT = "I think"
ROWS, NEW_TOKENS, TOP_K, LAYER, COEFF = 8, 33, 50, 9, 400.0  # samples of a vector, of so many tokens; where and how far


def check(plain: np.ndarray, steered: np.ndarray) -> None:
    """Next-token logits without and with a vector. Raises: SystemExit if it is not added: that would be no steering."""
    change = np.abs(plain - steered).max()
    if not change > 0.5:
        raise SystemExit(f"the vector changes logits by {change} at most; it is not added")


def answer(run: Callable[[], int]) -> None:
    """run() gives how many tokens it made; prints `ready`, then for each line of input tokens and seconds."""
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        tokens = run()
        print(tokens, time.perf_counter() - start, flush=True)
