"""Batches that halve themselves: one that does not fit into memory is made in parts, and so are those after it."""

from collections.abc import Callable

import torch
from torch import Tensor


class Halving:
    """Runs rows in parts that fit. `size` bounds a part: its rows times what each of them counts, say its tokens.

    When memory does not suffice, the bound becomes half of what was tried, and stays so.
    """

    def __init__(self, size: int):
        self.size = size

    def __call__(self, run: Callable[[slice], Tensor], rows: int, *, each: int = 1) -> Tensor:
        """run(slice) over all `rows`, `each` counting for so much, its results joined along the first axis.

        All parts but the last are equal. Raises: torch.OutOfMemoryError if one row is too many.
        """
        parts, start = [], 0
        while start < rows:
            count = -(-rows // max(1, self.size // each))
            stop = min(start + -(-rows // count), rows)
            try:
                parts.append(run(slice(start, stop)))
                start = stop
            except torch.OutOfMemoryError:
                if stop - start == 1:
                    raise
                half = (stop - start) // 2
                self.size = half * each
                torch.cuda.empty_cache()
                print(f"a batch did not fit into memory; going on with {half} rows at a time", flush=True)
        return torch.cat(parts)
