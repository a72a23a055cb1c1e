"""Vectors from elsewhere: what was exported comes back, and what cannot be measured is refused."""

import pytest
import torch
from safetensors.torch import save_file

from fgaa_utils.export import gguf, steering_vectors
from fgaa_utils.export.steering import Steering
from fgaa_utils.method.imported import imported_vectors, read_deltas
from fgaa_utils.names import IMPORTED, METHODS, VectorName
from fgaa_utils.params import check_extra

VECTOR = torch.nn.functional.normalize(torch.arange(1.0, 9.0), dim=0)


@pytest.fixture
def steering():
    strength = {"unit": "nats", "scale": 0.25, "chosen": 0.25}
    about = {"strength": strength, "recipe": {}, "scores": {}}
    return Steering("love.ng", VECTOR, 40.0, 9, "model.layers.9", "tiny:0:float32", "gemma3_text", "0" * 16, about)


@pytest.mark.parametrize("module", [gguf, steering_vectors])
def test_what_was_exported_comes_back(module, steering, tmp_path):
    path = module.write(steering, tmp_path / "new")
    found = read_deltas(path)
    assert list(found) == [9] and torch.equal(found[9], steering.delta)
    made = imported_vectors({"love": [str(path)]}, 9, 8)
    assert list(made) == [VectorName("love", IMPORTED, draw=1)] and IMPORTED in METHODS
    torch.testing.assert_close(made[VectorName("love", IMPORTED, draw=1)], VECTOR)


def test_files_of_a_behaviour_are_its_tries(tmp_path):
    for number in (1, 2):
        save_file({"3": torch.eye(4)[number], "4": torch.ones(4)}, tmp_path / f"{number}.safetensors")
    made = imported_vectors({"love": [str(tmp_path / "1.safetensors"), str(tmp_path / "2.safetensors")]}, 3, 4)
    assert [str(name) for name in made] == ["love.imported.draw=1", "love.imported.draw=2"]
    assert torch.equal(torch.stack([*made.values()]), torch.eye(4)[1:3])


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"8": torch.ones(4)}, r"has vectors of the blocks \[8\], none of block 3; change base.layer"),
        ({"3": torch.ones(5)}, r"has a vector of \[5\], the model wants \[4\]; it is another model's"),
        ({"3": torch.zeros(4)}, "has a vector that is zero or not finite at block 3"),
        ({"3": torch.full((4,), torch.nan)}, "has a vector that is zero or not finite at block 3"),
        ({"layer.3": torch.ones(4)}, r"holds \['layer.3'\]; its tensors must be named by their blocks"),
    ],
)
def test_a_vector_that_cannot_be_measured_is_refused(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=rf"v\.safetensors {said}"):
        imported_vectors({"love": [str(tmp_path / "v.safetensors")]}, 3, 4)


def test_a_file_of_another_kind_is_refused(tmp_path):
    for name in ("v.gguf", "v.safetensors"):
        (tmp_path / name).write_text("not one")
    with pytest.raises(ValueError, match=r"v\.gguf is no GGUF file"):
        read_deltas(tmp_path / "v.gguf")
    with pytest.raises(ValueError, match=r"v\.safetensors is damaged or no safetensors file"):
        read_deltas(tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"v\.pt is neither \.gguf nor \.safetensors; a pickle is not read"):
        read_deltas(tmp_path / "v.pt")
    with pytest.raises(FileNotFoundError):
        read_deltas(tmp_path / "none.gguf")


def test_a_control_vector_cut_off_anywhere_is_refused(steering, tmp_path):
    whole = gguf.write(steering, tmp_path).read_bytes()
    for end in range(0, len(whole) - 1, 7):
        (tmp_path / "cut.gguf").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cut\.gguf (is no GGUF file|holds no direction)"):
            read_deltas(tmp_path / "cut.gguf")


def test_every_behaviour_of_the_run_has_a_file_or_none_has():
    check_extra({}, ["anger", "love"])
    check_extra({"love": ["a"], "anger": ["b"]}, ["anger", "love"])
    with pytest.raises(ValueError, match=r"no file for anger; .* or let base.behaviours be \[love\]"):
        check_extra({"love": ["a"]}, ["anger", "love"])
    with pytest.raises(ValueError, match=r"unknown behaviour in vectors.extra: 'lvoe'; did you mean 'love'\?"):
        check_extra({"lvoe": ["a"]}, ["anger", "love"])
