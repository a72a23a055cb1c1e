"""Print what the run found, for the end of `make repro`: the sentences and the table that README.md begins with."""

import textwrap

from fgaa_utils.evaluation.verdict import summary_table, verdict
from fgaa_utils.pipeline.results import run_metrics


def summary() -> str:
    """The verdict as plain text, for a terminal of 100 columns."""
    metrics = run_metrics()
    sentences = [textwrap.fill(sentence.replace("**", ""), width=100) for sentence in verdict(*metrics)]
    table = summary_table(metrics[0], *metrics[2:])
    return "\n\n".join([*sentences, table.reset_index().to_string(index=False, line_width=200)])


def main() -> None:
    print(summary())


if __name__ == "__main__":
    main()
