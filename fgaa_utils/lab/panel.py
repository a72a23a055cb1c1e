"""The playground's panel: choices, two columns of text, scores, latents, two boxes for a behaviour of one's own, an export."""

import html
from pathlib import Path

import ipywidgets as widgets
import pandas as pd

from fgaa_utils.export.command import FORMATS
from fgaa_utils.judges.readers import fold
from fgaa_utils.lab.play import COUNTS, Play
from fgaa_utils.names import LABELS, MADE, method_order
from fgaa_utils.project import ROOT

WIDE = widgets.Layout(width="98%")
LABEL = {"description_width": "90px"}


class Panel:
    """The widgets, by name, and `box` to show; `play` does the work. Errors are shown in place, not raised. The values are those
    that it begins with; files of vectors go to the folder `exports`."""

    def __init__(
        self,
        play: Play,
        *,
        method: str = "ng",
        n1: int = 8,
        nats: float = 0.5,
        prompt: str = "I think",
        seed: int = 0,
        exports: Path = ROOT / "exports",
    ):
        self.play, self.exports = play, exports
        methods = [(LABELS[m], m) for m in method_order(list(MADE))]
        self.behaviour = widgets.Dropdown(options=self._names(), description="behaviour", style=LABEL)
        self.method = widgets.Dropdown(options=methods, value=method, description="method", style=LABEL)
        self.n1 = widgets.SelectionSlider(options=COUNTS, value=n1, description="n1", style=LABEL)
        self.nats = widgets.FloatLogSlider(
            value=nats, base=2, min=-5, max=2, step=0.25, description="nats a token", readout_format=".2f", style=LABEL
        )
        self.prompt = widgets.Text(value=prompt, description="prompt", style=LABEL)
        self.seed = widgets.BoundedIntText(value=seed, min=0, max=2**31 - 1, description="seed", style=LABEL)
        self.write = widgets.Button(description="Write", button_style="primary", icon="pencil")
        self.format = widgets.Dropdown(options=list(FORMATS), value="gguf", description="format", style=LABEL)
        self.export = widgets.Button(description="Export", icon="download")
        self.exported, self.shown = widgets.HTML(), widgets.HTML()
        self.name = widgets.Text(placeholder="name, for instance Sailing", description="name", style=LABEL)
        self.positive, self.negative = (
            widgets.Textarea(placeholder=f"{side}, one text a line", rows=6, layout=WIDE)
            for side in ("texts that show it", "the same without it")
        )
        self.add = widgets.Button(description="Add behaviour", icon="plus")
        self.write.on_click(lambda _: self._guarded(self._write))
        self.add.on_click(lambda _: self._guarded(self._add))
        self.export.on_click(lambda _: self._guarded(self._export))
        chosen = [self.behaviour, self.method, self.n1, self.nats, self.prompt, self.seed, self.write]
        chosen += [self.format, self.export, self.exported]
        choices = widgets.VBox(chosen, layout=widgets.Layout(flex="0 0 330px"))
        own = widgets.VBox(
            [self.name, widgets.HBox([self.positive, self.negative], layout=WIDE), self.add], layout=WIDE
        )
        self.box = widgets.VBox([widgets.HBox([choices, own]), self.shown])

    def _names(self) -> list[tuple[str, str]]:
        return [(name, key) for key, name in self.play.names.items()]

    def _guarded(self, act) -> None:
        try:
            act()
        except (ValueError, OSError, RuntimeError) as error:  # the last: out of memory
            self.shown.value = f"<p style='color:#b00020'>{html.escape(str(error))}</p>"

    def _add(self) -> None:
        key = self.play.add(self.name.value, self.positive.value, self.negative.value)
        self.behaviour.options = self._names()
        self.behaviour.value = key
        self._write()

    def _export(self) -> None:
        """The vector as it stands, written for another tool."""
        self.exported.value = ""
        steering = self.play.steering(self.behaviour.value, self.method.value, self.n1.value, self.nats.value)
        path = FORMATS[self.format.value](steering, self.exports)
        self.exported.value = f"<p>Written: {html.escape(str(path))}</p>"

    def _write(self) -> None:
        """Pairs appear one by one, then their scores and latents."""
        key, prompt, nats = self.behaviour.value, self.prompt.value, self.nats.value
        vector = self.play.vector(key, self.method.value, self.n1.value)
        pairs = []
        for pair in self.play.pairs(vector, nats, prompt, seed=self.seed.value):
            pairs.append(pair)
            self.shown.value = _texts_table(self.play.texts(pairs), prompt)
        texts, latents = self.play.scored(pairs, key), self.play.latents(vector, nats, pairs, prompt)
        strength = f"{LABELS[self.method.value]}, norm {self.play.strength.coeff(vector, nats):.0f}"
        self.shown.value = f"<p>{html.escape(strength)}</p>{_texts_table(texts, prompt)}{_latents_table(latents)}"


def _texts_table(texts: pd.DataFrame, prompt: str) -> str:
    """Prompt and text of both sides on one line, and the scores where there are some; as HTML in which text cannot run."""
    whole = {side: [fold(f"{prompt}{text}") for text in texts[side]] for side in ("plain", "steered")}
    shown = texts.assign(**whole)
    names = {"plain": "without steering", "steered": "steered", "B": "behaviour", "C": "coherence"}
    return _html(shown.rename(columns=names), index=False)


def _latents_table(latents: pd.DataFrame) -> str:
    """What was expected of the latents and what the texts did."""
    names = {"promotes": "its tokens", "expected": "expected change", "measured": "measured change"}
    return f"<p>Latents that the vector should raise most:</p>{_html(latents.rename(columns=names).reset_index(), index=False)}"


def _html(frame: pd.DataFrame, **options) -> str:
    return frame.to_html(escape=True, border=0, float_format="{:.2f}".format, justify="left", **options)
