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
import yaml
from fake_server import Server, fake_server
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.method.approximator import load_effect_map
from fgaa_utils.model.lm import load_model
from fgaa_utils.names import IMPORTED, MADE
from fgaa_utils.pipeline.settings import WORKSPACES, prepare, read_setting
from fgaa_utils.project import ROOT, STAGES
from fgaa_utils.sae.load import load_sae, sae_identity
from fgaa_utils.shards import load_tensors

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
    found = load_effect_map(setting["recipe"]["fit"], ROOT, **shape)
    assert found.M.shape == (d_model, tiny_hub.D_SAE)
    with pytest.raises(ValueError, match=r"has \{'W': \(.*model and SAE want"):
        load_effect_map(setting["recipe"]["fit"], ROOT, **(shape | {"d_sae": 4096}))
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
        command = [sys.executable, "-m", "fgaa_utils.pipeline.settings", *names]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return workspace, server


def with_vectors_from_elsewhere(folder: Path, size: str, behaviours: list[str]) -> str:
    """A setting, a file in `folder`, of these behaviours with a vector of each, made by hand, to be measured too."""
    layer, (d_model, _) = str(read_setting(f"gemma-2-{size}")["base"]["layer"]), tiny_hub.SIZES[size]
    files = {key: [str(folder / f"{key}.safetensors")] for key in behaviours}
    for number, [path] in enumerate(files.values()):
        save_file({layer: torch.eye(d_model)[number]}, path)
    setting = {"base": {"behaviours": behaviours}, "vectors": {"extra": files}}
    (folder / "extra.yaml").write_text(yaml.safe_dump(setting))
    return str(folder / "extra.yaml")


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    extra = with_vectors_from_elsewhere(tmp_path_factory.mktemp("extra"), "2b", ["french", "london", "love"])
    return run_setting(hub, "gemma-2-2b", "quick", str(TINY), extra, "--ablations")


@pytest.fixture(scope="module")
def finished(run):
    """The workspace after a whole run of the setting, ablations too."""
    return run[0]


@pytest.mark.pipeline
def test_the_whole_pipeline_runs_on_the_papers_files(finished):
    metrics = {path.stem: json.loads(path.read_text()) for path in (finished / "reports" / "metrics").glob("*.json")}
    assert set(metrics) == {stage for stage, notebook in STAGES.items() if notebook} - {"sae", "effects", "compare"}
    assert {*MADE, IMPORTED, "prompting"} <= set(metrics["evaluation"]["bcs"])
    assert IMPORTED in metrics["capability"]["at_chosen_scale"], "and what vectors from elsewhere cost"
    assert metrics["evaluation"]["model"].startswith(f"gemma-2-2b:{tiny_hub.REVISION[:16]}")
    assert set(metrics["ablations"]["rows"]) >= {"default", "density_filter off", "fit decoder, bias_weight 0.0"}
    assert (finished / "reports" / "index.html").exists()


@pytest.mark.pipeline
def test_the_playground_opens_on_what_the_run_left(finished, hub):
    code = "from fgaa_utils.lab.play import Play; from fgaa_utils.names import MADE; p = Play.of_run(); print(*[m for m in MADE if p.vector('love', m, 1).norm() > 0.99], p.judge is None)"
    environment = os.environ | {"PYTHONPATH": str(finished), "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=finished, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *methods, without_judge = done.stdout.split("\n")[-2].split()
    assert set(methods) == set(MADE) and without_judge == "False", "the local judge is compared with the server's"


@pytest.mark.pipeline
def test_the_papers_protocol_is_asked_of_the_server_and_its_key_kept_nowhere(run):
    finished, server = run
    metrics = json.loads((finished / "reports" / "metrics" / "evaluation.json").read_text())
    judged = json.loads((finished / "reports" / "metrics" / "judge.json").read_text())
    assert judged["judge_kind"] == "openai" and metrics["other_judges"][0]["judge"] == "local"
    assert metrics["bcs"]["fgaa"]["love"]["n"] == 6, "samples of the one prompt"
    assert metrics["missing_scores"] > 0
    assert {request["temperature"] for request in server.requests} == {0, 1}, "1 where the first answer was malformed"
    assert {request["model"] for request in server.requests} == {"gpt-4o-mini"}
    test = pd.read_parquet(finished / "data" / "samples" / "test.parquet")
    assert set(test.coherence.dropna().unique()) == {(7 - 1) / 9}, "the server answers 7"
    written = [finished / "params.yaml", finished / "dvc.lock"]
    parts = ("reports", "data/judge", "data/samples", "data/costs", "data/ablation_samples")
    written += [path for part in parts for path in (finished / part).rglob("*")]
    assert not [path for path in written if path.is_file() and SECRET.encode() in path.read_bytes()]


@pytest.mark.nightly
def test_the_9b_setting_runs_whole_too(hub, tmp_path):
    two = with_vectors_from_elsewhere(tmp_path, "9b", ["london", "love"])
    workspace, _ = run_setting(hub, "gemma-2-9b", "quick", str(TINY), two)
    metrics = json.loads((workspace / "reports" / "metrics" / "capability.json").read_text())
    assert metrics["model"].startswith(f"gemma-2-9b:{tiny_hub.REVISION[:16]}")
    scores = json.loads((workspace / "reports" / "metrics" / "evaluation.json").read_text())["bcs"]
    assert set(scores[IMPORTED]) == {"london", "love", "average"}
    assert IMPORTED in metrics["at_chosen_scale"]


@pytest.mark.nightly
def test_a_pretrained_sae_gets_an_effect_map_of_our_own(hub, finished, tmp_path):
    """The setting of Gemma Scope 2, its SAE a folder, on a stand-in: no sae stage, but the effects stage."""
    scope = tmp_path / "layer_12" / "width_256"
    scope.mkdir(parents=True)
    weights = np.load(
        tiny_hub.snapshot(hub, "models", "google/gemma-scope-2b-pt-res") / tiny_hub.SIZES["2b"][1] / "params.npz"
    )
    few = {name.lower(): torch.from_numpy(values) for name, values in weights.items()}
    few = {name: t[:, :256] if name == "w_enc" else t if name == "b_dec" else t[:256] for name, t in few.items()}
    save_file({name: tensor.contiguous() for name, tensor in few.items()}, scope / "params.safetensors")
    model = str(tiny_hub.snapshot(hub, "models", "google/gemma-2-2b"))
    base = {"model": model, "sae_source": str(scope), "layer": 12, "behaviours": ["love"], "dtype": "float32"}
    (tmp_path / "folder.yaml").write_text(yaml.safe_dump({"base": base, "recipe": {"theta": 0.5}}))
    prepare(tmp_path / "work", ["gemma-3-270m-scope", "quick", str(tmp_path / "folder.yaml")])
    assert "sae" not in yaml.safe_load((tmp_path / "work" / "dvc.yaml").read_text())["stages"]
    shutil.copytree(finished / "data" / "data", tmp_path / "work" / "data" / "data")  # of the same tokenizer and sizes
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "work"), "HF_HUB_OFFLINE": "1"}
    for stage in ("features", "effects", "gradients", "vectors"):
        command = [sys.executable, "-m", "fgaa_utils.pipeline.run", stage]
        done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    effect_map, about = load_tensors(tmp_path / "work" / "data" / "effects" / "adam.safetensors")
    assert effect_map["M"].shape == (2304, 256)
    vectors = load_file(tmp_path / "work" / "data" / "vectors" / "vectors.safetensors")
    assert vectors["love.fgaa.n1=1,n2=0"].shape == (2304,) and about["layer"] == "12"


class Oracle:
    """The stand-ins of a size, read by the oracle's own code, and the vectors that it makes of contrastive texts."""

    def __init__(self, hub, size: str, rows: np.ndarray):
        snapshot = tiny_hub.snapshot(hub, "models", f"google/gemma-2-{size}")
        hf = AutoModelForCausalLM.from_pretrained(snapshot, dtype=torch.float32)
        self.model, self.tokenizer = oracle.PlainModel(hf, layer=12), AutoTokenizer.from_pretrained(snapshot)
        scope = tiny_hub.snapshot(hub, "models", f"google/gemma-scope-{size}-pt-res") / tiny_hub.SIZES[size][1]
        self.sae = oracle.PlainSAE(np.load(scope / "params.npz"))
        published = tiny_hub.snapshot(hub, "datasets", "schalnev/sae-ts-effects") / f"adapter_{size}_layer_12.pt"
        effects = torch.load(published, weights_only=True)
        self.W, self.b = (effects[name].double().numpy() for name in ("W", "b"))
        self.density, self.bos = oracle.background(self.model, self.sae, rows)

    def ids(self, text: str) -> list[int]:
        return [2, *self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def v_diff(self, sides) -> np.ndarray:
        encoded = [[self.sae.encode(self.model.resid(self.ids(text))) for text in side] for side in sides]
        positive, negative = map(oracle.mean_over_texts, encoded)
        return positive - negative

    def vectors(self, sides, n1s, theta: float = 0.5) -> dict[str, np.ndarray]:
        resid = [oracle.mean_over_texts([self.model.resid(self.ids(text)) for text in side]) for side in sides]
        plain = [oracle.mean_over_texts([self.model.resid(self.ids(text))[1:] for text in side]) for side in sides]
        v = oracle.filtered(self.v_diff(sides), self.density, self.bos, theta)
        first = int(v.argmax())
        return {
            "caa.bos=0,white=0": oracle.unit(plain[0] - plain[1]),
            "caa.bos=1,white=0": oracle.unit(resid[0] - resid[1]),
            "sae.rank=1": oracle.unit(self.sae.W_dec[first]),
            "sae_ts.rank=1": oracle.v_opt(self.W, self.b, np.eye(len(v))[first]),
        } | {f"fgaa.n1={n1},n2=0": oracle.v_opt(self.W, self.b, oracle.v_target(v, n1, 0)) for n1 in n1s}


@pytest.mark.pipeline
def test_vectors_and_texts_equal_an_independent_oracle(finished, hub):
    ours = Oracle(hub, "2b", np.load(finished / "data" / "data" / "density.npy"))
    nothing = np.zeros(tiny_hub.D_SAE)
    vectors = load_file(finished / "data" / "vectors" / "vectors.safetensors")
    decided = {"density": 0, "bos": 0}  # behaviours whose highest latent is another without the filter
    for behaviour in [b for b in read_behaviours("all") if b.key in ("love", "london", "french")]:
        sides = behaviour.positive, behaviour.negative
        for name, vector in ours.vectors(sides, [1, 2]).items():
            np.testing.assert_allclose(vectors[f"{behaviour.key}.{name}"].numpy(), vector, atol=2e-5, err_msg=name)
        v = ours.v_diff(sides)
        first = oracle.filtered(v, ours.density, ours.bos, 0.5).argmax()
        decided["density"] += oracle.filtered(v, nothing, ours.bos, 0.5).argmax() != first
        decided["bos"] += oracle.filtered(v, ours.density, nothing, 0.5).argmax() != first
    assert all(decided.values()), decided

    test = pd.read_parquet(finished / "data" / "samples" / "test.parquet")
    steered = test[(test.behaviour == "love") & test.method.isin(["fgaa", "caa"]) & (test.scale == 100)]
    assert len(steered) >= 4
    new_tokens = yaml.safe_load((finished / "params.yaml").read_text())["design"]["new_tokens"]
    for row in steered.itertuples():
        delta = row.coeff * vectors[".".join(filter(None, ("love", row.method, row.variant)))].numpy()
        prompt = ours.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
        new = ours.model.sample([2, *prompt], delta, int(row.seed), new_tokens=new_tokens, top_k=50)
        assert ours.tokenizer.decode(prompt + new, skip_special_tokens=True) == row.text


@pytest.mark.pipeline
@pytest.mark.parametrize("size", tiny_hub.SIZES)
def test_the_papers_printed_numbers_stand_beside_those_of_the_weights(hub, finished, tmp_path, size):
    paper = yaml.safe_load((ROOT / "data" / "paper.yaml").read_text())
    texts = {
        "2b": {
            "love": [["I love you", "my love"], ["I hate you", "my foe"]],
            "praise": [["well done"], ["badly done"]],
        },
        "9b": {"conspiracy": [["they hide the truth", "a plot"], ["it is an accident, and no more than that"]]},
    }[size]
    content = {behaviour: dict(zip(("positive", "negative"), sides)) for behaviour, sides in texts.items()}
    (tmp_path / "texts.yaml").write_text(yaml.safe_dump(content))
    name = f"gemma-2-{size}"
    command = [sys.executable, "-m", "fgaa_utils.pipeline.check_paper", name, str(tmp_path / "texts.yaml")]
    environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(finished)}
    done = subprocess.run(command, cwd=finished, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line]
    printed = {(row[0], row[1]): row[2:4] for row in cells if row[1].isdigit()}
    ours = Oracle(hub, size, np.load(finished / "data" / "data" / "density.npy"))
    for behaviour, latents in paper["v_diff"][name].items():
        v = ours.v_diff(texts[behaviour])
        for latent, value in latents.items():
            theirs, recomputed = map(float, printed[behaviour, str(latent)])
            assert theirs == value and recomputed == pytest.approx(v[latent], abs=1e-2)
    cosines = {row[0]: [float(cell) for cell in row[1:]] for row in cells if row[0] in paper["cosine_fgaa"][name]}
    made = [ours.vectors(sides, [n1 := paper["best_n1"][name][b]]) | {"n1": n1} for b, sides in texts.items()]
    for method, theirs in paper["cosine_fgaa"][name].items():
        other = "caa.bos=1,white=0" if method == "caa" else f"{method}.rank=1"  # the paper's CAA reads BOS too
        expected = np.mean([vectors[f"fgaa.n1={vectors['n1']},n2=0"] @ vectors[other] for vectors in made])
        assert cosines[method] == pytest.approx([expected, theirs], abs=2e-4), method
