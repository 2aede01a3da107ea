"""How the server is seen from outside: health, logs, ps, its configuration file, and that it calls nobody."""

from __future__ import annotations

import json
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

from needs import needs
from serve.serving import ANSWER, ASKED, serving
from slmops.core.errors import CorruptInput, SourceNotFound

pytestmark = [pytest.mark.slow, needs("starlette", "uvicorn", "xllamacpp", "onnxruntime_genai")]

SECRET = "zebra-in-the-cellar"


def asked(url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {name.replace("_", "-"): value for name, value in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()


def chat(url: str, model: str, text: str = str(ASKED[0]["content"]), **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 40}
    return asked(f"{url}/v1/chat/completions", body, **headers)


def answered(url: str, model: str) -> Any:
    status, _, body = chat(url, model)
    assert status == 200, body
    return json.loads(json.loads(body)["choices"][0]["message"]["content"])


def within(seconds: float, true: Any) -> bool:
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def verb(*words: object) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-m", "slmops", *map(str, words)], capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_log_has_ids_and_no_prompt(made: Path) -> None:
    with serving(f"home={made / 'gguf'}", "--log-format", "json", "--log-level", "debug") as (url, process):
        status, headers, _ = chat(url, "home", SECRET, x_request_id="mine-1.2:3")
        assert status == 200 and headers["x-request-id"] == "mine-1.2:3"
        for hostile in ("a" * 129, "with space", 'quote"', "é", ""):
            assert asked(f"{url}/health/live", x_request_id=hostile)[1]["x-request-id"].startswith("req_")
        assert chat(url, f"no-{SECRET}")[0] == 404
        assert asked(f"{url}/nowhere")[0] == 404 and asked(f"{url}/health/live", Host="evil.example")[0] == 403
        (worker,) = [
            one
            for one in psutil.Process(process.pid).children(recursive=True)
            if "engines._worker" in " ".join(one.cmdline())
        ]
        worker.suspend()
        threading.Timer(0.5, worker.kill).start()
        status, headers, body = chat(url, "home", SECRET)
        assert status == 503 and b"last words" not in body
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert SECRET not in said and all({"time", "level", "event"} <= one.keys() for one in lines)
    requests = {one["request"]: one for one in lines if one["event"] == "request"}
    first = requests["mine-1.2:3"]
    assert (
        first["status"] == 200
        and first["model"] == "home"
        and first["engine"] == "llamacpp"
        and first["reason"] in ("stop", "length")
    )
    assert (
        first["who"] == "anyone" and first["prompt_tokens"] > 5 and 0 < first["queued"] <= first["first"] <= first["ended"]
    )
    assert len(requests) == 10
    died = requests[headers["x-request-id"]]
    assert died["status"] == 503 and died["reason"] == "EngineCrashed" and "SIGKILL" in died["fault"]
    assert {"loaded", "its worker died"} <= {one["event"] for one in lines}


def test_health_is_off_the_engines_path(made: Path) -> None:
    """Answers within milliseconds while every core computes; ready when what is pinned is loaded, and not while it ends."""
    with serving(f"home={made / 'gguf'}", "--pin", "home", "--context", "2048", "--parallel", "4") as (url, process):
        first = asked(f"{url}/health/ready")
        assert first[0] in (200, 503) and asked(f"{url}/health/live")[0] == 200
        assert within(30, lambda: asked(f"{url}/health/ready")[0] == 200) and asked(f"{url}/health/startup")[0] == 200
        ended = threading.Event()

        def load() -> None:
            body = {"model": "home", "prompt": "x", "temperature": 2, "seed": 1, "max_tokens": 1500}
            while not ended.is_set():
                asked(f"{url}/v1/completions", body)

        asking = [threading.Thread(target=load, daemon=True) for _ in range(4)]
        for one in asking:
            one.start()
        time.sleep(0.5)
        took = []
        for _ in range(60):
            began = time.perf_counter()
            status, _, body = asked(f"{url}/health/live")
            took.append(time.perf_counter() - began)
            assert status == 200 and json.loads(body) == {"status": "live"}
            time.sleep(0.01)
        ended.set()
        for one in asking:
            one.join(60)
            assert not one.is_alive()
        # A connection of its own each time; the machine's other work is in it.
        assert statistics.median(took) < 0.05, took
        for worker in psutil.Process(process.pid).children(recursive=True):
            worker.kill()
        # One that died while nobody asked is there again, for it is pinned.
        assert within(30, lambda: asked(f"{url}/health/ready")[0] == 503)
        assert within(30, lambda: asked(f"{url}/health/ready")[0] == 200)
        assert asked(f"{url}/health/startup")[0] == 200 and answered(url, "home") == ANSWER


def test_ps_and_a_configuration_that_changes(made: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    config.write_text(
        f"memory: 2GiB\nkeep_alive: 1h\nmodels:\n"
        f"  - name: home\n    source: {made / 'gguf'}\n    context: 256\n    pin: true\n    alias: [production]\n"
        f"  - {{name: other, source: {made / 'onnx'}, keep_alive: always, parallel: 2}}\n"
    )
    keys, table = tmp_path / "key", tmp_path / "keys.yaml"
    code, said, _ = verb("keys", "create", "ann", "--keys", table, "--role", "operator", "--json")
    assert code == 0
    key = json.loads(said)["key"]
    keys.write_text(f"{key}\n")
    with serving("--config", config, "--keys", table, "--log-format", "json") as (url, process):
        bearer = {"Authorization": f"Bearer {key}"}
        assert verb("ps", "--url", url)[0] == 15 and verb("ps", "--url", "http://127.0.0.1:9")[0] == 16
        for name in ("production", "other"):
            assert chat(url, name, **bearer)[0] == 200
        code, said, _ = verb("ps", "--url", url, "--key-file", keys)
        assert code == 0
        rows = {line.split()[0].rstrip(","): line for line in said.splitlines()}
        assert "llamacpp" in rows["home"] and "pinned" in rows["home"] and "production" in rows["home"]
        assert "onnxruntime" in rows["other"] and "always" in rows["other"] and "MB" in rows["other"]
        code, said, _ = verb("ps", "--url", url, "--key-file", keys, "--json")
        assert {one["name"]: one["pinned"] for one in json.loads(said)} == {"home": True, "other": False}
        # What is wrong changes nothing; what is right is served from the next request on.
        config.write_text(config.read_text().replace("alias", "allias"))
        process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert chat(url, "production", **bearer)[0] == 200
        config.write_text(config.read_text().replace("allias: [production]", "alias: [canary]"))
        process.send_signal(signal.SIGHUP)
        assert within(10, lambda: chat(url, "production", **bearer)[0] == 404) and chat(url, "canary", **bearer)[0] == 200
        process.terminate()
        assert "did you mean" in (log := process.communicate(timeout=30)[1]) or "is 'alias' meant?" in log


@pytest.mark.parametrize(
    ("text", "fault", "said"),
    [
        ("modles: []", CorruptInput, "line 1.*unknown key 'modles'"),
        ("models:\n  - {name: a, source: nowhere/at all}", SourceNotFound, "no folder"),
        ("models:\n  - {name: a, source: b, context: -1}", CorruptInput, r"line 2.*context"),
        ("models:\n  - {name: a, colour: red}", CorruptInput, "unknown key 'colour'"),
        ("memory: much", CorruptInput, "line 1.*memory"),
        ("models: [{name: '../a'}]", CorruptInput, "name"),
        ("keep_alive: soon", CorruptInput, "keep_alive"),
        ("- a", CorruptInput, "line 1"),
    ],
)
def test_a_faulty_configuration_names_the_line(text: str, fault: type[Exception], said: str, tmp_path: Path) -> None:
    from slmops.serve import setup
    from slmops.serve.names import Entry

    (tmp_path / "serve.yaml").write_text(text)
    with pytest.raises(fault, match=said):
        setup.read(tmp_path / "serve.yaml", Entry(""))


@pytest.mark.skipif(not shutil.which("unshare"), reason="not installed: unshare; apt-get install util-linux")
def test_it_starts_and_answers_without_a_network_and_calls_nobody(made: Path, tmp_path: Path) -> None:
    """In a network namespace that has a loopback and nothing else; strace, where it is there, sees every connect."""
    probe = ["unshare", "--net", "--map-root-user", "--user", "true"]
    if subprocess.run(probe, capture_output=True, timeout=60).returncode:
        pytest.skip("this machine lets nobody make network namespaces")
    trace = tmp_path / "trace"
    tracer = f"strace -f -qq -e trace=connect,sendto -o {trace} " if shutil.which("strace") else ""
    look = 'import urllib.request as u; u.urlopen("http://127.0.0.1:8080/health/ready", timeout=10)'
    serve = f"{sys.executable} -m slmops serve home={made / 'gguf'} --pin home --port 8080 --log-format json"
    script = f"""ip link set lo up || python3 -c 'import fcntl,socket,struct
s=socket.socket(); fcntl.ioctl(s,0x8914,struct.pack("16sH14x",b"lo",0x49))'
{tracer} sh -c 'echo $$ > {tmp_path / "pid"}; exec {serve}' &
for i in $(seq 100); do {sys.executable} -c '{look}' 2>/dev/null && break; sleep 0.2; done
{sys.executable} -c 'import json, sys, urllib.request as u
print(u.urlopen("http://127.0.0.1:8080/v1/chat/completions", sys.argv[1].encode(), timeout=60).read().decode())' "$1"
kill $(cat {tmp_path / "pid"}); wait
"""
    body = json.dumps({"model": "home", "messages": ASKED, "temperature": 0})
    words = ["unshare", "--net", "--map-root-user", "--user", "sh", "-c", script, "sh", body]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    answer = next(line for line in done.stdout.splitlines() if line.startswith("{"))
    assert json.loads(json.loads(answer)["choices"][0]["message"]["content"]) == ANSWER, done.stderr
    if tracer:
        called = [
            line
            for line in trace.read_text().splitlines()
            if "AF_INET" in line and "127.0.0.1" not in line and "::1" not in line
        ]
        assert not called, called
