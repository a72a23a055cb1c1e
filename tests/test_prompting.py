from fgaa_utils.data.behaviours import read_behaviours
from fgaa_utils.evaluation.prompting import example_prefixes


def test_example_prefixes_are_of_one_length_and_hold_positive_texts(tiny):
    behaviours = read_behaviours(["love", "london"])
    prefixes = example_prefixes(tiny, behaviours, tokens=30, orders=3, seed=0)
    assert set(prefixes) == {(b.key, "prompting", f"draw={i}") for b in behaviours for i in (1, 2, 3)}
    assert {len(ids) for ids in prefixes.values()} == {30}
    assert len({tuple(ids) for ids in prefixes.values()}) == 6
    again = example_prefixes(tiny, behaviours, tokens=30, orders=3, seed=0)
    assert again == prefixes
    for b in behaviours:
        whole = {tuple(tiny.encode([f"{text}\n"], bos=False)[0]) for text in b.positive}
        ids = prefixes[b.key, "prompting", "draw=1"]
        assert any(ids[-len(line) :] == list(line) for line in whole)
