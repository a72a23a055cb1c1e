"""Exports hold the vector, the place and the strength that they should, and what is damaged or foreign is refused."""

import json

import pytest
import torch

from fgaa_utils.evaluation.scores import Choices
from fgaa_utils.export import bundle, command, gguf, lm_eval, neuronpedia
from fgaa_utils.export import steering as steering_module
from fgaa_utils.export.steering import Steering, blocks_of, of_run
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.vectors import save_vectors
from fgaa_utils.names import VectorName
from fgaa_utils.params import load_params

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
    assert (
        folder.name == "love-ng-n1_8-n2_0-0.25nats"
        and manifest["d_model"] == 640
        and "decoded tokens" in manifest["positions"]
    )
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
    [("{", "is damaged"), ("[]", "is damaged"), ('{"format": "other"}', "has the format 'other'; this reads fgaa-st")],
)
def test_a_damaged_manifest_is_refused(steering, tmp_path, manifest, message):
    folder = bundle.write(steering, tmp_path)
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=message):
        bundle.read(folder)


def test_a_manifest_that_was_edited_is_refused(steering, tmp_path):
    folder = bundle.write(steering, tmp_path)
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("194.5", "294.5"))
    with pytest.raises(ValueError, match=r"manifest\.json was changed after it was written"):
        bundle.read(folder)


def test_a_vector_that_was_rescaled_by_hand_is_refused(steering, tmp_path):
    folder = bundle.write(Steering(**(vars(steering) | {"vector": steering.vector * 2})), tmp_path)
    with pytest.raises(ValueError, match=r"no vector of unit norm: its norm is 2\.0"):
        bundle.read(folder)


def test_block_0_cannot_be_a_gguf_control_vector(steering, tmp_path):
    with pytest.raises(ValueError, match="block 0, which a GGUF control vector cannot express"):
        gguf.write(Steering(**(vars(steering) | {"layer": 0})), tmp_path)


def test_the_harness_gets_its_own_name_of_the_block(steering, tmp_path):
    held = torch.load(lm_eval.write(steering, tmp_path), weights_only=True)
    assert list(held) == ["layers.9"] and held["layers.9"]["action"] == "add"
    assert torch.equal(held["layers.9"]["steering_vector"], steering.vector[None])
    assert held["layers.9"]["steering_coefficient"] == 194.5


def test_the_payload_of_neuronpedia(steering, tmp_path):
    payload = json.loads(neuronpedia.write(steering, tmp_path).read_text())
    assert (payload["modelId"], payload["layerNumber"], payload["hookType"]) == ("gemma-3-270m", 10, "hook_resid_pre")
    applied = payload["vectorDefaultSteerStrength"] * torch.tensor(payload["vector"])
    torch.testing.assert_close(applied, steering.delta)
    with pytest.raises(ValueError, match="Neuronpedia takes at most 24576"):
        neuronpedia.write(Steering(**(vars(steering) | {"vector": torch.ones(24_577)})), tmp_path)


NAMES = [VectorName("love", "caa", bos=True, white=False), VectorName("love", "fgaa", n1=4, n2=0)]
SHAPED = {"include_bos": True, "theta": 0.07, "density_filter": True, "bos_filter": True, "target_norm": "l1"}
SHAPED |= {"bias_weight": 1.0, "fit": "adam", "n2": 0, "natural_ridge": 0.1}


@pytest.fixture
def finished(tmp_path, monkeypatch, tiny):
    """A made-up run with two vectors of "love" on the tiny model, at 0.25 nats; returns its folder and its metrics."""
    identity = {"model": MODEL, "sae": "s", "layer": 9}
    for name in ("samples", "vectors", "gradients"):
        (tmp_path / name).mkdir()
    vectors = {
        n: v / v.norm() for n, v in zip(NAMES, torch.randn(2, tiny.d_model, generator=torch.Generator().manual_seed(1)))
    }
    save_vectors(tmp_path / "vectors" / "vectors.safetensors", vectors, **identity, parameters=SHAPED)
    F = torch.diag(torch.linspace(0.1, 1.0, tiny.d_model))
    made = GradientMap(torch.ones(tiny.d_model, 8), 2 * F, F, 3 * F, 32, identity)
    made.save(tmp_path / "gradients" / "gradients.safetensors")
    choices = {
        n.method: {"love": {"scale": 0.25, "coeff": round(made.coefficient(v, 0.25), 1), "variant": n.variant}}
        for n, v in vectors.items()
    }
    Choices({"love": "Love"}, 100.0, "nats", MODEL, "s", 9, choices, {}).write(tmp_path / "samples" / "choices.json")
    bcs = {
        m: {"love": {"value": v, "lo": v - 0.1, "hi": v + 0.1, "n": 20}}
        for m, v in (("fgaa", 0.4), ("caa", 0.3), ("unsteered", 0.0))
    }
    metrics = {"evaluation": {"model": MODEL, "choices": choices, "bcs": bcs}, "judge": {"judge_kind": "local"}}
    tiny.hf.config.save_pretrained(tmp_path / "model")
    base = {"model": str(tmp_path / "model"), "blocks": "auto", "layer": 9}
    monkeypatch.setattr(steering_module, "artefact", lambda path: tmp_path / path)
    monkeypatch.setattr(command, "artefact", lambda path: tmp_path / path)
    monkeypatch.setattr(steering_module, "DATA", tmp_path)
    monkeypatch.setattr(steering_module, "metrics_of", metrics.__getitem__)
    for module in (steering_module, command):
        monkeypatch.setattr(module, "load_params", lambda: load_params() | {"base": base})
    return tmp_path, metrics, vectors, made


def test_what_is_exported_is_what_the_run_chose(finished, tiny):
    _, _, vectors, made = finished
    found = of_run("love", "fgaa")
    assert torch.equal(found.vector, vectors[NAMES[1]]) and found.name == "love.fgaa.n1=4,n2=0"
    cost = float(found.delta @ made.F @ found.delta) / 2 / 32
    assert cost == pytest.approx(0.25, rel=1e-5) and found.about["strength"] == {
        "unit": "nats",
        "scale": 0.25,
        "chosen": 0.25,
    }
    assert found.about["recipe"]["theta"] == 0.07, "of the file, not of today's params.yaml"
    assert found.about["recipe"]["n1"] == 4 and found.module == f"{tiny.blocks}.9"
    assert found.about["scores"]["bcs"] == {"value": 0.4, "lo": pytest.approx(0.3), "hi": 0.5, "n": 20}
    assert found.about["scores"]["unsteered"]["value"] == 0.0


def test_another_strength_has_its_norm_and_no_score(finished):
    found, chosen = of_run("love", "caa", scale=1.0), of_run("love", "caa")
    assert found.coeff == pytest.approx(2 * chosen.coeff, rel=1e-5) and found.about["scores"] == {}
    assert found.stem == "love-caa-bos_1-white_0-1nats" != chosen.stem


def test_scores_of_other_choices_are_left_out(finished):
    finished[1]["evaluation"]["choices"]["fgaa"]["love"] = {"scale": 0.5, "coeff": 1.0, "variant": "n1=4,n2=0"}
    assert of_run("love", "fgaa").about["scores"] == {}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"behaviour": "loev", "method": "fgaa"}, "unknown behaviour 'loev'; did you mean 'love'"),
        ({"behaviour": "love", "method": "fga"}, "unknown method 'fga'; did you mean 'fgaa'"),
        ({"behaviour": "love", "method": "fgaa", "scale": -1.0}, r"the scale is -1\.0; it must be positive, in nats"),
    ],
)
def test_what_the_run_has_not_is_refused(finished, asked, message):
    with pytest.raises(ValueError, match=message):
        of_run(**asked)


def test_a_map_or_vectors_of_another_run_are_refused(finished):
    folder, _, vectors, made = finished
    other = GradientMap(made.G, made.G_resid, 4 * made.F, made.covariance, 32, made.identity)
    other.save(folder / "gradients" / "gradients.safetensors")
    with pytest.raises(ValueError, match="are of different runs"):
        of_run("love", "fgaa")
    made.save(folder / "gradients" / "gradients.safetensors")
    identity = {"model": MODEL, "sae": "s", "layer": 9}
    save_vectors(
        folder / "vectors" / "vectors.safetensors", {NAMES[0]: vectors[NAMES[0]]}, **identity, parameters=SHAPED
    )
    with pytest.raises(ValueError, match="are of different runs"):
        of_run("love", "fgaa")


def test_the_command_exports_and_verifies_against_the_model(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "weights_identity", lambda path: "d9df495ac8121f17")
    command.main(["all", "--method", "fgaa", "--to", str(tmp_path / "out")])
    folder = tmp_path / "out" / "love-fgaa-n1_4-n2_0-0.25nats"
    assert capsys.readouterr().out == f"{folder}\n"
    command.main(["verify", str(folder)])
    assert "is whole: love.fgaa.n1=4,n2=0" in capsys.readouterr().out
    monkeypatch.setattr(command, "weights_identity", lambda path: "0" * 16)
    with pytest.raises(ValueError, match=f"steers {MODEL}, not 0000000000000000"):
        command.main(["verify", str(folder)])


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
