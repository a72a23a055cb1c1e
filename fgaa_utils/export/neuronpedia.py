"""The payload that Neuronpedia's `POST /api/vector/new` takes: JSON, for a model that it hosts.

`curl -H "x-api-key: ..." -H "content-type: application/json" -d @FILE https://www.neuronpedia.org/api/vector/new`
"""

import json
from pathlib import Path

from fgaa_utils.export.steering import Steering

LONGEST = 24_576  # floats that it takes


def write(steering: Steering, folder: Path) -> Path:
    """Write `<folder>/<name>.neuronpedia.json`. Raises: ValueError for a vector that is longer than it takes."""
    if len(steering.vector) > LONGEST:
        raise ValueError(f"{steering.name} has {len(steering.vector)} entries; Neuronpedia takes at most {LONGEST}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{steering.stem}.neuronpedia.json"
    payload = {
        "modelId": steering.model.split(":")[0],
        "layerNumber": steering.layer,
        "hookType": "hook_resid_post",
        "vector": steering.vector.tolist(),
        "vectorDefaultSteerStrength": steering.coeff,
        "vectorLabel": steering.name,
    }
    path.write_text(json.dumps(payload) + "\n", encoding="utf-8")
    return path
