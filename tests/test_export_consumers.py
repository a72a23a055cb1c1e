"""Exported vectors in the programs that load them: on the real model their logits are those of our own steering.

Each consumer has an environment of its own, this one's packages with its own on top, made when first needed.
"""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from environments import CONSUMERS, python_of
from gguf import GGUFReader, GGUFWriter, dequantize
from gguf.constants import GGUFValueType

from fgaa_utils.data.convert import join_parts
from fgaa_utils.export import gguf, lm_eval, steering_vectors
from fgaa_utils.export.steering import Steering
from fgaa_utils.model.lm import load_model
from fgaa_utils.model.steer import edited_logits
from fgaa_utils.project import MODEL, RAW

pytestmark = [pytest.mark.exports, pytest.mark.real]
LAYER, COEFF = 9, 400.0  # about a quarter of the residual stream's spread
PROMPTS = ["I think", "Last night at the wedding of my sister", "Le ciel"]


@pytest.fixture(scope="module")
def steering():
    vector = torch.randn(640, generator=torch.Generator().manual_seed(0))
    about = {"strength": {"scale": 1.0, "unit": "nats"}, "recipe": {}, "scores": {}}
    place = ("model.layers.9", "gemma-3-270m:0:float32", "gemma3_text", "sae", about)
    return Steering("love.random", vector / vector.norm(), COEFF, LAYER, *place)


@pytest.fixture(scope="module")
def reference(steering, tmp_path_factory):
    """(file of the prompts' ids, plain and steered logits (prompts, vocabulary) by our own steering in float32)."""
    lm = load_model("gemma-3-270m", layer=LAYER, dtype="float32")
    ids = lm.encode(PROMPTS)
    path = tmp_path_factory.mktemp("reference") / "reference.npz"
    padded = np.full((len(ids), max(map(len, ids))), -1)
    for row, tokens in zip(padded, ids):
        row[: len(tokens)] = tokens
    np.savez(path, ids=padded)
    found = [
        np.stack([edited_logits(lm, torch.tensor([row]), LAYER, edit)[0, -1].numpy() for row in ids])
        for edit in (lambda h: h, lambda h: h + steering.delta)
    ]
    return path, *found


def logits_of(consumer: str, script: str, model: Path, vector: Path, reference: Path, out: Path):
    command = [python_of(consumer), CONSUMERS / f"{script}.py", model, vector, reference, out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.load(out)
    return found["plain"], found["steered"]


def equal(found, expected, tolerance):
    """Both pairs of logits agree, in nats, and steering matters by far more than the tolerance."""
    for ours, theirs in zip(expected, found):
        assert np.abs(ours - theirs).max() < tolerance
    assert np.abs(expected[1] - expected[0]).max() > 100 * tolerance


@pytest.mark.parametrize(
    ("consumer", "script", "module"),
    [
        ("steering-vectors", "steering_vectors_library", steering_vectors),
        ("repeng", "repeng_library", gguf),
        ("lm-eval", "lm_eval_harness", lm_eval),
    ],
)
def test_libraries_on_the_hugging_face_model(consumer, script, module, steering, reference, tmp_path):
    path, *expected = reference
    vector = module.write(steering, tmp_path)
    found = logits_of(consumer, script, MODEL / "gemma-3-270m", vector, path, tmp_path / "out.npz")
    equal(found, expected, 1e-3)
    if consumer == "lm-eval":  # a task of the harness, run by the harness
        told = json.loads((tmp_path / "likelihoods.json").read_text())
        assert len(told["plain"]) == len(told["steered"]) == 9 and told["plain"] != told["steered"]


@pytest.fixture(scope="module")
def float_gguf(tmp_path_factory):
    """The model's GGUF with the weights of our conversion in float32: where they are quantised llama.cpp rounds activations
    too. Norms, which the GGUF holds larger by one, keep its own numbers."""
    folder = tmp_path_factory.mktemp("gguf")
    joined, target = folder / "joined.gguf", folder / "float.gguf"
    raw = RAW / "gemma"
    join_parts(sorted(raw.glob("part*")), joined, (raw / "SHA256SUMS").read_text().split()[0])
    source = GGUFReader(str(joined))
    writer = GGUFWriter(str(target), source.get_field("general.architecture").contents())
    for name, field in source.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    for tensor in source.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(tensor.shape[::-1].tolist())
        ours = torch.from_numpy(values).bfloat16().float().numpy() if values.ndim > 1 else values
        writer.add_tensor(tensor.name, ours)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    joined.unlink()
    return target


def test_llama_cpp_by_its_own_loader(steering, reference, float_gguf, tmp_path):
    path, *expected = reference
    vector = gguf.write(steering, tmp_path)
    equal(logits_of("llama", "llama_cpp", float_gguf, vector, path, tmp_path / "out.npz"), expected, 0.05)
