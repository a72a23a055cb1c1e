"""Readings that are kept: read once, taken up again, equal to those read anew."""

import json

import numpy as np
import pytest

from fgaa_utils.judges import readings
from fgaa_utils.judges.readings import Readings, ReadingStore
from fgaa_utils.shards import load_tensors


class Reader:
    """Stands in for the readers: numbers made of the text's characters, and a note of what was asked."""

    def __init__(self, identity: str = "a"):
        self.identity = {"embedder": identity}
        self.embedder, self.asked = self, []

    def read(self, texts, *, progress=None):
        made = np.array([[len(t), sum(map(ord, t)) / 7] for t in texts], dtype=np.float32)
        if progress is None:
            return made / np.linalg.norm(made, axis=1, keepdims=True)
        self.asked.append(texts)
        return made / 3, made


TEXTS = ["one", "three", "one", "a longer text"]


@pytest.fixture(autouse=True)
def parts_of_two(monkeypatch):
    monkeypatch.setattr(readings, "PART", 2)


def arrays(found: Readings) -> list[list]:
    return [array.tolist() for array in vars(found).values()]


def test_rows_stand_in_the_order_of_the_texts_and_each_is_read_once(tmp_path):
    reader = Reader()
    store = ReadingStore(reader, tmp_path)
    found = store.read(TEXTS)
    assert reader.asked == [["one", "three"], ["a longer text"]]
    assert found.resid[0].tolist() == found.resid[2].tolist() and found.resid[1, 0] == 5
    assert found.surface[3, 0] == pytest.approx(13 / 3) and all(a.dtype == np.float32 for a in vars(found).values())
    store.read(["three"])
    assert len(reader.asked) == 2


def test_what_was_kept_is_what_is_read_anew_and_another_reader_takes_none_of_it(tmp_path):
    fresh = arrays(ReadingStore(Reader(), None).read(TEXTS))
    ReadingStore(Reader(), tmp_path).read(TEXTS)
    again = Reader()
    assert arrays(ReadingStore(again, tmp_path).read(TEXTS)) == fresh and not again.asked
    other = Reader("b")
    ReadingStore(other, tmp_path).read(TEXTS)
    assert len(other.asked) == 2 and len(list(tmp_path.iterdir())) == 2


def test_a_gap_in_the_files_is_read_again_and_overwrites_none(tmp_path):
    ReadingStore(Reader(), tmp_path).read(TEXTS)
    by_texts = {tuple(json.loads(load_tensors(path)[1]["texts"])): path for path in tmp_path.rglob("shard_*")}
    second = by_texts["a longer text",]
    by_texts["one", "three"].unlink()
    reader = Reader()
    assert arrays(ReadingStore(reader, tmp_path).read(TEXTS)) == arrays(ReadingStore(Reader()).read(TEXTS))
    assert reader.asked == [["one", "three"]] and second.exists() and len(list(tmp_path.rglob("shard_*"))) == 2


def test_a_text_that_stands_in_two_files_shifts_no_other(tmp_path):
    a, b = ReadingStore(Reader(), tmp_path), ReadingStore(Reader(), tmp_path)  # two processes at once
    a.read(["one", "three"])
    b.read(["three", "a longer text"])
    reader = Reader()
    assert arrays(ReadingStore(reader, tmp_path).read(TEXTS)) == arrays(ReadingStore(Reader()).read(TEXTS))
    assert not reader.asked


def test_a_damaged_file_is_named(tmp_path):
    ReadingStore(Reader(), tmp_path).read(TEXTS)
    path = next(tmp_path.rglob("shard_*"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        ReadingStore(Reader(), tmp_path)


def test_features_of_behaviours_are_of_length_one_a_part():
    found = ReadingStore(Reader()).read(TEXTS).behaviour_features(np.array([1.0, 2.0]))
    assert found.shape == (4, 4)
    assert np.linalg.norm(found[:, :2], axis=1) == pytest.approx(1, abs=1e-3)
    assert np.linalg.norm(found[:, 2:], axis=1) == pytest.approx(1, abs=1e-5)
