"""A judge that asks a server, any that speaks OpenAI's chat protocol (paper, section 4: gpt-4o-mini).

Two questions a text, one for a behaviour and one for coherence. Every valid answer is kept on disk under the hash
of its question, so that a killed or repeated run asks only what has no answer yet.
"""

import hashlib
import json
import logging
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import openai
from numpy.typing import NDArray
from openai.types.chat import ChatCompletion
from tqdm import tqdm

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.answers import AnswerCache
from fgaa_utils.judges.criteria import COHERENCE, criteria, messages
from fgaa_utils.project import unknown

log = logging.getLogger(__name__)

BASE_URL, API_KEY, JUDGE_MODEL = "OPENAI_BASE_URL", "OPENAI_API_KEY", "FGAA_JUDGE_MODEL"  # environment variables
SAMPLING = {"temperature": 0, "seed": 0, "max_tokens": 32}
JSON_MODE = {"response_format": {"type": "json_object"}}
ANSWER_TOKENS = 8  # about what {"score": 10} takes

SYSTEM_ANSWER = 'Answer with a JSON object that has one key, "score", with a whole number from 1 to 10.'
USER_ANSWER = 'Answer with {"score": N}, N a whole number from 1 to 10.'
HINTS = {
    401: f"check {API_KEY}",
    403: f"check that {API_KEY} may use the model of {JUDGE_MODEL}",
    404: f"check {BASE_URL} (most end in /v1) and {JUDGE_MODEL}",
    429: "its limit or your quota is used up: run again later, or with less concurrency",
}


class ServerError(RuntimeError):
    """The server refused a question, or did not answer it after all retries. Answers given before are kept."""


def read_score(content: str | None) -> int | None:
    """The score 1..10 of an answer, None if it is malformed. The fence of a code block is no fault."""
    try:
        score = json.loads((content or "").strip().strip("`").removeprefix("json"))["score"]
    except (ValueError, TypeError, KeyError):
        return None
    return score if type(score) is int and 1 <= score <= 10 else None


def explain(error: openai.OpenAIError) -> str:
    """What went wrong, what to check, and last what the server said, in full."""
    if not isinstance(error, openai.APIStatusError):
        return f"no answer from the server of {BASE_URL}: {error} ({error.__cause__!r})"
    said = str(error.body)
    hint = HINTS.get(error.status_code, "retrying did not help" if error.status_code >= 500 else "see what it said")
    if error.status_code in (400, 422) and "response_format" in said:
        hint = "it refuses JSON mode (response_format), pass json_mode=False"
    return f"the server answered HTTP {error.status_code}; {hint}. It said: {said}"


def _setting(name: str) -> str:
    """Raises: ValueError if the environment does not have it."""
    if not (value := os.environ.get(name, "").strip()):
        raise ValueError(f"{name} is not set; a judge that asks a server needs {BASE_URL}, {API_KEY}, {JUDGE_MODEL}")
    return value


def check_environment() -> tuple[str, str, str]:
    """(base URL, key, model) of the server. Raises: ValueError for a variable that is not set or cannot be right."""
    base_url, key, model = _setting(BASE_URL), _setting(API_KEY), _setting(JUDGE_MODEL)
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"{BASE_URL} must start with http:// or https://")
    if not re.fullmatch(r"[\w.~+/=:|-]+", key, re.ASCII):
        raise ValueError(f"{API_KEY} holds a character that no key has; copy it again, without quotes")
    return base_url, key, model


class ServerJudge:
    """A judge that asks a server one question a text, and never the same twice.

    The client retries with growing waits what may pass: 429 (after Retry-After), 5xx, time-outs and lost connections.
    A malformed answer is asked for again, at temperature 1, for at 0 the same would come back, `attempts` times in
    all; a text without a valid one has the score NaN.
    """

    def __init__(
        self,
        behaviours: list[Behaviour],
        cache: Path,
        client: openai.OpenAI,
        settings: dict,
        *,
        concurrency: int,
        attempts: int,
        prices: tuple[float, float] | None = None,
    ):
        if concurrency < 1 or attempts < 1:
            raise ValueError(f"concurrency is {concurrency}, attempts {attempts}; both must be at least 1")
        self._criteria = criteria(behaviours, low=1, high=10)
        self._client, self._settings, self._cache = client, settings, AnswerCache(cache)
        self._concurrency, self._attempts, self._prices = concurrency, attempts, prices
        self._lock = threading.Lock()  # of all below and the cache: the workers' answers come in at any time
        self._missing: set[str] = set()
        self._malformed = ""  # the last such answer
        self._counts = dict.fromkeys(("asked", "cached", "retried_malformed", "prompt_tokens", "completion_tokens"), 0)

    @classmethod
    def from_environment(
        cls,
        behaviours: list[Behaviour],
        cache: Path,
        *,
        concurrency: int,
        timeout: float,
        attempts: int,
        prices: tuple[float, float] | None = None,
        retries: int = 8,
        json_mode: bool = True,
    ) -> "ServerJudge":
        """A judge that asks the server OPENAI_BASE_URL for the model FGAA_JUDGE_MODEL with the key OPENAI_API_KEY.

        timeout: seconds without a byte from the server. prices: of a million tokens in and out, for the estimate.
        retries: of one request, after waits of 0.5 s growing to 8 s. json_mode: off for a server that does not know
        response_format.

        Raises: ValueError for a variable that is not set or cannot be right.
        """
        base_url, key, model = check_environment()
        client = openai.OpenAI(base_url=base_url, api_key=key, timeout=timeout, max_retries=retries)
        settings = {"model": model} | SAMPLING | (JSON_MODE if json_mode else {})
        return cls(behaviours, cache, client, settings, concurrency=concurrency, attempts=attempts, prices=prices)

    def behaviour(self, texts: list[str], behaviour: str) -> NDArray:
        """How strongly (texts,) each text shows the behaviour, (score - 1) / 9; NaN where no answer was valid.

        Raises: ValueError for an unknown behaviour; ServerError.
        """
        if behaviour not in self._criteria or behaviour == COHERENCE:
            raise unknown("behaviour", behaviour, [key for key in self._criteria if key != COHERENCE])
        return self._score(behaviour, texts)

    def coherence(self, texts: list[str]) -> NDArray:
        """Coherence (texts,) of each text, (score - 1) / 9; NaN where no answer was valid. Raises: ServerError."""
        return self._score(COHERENCE, texts)

    def report(self) -> dict[str, int]:
        """What this judge did so far: answers asked for and found cached, malformed ones asked for again, questions
        still without a valid one, and tokens as the server counted them."""
        return self._counts | {"missing": len(self._missing - self._cache.scores.keys())}

    def estimate(self, texts_by_criterion: dict[str, list[str]], *, timed: bool = False) -> dict[str, float]:
        """What it takes to judge these texts, by behaviour or "coherence": requests that are not cached yet,
        approximate tokens (characters / 4), and the cost if the judge has prices. `timed` asks the first question,
        whose answer is kept, and tells from it how many minutes all will take, `concurrency` at a time.

        Raises: ValueError for an unknown criterion; ServerError.
        """
        requests = [
            (criterion, text)
            for criterion, texts in texts_by_criterion.items()
            for text in self._unanswered(criterion, texts).values()
        ]
        characters = sum(len(message["content"]) for request in requests for message in self._messages(*request))
        tokens = characters // 4, len(requests) * ANSWER_TOKENS
        names = "requests", "approximate_prompt_tokens", "approximate_completion_tokens"
        found: dict[str, float] = dict(zip(names, (len(requests), *tokens)))
        if self._prices:
            found["approximate_cost"] = float(np.dot(tokens, self._prices)) / 1e6
        if timed and requests:
            start = time.monotonic()
            self._score(requests[0][0], [requests[0][1]])
            found["approximate_minutes"] = (time.monotonic() - start) * len(requests) / self._concurrency / 60
        return found

    def _messages(self, criterion: str, text: str) -> list[dict[str, str]]:
        return messages(self._criteria[criterion], text, system_answer=SYSTEM_ANSWER, user_answer=USER_ANSWER)

    def _question(self, criterion: str, text: str) -> str:
        """The hash of all that shapes the answer: server, model, settings and messages."""
        question = [str(self._client.base_url), self._settings, self._messages(criterion, text)]
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()

    def _unanswered(self, criterion: str, texts: list[str]) -> dict[str, str]:
        """{question: text}, each distinct text without a cached answer once."""
        if criterion not in self._criteria:
            raise unknown("criterion", criterion, list(self._criteria))
        questions = {self._question(criterion, text): text for text in dict.fromkeys(texts)}
        return {question: text for question, text in questions.items() if question not in self._cache.scores}

    def _score(self, criterion: str, texts: list[str]) -> NDArray:
        unanswered = self._unanswered(criterion, texts)
        self._counts["cached"] += len(set(texts)) - len(unanswered)
        if unanswered:
            self._ask_all(criterion, unanswered)
        if missing := len(unanswered.keys() - self._cache.scores.keys()):
            total = len(unanswered)
            log.warning(
                "%s: %d of %d without a valid answer; the last said %r", criterion, missing, total, self._malformed
            )
        scores = [self._cache.scores.get(self._question(criterion, text), np.nan) for text in texts]
        return (np.array(scores, dtype=float) - 1) / 9

    def _ask_all(self, criterion: str, unanswered: dict[str, str]) -> None:
        """Ask and keep the answers, `concurrency` questions at a time. Raises: the first error of a worker; no
        question is asked after it, or after an interrupt."""
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="server judge")
        try:
            asked = [pool.submit(self._answer, criterion, *item, stop) for item in unanswered.items()]
            for done in tqdm(as_completed(asked), f"judge {criterion}", len(asked), unit="text", mininterval=5):
                done.result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _answer(self, criterion: str, question: str, text: str, stop: threading.Event) -> None:
        """Ask one question and keep its answer, unless `stop` is set; an error sets it."""
        if stop.is_set():
            return
        try:
            score = self._ask(self._messages(criterion, text))
        except BaseException:
            stop.set()  # here, for this worker takes its next question before anyone hears of the error
            raise
        with self._lock:
            if score is None:
                self._missing.add(question)
            else:
                self._cache.add(question, score)

    def _ask(self, messages: list[dict[str, str]]) -> int | None:
        """The score 1..10, or None if every attempt was malformed."""
        for attempt in range(self._attempts):
            reply = self._complete(messages, **({"seed": attempt, "temperature": 1} if attempt else {}))
            message = reply.choices[0].message if reply.choices else None
            score = read_score(message and message.content)
            with self._lock:
                self._counts["asked"] += 1
                self._counts["retried_malformed"] += attempt > 0
                self._counts["prompt_tokens"] += (reply.usage and reply.usage.prompt_tokens) or 0
                self._counts["completion_tokens"] += (reply.usage and reply.usage.completion_tokens) or 0
                if score is None:
                    self._malformed = self._blot(str(message and message.content))
            if score is not None:
                return score
        return None

    def _complete(self, messages: list[dict[str, str]], **changed: float) -> ChatCompletion:
        """Raises: ServerError, without the client's exception, which may hold the key."""
        try:
            reply = self._client.chat.completions.create(messages=messages, **self._settings | changed)
        except openai.OpenAIError as error:
            failure = explain(error)
        except json.JSONDecodeError:
            failure = f"the server's answer is damaged; check {BASE_URL}"
        else:
            if isinstance(reply, ChatCompletion):
                return reply
            failure = f"the server's answer is no chat completion; check {BASE_URL} (most end in /v1)"
        raise ServerError(self._blot(failure))

    def _blot(self, text: str) -> str:
        """The text without the key, which a server may repeat, and not too long."""
        return text.replace(self._client.api_key, "***")[:600]
