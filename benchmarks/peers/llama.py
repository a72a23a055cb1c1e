"""Steered generation by llama.cpp, a control vector a call: python llama.py MODEL.gguf VECTORS SEQUENCES THREADS CALLS

Through the C API that xllamacpp's extension exports; its own samplers. SEQUENCES are decoded together.
"""

import ctypes
import sys
from ctypes import Structure, c_bool, c_float, c_int32, c_size_t, c_uint32, c_void_p
from pathlib import Path

import numpy as np
from answer import COEFF, LAYER, NEW_TOKENS, ROWS, TOP_K, answer, check

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "consumers"))
from llama_cpp import Batch, Model, Parameters, function

PROMPT_IDS = [2, 236777, 1751]  # `I think` with BOS
ROOM = 64  # tokens of a sequence


class Sizes(Structure):
    """The first fields of llama_context_params."""

    _fields_ = [(name, c_uint32) for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max")]


class ChainParameters(Structure):
    _fields_ = [("no_perf", c_bool)]


path, vectors, sequences, threads, calls = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
model = Model(path)
directions = (COEFF * np.load(vectors)).astype(np.float32)
width = directions.shape[1]
parameters = function("llama_context_default_params", Parameters)()
sizes = Sizes.from_address(ctypes.addressof(parameters))
assert (sizes.n_ctx, sizes.n_batch, sizes.n_ubatch, sizes.n_seq_max) == (512, 2048, 512, 1), "another layout"
sizes.n_ctx, sizes.n_seq_max = ROOM * sequences, sequences
context = function("llama_init_from_model", c_void_p, c_void_p, Parameters)(model.model, parameters)
function("llama_set_n_threads", None, c_void_p, c_int32, c_int32)(context, threads, threads)
steer = function("llama_set_adapter_cvec", c_int32, *[c_void_p, c_void_p, c_size_t, *[c_int32] * 3])
decode = function("llama_decode", c_int32, c_void_p, Batch)
memory = function("llama_get_memory", c_void_p, c_void_p)(context)
clear = function("llama_memory_clear", None, c_void_p, c_bool)
sample = function("llama_sampler_sample", c_int32, c_void_p, c_void_p, c_int32)
batch = function("llama_batch_init", Batch, c_int32, c_int32, c_int32)(ROOM * sequences, 0, 1)


def sampler(seed: int) -> int:
    chain = function("llama_sampler_chain_init", c_void_p, ChainParameters)(ChainParameters(True))
    add = function("llama_sampler_chain_add", None, c_void_p, c_void_p)
    add(chain, function("llama_sampler_init_top_k", c_void_p, c_int32)(TOP_K))
    add(chain, function("llama_sampler_init_temp", c_void_p, c_float)(1.0))
    add(chain, function("llama_sampler_init_dist", c_void_p, c_uint32)(seed))
    return chain


def fill(tokens: list[tuple[int, int, int, bool]]) -> None:
    """The batch of (token, position, sequence, whether its logits are wanted)."""
    arrays = [ctypes.cast(getattr(batch, name), ctypes.POINTER(c_int32)) for name in ("token", "pos", "n_seq")]
    number = ctypes.cast(batch.seq, ctypes.POINTER(ctypes.POINTER(c_int32)))
    wanted = ctypes.cast(batch.logits, ctypes.POINTER(ctypes.c_int8))
    for i, (token, position, sequence, last) in enumerate(tokens):
        arrays[0][i], arrays[1][i], arrays[2][i] = token, position, 1
        number[i][0], wanted[i] = sequence, last
    batch.n_tokens = len(tokens)


def steer_by(vector: np.ndarray) -> None:
    values = np.zeros((LAYER, width), np.float32)  # of blocks 1 to LAYER
    values[-1] = vector
    assert steer(context, values.ctypes.data, values.size, width, 1, LAYER) == 0


def steered(number: int) -> int:
    steer_by(directions[number])
    chains = [sampler(seed) for seed in range(ROWS)]
    for start in range(0, ROWS, sequences):
        clear(memory, True)
        last = len(PROMPT_IDS) - 1
        fill([(t, i, s, i == last) for s in range(sequences) for i, t in enumerate(PROMPT_IDS)])
        places = [(s + 1) * len(PROMPT_IDS) - 1 for s in range(sequences)]
        for step in range(NEW_TOKENS):
            assert decode(context, batch) == 0
            new = [sample(chains[start + s], context, places[s]) for s in range(sequences)]
            fill([(token, last + 1 + step, s, True) for s, token in enumerate(new)])
            places = list(range(sequences))
    for chain in chains:
        function("llama_sampler_free", None, c_void_p)(chain)
    return ROWS * NEW_TOKENS


def logits(vector: np.ndarray) -> np.ndarray:
    steer_by(vector)
    clear(memory, True)
    fill([(t, i, 0, i == len(PROMPT_IDS) - 1) for i, t in enumerate(PROMPT_IDS)])
    assert decode(context, batch) == 0
    found = function("llama_get_logits_ith", ctypes.POINTER(c_float), c_void_p, c_int32)(context, -1)
    return np.ctypeslib.as_array(found, (model.size,)).copy()


check(logits(0 * directions[0]), logits(directions[0]))
answer(lambda: sum(steered(number) for number in range(calls)))
