"""The payload that Neuronpedia's `POST /api/vector/new` takes: JSON, for a model that it hosts.

`curl -H "x-api-key: ..." -H "content-type: application/json" -d @FILE https://www.neuronpedia.org/api/vector/new`

It takes vectors at the input of a block only (`hook_resid_pre`), which for block N + 1 is the output of block N, and strengths
up to some hundred, so that most of the strength is in the vector. Read in its published source; not tried on the server.
"""

import json
from pathlib import Path

from fgaa_utils.export.steering import Steering

LONGEST = 24_576  # floats that it takes
STRENGTH = 10.0  # vectorDefaultSteerStrength of every vector


def write(steering: Steering, folder: Path) -> Path:
    """Write `<folder>/<name>.neuronpedia.json`. Raises: ValueError for a vector that is longer than it takes."""
    if len(steering.vector) > LONGEST:
        raise ValueError(f"{steering.name} has {len(steering.vector)} entries; Neuronpedia takes at most {LONGEST}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{steering.stem}.neuronpedia.json"
    payload = {
        "modelId": steering.model.split(":")[0],
        "layerNumber": steering.layer + 1,
        "hookType": "hook_resid_pre",
        "vector": (steering.delta / STRENGTH).tolist(),
        "vectorDefaultSteerStrength": STRENGTH,
        "vectorLabel": steering.name,
    }
    path.write_text(json.dumps(payload) + "\n", encoding="utf-8")
    return path
