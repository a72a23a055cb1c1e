"""The judge that asks a server: over a real socket, against a server that misbehaves by script."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fake_server import fake_server
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from fgaa_utils.data.behaviours import Behaviour
from fgaa_utils.judges.server import ServerError, ServerJudge, read_score
from fgaa_utils.project import MODEL, ROOT

SECRET = "sk-very-secret-0123456789"
LOVE = Behaviour("love", "Love", "The text expresses love.", (), (), (), ())
TEXTS = [f"I think text number {i}" for i in range(12)]


def refusal(status: int, message: str = "no", **headers: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message}}, status, headers)


@pytest.fixture(scope="module")
def running():
    with fake_server() as server:
        yield server


@pytest.fixture
def server(running, monkeypatch):
    while running.in_flight:  # what a test before this one has left
        time.sleep(0.01)
    running.forget()
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{running.port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("FGAA_JUDGE_MODEL", "tiny-judge")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return running


@pytest.fixture
def make(server, tmp_path):
    def make(*, concurrency=1, timeout=5.0, attempts=5, retries=2, json_mode=True, prices=None) -> ServerJudge:
        options = {"timeout": timeout, "attempts": attempts, "retries": retries, "json_mode": json_mode}
        options["prices"] = prices
        return ServerJudge.from_environment([LOVE], tmp_path / "cache.jsonl", concurrency=concurrency, **options)

    return make


def test_scores_are_mapped_to_0_to_1_and_stand_in_the_order_of_the_texts(server, make):
    server.script = ['{"score": 1}', '{"score": 10}', '{"score": 4}']
    scores = make().behaviour(["a", "b", "a", "c"], "love")
    np.testing.assert_allclose(scores, [0, 1, 0, 3 / 9])


def test_a_question_carries_the_criterion_the_text_and_the_settings(server, make):
    judge = make()
    judge.behaviour(["some {text}\nof two lines"], "love")
    judge.coherence(["other text"])
    behaviour, coherence = server.requests
    assert LOVE.description in behaviour["messages"][1]["content"] and "coherent" in coherence["messages"][1]["content"]
    assert server.texts == ["some {text}\nof two lines", "other text"]
    assert "do not follow" in behaviour["messages"][0]["content"]
    settings = {key: value for key, value in behaviour.items() if key != "messages"}
    json_object = {"type": "json_object"}
    assert settings == {
        "model": "tiny-judge",
        "temperature": 0,
        "seed": 0,
        "max_tokens": 32,
        "response_format": json_object,
    }


def test_no_texts_ask_nothing(server, make):
    assert make().coherence([]).shape == make().behaviour([], "love").shape == (0,)
    assert not server.requests


def test_an_unknown_behaviour_is_named(make):
    with pytest.raises(ValueError, match="unknown behaviour 'lov'; did you mean 'love'"):
        make().behaviour(["text"], "lov")
    with pytest.raises(ValueError, match="unknown behaviour 'coherence'"):
        make().behaviour(["text"], "coherence")


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "OPENAI_API_KEY", "FGAA_JUDGE_MODEL"])
def test_a_missing_variable_is_named(make, monkeypatch, name):
    for value in ("", " "):
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=f"^{name} is not set"):
            make()
    monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=f"^{name} is not set"):
        make()


def test_settings_that_cannot_be_right(make, monkeypatch):
    with pytest.raises(ValueError, match="concurrency is 0, attempts 5; both must be at least 1"):
        make(concurrency=0)
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\n")
    make()  # a line break at the end is no part of the key
    monkeypatch.setenv("OPENAI_API_KEY", f'"{SECRET}"')
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds a character that no key has") as caught:
        make()
    assert SECRET not in str(caught.value)
    monkeypatch.setenv("OPENAI_BASE_URL", "localhost:8000/v1")
    with pytest.raises(ValueError, match="OPENAI_BASE_URL must start with http:// or https://"):
        make()


def test_429_is_asked_again_after_the_time_that_the_server_names(server, make):
    server.script = [refusal(429, **{"retry-after": "1"})]
    assert make().coherence(["a"]).tolist() == [6 / 9]
    assert len(server.requests) == 2 and server.times[1] - server.times[0] >= 1


@pytest.mark.parametrize("script", [[refusal(500), refusal(503)], [1.0], ["close"]], ids=["5xx", "time-out", "closed"])
def test_what_may_pass_is_asked_again(server, make, script):
    requests = len(script) + 1
    server.script = list(script)
    judge = make(timeout=0.5)
    assert judge.coherence(["a"]).tolist() == [6 / 9]
    assert len(server.requests) == requests and judge.report()["asked"] == 1


MALFORMED = [
    "I would say 7 out of 10.",
    '{"grade": 7}',
    '{"score": 11}',
    '{"score": 0}',
    '{"score": "7"}',
    '{"score": 7.5}',
    '{"score": true}',
    '{"score": null}',
    "[7]",
    "7",
    "",
    '{"score": 7',
]


@pytest.mark.parametrize("content", [*MALFORMED, None])
def test_malformed_answers_have_no_score(content):
    assert read_score(content) is None


def test_a_code_block_is_no_fault():
    assert read_score('```json\n{"score": 10}\n```') == read_score(' {"score": 10}\n') == 10


def test_malformed_answers_are_asked_for_again(server, make):
    server.script = [*MALFORMED[:3], '{"score": "7"}', '{"score": 2}']
    judge = make(attempts=5)
    assert judge.coherence(["a"]).tolist() == [1 / 9]
    asked = [(request["seed"], request["temperature"]) for request in server.requests]
    assert asked == [(0, 0), (1, 1), (2, 1), (3, 1), (4, 1)], "at temperature 0 the same answer would come back"
    expected = {"asked": 5, "cached": 0, "retried_malformed": 4, "missing": 0}
    assert judge.report() == expected | {"prompt_tokens": 500, "completion_tokens": 25}


def test_an_answer_that_stays_malformed_is_missing_and_asked_for_by_a_later_run(server, make, tmp_path, caplog):
    server.script = ["prose"] * 3
    judge = make(attempts=3)
    assert np.isnan(judge.coherence(["a", "b"])).tolist() == [True, False]
    assert judge.report()["missing"] == 1 and judge.report()["retried_malformed"] == 2
    assert "coherence: 1 of 2 without a valid answer; the last said 'prose'" in caplog.text
    assert len((tmp_path / "cache.jsonl").read_text().splitlines()) == 1
    server.requests.clear()
    assert judge.coherence(["a", "b"]).tolist() == [6 / 9] * 2
    assert server.texts == ["a"] and judge.report()["missing"] == 0


def test_a_reply_without_choices_is_malformed(server, make):
    server.script = [JSONResponse({"choices": None}), JSONResponse({})]
    assert make().coherence(["a"]).tolist() == [6 / 9] and len(server.requests) == 3


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (refusal(401), "HTTP 401; check OPENAI_API_KEY. It said: .*no"),
        (refusal(403), "HTTP 403; check that OPENAI_API_KEY may use the model of FGAA_JUDGE_MODEL"),
        (refusal(404), r"HTTP 404; check OPENAI_BASE_URL \(most end in /v1\) and FGAA_JUDGE_MODEL"),
        (
            JSONResponse({"detail": "context is too long"}, 422),
            "HTTP 422; see what it said.*context is too long",
        ),
        (PlainTextResponse("<html>portal</html>"), "no chat completion; check OPENAI_BASE_URL"),
        (Response(b'{"choices', media_type="application/json"), "damaged; check OPENAI_BASE_URL"),
    ],
)
def test_a_refusal_ends_the_run_at_once_and_keeps_what_was_answered(server, make, response, said):
    server.script = ['{"score": 7}', '{"score": 7}', response]
    judge = make()
    with pytest.raises(ServerError, match=said):
        judge.coherence(TEXTS)
    assert len(server.requests) == 3
    server.requests.clear()
    judge.coherence(TEXTS)
    assert server.texts == TEXTS[2:]


def test_a_server_that_does_not_know_json_mode(server, make):
    server.script = [refusal(400, "unknown parameter: response_format")]
    with pytest.raises(ServerError, match=r"HTTP 400; it refuses JSON mode \(response_format\), pass json_mode=False"):
        make().coherence(["a"])
    assert make(json_mode=False).coherence(["a"]).tolist() == [6 / 9]
    assert "response_format" not in server.requests[-1]


def test_errors_that_do_not_pass_are_named(server, make, monkeypatch):
    server.script = [refusal(500, "cuda out of memory"), refusal(429, "insufficient quota")]
    with pytest.raises(ServerError, match=r"HTTP 500; retrying did not help.*cuda out of memory"):
        make(retries=0).coherence(["a"])
    with pytest.raises(ServerError, match=r"HTTP 429; .*quota is used up.*insufficient quota"):
        make(retries=0).coherence(["a"])
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(
        ServerError, match=r"no answer from the server of OPENAI_BASE_URL: Connection error.*ConnectError"
    ):
        make(retries=0).coherence(["a"])


def test_requests_overlap_within_the_concurrency(server, make):
    server.delay = 0.05
    make(concurrency=4).coherence(TEXTS)
    assert 1 < server.most_in_flight <= 4
    assert sorted(server.texts) == sorted(TEXTS)


def test_many_texts_do_not_make_as_many_threads(server, make, monkeypatch):
    judge, workers = make(concurrency=3), []

    def ask(messages):
        workers.append(threading.current_thread().name)
        time.sleep(0.001)
        return 5

    monkeypatch.setattr(judge, "_ask", ask)
    judge.coherence([f"text {i}" for i in range(500)])
    assert len(workers) == 500 and len(set(workers)) == 3


def test_the_first_error_keeps_all_from_asking_on(server, make):
    server.delay = 0.05
    server.script = ['{"score": 7}', '{"score": 7}', refusal(401)]
    with pytest.raises(ServerError, match="HTTP 401"):
        make(concurrency=4).coherence([f"text {i}" for i in range(200)])
    time.sleep(0.3)
    assert len(server.requests) <= 12  # those in flight, and what they took before the error came in


@pytest.fixture
def keyboard():
    """Interrupts raise, even if the tests were started in the background, where they are ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_stops_the_work_and_a_next_call_goes_on(server, make, keyboard):
    server.delay = 0.05
    judge = make(concurrency=2)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        judge.coherence([f"text {i}" for i in range(100)])
    time.sleep(0.1)
    stopped = len(server.requests)
    time.sleep(0.2)
    assert 1 < len(server.requests) == stopped < 40
    assert judge.coherence(["text 0", "text 99"]).tolist() == [6 / 9] * 2
    assert server.texts.count("text 0") == 1


def test_equal_texts_are_asked_once_and_a_second_judge_asks_nothing(server, make):
    texts = ["a", "b", "a", "a"]
    first = make(concurrency=4).coherence(texts)
    assert sorted(server.texts) == ["a", "b"]
    again = make()
    assert again.coherence(texts).tolist() == first.tolist() and len(server.requests) == 2
    assert again.report()["asked"] == 0 and again.report()["cached"] == 2
    again.behaviour(["a"], "love")  # another criterion is another question
    assert len(server.requests) == 3


def test_another_model_server_or_setting_is_another_question(server, make, monkeypatch):
    make().coherence(["a"])
    make(json_mode=False).coherence(["a"])
    monkeypatch.setenv("FGAA_JUDGE_MODEL", "other")
    make().coherence(["a"])
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://localhost:{server.port}/v1/")
    make().coherence(["a"])
    make().coherence(["a"])
    assert len(server.requests) == 4


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_record_that_was_cut_is_asked_again_and_no_other(server, make, tmp_path, cut):
    scores = make().coherence(TEXTS[:4])
    path = tmp_path / "cache.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    server.requests.clear()
    assert make().coherence(TEXTS[:4]).tolist() == scores.tolist()
    assert server.texts == ([] if cut == 1 else [TEXTS[3]])  # 1: only the line's end is gone
    server.requests.clear()
    make().coherence(TEXTS[:4])
    assert not server.requests and sum(map(len, path.read_bytes().splitlines())) >= len(whole) - 4


RUN = """
import sys
from pathlib import Path
from fgaa_utils.judges.server import ServerJudge
judge = ServerJudge.from_environment([], Path(sys.argv[1]), concurrency=2, timeout=5, attempts=1)
judge.coherence([f"I think text number {i}" for i in range(40)])
"""


def test_a_killed_run_goes_on_where_it_was(server, make, tmp_path):
    server.delay = 0.05
    log = tmp_path / "log.txt"
    with log.open("w") as err:
        run = subprocess.Popen([sys.executable, "-c", RUN, tmp_path / "cache.jsonl"], cwd=ROOT, stderr=err)
    while len(server.requests) < 12:
        assert run.poll() is None, log.read_text()
        time.sleep(0.01)
    run.kill()
    run.wait()
    while server.in_flight:
        time.sleep(0.01)
    first = set(server.texts)
    server.requests.clear()
    server.delay = 0.0
    texts = [f"I think text number {i}" for i in range(40)]
    judge = make(concurrency=4)
    assert judge.coherence(texts).tolist() == [6 / 9] * 40
    assert first | set(server.texts) == set(texts) and len(first & set(server.texts)) <= 2  # what was in flight
    assert len(server.requests) == 40 - judge.report()["cached"] < 32
    assert SECRET not in log.read_text()


def test_the_key_is_nowhere(server, make, tmp_path, caplog, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    echo = f"Incorrect API key {SECRET} in Bearer {SECRET}"
    errors = []
    with caplog.at_level(logging.DEBUG):
        judge = make(timeout=0.3, retries=1)
        server.script = [echo] * 5
        judge.behaviour(["a"], "love")
        for script in ([refusal(401, echo)], [PlainTextResponse(echo, 403)], [0.7, 0.7], [PlainTextResponse(echo)]):
            server.script = script
            with pytest.raises(ServerError) as caught:
                judge.coherence(["b"])
            errors += traceback.format_exception(caught.value)
            error = caught.value
            while error := error.__cause__ or error.__context__:
                errors += [str(error), repr(error)]
    shown = [caplog.text, repr(judge), str(vars(judge)), str(judge.report()), *capfd.readouterr(), *errors]
    shown += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert "Incorrect API key ***" in "".join(errors) and "the last said 'Incorrect API key ***" in caplog.text
    assert "chat/completions" in caplog.text
    assert not [text for text in shown if SECRET in text]


def test_works_where_an_event_loop_runs_already(server, make):
    async def cell():
        return make(concurrency=2).coherence(["a", "b"])

    assert asyncio.run(cell()).tolist() == [6 / 9] * 2


def test_the_estimate_counts_what_is_not_cached(server, make):
    judge = make()
    judge.coherence(["a"])
    asked = sum(len(message["content"]) for message in server.requests[0]["messages"])
    found = judge.estimate({"coherence": ["a", "b", "c", "b"], "love": []})
    assert found["requests"] == 2 and found["approximate_prompt_tokens"] == asked * 2 // 4
    assert "approximate_cost" not in found
    priced = make(prices=(3.0, 5.0)).estimate({"coherence": ["b", "c"]})
    tokens = found["approximate_prompt_tokens"], found["approximate_completion_tokens"]
    assert priced["approximate_cost"] == pytest.approx((3 * tokens[0] + 5 * tokens[1]) / 1e6)
    assert len(server.requests) == 1
    with pytest.raises(ValueError, match="unknown criterion 'lov'"):
        judge.estimate({"lov": ["a"]})


def test_the_time_is_told_from_one_answer_which_is_kept(server, make):
    server.delay = 0.3
    judge = make(concurrency=4)
    found = judge.estimate({"coherence": TEXTS, "love": TEXTS}, timed=True)
    assert len(server.requests) == 1 and found["requests"] == 24
    assert 0.3 * 24 / 4 / 60 <= found["approximate_minutes"] < 5 * 0.3 * 24 / 4 / 60
    assert judge.estimate({"coherence": TEXTS})["requests"] == 11
    judge.coherence(TEXTS)
    assert "approximate_minutes" not in judge.estimate({"coherence": TEXTS}, timed=True)


BESIDE_NNSIGHT = """
import nnsight
assert hasattr(object(), "save")
import fgaa_utils.model.lm
import sys
from pathlib import Path
from fgaa_utils.judges.server import ServerJudge
judge = ServerJudge.from_environment([], Path(sys.argv[1]), concurrency=2, timeout=5, attempts=1)
print(judge.coherence(["a", "b"]).tolist())
"""


def test_the_client_works_after_nnsight(server, tmp_path):
    """nnsight gives every object a `save`, which anyio's classes of attributes refuse. A process of its own, for
    pytest loads anyio first."""
    command = [sys.executable, "-c", BESIDE_NNSIGHT, tmp_path / "cache.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[-2] == str([6 / 9] * 2)


def test_a_behaviour_may_not_be_called_coherence(tmp_path, server):
    behaviour = Behaviour("coherence", "Coherence", "It is coherent.", (), (), (), ())
    with pytest.raises(ValueError, match="a behaviour is called 'coherence'"):
        ServerJudge.from_environment([behaviour], tmp_path / "cache", concurrency=1, timeout=1, attempts=1)


@pytest.fixture
def transformers_server(tmp_path, monkeypatch):
    """(log file) of `transformers serve` on a free port."""
    folder = MODEL / "smollm2-135m-instruct"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{folder} is not there; run `dvc repro model`")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("FGAA_JUDGE_MODEL", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    command = [
        Path(sys.executable).parent / "transformers",
        "serve",
        folder,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = tmp_path / "server.log"
    with log.open("w") as file:
        # One thread: several that wait for each other at every layer are many times slower on a busy machine.
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    try:
        for _ in range(500):
            assert process.poll() is None, log.read_text()
            try:
                httpx2.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        yield log
    finally:
        process.kill()
        process.wait()


@pytest.mark.real
def test_a_real_server_with_a_small_model(transformers_server, tmp_path, caplog):
    cache = tmp_path / "cache.jsonl"
    judge = ServerJudge.from_environment([LOVE], cache, concurrency=2, timeout=50, attempts=1, retries=0)
    texts = ["I think I love you with all my heart.", "I think that of the the table seven seven."]
    scores = np.concatenate([judge.behaviour(texts, "love"), judge.coherence(texts)])
    report = judge.report()
    print(scores, report, cache.read_text(), caplog.text, sep="\n")
    assert report["asked"] == 4 and report["prompt_tokens"] > 400 and report["completion_tokens"] > 0
    assert report["missing"] == np.isnan(scores).sum()
    answers = [json.loads(line)["score"] for line in cache.read_text().splitlines()]
    assert sorted((np.array(answers) - 1) / 9) == sorted(scores[~np.isnan(scores)].tolist())
    assert SECRET not in transformers_server.read_text()
