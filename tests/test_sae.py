import json

import numpy as np
import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from safetensors.torch import save_file

from fgaa_utils.sae import load
from fgaa_utils.sae.load import load_sae, sae_identity
from fgaa_utils.shards import weights_digest


def test_wrong_width_and_missing_sae(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="no SAE at"):
        load_sae(tmp_path, tiny, 1)
    TopKSAE(TopKSAEConfig(d_in=16, d_sae=50, k=4, dtype="float32", device="cpu")).save_model(tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["d_in"] == 16
    with pytest.raises(ValueError, match=r"d_in=16, the model has d_model=32"):
        load_sae(tmp_path, tiny, 1)


def test_an_sae_that_cannot_have_unit_decoder_rows_is_refused(tiny, tmp_path):
    config = TopKSAEConfig(d_in=32, d_sae=50, k=4, rescale_acts_by_decoder_norm=False, dtype="float32", device="cpu")
    config.metadata.hook_name = "blocks.1.hook_resid_post"
    TopKSAE(config).save_model(tmp_path)
    with pytest.raises(ValueError, match="cannot be given unit decoder rows: Folding W_dec_norm is not safe"):
        load_sae(tmp_path, tiny, 1)


def test_the_place_may_be_a_module_path_and_another_models_sae_is_named(tiny, tmp_path, capsys):
    config = TopKSAEConfig(d_in=32, d_sae=50, k=4, rescale_acts_by_decoder_norm=True, dtype="float32", device="cpu")
    config.metadata.hook_name = "model.layers.1"
    TopKSAE(config).save_model(tmp_path)
    load_sae(tmp_path, tiny, 1)
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match=r"reads model\.layers\.1, base\.layer wants .* or model\.layers\.2; change"):
        load_sae(tmp_path, tiny, 2)
    config.metadata.model_name = "openai/other"
    TopKSAE(config).save_model(tmp_path)
    load_sae(tmp_path, tiny, 1)
    assert f"was trained on openai/other and reads {tiny.name}" in capsys.readouterr().out


@pytest.fixture
def scope_weights():
    rng = np.random.default_rng(0)
    weights = {"W_enc": rng.normal(size=(32, 50)), "W_dec": rng.normal(size=(50, 32)), "b_enc": rng.normal(size=50)}
    weights |= {"b_dec": rng.normal(size=32), "threshold": rng.uniform(1, 5, size=50)}
    return {name: values.astype(np.float32) for name, values in weights.items()}


def save_scope(folder, weights, version):
    folder.mkdir(parents=True)
    if version == 1:
        np.savez(folder / "params.npz", **weights)
    else:
        tensors = {name.lower(): torch.from_numpy(values) for name, values in weights.items()}
        save_file(tensors, folder / "params.safetensors")


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_gemma_scope_equals_its_definition(tiny, tmp_path, scope_weights, version):
    save_scope(tmp_path / "mine", scope_weights, version)
    sae = load_sae(tmp_path / "mine", tiny, 2)
    norms = np.linalg.norm(scope_weights["W_dec"], axis=1)
    h = np.random.default_rng(1).normal(size=(7, 32)).astype(np.float32)
    pre = h @ scope_weights["W_enc"] + scope_weights["b_enc"]
    acts = np.where(pre > scope_weights["threshold"], pre, 0)
    with torch.no_grad():
        ours = sae.encode(torch.from_numpy(h))
        out = sae.decode(ours)
    assert (acts > 0).any()
    np.testing.assert_allclose(ours.numpy(), acts * norms, rtol=1e-4, atol=1e-4)  # unit decoder rows
    np.testing.assert_allclose(
        out.numpy(), acts @ scope_weights["W_dec"] + scope_weights["b_dec"], rtol=1e-3, atol=1e-3
    )


def test_a_folder_of_gemma_scope_says_its_layer_in_its_path(tiny, tmp_path, scope_weights):
    save_scope(tmp_path / "layer_2" / "average_l0_82", scope_weights, 1)
    assert load_sae(tmp_path / "layer_2" / "average_l0_82", tiny, 2).cfg.d_sae == 50
    with pytest.raises(ValueError, match=r"reads blocks\.2\.hook_resid_post, base\.layer wants blocks\.1"):
        load_sae(tmp_path / "layer_2" / "average_l0_82", tiny, 1)


def test_the_identity_of_an_sae_is_that_of_its_weights(tiny_sae):
    assert sae_identity(tiny_sae) == weights_digest(tiny_sae) and len(sae_identity(tiny_sae)) == 16


def test_a_model_and_its_sae_are_had_together_with_their_identity(tiny, tmp_path, scope_weights, monkeypatch):
    save_scope(tmp_path / "sae", scope_weights, 2)
    asked = {}
    monkeypatch.setattr(load, "load_model", lambda model, **settings: asked.update(settings, model=model) or tiny)
    settings = {"layer": 1, "dtype": "float32", "device": "cpu", "blocks": "auto"}
    lm, sae, identity = load.load_model_and_sae("somewhere", tmp_path / "sae", **settings)
    assert lm is tiny and asked == settings | {"model": "somewhere"}
    assert identity == {"model": tiny.identity, "sae": sae_identity(sae), "layer": 1}
