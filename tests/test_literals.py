import ast
import subprocess
import sys

import pytest

from fgaa_utils.pipeline.literals import WIDTH, assignment, literal

LONG = [f"prompt number {i}" for i in range(20)]


@pytest.mark.parametrize(
    "value",
    ["plain", "it's", 'a "b"', "", "ça\n", 1, 1e-05, -0.5, True, None, [], ["a", [1.0]], {"a": {"b": ["c"]}, "d": 1}],
)
def test_a_literal_reads_back_as_the_value(value):
    assert ast.literal_eval(literal(value)) == value


def test_text_stands_between_double_quotes_unless_it_holds_some():
    assert [literal("a"), literal("it's"), literal('"')] == ['"a"', '"it\'s"', "'\"'"]
    assert literal({"a": ["b"], "c": {}}) == '{"a": ["b"], "c": {}}'


def test_a_short_value_has_its_comment_behind_it_a_long_line_above():
    assert assignment("theta", 0.01, "share") == "theta = 0.01  # share"
    assert assignment("theta", 0.01, "") == "theta = 0.01"
    prompts = LONG[:5]
    assert (
        assignment("prompts", prompts, "of the test, " * 3) == f"# {'of the test, ' * 3}\nprompts = {literal(prompts)}"
    )


@pytest.mark.parametrize(
    "value", [LONG, {f"key_{i}": LONG[:2] for i in range(5)}, "x" * 130], ids=["list", "dict", "text"]
)
def test_what_needs_several_lines_has_as_few_as_may_be(value):
    source = assignment("value", value, "of the test")
    comment, *lines = source.split("\n")
    assert comment == "# of the test" and lines[-1].endswith("  # fmt: skip")
    assert ast.literal_eval(source.partition(" = ")[2].removesuffix("# fmt: skip")) == value
    if not isinstance(value, str):
        assert max(map(len, lines)) <= WIDTH and len(lines) == 2 + -(-len(literal(value)) // (WIDTH - 12))


def test_ruff_leaves_the_lines_as_they_are():
    values = [LONG, LONG[:3], {"a": LONG, "b": "it's"}, "x" * 130, 1e-05, [{"theta": 0.5}] * 20, {}, 'a "b"']
    source = "\n".join(assignment(f"v{i}", value, "c" * 30) for i, value in enumerate(values)) + "\n"
    command = [sys.executable, "-m", "ruff", "format", "--line-length", str(WIDTH), "--stdin-filename", "cell.py", "-"]
    assert subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout == source
