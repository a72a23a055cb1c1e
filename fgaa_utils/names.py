"""Methods and controls: their names, labels and order in tables and figures. Imports nothing heavy."""

METHODS = ("caa", "sae", "sae_ts", "fgaa")
CONTROLS = ("random", "bias", "random_latent")
LABELS = {
    "caa": "CAA",
    "prompting": "prompting",
    "sae": "SAE",
    "sae_ts": "SAE-TS",
    "fgaa": "FGAA",
    "random": "random vector",
    "bias": "bias direction",
    "random_latent": "random latent",
    "unsteered": "unsteered",
}


def method_order(methods: list[str]) -> list[str]:
    """Methods in the order of tables and figures: FGAA, its baselines, prompting, the controls, unsteered."""
    return [m for m in ("fgaa", "sae_ts", "sae", "caa", "prompting", *CONTROLS, "unsteered") if m in methods]
