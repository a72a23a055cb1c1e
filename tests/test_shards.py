import json
import resource
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from fgaa_utils import shards
from fgaa_utils.shards import (
    ShardStore,
    digest,
    identity,
    load_tensors,
    processor,
    record_processor,
    save_tensors,
    weights_digest,
)

TENSORS = {
    "acts": torch.arange(12.0).view(3, 4) / 7,
    "half": torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16),
    "tokens": torch.tensor([5, -1, 2**40]),
    "mask": torch.tensor([True, False, True]),
    "none": torch.empty(0, 4),
}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "file.safetensors"
    save_tensors(path, TENSORS, model="tiny", n1=[1, 2])
    return path


def test_round_trip(saved):
    tensors, metadata = load_tensors(saved)
    assert_same(tensors, TENSORS)
    assert metadata["model"] == "tiny" and json.loads(metadata["n1"]) == [1, 2]
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_the_file_is_plain_safetensors(saved):
    with safe_open(saved, framework="pt") as file:
        assert_same({name: file.get_tensor(name) for name in file.keys()}, TENSORS)


def test_views_are_saved_as_they_look(tmp_path):
    base = torch.arange(12.0, requires_grad=True).view(3, 4)
    views = {"transposed": base.T, "part": base[1:, ::2]}
    save_tensors(tmp_path / "file.safetensors", views)
    assert_same(
        load_tensors(tmp_path / "file.safetensors")[0], {"transposed": base.detach().T, "part": base.detach()[1:, ::2]}
    )


def test_a_number_is_saved(tmp_path):
    save_tensors(tmp_path / "file.safetensors", {"threshold": torch.tensor(0.3)})
    assert_same(load_tensors(tmp_path / "file.safetensors")[0], {"threshold": torch.tensor(0.3)})


def test_saving_again_replaces(saved):
    save_tensors(saved, {"acts": torch.ones(2)})
    assert_same(load_tensors(saved)[0], {"acts": torch.ones(2)})


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors is missing"):
        load_tensors(tmp_path / "absent.safetensors")


def refused(path):
    with pytest.raises(ValueError) as error:
        load_tensors(path)
    assert str(path) in str(error.value) and "damaged" in str(error.value)


def test_every_truncation_is_refused(saved):
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        refused(saved)


def header_end(data):
    return 8 + int.from_bytes(data[:8], "little")


def test_every_flipped_byte_of_the_data_is_refused(saved):
    whole = saved.read_bytes()
    for place in range(header_end(whole), len(whole)):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(saved)


def test_every_flipped_byte_of_the_header_is_refused(saved):
    """A changed name, shape, dtype or metadata value is as wrong as a changed number."""
    whole = saved.read_bytes()
    accepted = []
    for place in range(header_end(whole)):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            load_tensors(saved)
            accepted.append(whole[place - 6 : place + 6])
        except ValueError as error:
            assert str(saved) in str(error)
    assert not accepted, f"{len(accepted)} flips were read as right, at {accepted[:5]}"


def test_a_file_that_save_tensors_did_not_write_is_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_text("this is not safetensors, however long it is")
    refused(path)


def test_a_write_cut_short_leaves_nothing(saved):
    """The disk is made full for real: the process may not write files over 4 KiB for a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match=r"file\.safetensors could not be written"):
            save_tensors(saved, {"acts": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert_same(load_tensors(saved)[0], TENSORS)  # what was there is still whole


def test_a_folder_that_was_removed(tmp_path):
    path = tmp_path / "gone" / "file.safetensors"
    with pytest.raises(OSError, match=r"file\.safetensors could not be written"):
        save_tensors(path, TENSORS)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "folder").write_text("in the way")
    with pytest.raises(OSError, match=r"file\.safetensors could not be written"):
        save_tensors(tmp_path / "folder" / "file.safetensors", TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_target_that_is_a_folder_leaves_no_partial_file(tmp_path):
    (tmp_path / "file.safetensors").mkdir()
    with pytest.raises(OSError, match=r"file\.safetensors could not be written"):
        save_tensors(tmp_path / "file.safetensors", TENSORS)
    assert [path.name for path in tmp_path.iterdir()] == ["file.safetensors"]


IDENTITY = {"model": "tiny", "layer": 2, "prompts": [[1, 5], [1, 6, 7]]}


def test_shards_are_made_and_read_in_order(tmp_path):
    store = ShardStore(tmp_path, IDENTITY, 3)
    assert store.missing() == [0, 1, 2]
    for index in (2, 0):
        store.write(index, {"y": torch.full((2,), index)})
    assert store.missing() == [1]
    with pytest.raises(FileNotFoundError, match="shard_00001"):
        store.read(1)
    store.write(1, {"y": torch.ones(2, dtype=torch.int64)})
    assert store.missing() == []
    assert [shard["y"].tolist() for shard in store] == [[0, 0], [1, 1], [2, 2]]


def test_a_store_goes_on_where_it_stopped(tmp_path):
    ShardStore(tmp_path, IDENTITY, 2).write(0, TENSORS)
    again = ShardStore(tmp_path, dict(reversed(IDENTITY.items())), 2)  # the order of keys is no identity
    assert again.missing() == [1]
    assert_same(again.read(0), TENSORS)


@pytest.mark.parametrize("change", [{"model": "other"}, {"layer": 3}, {"prompts": [[1, 5], [1, 6, 8]]}, {"seed": 0}])
def test_another_identity_is_another_folder(tmp_path, change):
    store = ShardStore(tmp_path, IDENTITY, 1)
    store.write(0, TENSORS)
    other = ShardStore(tmp_path, IDENTITY | change, 1)
    assert other.folder != store.folder and other.missing() == [0]
    assert json.loads((other.folder / "identity.json").read_text()) == IDENTITY | change


def test_an_interrupted_write_is_still_missing(tmp_path):
    store = ShardStore(tmp_path, IDENTITY, 2)
    store.write(1, TENSORS)
    store.path(0).with_suffix(".partial").write_bytes(store.path(1).read_bytes()[:100])
    assert ShardStore(tmp_path, IDENTITY, 2).missing() == [0]
    store.write(0, TENSORS)
    assert store.missing() == [] and not list(store.folder.glob("*.partial"))


def test_a_damaged_shard_is_named(tmp_path):
    store = ShardStore(tmp_path, IDENTITY, 2)
    for index in range(2):
        store.write(index, TENSORS)
    store.path(1).write_bytes(store.path(1).read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"shard_00001\.safetensors is damaged"):
        list(store)


def test_digest_tells_dtype_shape_and_values_apart():
    tensors = [
        torch.zeros(4),
        torch.zeros(4, dtype=torch.int32),  # the same bytes
        torch.zeros(2, 2),
        torch.zeros(1, 4),
        torch.zeros(5),
        torch.tensor([0.0, 0, 0, 1e-30]),
        torch.tensor([0.0, 0, 0, -0.0]),
        torch.empty(0),
        torch.empty(0, 4),
    ]
    digests = [digest(t) for t in tensors]
    assert len(set(digests)) == len(digests)
    assert all(len(d) == 16 and set(d) <= set("0123456789abcdef") for d in digests)


def test_digest_is_of_the_values_not_of_the_memory():
    base = torch.arange(6.0).view(2, 3)
    assert digest(base.T) == digest(base.T.contiguous()) != digest(base.reshape(3, 2))
    assert digest(base.requires_grad_()) == digest(base.detach().clone())


def test_digest_of_a_number_and_of_one_column():
    assert digest(torch.tensor(1.0)) not in (digest(torch.tensor(2.0)), digest(torch.ones(1)))
    column = torch.arange(15.0).view(5, 3).T[:, :1]
    assert digest(column) == digest(column.clone(memory_format=torch.contiguous_format))


def test_digest_of_plain_values():
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    values = [{"a": 1}, {"a": 2}, {"a": "1"}, {"b": 1}, [1, 2], [2, 1], "1", 1, 1.5, None, True]
    assert len({digest(value) for value in values}) == len(values)


def test_digest_refuses_what_json_cannot_hold():
    """The printed form of a long tensor is abbreviated: a store that went by it would serve another's shards."""
    for value in ({"ids": torch.arange(5000)}, [torch.tensor(1.0)], {"a": {1, 2}}, object()):
        with pytest.raises(TypeError):
            digest(value)


def test_equal_tensors_and_metadata_make_equal_files(tmp_path):
    metadata = {name: f"value of {name} é" for name in "abcdefgh"}
    for i in range(4):
        save_tensors(tmp_path / f"{i}.safetensors", {"x": torch.arange(3.0), "y": torch.zeros(2, 2)}, **metadata)
    assert len({(tmp_path / f"{i}.safetensors").read_bytes() for i in range(4)}) == 1
    tensors, found = load_tensors(tmp_path / "0.safetensors")
    assert found == metadata and tensors["x"].tolist() == [0, 1, 2]


def lm(**changes):
    return SimpleNamespace(**({"identity": "tiny", "device": torch.device("cpu"), "place": {}} | changes))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that makes another processor of this one: told by its cpuinfo, its vectors and its bfloat16."""

    def become(name="AMD EPYC 7763", vectors="AVX2", bf16=False, model=1, threads=2):
        told = {"vendor_id": "AuthenticAMD", "cpu family": 25, "model": model, "model name": name}
        (tmp_path / "cpuinfo").write_text("".join(f"{key}\t: {value}\n" for key, value in told.items()) + "\n")
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(shards, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: vectors)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
        processor.cache_clear()

    yield become
    processor.cache_clear()


def test_the_processor_is_named_by_what_rounds(machine):
    machine()
    expected = {"vendor": "AuthenticAMD", "name": "AMD EPYC 7763 (family 25, model 1)"}
    expected |= {"vectors": "AVX2", "bf16": False}
    assert processor() == expected


def test_this_machine_has_a_processor():
    kind = processor()
    assert set(kind) == {"vendor", "name", "vectors", "bf16"} and kind["vectors"]
    assert json.loads(json.dumps(kind)) == kind


def test_a_system_without_cpuinfo_and_an_arm_processor(monkeypatch, tmp_path, machine):
    machine()
    monkeypatch.setattr(shards, "CPUINFO", tmp_path / "absent")
    monkeypatch.setattr(shards.platform, "processor", lambda: "arm")
    processor.cache_clear()
    assert (processor()["vendor"], processor()["name"]) == ("", "arm")
    (tmp_path / "absent").write_text("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n")
    processor.cache_clear()
    assert (processor()["vendor"], processor()["name"]) == ("0x41", "0xd40")


@pytest.mark.parametrize(
    "change", [{"name": "Intel Xeon"}, {"model": 17}, {"vectors": "AVX512"}, {"bf16": True}, {"threads": 4}]
)
def test_two_processors_give_two_identities_and_equal_ones_one(machine, change, tmp_path):
    machine()
    first = identity(lm(), layer=2)
    store = ShardStore(tmp_path / "store", first, 1)
    store.write(0, TENSORS)
    machine(**change)
    assert identity(lm(), layer=2) != first
    assert ShardStore(tmp_path / "store", identity(lm(), layer=2), 1).missing() == [0]
    machine()
    assert identity(lm(), layer=2) == first
    assert ShardStore(tmp_path / "store", identity(lm(), layer=2), 1).missing() == []


def test_a_gpu_is_named_in_its_place(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"H100 ({device})")
    processor.cache_clear()
    found = identity(lm(device=torch.device("cuda:0"), place={"device": "cuda"}))
    assert found["processor"] == {"name": "H100 (cuda:0)"} and found["device"] == "cuda" and found["threads"] is None
    assert record_processor(torch.bfloat16, "cuda:0") == f"H100 (cuda:0), bfloat16 products; torch {torch.__version__}"
    processor.cache_clear()


def test_an_identity_holds_torch_model_sae_and_parts():
    sae = torch.nn.Linear(2, 3)
    found = identity(lm(), sae, layer=2, rows="abc")
    always = {"torch": torch.__version__, "processor": processor(), "threads": torch.get_num_threads()}
    assert found == always | {"model": "tiny", "layer": 2, "rows": "abc", "sae": weights_digest(sae)}
    assert identity() == always


def test_a_part_cannot_replace_what_an_identity_always_holds():
    for taken in ("torch", "processor", "threads", "model", "device"):
        with pytest.raises(ValueError, match=f"{taken} cannot be a part of an identity"):
            identity(**{taken: "mine"})


def test_weights_are_told_apart_by_values_not_by_order():
    first, second = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    assert weights_digest(first) != weights_digest(second)
    second.load_state_dict(first.state_dict())
    swapped = torch.nn.Module()
    swapped.register_parameter("bias", first.bias)
    swapped.register_parameter("weight", first.weight)
    assert weights_digest(first) == weights_digest(second) == weights_digest(swapped)


def test_the_processor_in_one_line(machine):
    machine()
    said = "AMD EPYC 7763 (family 25, model 1), AVX2, 2 threads, float32 products"
    assert record_processor() == f"{said}; torch {torch.__version__}"
