"""Last-token logits of llama.cpp, plain and steered by a control vector that llama.cpp's own loader reads.

    python llama_cpp.py MODEL.gguf VECTOR.gguf REFERENCE.npz OUT.npz

Through the C API that xllamacpp's extension exports. The loader, `common_control_vector_load`, is C++: its argument is a vector
of {float strength; std::string name}, laid out by hand as the wheel's compiler does (libstdc++'s ABI of before C++11).
"""

import ctypes
import sys
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_float, c_int32, c_size_t, c_void_p
from pathlib import Path

import numpy as np
import xllamacpp

LIBRARY = ctypes.CDLL(str(Path(xllamacpp.__file__).with_name("xllamacpp.abi3.so")), mode=ctypes.RTLD_GLOBAL)
LOAD = "_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE"


class Parameters(Structure):
    """llama_model_params and llama_context_params, never looked into: both are passed in memory, and this is larger."""

    _fields_ = [("bytes", c_char * 1024)]


class Batch(Structure):
    _fields_ = [("n_tokens", c_int32)] + [
        (name, c_void_p) for name in ("token", "embd", "pos", "n_seq", "seq", "logits")
    ]


class Text(Structure):
    """What std::string points into: its characters, after their count, the room for them and the number of owners."""

    _fields_ = [("size", c_size_t), ("capacity", c_size_t), ("owners", c_size_t), ("characters", c_char * 1024)]


class LoadInfo(Structure):
    _fields_ = [("strength", c_float), ("name", c_void_p)]


class Vector(Structure):
    """std::vector."""

    _fields_ = [("begin", c_void_p), ("end", c_void_p), ("capacity", c_void_p)]


class Loaded(Structure):
    """common_control_vector_data: its values begin with those of block 1."""

    _fields_ = [("n_embd", c_int32), ("data", Vector)]


def function(name, result, *arguments):
    found = getattr(LIBRARY, name)
    found.restype, found.argtypes = result, list(arguments)
    return found


def load_vector(path: str) -> Loaded:
    name = path.encode()
    text = Text(len(name), len(name), 0, name)
    info = LoadInfo(1.0, ctypes.addressof(text) + Text.characters.offset)
    start = ctypes.addressof(info)
    end = start + ctypes.sizeof(info)
    return function(LOAD, Loaded, c_void_p)(byref(Vector(start, end, end)))


class Model:
    def __init__(self, path: str):
        function("llama_backend_init", None)()
        parameters = function("llama_model_default_params", Parameters)()
        self.model = function("llama_model_load_from_file", c_void_p, c_char_p, Parameters)(path.encode(), parameters)
        assert self.model, f"llama.cpp could not load {path}"
        vocabulary = function("llama_model_get_vocab", c_void_p, c_void_p)(self.model)
        self.size = function("llama_vocab_n_tokens", c_int32, c_void_p)(vocabulary)

    def logits(self, ids: list[int], vector: Loaded | None) -> np.ndarray:
        """(vocabulary,) after the last token; every call has a context of its own."""
        parameters = function("llama_context_default_params", Parameters)()
        context = function("llama_init_from_model", c_void_p, c_void_p, Parameters)(self.model, parameters)
        if vector:
            count = (vector.data.end - vector.data.begin) // 4
            steer = function("llama_set_adapter_cvec", c_int32, *[c_void_p, c_void_p, c_size_t, *[c_int32] * 3])
            blocks = count // vector.n_embd
            assert steer(context, vector.data.begin, count, vector.n_embd, 1, blocks) == 0
        tokens = (c_int32 * len(ids))(*ids)
        batch = function("llama_batch_get_one", Batch, c_void_p, c_int32)(tokens, len(ids))
        assert function("llama_decode", c_int32, c_void_p, Batch)(context, batch) == 0
        found = function("llama_get_logits_ith", POINTER(c_float), c_void_p, c_int32)(context, -1)
        values = np.ctypeslib.as_array(found, (self.size,)).copy()
        function("llama_free", None, c_void_p)(context)
        return values


def main(model: str, vector: str, reference: str, out: str) -> None:
    prompts = [row[row >= 0].tolist() for row in np.load(reference)["ids"]]
    llama, loaded = Model(model), load_vector(vector)
    plain, steered = (np.stack([llama.logits(ids, v) for ids in prompts]) for v in (None, loaded))
    np.savez(out, plain=plain, steered=steered)


if __name__ == "__main__":
    main(*sys.argv[1:])
