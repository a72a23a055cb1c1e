"""What the page of the ablations says of made-up scores."""

import pytest
from made_ablations import made_plan, made_scores

from fgaa_utils.evaluation import ablation_verdicts as verdicts
from fgaa_utils.evaluation.ablation_tables import tried_values

SHIFTS = {
    "density_filter off": (-0.3, 0.05),  # for sure
    "theta 0.03": (-0.08, 0.1),  # probably
    "examples 5": (0.2, 0.05),
}


@pytest.mark.parametrize(
    ("value", "lo", "hi", "p", "same", "expected"),
    [
        (0.0, 0.0, 0.0, 1.0, True, ("same", "worse")),
        (-0.2, -0.3, -0.1, 0.01, False, ("sure", "worse")),
        (0.2, 0.1, 0.3, 0.01, False, ("sure", "better")),
        (-0.2, -0.3, -0.1, 0.05, False, ("probable", "worse")),
        (0.2, -0.1, 0.5, 0.5, False, ("open", "better")),
    ],
)
def test_verdicts(value, lo, hi, p, same, expected):
    assert verdicts.verdict({"value": value, "lo": lo, "hi": hi, "p": p, "same": same}) == expected


def test_the_answer_counts_rows():
    plan = made_plan()
    assert verdicts.verdict_sentence(plan, made_scores(plan, SHIFTS)) == (
        "The default scores 0.400 [0.100, 0.600] on average over 9 behaviours. Of 11 changes that alter its vectors, 1 "
        "scores lower and 1 scores higher after correction for their number. Without the correction, 1 scores lower besides."
    )
    found = verdicts.verdict_sentence(
        plan, made_scores(plan, {"theta 0.03": (-0.08, 0.1), "theta 0.003": (-0.08, 0.1)})
    )
    assert found.endswith(
        "none scores higher or lower after correction for their number. Without the correction, 2 score lower."
    )
    assert verdicts.verdict_sentence(plan, made_scores(plan, {})).endswith("after correction for their number.")
    same = made_plan({"target_norm l2": {"target_norm": "l2"}})
    assert verdicts.verdict_sentence(same, made_scores(same, {})).endswith("No change alters its vectors.")


def test_conclusions_are_a_list_of_rows_under_their_verdicts():
    plan = made_plan()
    lines = verdicts.conclusions(made_scores(plan, SHIFTS)).splitlines()
    heads = [line.split("**")[1] for line in lines]
    assert heads == [
        "Worse than the default, also after correction for 11 comparisons.",
        "Better than the default, also after correction for 11 comparisons.",
        "Probably worse: the interval leaves out zero, but not after correction for 11 comparisons.",
        "No difference that these samples show.",
        "The same vectors as the default.",
    ]
    assert "`density_filter off` -0.30 [-0.34, -0.26]." in lines[0] and "`theta 0.03` -0.08 [" in lines[2]
    assert lines[3].count(";") == 7 and "`theta 0.003` -0.01" in lines[3] and lines[4].endswith("`target_norm l2`.")


def test_one_n1_for_all_is_set_against_the_defaults_choice():
    plan = made_plan()
    scores = made_scores(plan, {"n1 1, n2 0": (-0.1, 0.1), "n1 8, n2 0": (-0.05, 0.1), "n1 8, n2 4": (0.3, 0.1)})
    assert verdicts.fixed_n1_sentence(plan, scores).startswith(
        "The best single n1 for all behaviours is 8, with BCS 0.350; the default, with an n1 chosen for each behaviour, has "
        "0.400. About 0.050 of what another row loses"
    )
    above = verdicts.fixed_n1_sentence(plan, made_scores(plan, {"n1 1, n2 0": (0.1, 0.1)}))
    assert "n1 for all behaviours is 1" in above and above.endswith("explains no other row's loss.")
    none = made_plan({"theta 0.1": {"theta": 0.1}})
    assert verdicts.fixed_n1_sentence(none, made_scores(none, {})) == ""


def test_n2_is_compared_at_equal_n1():
    plan = made_plan()
    scores = made_scores(plan, {"n1 1, n2 4": (-0.2, 0.1), "n1 8, n2 4": (0.2, 0.1)})
    assert verdicts.n2_sentence(plan, scores) == "With n2 = 4, BCS is lower than with n2 = 0 at 1 of 2 n1."
    none = made_plan({"theta 0.1": {"theta": 0.1}})
    assert verdicts.n2_sentence(none, made_scores(none, {})) == ""


def test_the_last_step_says_whether_more_would_help():
    plan = made_plan()

    def said(shift):
        return verdicts.last_steps(plan, tried_values(plan, made_scores(plan, {"examples 5": shift})))

    (gain,) = said((-0.1, 0.05))
    assert gain.startswith("`examples`: the step from 5 to all 10 adds +0.100 [+0.062, +0.138] to BCS; more may help")
    assert said((0.0, 0.1))[0].endswith("these samples do not show that more would help.")
    assert said((0.1, 0.05))[0].endswith("fewer did better.")


def test_how_small_a_difference_can_be_found():
    plan = made_plan()
    found = verdicts.detectable_sentence(made_scores(plan, {}))
    assert found.startswith("A single comparison finds a true difference of 0.1") and "for 11 comparisons" in found
    same = made_plan({"target_norm l2": {"target_norm": "l2"}})
    assert verdicts.detectable_sentence(made_scores(same, {})) == ""
