"""Verdicts on capability, from made-up costs whose outcome is known."""

import numpy as np
import pytest
from made_costs import NATS, made_costs

from fgaa_utils.evaluation.capability_claims import capability_claims, kept


def verdicts(costs):
    return [claim.verdict for claim in capability_claims(costs)]


def test_a_loss_below_a_tenth_is_keeping_and_above_it_is_not(tmp_path):
    cheap = made_costs(tmp_path, nats=NATS | {"fgaa": 0.5})  # 0.05 at the smallest scale
    assert verdicts(cheap) == ["holds", "holds", "holds", "holds"]
    dear = made_costs(tmp_path, nats=NATS | {"fgaa": 40.0})
    assert verdicts(dear) == ["does not hold", "holds", "holds", "does not hold"]


def test_a_method_that_gains_loses_nothing(tmp_path):
    gains = made_costs(tmp_path, nats=NATS | {"fgaa": -1.0})
    claims = capability_claims(gains)
    assert [c.verdict for c in claims[:2]] == ["holds", "does not hold"]
    assert claims[0].measured.startswith("scale 0.1: difference from unsteered +0.100 ")
    assert [c.shown_in for c in claims] == ["Perplexity", "Perplexity", "Multiple choice", "At the chosen scale"]


def test_the_others_are_those_that_steer(tmp_path):
    measured = capability_claims(made_costs(tmp_path))[3].measured
    assert [name in measured for name in ("SAE-TS", "SAE ", "CAA", "prompting", "FGAA")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_what_is_kept_stands_in_the_order_of_the_behaviours(tmp_path):
    costs = made_costs(tmp_path)
    nats, accuracy = kept(costs, costs.chosen("fgaa"))
    np.testing.assert_allclose(nats, [-0.4, -0.8, -0.8], atol=1e-5)
    assert accuracy.tolist() == pytest.approx([7 / 8, 6 / 8, 6 / 8])
