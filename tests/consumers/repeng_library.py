"""python repeng_library.py MODEL VECTOR.gguf REFERENCE.npz OUT.npz"""

from hugging_face import load, logits, run
from repeng import ControlModel, ControlVector


def consume(path, vector, reference):
    control = ControlVector.import_gguf(vector)
    model = ControlModel(load(path), list(control.directions))
    plain = logits(model, reference)
    model.set_control(control, 1.0)
    return plain, logits(model, reference)


run(consume)
