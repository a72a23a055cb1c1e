import gzip
import json
from collections import Counter

import pyarrow as pa
import pytest

from fgaa_utils.data.corpus import READERS
from fgaa_utils.data.questions import SKILLS, TASKS, Question, chance_level, read_task, sample_questions

SUBJECTS = {"anatomy": 3, "law": 9, "virology": 5}


def write_requests(path, docs):
    """Every doc once for each option, and once more for each option without the question."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for doc in docs:
        for context in (f"an example\n\n{doc.get('query')}", "Answer:"):
            for choice in doc["choices"]:
                request = {"context": context, "continuation": f" {choice}"}
                lines.append(json.dumps({"doc": doc, "request": request, "label": doc["gold"]}))
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def write_arrow(path, rows):
    path.parent.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table)


@pytest.fixture
def folder(tmp_path):
    """The files of all four tasks, as the fetch stage unpacks them."""
    easy = [
        {
            "id": f"E{i}",
            "query": f"Question: why {i}?\nAnswer:",
            "choices": ["so", "no", "x"][: 2 + i % 2],
            "gold": i % 2,
        }
        for i in range(6)
    ]
    write_requests(tmp_path / "arc_easy.jsonl.gz", easy)
    science = {"question": "What is red?", "query": "What is red?", "support": "Rust is red.", "index": 4}
    write_requests(tmp_path / "sciq.jsonl.gz", [science | {"choices": ["sky", "sea", "sun", "rust"], "gold": 3}])
    for skill in SKILLS:
        docs = [{"id": str(i), "question": f"{skill} {i} = ", "choices": ["1", " 2"], "gold": 1} for i in range(4)]
        write_requests(tmp_path / f"basic_skills/{skill}.jsonl.gz", docs)
    for subject, count in SUBJECTS.items():
        row = {"subject": subject, "choices": [" a", "b", "c", "d"], "answer": 2}
        rows = [row | {"question": f"{subject} {i}? "} for i in range(count)]
        write_arrow(tmp_path / f"mmlu/{subject}/test/data-00000-of-00001.arrow", [*rows, rows[0]])
        write_arrow(tmp_path / f"mmlu/{subject}/dev/data-00000-of-00001.arrow", [row | {"question": "not for us"}])
    return tmp_path


def test_requests_become_one_question_each(folder):
    questions = read_task("arc_easy", folder)
    assert len(questions) == 6
    assert questions[1] == Question("arc_easy", "", "E1", "Question: why 1?\nAnswer:", ("so", "no", "x"), 1)


def test_sciq_is_asked_without_its_support_text(folder):
    (question,) = read_task("sciq", folder)
    assert question == Question("sciq", "", "4", "Question: What is red?\nAnswer:", ("sky", "sea", "sun", "rust"), 3)


def test_basic_skills_keep_the_blanks_of_options_and_drop_those_of_prefixes(folder):
    questions = read_task("basic_skills", folder)
    assert Counter(q.category for q in questions) == dict.fromkeys(SKILLS, 4)
    assert questions[0] == Question("basic_skills", "arithmetic", "0", "arithmetic 0 =", ("1", " 2"), 1)


def test_mmlu_is_its_test_split_with_subjects_and_without_repeats(folder):
    questions = read_task("mmlu", folder)
    assert Counter(q.category for q in questions) == SUBJECTS
    assert questions[0] == Question("mmlu", "anatomy", "0", "Question: anatomy 0?\nAnswer:", ("a", "b", "c", "d"), 2)


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_is_fixed_distinct_and_grows_by_going_on(task, folder):
    every = len(read_task(task, folder))
    whole = sample_questions(task, every, 0, folder)
    assert len(set(whole)) == every
    for count in range(1, every):
        assert sample_questions(task, count, 0, folder) == whole[:count]


def test_another_seed_is_another_sample(folder):
    assert sample_questions("mmlu", 10, 0, folder) != sample_questions("mmlu", 10, 1, folder)


@pytest.mark.parametrize("count", [3, 7, 9, 12])
def test_categories_take_turns_until_one_is_used_up(count, folder):
    drawn = Counter(q.category for q in sample_questions("mmlu", count, 5, folder))
    assert sum(drawn.values()) == count
    for subject, there in SUBJECTS.items():
        assert drawn[subject] == there or drawn[subject] >= max(drawn.values()) - 1


def test_chance_level_is_the_mean_over_questions(folder):
    assert chance_level(read_task("arc_easy", folder)) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert chance_level(read_task("mmlu", folder)) == 0.25


def test_no_task_trains_the_sae():
    assert not set(TASKS) & set(READERS)


def test_bad_input(folder, tmp_path):
    with pytest.raises(ValueError, match="unknown task 'arc_easi'; did you mean 'arc_easy'"):
        read_task("arc_easi", folder)
    with pytest.raises(ValueError, match="18 questions of mmlu asked for, it has 17"):
        sample_questions("mmlu", 18, 0, folder)
    with pytest.raises(ValueError, match="0 questions of mmlu"):
        sample_questions("mmlu", 0, 0, folder)
    with pytest.raises(FileNotFoundError, match=r"no questions of mmlu in .*fetch"):
        read_task("mmlu", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="two or more, none empty"):
        Question("sciq", "", "1", "a", ("b", ""), 0)
    with pytest.raises(ValueError, match="3 options; its answer is number 3"):
        Question("sciq", "", "1", "a", ("b", "c", "d"), 3)
