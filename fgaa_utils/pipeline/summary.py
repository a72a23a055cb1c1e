"""Print the main results from the metrics files, for the end of `make repro`."""

import json

from fgaa_utils.names import LABELS
from fgaa_utils.project import METRICS


def main() -> None:
    scores = json.loads((METRICS / "evaluation.json").read_text())["bcs"]
    print(f"{'average BCS on test prompts':30} value   95 % interval")
    for method, table in sorted(scores.items(), key=lambda item: -item[1]["average"]["value"]):
        entry = table["average"]
        print(f"{LABELS[method]:30} {entry['value']:.3f}   {entry['lo']:.3f} to {entry['hi']:.3f}")


if __name__ == "__main__":
    main()
