"""Batches that halve themselves: one that does not fit into memory is made in parts, and so are those after it."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor


class Halving:
    """Runs rows in parts that fit. `size` bounds a part's rows times the cost of a row, which is 1 or its tokens.

    When memory does not suffice, the bound becomes half of what was tried, for later calls too.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, run: Callable[[slice], Tensor], rows: int, *, each: int = 1) -> Tensor:
        """run(slice) over all `rows`, each of cost `each`, its results joined along the first axis.

        All parts but the last are equal. Raises: torch.OutOfMemoryError if one row is too many.
        """
        parts, start = [], 0
        while start < rows:
            count = -(-rows // max(1, self.size // each))
            stop = min(start + -(-rows // count), rows)
            try:
                parts.append(run(slice(start, stop)))
                start = stop
                continue
            except torch.OutOfMemoryError:
                if stop - start == 1:
                    raise
            # after the handler, whose exception keeps the tensors of the pass that failed
            half = -(-(stop - start) // 2)
            self.size = half * each
            gc.collect()
            torch.cuda.empty_cache()
            print(f"a batch did not fit into memory; going on with {half} rows at a time", flush=True)
        return torch.cat(parts)
