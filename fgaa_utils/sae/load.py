"""The sparse autoencoder: one trained here, any of sae-lens's, or a folder of Gemma Scope; loaded and checked."""

import re
from pathlib import Path

import numpy as np
import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from sae_lens.saes.sae import SAEMetadata
from safetensors.torch import load_file
from torch import Tensor

from fgaa_utils.model.hub import hub_access
from fgaa_utils.model.lm import LanguageModel, load_model
from fgaa_utils.project import DATA, unknown
from fgaa_utils.shards import weights_digest

SCOPE_FILES = ("params.npz", "params.safetensors")  # of Gemma Scope and Gemma Scope 2


def load_sae(source: str | Path, lm: LanguageModel, layer: int) -> SAE:
    """The SAE that `source` names, in float32 with unit decoder rows, on the model's device.

    source: `own`, the one of the sae stage; a folder in sae-lens's or in Gemma Scope's format; or `release:id` of
    sae-lens's directory of pretrained SAEs, from the hub. Raises: OSError if it cannot be had; ValueError if it reads
    another layer or place than the residual stream after block `layer`, its d_in is not the model's d_model, or its
    decoder rows cannot be given unit norm.
    """
    folder = DATA / "sae" if source == "own" else Path(source)
    if (folder / "cfg.json").exists():
        sae = SAE.load_from_disk(folder, device="cpu", dtype="float32")
    elif any((folder / name).exists() for name in SCOPE_FILES):
        sae = _from_scope(folder, layer)
    elif ":" in str(source):
        release, _, sae_id = str(source).partition(":")
        known = get_pretrained_saes_directory()
        if release not in known:
            raise unknown("release of pretrained SAEs", release, list(known))
        if sae_id not in known[release].saes_map:
            raise unknown(f"SAE of {release}", sae_id, list(known[release].saes_map)[:50])
        with hub_access(known[release].repo_id, known[release].saes_map[sae_id], "base.sae_source"):
            sae = SAE.from_pretrained(release, sae_id, device="cpu", dtype="float32")
    else:
        raise FileNotFoundError(
            f"no SAE at {folder}; base.sae_source is own (`make again STAGE=sae` trains it), "
            f"a folder in sae-lens's format or with Gemma Scope's {' or '.join(SCOPE_FILES)}, "
            "or release:id of a pretrained one"
        )
    if sae.cfg.d_in != lm.d_model:
        raise ValueError(
            f"the SAE {source} reads d_in={sae.cfg.d_in}, the model has d_model={lm.d_model}; "
            "change base.sae_source or base.model"
        )
    about = sae.cfg.metadata
    places = (f"blocks.{layer}.hook_resid_post", f"blocks.{layer + 1}.hook_resid_pre", f"{lm.blocks}.{layer}")
    if about.hook_name not in places:
        raise ValueError(
            f"the SAE {source} reads {about.hook_name}, base.layer wants {' or '.join(places)}; "
            "change base.layer to the SAE's, or base.sae_source"
        )
    if about.model_name and Path(about.model_name).name != lm.name:
        print(f"the SAE {source} was trained on {about.model_name} and reads {lm.name}")
    try:
        sae.fold_W_dec_norm()
    except NotImplementedError as error:  # sae-lens's refusal, where it would change which latents are the top k
        raise ValueError(f"the SAE {source} cannot be given unit decoder rows: {error}") from error
    return sae.to(lm.device).eval()


def load_model_and_sae(
    model: str | Path, source: str | Path, *, layer: int, dtype: str, device: str, blocks: str
) -> tuple[LanguageModel, SAE, dict]:
    """(model, SAE, identity) for one layer, as of load_model and load_sae; what is made with both carries the identity."""
    lm = load_model(model, layer=layer, dtype=dtype, device=device, blocks=blocks)
    sae = load_sae(source, lm, layer)
    return lm, sae, {"model": lm.identity, "sae": sae_identity(sae), "layer": layer}


def _from_scope(folder: Path, layer: int) -> SAE:
    """The SAE of a folder of Gemma Scope (arXiv 2408.05147), whose file does not say what it reads: the last layer_<n>
    of its path does, or else it is taken to be the residual stream after block `layer`."""
    npz, tensors = (folder / name for name in SCOPE_FILES)
    weights = dict(np.load(npz)) if npz.exists() else load_file(tensors)
    weights = {name.replace("w_", "W_"): torch.as_tensor(values).float() for name, values in weights.items()}
    d_in, d_sae = weights["W_enc"].shape
    named = re.findall(r"layer_(\d+)", str(folder.resolve()))
    hook = f"blocks.{named[-1] if named else layer}.hook_resid_post"
    config = JumpReLUSAEConfig(d_in, d_sae, apply_b_dec_to_input=False, metadata=SAEMetadata(hook_name=hook))
    sae = JumpReLUSAE(config)
    sae.load_state_dict(weights)
    return sae


def sae_identity(sae: SAE) -> str:
    """16 hex digits of the weights; whatever is computed with the SAE carries them."""
    return weights_digest(sae)


@torch.no_grad()
def encode(sae: SAE, resid: Tensor) -> Tensor:
    """Latent activations (..., d_sae) of residual streams (..., d_model), float32, where the streams are."""
    return sae.encode(resid.float().to(sae.device)).to(resid.device)


@torch.no_grad()
def decode(sae: SAE, acts: Tensor) -> Tensor:
    """Residual streams (..., d_model) of latent activations (..., d_sae), where the activations are."""
    return sae.decode(acts.to(sae.device)).to(acts.device)


def decoder_rows(sae: SAE) -> Tensor:
    """W_dec (d_sae, d_model), float32, unit rows."""
    return sae.W_dec.detach().cpu()
