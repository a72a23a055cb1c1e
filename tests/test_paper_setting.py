"""The paper's setting, executed: its files as a local hub cache holds them, every stage, and an independent oracle."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import oracle
import pandas as pd
import pytest
import tiny_hub
import torch
from fake_server import Server, fake_server
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fgaa_utils.approximator import load_effect_map
from fgaa_utils.behaviours import read_behaviours
from fgaa_utils.model import load_model
from fgaa_utils.project import ROOT
from fgaa_utils.sae import load_sae, sae_identity
from fgaa_utils.settings import WORKSPACES, read_setting

TINY = ROOT / "tests" / "tiny.yaml"
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    cache = tmp_path_factory.mktemp("hub")
    texts = [text for b in read_behaviours("all") for text in (*b.positive, *b.negative)]
    for size in tiny_hub.SIZES:
        tiny_hub.build(cache, size, texts)
    return cache


@pytest.fixture
def offline(hub, monkeypatch):
    """This process reads the stand-ins and nothing else of the hub."""
    import huggingface_hub.constants as constants
    import transformers.utils.hub

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if hasattr(transformers.utils.hub, "TRANSFORMERS_CACHE"):
        monkeypatch.setattr(transformers.utils.hub, "TRANSFORMERS_CACHE", str(hub))
    return hub


@pytest.mark.pipeline
@pytest.mark.parametrize("size", tiny_hub.SIZES)
def test_model_sae_and_effect_map_load_from_the_hub_and_fit(offline, size):
    setting = read_setting(f"gemma-2-{size}")
    d_model, _ = tiny_hub.SIZES[size]
    layer = setting["base"]["layer"]
    lm = load_model(setting["base"]["model"], layer=layer, dtype="float32")
    assert lm.d_model == d_model and tiny_hub.REVISION[:16] in lm.identity
    sae = load_sae(setting["base"]["sae_source"], lm, layer)
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (d_model, tiny_hub.D_SAE)
    scope = tiny_hub.snapshot(offline, "models", f"google/gemma-scope-{size}-pt-res") / tiny_hub.SIZES[size][1]
    assert sae_identity(load_sae(scope, lm, layer)) == sae_identity(sae), "the folder alone, without the hub"
    shape = {"d_model": d_model, "d_sae": tiny_hub.D_SAE, "identity": {}}
    found = load_effect_map(setting["vectors"]["fit"], ROOT, **shape)
    assert found.M.shape == (d_model, tiny_hub.D_SAE)
    with pytest.raises(ValueError, match=r"has \{'W': \(.*model and SAE want"):
        load_effect_map(setting["vectors"]["fit"], ROOT, **(shape | {"d_sae": 4096}))
    with pytest.raises(ValueError, match=r"reads blocks\.12\.hook_resid_post, base\.layer wants blocks\.9"):
        load_sae(setting["base"]["sae_source"], lm, 9)
    with pytest.raises(OSError, match=r"base\.model wants config\.json.* of the hub repository google/gemma-2-27b"):
        load_model("google/gemma-2-27b", layer=layer)


def run_setting(hub, *names) -> tuple[Path, Server]:
    """(workspace, server) of a whole run of a setting with the server as its judge, which gives some texts no valid answer."""
    workspace = WORKSPACES / "+".join(Path(name).stem for name in names if not name.startswith("--"))
    shutil.rmtree(workspace, ignore_errors=True)
    with fake_server() as server:
        server.unanswerable = "our"  # texts with it stay without a score
        environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
        environment |= {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.port}/v1", "FGAA_JUDGE_MODEL": "gpt-4o-mini"}
        environment |= {"OPENAI_API_KEY": SECRET}
        command = [sys.executable, "-m", "fgaa_utils.settings", *names]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return workspace, server


@pytest.fixture(scope="module")
def run(hub):
    return run_setting(hub, "gemma-2-2b", "quick", str(TINY), "--ablations")


@pytest.fixture(scope="module")
def finished(run):
    """The workspace after a whole run of the setting, ablations too."""
    return run[0]


@pytest.mark.pipeline
def test_the_whole_pipeline_runs_on_the_papers_files(finished):
    metrics = {path.stem: json.loads(path.read_text()) for path in (finished / "reports" / "metrics").glob("*.json")}
    assert {"data", "features", "vectors", "evaluation", "capability", "ablations"} <= set(metrics)
    assert not {"sae", "effects"} & set(metrics)
    assert {"fgaa", "sae_ts", "sae", "caa", "prompting"} <= set(metrics["evaluation"]["bcs"])
    assert metrics["evaluation"]["model"].startswith(f"gemma-2-2b:{tiny_hub.REVISION[:16]}")
    assert set(metrics["ablations"]["rows"]) >= {"default", "density_filter off", "fit decoder, bias_weight 0.0"}
    assert (finished / "reports" / "index.html").exists()


@pytest.mark.pipeline
def test_the_papers_protocol_is_asked_of_the_server_and_its_key_kept_nowhere(run):
    finished, server = run
    metrics = json.loads((finished / "reports" / "metrics" / "evaluation.json").read_text())
    assert metrics["judge_kind"] == "openai" and metrics["other_judges"][0]["judge"] == "local"
    assert metrics["bcs"]["fgaa"]["love"]["n"] == 6, "samples of the one prompt"
    assert metrics["missing_scores"] > 0
    assert {request["temperature"] for request in server.requests} == {0, 1}, "1 where the first answer was malformed"
    assert {request["model"] for request in server.requests} == {"gpt-4o-mini"}
    test = pd.read_parquet(finished / "data" / "evaluation" / "test.parquet")
    assert set(test.coherence.dropna().unique()) == {(7 - 1) / 9}, "the server answers 7"
    written = [finished / "params.yaml", finished / "dvc.lock"]
    written += [
        path for part in ("reports", "data/evaluation", "data/ablations") for path in (finished / part).rglob("*")
    ]
    assert not [path for path in written if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.pipeline
def test_the_9b_setting_runs_whole_too(hub, tmp_path):
    (tmp_path / "two.yaml").write_text("base: {behaviours: [london, love]}\n")
    workspace, _ = run_setting(hub, "gemma-2-9b", "quick", str(TINY), str(tmp_path / "two.yaml"))
    metrics = json.loads((workspace / "reports" / "metrics" / "capability.json").read_text())
    assert metrics["model"].startswith(f"gemma-2-9b:{tiny_hub.REVISION[:16]}")


@pytest.mark.pipeline
def test_vectors_and_texts_equal_an_independent_oracle(finished, hub):
    snapshot = tiny_hub.snapshot(hub, "models", "google/gemma-2-2b")
    model = oracle.PlainModel(AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.float32), layer=12)
    tokenizer = AutoTokenizer.from_pretrained(snapshot)
    scope = tiny_hub.snapshot(hub, "models", "google/gemma-scope-2b-pt-res") / tiny_hub.SIZES["2b"][1] / "params.npz"
    sae = oracle.PlainSAE(np.load(scope))
    effects = torch.load(
        tiny_hub.snapshot(hub, "datasets", "schalnev/sae-ts-effects") / "adapter_2b_layer_12.pt", weights_only=True
    )
    W, b = (effects[name].double().numpy() for name in ("W", "b"))

    density, bos = oracle.background(model, sae, np.load(finished / "data" / "data" / "density.npy"))
    vectors = load_file(finished / "data" / "vectors" / "vectors.safetensors")
    for behaviour in [b for b in read_behaviours("all") if b.key in ("love", "london")]:
        resid = [
            [model.resid([2, *tokenizer(text, add_special_tokens=False)["input_ids"]]) for text in side]
            for side in (behaviour.positive, behaviour.negative)
        ]
        latents = [oracle.mean_over_texts([sae.encode(h) for h in side]) for side in resid]
        v = oracle.filtered(latents[0] - latents[1], density, bos, theta=0.5)
        first = max(range(len(v)), key=lambda i: v[i])
        expected = {
            "caa.0": oracle.unit(oracle.mean_over_texts(resid[0]) - oracle.mean_over_texts(resid[1])),
            "sae.1": oracle.unit(sae.W_dec[first]),
            "sae_ts.1": oracle.v_opt(W, b, np.eye(len(v))[first]),
            "fgaa.1": oracle.v_opt(W, b, oracle.v_target(v, 1, 0)),
            "fgaa.2": oracle.v_opt(W, b, oracle.v_target(v, 2, 0)),
        }
        for name, vector in expected.items():
            np.testing.assert_allclose(vectors[f"{behaviour.key}.{name}"].numpy(), vector, atol=2e-5, err_msg=name)

    test = pd.read_parquet(finished / "data" / "evaluation" / "test.parquet")
    steered = test[(test.behaviour == "love") & test.method.isin(["fgaa", "caa"]) & (test.scale == 100)]
    assert len(steered) >= 4
    for row in steered.itertuples():
        delta = row.coeff * vectors[f"love.{row.method}.{row.variant}"].numpy()
        prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        new = model.sample([2, *prompt], delta, int(row.seed), new_tokens=33, top_k=50)
        assert tokenizer.decode(prompt + new, skip_special_tokens=True) == row.text


@pytest.mark.pipeline
def test_the_papers_printed_numbers_stand_beside_those_of_the_weights(hub, finished, tmp_path):
    (tmp_path / "texts.yaml").write_text(
        "love: {positive: [I love you, my love], negative: [I hate you, my foe]}\n"
        "praise: {positive: [well done], negative: [badly done]}\n"
    )
    command = [sys.executable, "-m", "fgaa_utils.check_paper", "gemma-2-2b", str(tmp_path / "texts.yaml")]
    environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(finished)}
    done = subprocess.run(command, cwd=finished, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    values = {line.split("|")[2].strip(): line.split("|")[3:5] for line in done.stdout.splitlines() if "|" in line}
    assert float(values["7863"][0]) == 3.09
    snapshot = tiny_hub.snapshot(hub, "models", "google/gemma-2-2b")
    model = oracle.PlainModel(AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.float32), layer=12)
    tokenizer = AutoTokenizer.from_pretrained(snapshot)
    scope = tiny_hub.snapshot(hub, "models", "google/gemma-scope-2b-pt-res") / tiny_hub.SIZES["2b"][1] / "params.npz"
    sae = oracle.PlainSAE(np.load(scope))
    sides = [
        oracle.mean_over_texts([sae.encode(model.resid([2, *tokenizer(t)["input_ids"]])) for t in side])
        for side in (["I love you", "my love"], ["I hate you", "my foe"])
    ]
    assert float(values["7863"][1]) == pytest.approx((sides[0] - sides[1])[7863], abs=1e-2)
