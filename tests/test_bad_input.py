"""Bad input is answered by one line that names the value and what it must be, before anything is computed.

The table is made from params.yaml itself, so that a new key has its cases without anybody's writing them.
"""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fgaa_utils.data.behaviours import MAX_BYTES, MAX_CHARS, read_behaviour, read_behaviours
from fgaa_utils.evaluation.scales import Strength, check_scales
from fgaa_utils.method.approximator import EffectMap
from fgaa_utils.method.features import bos_filter, density_filter, target
from fgaa_utils.method.gradient_map import GradientMap
from fgaa_utils.method.vectors import load_vectors, save_vectors
from fgaa_utils.names import VectorName
from fgaa_utils.params import check_params, load_params
from fgaa_utils.project import ROOT, read_yaml
from fgaa_utils.shards import load_tensors, save_tensors

PARAMS = load_params()
KEYS = [(section, key) for section, keys in PARAMS.items() for key in keys]
NUMBERS = [(s, k) for s, k in KEYS if isinstance(PARAMS[s][k], int | float) and not isinstance(PARAMS[s][k], bool)]
LISTS = [(s, k) for s, k in KEYS if isinstance(PARAMS[s][k], list) and k not in ("compare_judges", "n2_grid", "rows")]


def refused(params) -> str:
    """The one line that says what is wrong."""
    with pytest.raises(ValueError) as error:
        check_params(params)
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(section, key, value):
    params = copy.deepcopy(PARAMS)
    params[section][key] = value
    return params


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_misspelt_key_is_named_with_the_nearest(section, key):
    params = copy.deepcopy(PARAMS)
    params[section][f"{key}_"] = params[section][key]
    said = refused(params)
    assert f"unknown key in section {section!r} of params.yaml: '{key}_'; did you mean '{key}'?" in said


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_a_key_that_is_lacking_is_named(section, key):
    params = copy.deepcopy(PARAMS)
    del params[section][key]
    assert refused(params) == f"params.yaml: section {section!r} lacks {key}"


@pytest.mark.parametrize(("section", "key"), KEYS)
@pytest.mark.parametrize("value", [{"a": [1]}, None, [["a"]]], ids=["mapping", "null", "nested"])
def test_a_value_of_another_kind_is_named(section, key, value):
    with pytest.raises(ValueError) as error:
        check_params(changed(section, key, value))
    lines = str(error.value).split("\n")
    assert all(line.startswith(("params.yaml: ", "unknown key in section ")) for line in lines)
    assert all(f"{section}.{key}" in line for line in lines)


@pytest.mark.parametrize(("section", "key"), NUMBERS)
@pytest.mark.parametrize("value", [-3, float("nan"), float("inf"), "3", True])
def test_a_number_out_of_range_is_named(section, key, value):
    assert refused(changed(section, key, value)).startswith(f"params.yaml: {section}.{key} is {value!r}; it must be ")


@pytest.mark.parametrize(("section", "key"), LISTS)
def test_an_empty_list_is_named(section, key):
    assert f"{section}.{key} is []; it must be" in refused(changed(section, key, []))


def test_a_value_without_end_is_cut_short():
    """Aliases of aliases: a few bytes of YAML whose written form fills the memory."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
    )
    value = yaml.safe_load(bomb)["i"]
    assert len(refused(changed("base", "layer", value))) < 2000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: {seed: 0, seed: 1}", "'seed' stands twice"),
        ("base: [", "params.yaml is not YAML that can be read"),
        ("base: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        ("base: !!python/name:os.system", "could not determine a constructor"),
        ("a: &a [*a]\nbase: *b", "found undefined alias 'b'"),
        ("base: \x07", "special characters are not allowed"),
        ("? [a]\n: 1", "a key that is no plain text"),
        ("[" * 3000, "params.yaml is not YAML that can be read"),
        ("base: 2026-13-45", "month must be in 1..12"),
        ('base: !!int ""', "params.yaml is not YAML that can be read"),
        ("base: !!bool x", "params.yaml is not YAML that can be read"),
        ("base: !!timestamp x", "params.yaml is not YAML that can be read"),
        ("- base", "params.yaml holds no sections"),
        ("", "params.yaml holds no sections"),
    ],
)
def test_hostile_yaml_is_one_line(tmp_path, text, said):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        check_params(read_yaml(path))
    assert said in str(error.value) and "\n" not in str(error.value)


RAIN = {
    "name": "Rain",
    "description": "The text speaks of rain.",
    "positive": ["It rains again."],
    "negative": ["The sky is clear."],
    "judge": {"positive": ["Umbrellas went up."], "negative": ["He closed the shop."]},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": 3}, "name is 3; it must be text"),
        ({"name": ["Rain"]}, "name is ['Rain']; it must be text"),
        ({"name": "Rain\nSnow"}, "one line of 60 characters"),
        ({"name": "R" * 61}, "one line of 60 characters"),
        ({"name": "Rain\x1b[31m"}, "it must be text"),
        ({"description": 2026}, "description is 2026"),
        ({"language": 3}, "language is 3; it must be a code such as fr"),
        ({"language": "French"}, "it must be a code such as fr"),
        ({"language": "../fr"}, "it must be a code such as fr"),
        ({"positive": "It rains."}, "'positive' must be a list of non-empty texts"),
        ({"positive": [1, 2]}, "'positive' must be a list of non-empty texts"),
        ({"positive": ["  "]}, "'positive' must be a list of non-empty texts"),
        ({"positive": [["It rains."]]}, "'positive' must be a list of non-empty texts"),
        ({"negative": ["x" * (MAX_CHARS + 1)]}, f"has {MAX_CHARS + 1:,} characters; {MAX_CHARS:,} at most"),
        ({"negative": ["a bell \x07 rings"]}, "has the control character '\\x07'"),
        ({"negative": ["cut \x00 short"]}, "has the control character '\\x00'"),
        ({"judge": ["It rains."]}, "judge of rain.yaml is empty or no `key: value` lines"),
        ({"positives": ["It pours."]}, "unknown key in rain.yaml: 'positives'; did you mean 'positive'?"),
        ({"negative": ["IT  rains again."]}, "it may stand once"),
    ],
)
def test_a_behaviour_of_a_wrong_kind_is_named(tmp_path, changes, said):
    path = tmp_path / "rain.yaml"
    path.write_text(yaml.safe_dump(RAIN | changes), encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_behaviour(path)
    assert said in str(error.value) and "\n" not in str(error.value) and "rain.yaml" in str(error.value)


def test_a_file_of_megabytes_is_refused_unread(tmp_path):
    path = tmp_path / "rain.yaml"
    path.write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match=r"rain.yaml has 1,000,001 bytes; .* 1,000,000 at most"):
        read_behaviour(path)


@pytest.mark.parametrize(
    "text",
    [
        "مرحبا بالعالم",
        "שלום",
        "e\u0301te\u0301",
        "👩\u200d👩\u200d👧",
        "line\nline",
        "a\tb",
        "<script>alert(1)</script>",
    ],
)
def test_text_of_any_script_is_taken_as_it_stands(tmp_path, text):
    path = tmp_path / "rain.yaml"
    path.write_text(yaml.safe_dump(RAIN | {"positive": [text]}, allow_unicode=True), encoding="utf-8")
    assert read_behaviour(path).positive == (text,)


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "love.yaml", "..", "love\n", "test/anger", " "])
def test_a_name_reaches_no_file_outside_the_folders(name):
    with pytest.raises(ValueError, match="unknown behaviour"):
        read_behaviours([name])


IDENTITY = {"model": "tiny:0:float32", "sae": "0" * 16, "layer": 1}
F = torch.eye(4)
GRADIENTS = GradientMap(torch.ones(4, 8), F, F + 1, F + 2, 3, IDENTITY)


def written(kind, path):
    """A file of vectors, gradients or an effect map of IDENTITY, and what reads it."""
    if kind == "vectors":
        save_vectors(path, {VectorName("love", "random", draw=1): F[0]}, **IDENTITY)
        return lambda **expected: load_vectors(path, identity=expected)
    if kind == "gradients":
        GRADIENTS.save(path)
        return lambda **expected: GradientMap.load(path, **expected)
    EffectMap(torch.ones(4, 8), torch.zeros(8), IDENTITY).save(path)
    return lambda **expected: EffectMap.load(path, **expected)


@pytest.mark.parametrize("kind", ["vectors", "gradients", "map"])
@pytest.mark.parametrize(
    "other", [{"model": "other:0:float32"}, {"sae": "1" * 16}, {"layer": 2}], ids=lambda o: next(iter(o))
)
def test_what_another_model_sae_or_layer_made_is_refused(tmp_path, kind, other):
    path = tmp_path / f"{kind}.safetensors"
    read = written(kind, path)
    read(**IDENTITY)
    with pytest.raises(ValueError) as error:
        read(**(IDENTITY | other))
    [(what, value)] = other.items()
    assert path.name in str(error.value) and what in str(error.value) and str(value) in str(error.value)


@pytest.mark.parametrize("kind", ["vectors", "gradients", "map"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_named(tmp_path, kind, damage):
    path = tmp_path / f"{kind}.safetensors"
    read = written(kind, path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10
    path.write_bytes({"cut": data[:-20], "flipped": data, "empty": b"", "text": b"version https://git-lfs"}[damage])
    with pytest.raises(ValueError, match=rf"{path.name}.*\S") as error:
        read(**IDENTITY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("scales", [[], [0.0], [-1.0], [1.0, 1.0], [2.0, 1.0], [np.nan], [1.0, np.inf]])
def test_scales_that_cannot_be_are_refused(scales):
    with pytest.raises(ValueError, match=r"scales are .*; they must be positive and grow"):
        check_scales(scales)


def test_a_scale_unit_that_does_not_exist_or_lacks_its_gradients():
    with pytest.raises(ValueError, match=r"unknown scale_unit 'nat'; did you mean 'nats'\?"):
        Strength("nat", 1.0)
    with pytest.raises(ValueError, match="nats, which needs the Fisher information; run the gradients stage"):
        Strength("nats", 1.0)


def test_a_stage_ends_with_one_line_and_no_traceback(tmp_path):
    """The whole command, as DVC calls it, with a params.yaml that is wrong and with one that is not there."""
    for folder in ("fgaa_utils", "notebooks", "data"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    code = (
        "import fgaa_utils.project as p, pathlib, runpy, sys; p.ROOT = pathlib.Path('.').resolve(); "
        "sys.argv = ['run', 'features']; runpy.run_module('fgaa_utils.pipeline.run', run_name='__main__')"
    )
    for text in (yaml.safe_dump(changed("recipe", "theta", -1)), None):
        (tmp_path / "params.yaml").unlink(missing_ok=True)
        if text:
            (tmp_path / "params.yaml").write_text(text)
        ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 1 and "Traceback" not in ran.stderr
        assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1 and "params.yaml" in ran.stderr


numbers = st.floats(-1e3, 1e3, width=32)
vectors = st.lists(numbers, min_size=8, max_size=40).map(torch.tensor)


@given(v=vectors, theta=st.floats(0, 1), data=st.data())
def test_filters_take_out_what_they_say_and_nothing_else(v, theta, data):
    density = torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=len(v), max_size=len(v))))
    kept = density_filter(v, density, theta)
    assert torch.equal(kept[density <= theta], v[density <= theta]) and not kept[density > theta].any()
    bos = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(v), max_size=len(v))))
    kept = bos_filter(v, bos)
    assert torch.equal(kept[~bos], v[~bos]) and not kept[bos].any()


@given(v=vectors, n1=st.integers(1, 8), n2=st.integers(0, 8))
def test_a_target_has_the_strongest_latents_and_no_more(v, n1, n2):
    if not (v > 0).any():
        return
    found = target(v, n1, n2, norm="none")
    up, down = found > 0, found < 0
    assert int(up.sum()) <= n1 and int(down.sum()) <= n2
    assert torch.equal(found[up], v[up]) and torch.equal(found[down], v[down])
    if int((v > 0).sum()) > n1:
        assert v[up].min() >= v[(v > 0) & ~up].max()


@given(st.dictionaries(st.text("abc", min_size=1), st.lists(numbers, min_size=1, max_size=5), min_size=1, max_size=4))
def test_tensors_come_back_as_they_were_written(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("t") / "t.safetensors"
    tensors = {name: torch.tensor(value) for name, value in values.items()}
    save_tensors(path, tensors, note="x")
    found, metadata = load_tensors(path)
    assert metadata["note"] == "x" and all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
