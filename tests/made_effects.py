"""A course of the effects stage that takes moments on the tiny model."""

from fgaa_utils.method.effects_once import Course

COURSE = Course(
    ce_rise=0.05,
    ce_probes=[5, 20],
    ce_texts=2,
    ce_tokens=6,
    openers=["", "we"],
    new_tokens=3,
    top_k=5,
    temperature=1.0,
    batch=8,
    chunk_size=16,
    chunks=3,
    unsteered_rollouts=8,
    heldout_vectors=4,
    heldout_rollouts=2,
    ridge_strengths=[1.0, 10.0],
    adam_epochs=1,
    adam_lr=0.01,
    adam_batch=4,
)
