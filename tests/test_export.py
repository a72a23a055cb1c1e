"""Exports hold the vector, the place and the strength that they should, and what is damaged or foreign is refused."""

import json

import pytest
import torch

from fgaa_utils.export import bundle, command, gguf, lm_eval, neuronpedia, steering_vectors
from fgaa_utils.export.steering import Steering, blocks_of, recipe_of
from fgaa_utils.names import VectorName

MODEL = "gemma-3-270m:d9df495ac8121f17:bfloat16"


@pytest.fixture
def steering():
    vector = torch.randn(640, generator=torch.Generator().manual_seed(0))
    about = {"strength": {"unit": "nats", "scale": 0.25, "chosen": 0.25}, "recipe": {"method": "ng"}, "scores": {}}
    place = (9, "model.layers.9", MODEL, "gemma3_text", "dc7a47e2a92e44c3", about)
    return Steering("love.ng.n1=8,n2=0", vector / vector.norm(), 194.5, *place)


def test_a_bundle_comes_back_as_it_was_written(steering, tmp_path):
    folder = bundle.write(steering, tmp_path)
    again = bundle.read(folder, model=MODEL, layer=9)
    assert torch.equal(again.vector, steering.vector)
    assert {k: v for k, v in vars(again).items() if k != "vector"} == {
        k: v for k, v in vars(steering).items() if k != "vector"
    }
    manifest = json.loads((folder / "manifest.json").read_text())
    assert folder.name == "love-ng-n18_n20" and manifest["d_model"] == 640 and "decoded tokens" in manifest["positions"]
    assert bundle.read(folder, model="d9df495ac8121f17").layer == 9, "the digest of the weights is enough"
    assert bundle.read(folder, model="gemma:d9df495ac8121f17:float32").layer == 9, "the dtype does not matter"


def test_a_foreign_model_or_layer_is_refused(steering, tmp_path):
    folder = bundle.write(steering, tmp_path)
    with pytest.raises(ValueError, match=f"steers {MODEL}, not gemma-3-270m:0123456789abcdef:bfloat16"):
        bundle.read(folder, model="gemma-3-270m:0123456789abcdef:bfloat16")
    with pytest.raises(ValueError, match="steers block 9, not 8"):
        bundle.read(folder, layer=8)


def test_every_changed_byte_of_the_tensors_is_found(steering, tmp_path):
    folder = bundle.write(steering, tmp_path)
    path = folder / "vector.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"vector\.safetensors is damaged"):
            bundle.read(folder)
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="damaged"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [("{", "is damaged"), ("[]", "is no fgaa-steering-1"), ('{"format": "other"}', "it lacks .*'coeff'")],
)
def test_a_damaged_manifest_is_refused(steering, tmp_path, manifest, message):
    folder = bundle.write(steering, tmp_path)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        bundle.read(folder)


def test_a_vector_that_was_rescaled_by_hand_is_refused(steering, tmp_path):
    folder = bundle.write(Steering(**(vars(steering) | {"vector": steering.vector * 2})), tmp_path)
    with pytest.raises(ValueError, match=r"no vector of unit norm: its norm is 2\.0"):
        bundle.read(folder)


@pytest.mark.parametrize("module", [gguf, steering_vectors])
def test_formats_that_can_be_read_come_back(module, steering, tmp_path):
    found = module.read(module.write(steering, tmp_path / "new"))
    assert list(found) == [9] and torch.equal(found[9], steering.delta)


def test_a_gguf_that_is_no_control_vector_is_refused(steering, tmp_path):
    (tmp_path / "text.gguf").write_text("not a GGUF")
    with pytest.raises(ValueError, match=r"text\.gguf is no GGUF file"):
        gguf.read(tmp_path / "text.gguf")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        gguf.read(tmp_path / "none.gguf")
    with pytest.raises(ValueError, match="block 0, which a GGUF control vector cannot express"):
        gguf.write(Steering(**(vars(steering) | {"layer": 0})), tmp_path)


def test_the_harness_gets_its_own_name_of_the_block(steering, tmp_path):
    held = torch.load(lm_eval.write(steering, tmp_path), weights_only=True)
    assert list(held) == ["layers.9"] and held["layers.9"]["action"] == "add"
    assert torch.equal(held["layers.9"]["steering_vector"], steering.vector[None])
    assert held["layers.9"]["steering_coefficient"] == 194.5


def test_the_payload_of_neuronpedia(steering, tmp_path):
    payload = json.loads(neuronpedia.write(steering, tmp_path).read_text())
    assert (payload["modelId"], payload["layerNumber"], payload["hookType"]) == ("gemma-3-270m", 9, "hook_resid_post")
    assert torch.equal(torch.tensor(payload["vector"]), steering.vector)
    with pytest.raises(ValueError, match="Neuronpedia takes at most 24576"):
        neuronpedia.write(Steering(**(vars(steering) | {"vector": torch.ones(24_577)})), tmp_path)


def test_the_recipe_is_that_of_the_run():
    assert recipe_of(VectorName("love", "fgaa", n1=4, n2=0)).n1 == 4
    natural = recipe_of(VectorName("love", "ng", n1=8, n2=0, white=True))
    assert natural.fisher and natural.white and natural.fit == "gradient"
    with pytest.raises(ValueError, match=r"unknown vector 'love\.fgaa\.n1=5,n2=0'"):
        recipe_of(VectorName("love", "fgaa", n1=5, n2=0))


def test_blocks_are_found_without_the_weights(tiny, tmp_path):
    tiny.hf.config.save_pretrained(tmp_path)
    assert blocks_of(str(tmp_path), "auto") == tiny.blocks


def test_the_command_says_what_is_wrong(capsys, monkeypatch, tmp_path):
    with pytest.raises(SystemExit):
        command.main(["verify"])
    assert "verify needs the path of a bundle" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["fgaa-export", "verify", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="error: "):
        command.run()
