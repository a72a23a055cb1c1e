"""Steered tokens a second, ours and other programs', turn by turn in one run on the real model.

    python benchmarks/peers.py [--repeats 3]

Prints Markdown. Every peer is a process that has loaded the model and worked once; then they take turns, one working while
the others wait. What cannot share this environment has one of its own (tests/environments.py), made when first needed.
The share is of the matrix rate measured in the same run, two operations for each weight that a token meets.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fgaa_utils.data.convert import join_parts
from fgaa_utils.model.lm import load_model
from fgaa_utils.project import MODEL, RAW, ROOT
from fgaa_utils.shards import record_processor

sys.path.insert(0, str(ROOT / "tests"))
from environments import python_of

NAME = "gemma-3-270m"
PEERS = Path(__file__).with_name("peers")
VECTORS = 64
QUANTISED = "Q4_K_M"  # of the GGUF that all weights here come from (data/sources.yaml)


@dataclass
class Peer:
    """One row of the table: what it is, the environment of its process, the script and its arguments after the model."""

    what: str
    dtype: str
    environment: str
    script: str
    arguments: tuple[str, ...]
    process: subprocess.Popen | None = None

    def start(self, model: Path, vectors: Path) -> None:
        python = sys.executable if not self.environment else python_of(self.environment)
        command = [python, PEERS / f"{self.script}.py", model, vectors, *self.arguments]
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, env=os.environ | threads, text=True, **pipes)
        self.answer("ready")

    def answer(self, expected: str = "") -> str:
        """The next line of the process that is an answer. Raises: RuntimeError if it ended."""
        for line in self.process.stdout:
            if line.strip() == expected or (not expected and len(line.split()) == 2):
                return line
        raise RuntimeError(f"{self.what} ended; run {PEERS / self.script}.py by hand to see why")

    def rate(self) -> float:
        """Tokens a second of one piece of work."""
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        tokens, seconds = self.answer().split()
        return int(tokens) / float(seconds)


def peers() -> list[Peer]:
    threads = str(torch.get_num_threads())
    bf16, fp32, library = "bfloat16", "float32", "steering-vectors"
    return [
        Peer("ours, 512 rows, a vector each", bf16, "", "ours", (bf16, "512")),
        Peer("ours, 512 rows, a vector each", fp32, "", "ours", (fp32, "512")),
        Peer("transformers, forward hook, one vector a call", bf16, "", "hooked", (bf16, "one", "4")),
        Peer("transformers, forward hook, one vector a call", fp32, "", "hooked", (fp32, "one", "4")),
        Peer("transformers, hook of rows, 64 rows", bf16, "", "hooked", (bf16, "64", "1")),
        Peer("transformers, hook of rows, 512 rows", bf16, "", "hooked", (bf16, "512", "1")),
        Peer("TransformerLens, one vector a call", bf16, "", "bridge", (bf16, "4")),
        Peer("steering-vectors, one vector a call", bf16, library, "hooked", (bf16, library, "4")),
        Peer("repeng, one vector a call", bf16, "repeng", "hooked", (bf16, "repeng", "4")),
        Peer("llama.cpp, one sequence", QUANTISED, "llama", "llama", ("1", threads, "4")),
        Peer("llama.cpp, eight sequences, one vector a call", QUANTISED, "llama", "llama", ("8", threads, "4")),
    ]


def matrix_rate(dtype: torch.dtype, size: int = 2048) -> float:
    """Operations a second of a product of two matrices."""
    a, b = (torch.randn(size, size).to(dtype) for _ in "ab")
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def table(found: dict[int, list[float]], those: list[Peer], matrix: dict[str, float], weights: int) -> None:
    ours = {peer.dtype: found[number] for number, peer in enumerate(those) if peer.script == "ours"}
    print("| who | dtype | tokens a second | lowest to highest | ours is times as fast | share of the matrix rate |")
    print("| --- | --- | --- | --- | --- | --- |")
    for number, peer in enumerate(those):
        rates = found[number]
        ratio = statistics.median(a / b for a, b in zip(ours.get(peer.dtype, ours["bfloat16"]), rates))
        share = f"{statistics.median(rates) * 2 * weights / matrix[peer.dtype]:.0%}" if peer.dtype in matrix else ""
        spread = f"{min(rates):,.0f} to {max(rates):,.0f}"
        print(f"| {peer.what} | {peer.dtype} | {statistics.median(rates):,.0f} | {spread} | {ratio:.1f} | {share} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lm = load_model(NAME, layer=9)
    weights = sum(p.numel() for p in lm.hf.parameters())
    matrix = {str(d).removeprefix("torch."): matrix_rate(d) for d in (torch.bfloat16, torch.float32)}
    del lm
    those = peers()
    with tempfile.TemporaryDirectory() as place:
        vectors = Path(place, "vectors.npy")
        directions = np.random.default_rng(0).standard_normal((VECTORS, 640))
        np.save(vectors, (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32))
        gguf, raw = Path(place, "joined.gguf"), RAW / "gemma"
        join_parts(sorted(raw.glob("part*")), gguf, (raw / "SHA256SUMS").read_text().split()[0])
        try:
            for peer in those:
                print(f"loading: {peer.what}, {peer.dtype}", file=sys.stderr, flush=True)
                peer.start(gguf if peer.environment == "llama" else MODEL / NAME, vectors)
            found: dict[int, list[float]] = {number: [] for number in range(len(those))}
            for turn in range(options.repeats):
                for number, peer in enumerate(those):
                    found[number].append(peer.rate())
                    print(f"turn {turn + 1}: {peer.what} {found[number][-1]:,.0f}", file=sys.stderr, flush=True)
        finally:
            for peer in those:
                if peer.process:
                    peer.process.kill()
    print(
        f"Steered generation on {NAME}, `I think` and 33 tokens, eight samples of a vector, {options.repeats} turns.\n"
    )
    print(
        "Ours is compared in the same dtype; with llama.cpp, which reads fewer bytes (241 MB in all), in bfloat16. Of every "
        "program it is checked that the vector changes the logits.\n"
    )
    print(f"{record_processor()}; products of two large matrices: ", end="")
    print(", ".join(f"{name} {rate / 1e12:.2f} Tflop/s" for name, rate in matrix.items()) + "\n")
    table(found, those, matrix, weights)


if __name__ == "__main__":
    main()
