"""FGAA and its baselines written down a second time, from the paper: numpy and loops, plain forward hooks, no cache.

Shares no code with the package; the pipeline's vectors and texts must equal what is computed here.
"""

import numpy as np
import torch


class PlainModel:
    """A transformers model read and steered at one block by plain hooks, one text and one token at a time."""

    def __init__(self, hf, layer: int):
        self.hf, self.layer = hf.eval(), layer
        self.block = hf.model.layers[layer]

    @torch.no_grad()
    def resid(self, ids: list[int]) -> np.ndarray:
        kept = []
        hook = self.block.register_forward_hook(lambda module, inputs, output: kept.append(output))
        self.hf(torch.tensor([ids]))
        hook.remove()
        output = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        return output.reshape(len(ids), -1).double().numpy()

    @torch.no_grad()
    def sample(self, ids: list[int], delta: np.ndarray, seed: int, *, new_tokens: int, top_k: int) -> list[int]:
        """New tokens at temperature 1: the whole text is read again for every one of them."""
        uniforms = np.random.Generator(np.random.Philox(seed)).random(new_tokens)
        added = torch.from_numpy(delta).to(self.hf.dtype)

        def steer(module, inputs, output):
            return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

        hook = self.block.register_forward_hook(steer)
        text = list(ids)
        for u in uniforms:
            logits = self.hf(torch.tensor([text])).logits[0, -1].double().numpy()
            ranked = sorted(range(len(logits)), key=lambda token: -logits[token])[:top_k]
            weights = [float(np.exp(logits[token] - logits[ranked[0]])) for token in ranked]
            place, total = 0, weights[0]
            while total <= u * sum(weights):
                place += 1
                total += weights[place]
            text.append(ranked[place])
        hook.remove()
        return text[len(ids) :]


class PlainSAE:
    """Gemma Scope's JumpReLU, from the arrays of its params.npz."""

    def __init__(self, params):
        self.W_enc, self.W_dec, self.b_enc, self.threshold = (
            np.asarray(params[name], dtype=np.float64) for name in ("W_enc", "W_dec", "b_enc", "threshold")
        )

    def encode(self, h: np.ndarray) -> np.ndarray:
        pre = h @ self.W_enc + self.b_enc
        return np.where(pre > self.threshold, np.maximum(pre, 0), 0.0)


def mean_over_texts(rows: list[np.ndarray]) -> np.ndarray:
    """Tokens are averaged within a text, then texts."""
    total = np.zeros(rows[0].shape[1])
    for row in rows:
        total += row.mean(axis=0)
    return total / len(rows)


def background(model: PlainModel, sae: PlainSAE, rows) -> tuple[np.ndarray, np.ndarray]:
    """(density, whether the highest activation is on BOS) of every latent over token rows that begin with BOS."""
    d_sae = len(sae.threshold)
    fires, tokens = np.zeros(d_sae), 0
    on_bos, elsewhere = np.zeros(d_sae), np.zeros(d_sae)
    for row in rows:
        for place, acts in enumerate(sae.encode(model.resid([int(t) for t in row]))):
            if place == 0:
                on_bos = np.maximum(on_bos, acts)
            else:
                fires += acts > 0
                tokens += 1
                elsewhere = np.maximum(elsewhere, acts)
    return fires / tokens, on_bos > elsewhere


def filtered(v_diff: np.ndarray, density: np.ndarray, bos: np.ndarray, theta: float) -> np.ndarray:
    v = v_diff.copy()
    for i in range(len(v)):
        if density[i] > theta or bos[i]:
            v[i] = 0.0
    return v


def v_target(v: np.ndarray, n1: int, n2: int) -> np.ndarray:
    ranked = sorted(range(len(v)), key=lambda i: -v[i])
    kept = np.zeros(len(v))
    for i in [i for i in ranked[:n1] if v[i] > 0] + [i for i in ranked[::-1][:n2] if v[i] < 0]:
        kept[i] = v[i]
    return kept / np.abs(kept).sum()


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.sqrt((v * v).sum())


def v_opt(W: np.ndarray, b: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Eq. 5: M v / |M v| - M b / |M b|, of unit norm."""
    return unit(unit(W @ target) - unit(W @ b))
