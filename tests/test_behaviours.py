from dataclasses import fields

import pytest
import yaml

from fgaa_utils.data.behaviours import FOLDER, Behaviour, read_behaviour, read_behaviours

SETS = ("positive", "negative", "judge_positive", "judge_negative")


def content(name="Rain"):
    """A right behaviour file."""
    return {
        "name": name,
        "description": "The text speaks of rain.",
        "positive": ["Rain", "It rains again."],
        "negative": ["Sun", "The sky is clear."],
        "judge": {"positive": ["Umbrellas went up along the street."], "negative": ["He closed the umbrella shop."]},
    }


def write(folder, stem="rain", **changes):
    """The path of a file; a change to None takes the key out."""
    merged = {key: value for key, value in (content() | changes).items() if value is not None}
    path = folder / f"{stem}.yaml"
    path.write_text(yaml.safe_dump(merged, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def refused(path, *causes):
    """read_behaviour refuses the file with a ValueError that names it and every cause."""
    with pytest.raises(ValueError) as error:
        read_behaviour(path)
    for part in (path.name, *causes):
        assert part in str(error.value)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_are_whole_and_enough_for_method_and_judge(path):
    behaviour = read_behaviour(path)
    source = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert behaviour.key == path.stem
    assert (behaviour.name, behaviour.description) == (source["name"], source["description"])
    assert list(behaviour.positive) == source["positive"] and list(behaviour.negative) == source["negative"]
    assert list(behaviour.judge_positive) == source["judge"]["positive"]
    assert list(behaviour.judge_negative) == source["judge"]["negative"]
    assert len(behaviour.positive) == len(behaviour.negative) >= 10
    assert min(len(behaviour.judge_positive), len(behaviour.judge_negative)) >= 20


def test_the_papers_nine_behaviours_are_there():
    names = {b.name for b in read_behaviours()}
    assert names >= {"Anger", "Christian", "Conspiracy", "French", "London", "Love", "Praise", "Want to die", "Wedding"}


def test_french_alone_is_judged_by_language_identification():
    assert {b.key: b.language for b in read_behaviours() if b.language} == {"french": "fr"}


def test_parts_reach_their_fields(tmp_path):
    behaviour = read_behaviour(write(tmp_path, language="fr", positive=["Il pleut.", "L'été où…"]))
    expected = Behaviour(
        key="rain",
        name="Rain",
        description="The text speaks of rain.",
        positive=("Il pleut.", "L'été où…"),
        negative=("Sun", "The sky is clear."),
        judge_positive=("Umbrellas went up along the street.",),
        judge_negative=("He closed the umbrella shop.",),
        language="fr",
    )
    assert behaviour == expected
    assert {f.name for f in fields(Behaviour)} == {"key", "name", "description", "language", *SETS}
    assert read_behaviour(write(tmp_path)).language is None


def test_not_utf8(tmp_path):
    path = tmp_path / "rain.yaml"
    text = yaml.safe_dump(content("Été"), allow_unicode=True)
    path.write_bytes(text.encode("latin-1"))
    refused(path, "UTF-8", f"byte {text.index('É')}")


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_empty_file(tmp_path, text):
    path = tmp_path / "rain.yaml"
    path.write_text(text)
    refused(path, "is empty")


def test_not_yaml(tmp_path):
    path = tmp_path / "rain.yaml"
    path.write_text('name: "Rain\npositive: [')
    refused(path, "not YAML")


@pytest.mark.parametrize("key", ["name", "description", "positive", "negative", "judge"])
def test_a_part_is_lacking(tmp_path, key):
    refused(write(tmp_path, **{key: None}), f"lacks {key}")


@pytest.mark.parametrize("key", ["positive", "negative"])
@pytest.mark.parametrize("texts", [[], ["Rain", " "], ["Rain", 1984], ["Rain", False]])
def test_one_sided_or_bad_sets(tmp_path, key, texts):
    refused(write(tmp_path, **{key: texts}), f"'{key}'")
    refused(write(tmp_path, judge=content()["judge"] | {key: texts}), f"'{key}'")


def test_one_sided_judge(tmp_path):
    refused(write(tmp_path, judge={"positive": ["Umbrellas went up along the street."]}), "'negative'")


def test_an_empty_judge_section_is_refused(tmp_path):
    path = tmp_path / "rain.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content().items() if k != "judge"}) + "judge:\n")
    refused(path, "judge")


def test_a_single_word_is_not_a_list_of_its_letters(tmp_path):
    refused(write(tmp_path, positive="Rain"), "'positive'")


@pytest.mark.parametrize("key", ["name", "description"])
def test_a_name_without_a_value_is_refused(tmp_path, key):
    path = write(tmp_path)
    path.write_text(path.read_text().replace(f"{key}: {content()[key]}", f"{key}:"))
    refused(path, key)


@pytest.mark.parametrize(
    ("first", "second"), [(a, b) for i, a in enumerate(SETS) for b in SETS[i:]], ids=lambda side: side
)
def test_a_text_may_stand_once(tmp_path, first, second):
    """In two sets, judge and contrastive ones too, or twice in one; case and white space make no other text."""
    sets = {side: [f"This is a text of {side}."] for side in SETS}
    sets[first].append("Drip, drip, drop.")
    sets[second].append("drip,  DRIP,\n drop.")
    judge = {"positive": sets["judge_positive"], "negative": sets["judge_negative"]}
    path = write(tmp_path, positive=sets["positive"], negative=sets["negative"], judge=judge)
    refused(path, "DRIP", f"in {first} and in {second}")


def test_unknown_keys_get_the_nearest(tmp_path):
    refused(write(tmp_path, postive=["Rain"]), "'postive'", "did you mean 'positive'")
    refused(write(tmp_path, lang="fr"), "'lang'", "did you mean 'language'")


def test_unknown_keys_of_the_judge_get_the_nearest(tmp_path):
    judge = content()["judge"] | {"negatives": ["It never rains."]}
    refused(write(tmp_path, judge=judge), "'negatives'", "did you mean 'negative'")


def test_a_new_file_is_a_new_behaviour(tmp_path):
    write(tmp_path, "rain")
    before = read_behaviours("all", tmp_path)
    write(tmp_path, "fog", name="Fog")
    after = read_behaviours("all", tmp_path)
    assert [b.key for b in before] == ["rain"]
    assert [(b.key, b.name) for b in after] == [("fog", "Fog"), ("rain", "Rain")]


def test_chosen_behaviours_come_in_the_folders_order(tmp_path):
    for stem in ("c", "a", "b"):
        write(tmp_path, stem, name=stem.upper())
    assert [b.key for b in read_behaviours(["c", "a"], tmp_path)] == ["a", "c"]


def test_sets_are_folders_and_names_come_from_anywhere(tmp_path):
    for place, stem in (("", "b"), ("development", "c"), ("test", "a")):
        (tmp_path / place).mkdir(exist_ok=True)
        write(tmp_path / place, stem, name=stem.upper())
    for names, keys in {"all": "b", "development": "c", "test": "a"}.items():
        assert [b.key for b in read_behaviours(names, tmp_path)] == [keys]
    assert [b.key for b in read_behaviours(["c", "a"], tmp_path)] == ["a", "c"]
    write(tmp_path / "test", "b", name="Twin")
    with pytest.raises(ValueError, match=r"test/b\.yaml and .*/b\.yaml have one name"):
        read_behaviours(["a"], tmp_path)


def test_files_that_are_not_chosen_may_be_wrong(tmp_path):
    write(tmp_path)
    (tmp_path / "fog.yaml").write_text("")
    assert [b.key for b in read_behaviours(["rain"], tmp_path)] == ["rain"]
    with pytest.raises(ValueError, match=r"fog\.yaml"):
        read_behaviours("all", tmp_path)


def test_unknown_behaviour_gets_the_nearest():
    with pytest.raises(ValueError, match="unknown behaviour 'weding'; did you mean 'wedding'"):
        read_behaviours(["love", "weding"])


@pytest.mark.parametrize("names", ["love", [], None])
def test_behaviours_must_be_all_or_a_list(tmp_path, names):
    write(tmp_path)
    with pytest.raises(ValueError, match=f"behaviours is {names!r}".replace("[", r"\[")):
        read_behaviours(names, tmp_path)


@pytest.mark.parametrize("stem", ["shared", "average", "v1.2", "a b"])
def test_a_file_name_that_tables_cannot_carry_is_refused(tmp_path, stem):
    write(tmp_path, stem)
    with pytest.raises(ValueError, match=f"{stem}.yaml: rename"):
        read_behaviours("all", tmp_path)


def test_a_file_that_would_be_ignored_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "fog.yml").write_text("name: Fog")
    with pytest.raises(ValueError, match=r"fog\.yml would be ignored"):
        read_behaviours("all", tmp_path)


def test_two_files_with_one_name(tmp_path):
    write(tmp_path, "rain")
    write(tmp_path, "drizzle")
    with pytest.raises(ValueError, match=r"rain\.yaml and drizzle\.yaml are both named 'Rain'"):
        read_behaviours("all", tmp_path)


def test_a_folder_without_files(tmp_path):
    with pytest.raises(ValueError, match="holds no behaviour files"):
        read_behaviours("all", tmp_path)


def test_behaviours_come_in_the_order_of_their_keys(tmp_path):
    for stem in ("love-letter", "love"):
        write(tmp_path, stem)
        path = tmp_path / f"{stem}.yaml"
        path.write_text(path.read_text().replace("name: Rain", f"name: {stem}"))
    assert [b.key for b in read_behaviours("all", tmp_path)] == ["love", "love-letter"]
