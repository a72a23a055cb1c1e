"""A judge that asks a local instruct model, through transformers, in one forward pass a text.

The model is asked for one digit, 0 to 9; the score is the expected digit under its next-token distribution over the
ten digits, divided by 9. So it needs no sampling, and a model that wavers between two grades says so.
"""

import copy
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.criteria import COHERENCE, criteria, messages
from fgaa_utils.judges.readers import LANES, STEP, padded_batches
from fgaa_utils.model.halving import Halving
from fgaa_utils.model.hub import hub_access
from fgaa_utils.model.lm import HUB_FILES, locate, resolve_device, resolve_dtype
from fgaa_utils.project import unknown

ANSWER = "Answer with one digit, from 0 to 9."
MARK = "\x02"  # stands for the text while the chat template is applied


class ModelJudge:
    """Scores by a causal language model; `mass` tells how much of its probability lay on the ten digits.

    The instruction is read once a criterion, and its keys and values are shared by all texts. Raises: ValueError if
    the tokenizer does not write each digit as one token, or for an unknown device or dtype (see fgaa_utils.model.lm);
    OSError if the model is not there.
    """

    def __init__(self, model: str | Path, behaviours: list[Behaviour], *, device: str = "auto", dtype: str = "auto"):
        self.device = resolve_device(device)
        kind = resolve_dtype(dtype, self.device)
        source, on_hub = locate(model)
        with hub_access(str(model), HUB_FILES, "judge.judge_model") if on_hub else nullcontext():
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            loaded = AutoModelForCausalLM.from_pretrained(source, dtype=kind, use_safetensors=True)
        self.model = loaded.to(self.device).eval()
        digits = [self._ids(str(digit)) for digit in range(10)]
        if any(len(ids) != 1 for ids in digits):
            raise ValueError(f"the tokenizer of {model} does not write every digit as one token; choose another judge")
        self._digits = torch.tensor([ids[0] for ids in digits], device=self.device)
        self._criteria = criteria(behaviours, low=0, high=9)
        self._prefixes: dict[str, DynamicCache] = {}
        self._scores: dict[tuple[str, str], tuple[float, float]] = {}  # (criterion, text): score, mass on digits

    def behaviour(self, texts: list[str], behaviour: str) -> NDArray:
        """How strongly (texts,) each text shows the behaviour, 0..1. Raises: ValueError for an unknown one."""
        if behaviour not in self._criteria or behaviour == COHERENCE:
            raise unknown("behaviour", behaviour, [key for key in self._criteria if key != COHERENCE])
        return self._score(behaviour, texts)

    def coherence(self, texts: list[str]) -> NDArray:
        """Coherence (texts,) of each text, 0..1."""
        return self._score(COHERENCE, texts)

    def mass(self) -> float:
        """Mean probability that the model gave to the ten digits together, over all texts judged so far."""
        return float(np.mean([mass for _, mass in self._scores.values()])) if self._scores else float("nan")

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt_parts(self, criterion: str) -> tuple[str, str]:
        """What stands before and after the text: the model's chat template, or plain text if it has none."""
        chat = messages(self._criteria[criterion], MARK, system_answer=ANSWER, user_answer=ANSWER)
        if self.tokenizer.chat_template:
            whole = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        else:
            start = self.tokenizer.bos_token or ""
            whole = start + "\n\n".join(message["content"] for message in chat) + "\n\nGrade: "
        before, after = whole.split(MARK)
        return before, after

    @torch.inference_mode()
    def _prefix(self, criterion: str) -> DynamicCache:
        """Keys and values of what stands before the text, for LANES rows."""
        if criterion not in self._prefixes:
            cache = DynamicCache(config=self.model.config)
            ids = torch.tensor([self._ids(self.prompt_parts(criterion)[0])], device=self.device)
            self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache.batch_repeat_interleave(LANES)
            self._prefixes[criterion] = cache
        return self._prefixes[criterion]

    @torch.inference_mode()
    def _score(self, criterion: str, texts: list[str]) -> NDArray:
        new = [text for text in dict.fromkeys(texts) if (criterion, text) not in self._scores]
        after = self.prompt_parts(criterion)[1]
        rows = [self._ids(text + after) for text in new]
        in_parts = Halving(LANES)
        for numbers, ids, mask in padded_batches(rows, self.tokenizer.eos_token_id or 0):
            ids, mask = ids.to(self.device), mask.to(self.device)
            graded = in_parts(lambda part: self._grade(criterion, ids[part], mask[part]), LANES)
            for number, (score, mass) in zip(numbers, graded.tolist()):
                self._scores[criterion, new[number]] = score, mass
        return np.array([self._scores[criterion, text][0] for text in texts])

    def _grade(self, criterion: str, ids: Tensor, mask: Tensor) -> Tensor:
        """(rows, 2): score and mass of rows (rows, pos) that are padded at the end."""
        cache = copy.deepcopy(self._prefix(criterion))
        cache.batch_select_indices(torch.arange(len(ids), device=self.device))
        seen = torch.ones(len(ids), cache.get_seq_length(), dtype=mask.dtype, device=self.device)
        out = self.model(
            input_ids=ids, attention_mask=torch.cat([seen, mask], dim=1), past_key_values=cache, logits_to_keep=STEP
        )
        last = mask.sum(dim=1) - 1 - (ids.shape[1] - STEP)  # a row ends within the last STEP places
        ends = out.logits[torch.arange(len(ids), device=self.device), last]  # (rows, vocabulary)
        probabilities = ends.float().softmax(dim=1)[:, self._digits].cpu()  # (rows, 10)
        mass = probabilities.sum(dim=1)
        return torch.stack([(probabilities @ torch.arange(10.0)) / mass / 9, mass], dim=1)
