"""python steering_vectors_library.py MODEL VECTOR.steering-vectors.safetensors REFERENCE.npz OUT.npz"""

from hugging_face import load, logits, run
from safetensors.torch import load_file
from steering_vectors import SteeringVector


def consume(path, vector, reference):
    model = load(path)
    steering = SteeringVector({int(k): v for k, v in load_file(vector).items()}, "decoder_block")
    plain = logits(model, reference)
    with steering.apply(model, multiplier=1.0):
        return plain, logits(model, reference)


run(consume)
