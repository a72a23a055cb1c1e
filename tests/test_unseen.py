"""The behaviours that no choice has seen: whole, matched in length, and split by a rule before anything is run."""

from hashlib import sha256
from statistics import mean

import pytest

from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.names import UNSEEN

SETS = {name: read_behaviours(name) for name in UNSEEN}
BEHAVIOURS = [behaviour for behaviours in SETS.values() for behaviour in behaviours]


def test_forty_eight_behaviours_are_split_by_the_digest_of_their_keys():
    order = sorted(
        (b.key for name in ("development", "test") for b in SETS[name]),
        key=lambda key: sha256(key.encode()).hexdigest(),
    )
    split = {"development": sorted(order[:12]), "test": sorted(order[12:])}
    assert {name: [b.key for b in SETS[name]] for name in split} == split
    assert len(order) == 48 and len(SETS["later"]) == 24


def test_the_contest_reads_those_that_no_method_was_tuned_on():
    assert [b.key for b in read_behaviours("unseen")] == sorted(b.key for name in ("test", "later") for b in SETS[name])


def test_none_is_among_the_papers_nine():
    assert not {b.key for b in BEHAVIOURS} & {b.key for b in read_behaviours("all")}


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda b: b.key)
def test_a_behaviour_has_texts_enough_of_like_length(behaviour):
    assert len(behaviour.positive) == len(behaviour.negative) == 10
    assert min(len(behaviour.judge_positive), len(behaviour.judge_negative)) >= 30
    if not behaviour.language:
        words = [mean(len(text.split()) for text in side) for side in (behaviour.positive, behaviour.negative)]
        assert 0.75 < words[0] / words[1] < 1.33, words
