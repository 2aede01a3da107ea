"""The audit log: what stands in it after a real session, and that no line of it can be touched without being found."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import hmac
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import ASKED, serving, status_of
from slmops.cli import main
from slmops.core.errors import Busy, UsageError, VerificationFailed
from slmops.serve import audit, chain
from slmops.serve.request import Caller, Outcome, Request, Served

pytestmark = needs("starlette", "uvicorn")
SECRETS = {
    "mail": "ann.lee+x@mail.example.co.uk",
    "key": "slm_abcdefghijklmnopqrstuvwxyz0123456789",
    "openai": "sk-proj-abcdefghijklmnop1234",
    "card": "4111 1111 1111 1111",
    "phone": "+49 170 1234567",
    "password": "hunter2hunter2",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh",
}


def lines(folder: Path) -> list[dict[str, Any]]:
    return list(chain.entries(folder))


def outcome(model: str = "home", who: str = "ann", prompt: str = "x", reason: str = "stop") -> Outcome:
    made = Outcome(Request(model, prompt=prompt), Caller(who))
    made.reason, made.ended, made.prompt_tokens, made.tokens = reason, made.asked + 0.25, 7, 5
    made.served = Served(model, "sha256:" + "ab" * 32, "llamacpp", "q8", "stable")
    return made


@contextlib.contextmanager
def writing(folder: Path, **more: Any) -> Iterator[audit.Audit]:
    log = audit.Audit(folder, **more)
    try:
        yield log
    finally:
        log.close()


@pytest.fixture(scope="module")
def session(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of a real server that was asked, refused and restarted, in several files."""
    import openai

    folder = tmp_path_factory.mktemp("session")
    for name, role in (("ann", "user"), ("root", "admin")):
        assert main(["keys", "create", name, "--keys", str(folder / "keys.yaml"), "--role", role, "--models", "home*"]) == 0
    from slmops.serve import keys

    with keys.changing(folder / "keys.yaml") as found:  # so that the test knows them
        import dataclasses

        for name in found:
            found[name] = dataclasses.replace(found[name], sha256=keys.mark(f"slm_{name}-{'x' * 40}"))
    words = (f"home={made / 'gguf'}", "--keys", folder / "keys.yaml", "--audit", folder / "audit", "--context", "512")
    for _ in range(2):
        with serving(*words) as (url, process):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=f"slm_ann-{'x' * 40}", max_retries=0)
            ask = client.chat.completions.create
            ask(model="home", messages=ASKED, temperature=0, max_tokens=4)  # type: ignore[call-overload]
            list(ask(model="home", messages=ASKED, temperature=0, stream=True))  # type: ignore[call-overload]
            with pytest.raises(openai.PermissionDeniedError):
                ask(model="others", messages=ASKED)  # type: ignore[call-overload]
            with pytest.raises(openai.NotFoundError):
                ask(model="home-none", messages=ASKED)  # type: ignore[call-overload]
            assert status_of(f"{url}/v1/models", {"Authorization": "Bearer nothing"}) == 401
            assert status_of(f"{url}/slmops/models", {"Authorization": f"Bearer slm_ann-{'x' * 40}"}) == 403
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    return folder / "audit"


@pytest.mark.slow
def test_a_real_session_stands_in_it(session: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(session)
    assert [one["seq"] for one in found] == list(range(len(found)))
    assert [one["what"] for one in found if one["what"] in ("started", "ended")] == ["started", "ended"] * 2
    asked = [one for one in found if one["what"] == "asked"]
    assert {(one["who"], one["model"], one["outcome"]) for one in asked} >= {
        ("ann", "home", "length"), ("ann", "others", "PolicyRefused"), ("ann", "home-none", "SourceNotFound"),
    }  # fmt: skip
    whole = next(one for one in asked if one["outcome"] == "length")
    assert whole["tokens"] == 4 and whole["prompt_tokens"] > 5 and whole["role"] == "user"
    assert {(one["who"], one["status"]) for one in found if one["what"] == "refused"} == {("nobody", 401), ("ann", 403)}
    text = "".join(path.read_text() for path in session.iterdir() if path.is_file())
    assert "kitchen" not in text and "slm_" not in text  # neither prompts nor keys
    assert all((path.stat().st_mode & 0o077) == 0 for path in [session, *chain.files(session), session / chain.HEAD])
    capsys.readouterr()
    assert main(["audit", "verify", str(session), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["lines"] == len(found) and not report["faults"] and not report["torn"] and not report["beyond"]
    assert main(["audit", "search", str(session), "--who", "ann", "--outcome", "length", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [one for one in asked if one["outcome"] == "length"]
    assert main(["audit", "search", str(session), "--since", "1h", "--model", "oth*", "--json"]) == 0
    assert [one["model"] for one in json.loads(capsys.readouterr().out)] == ["others", "others"]
    assert main(["audit", "search", str(session), "--until", "1h"]) == 0
    assert capsys.readouterr().out == "no such line\n"


def touched(folder: Path, report: chain.Report | None = None) -> bool:
    try:
        return bool(chain.verify(folder).faults)
    except Exception as error:
        return type(error).__name__ in ("SourceNotFound",)


@pytest.mark.slow
def test_no_line_of_it_can_be_touched(session: Path, tmp_path: Path) -> None:
    """Every byte flipped, every line dropped, doubled, swapped with every other, and every truncation at a line's end."""
    (path,) = chain.files(session)
    whole = path.read_bytes()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / chain.HEAD).write_bytes((session / chain.HEAD).read_bytes())
    target, rows, tried = copy / path.name, whole.splitlines(keepends=True), 0

    def found(data: bytes) -> bool:
        nonlocal tried
        tried += 1
        target.write_bytes(data)
        return touched(copy)

    assert len(rows) > 12 and not found(whole)
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << at % 7
        assert found(bytes(flipped)), at
    for i in range(len(rows)):
        assert found(b"".join(rows[:i] + rows[i + 1 :])), i
        assert found(b"".join(rows[: i + 1] + rows[i:])), i
        assert found(b"".join(rows[:i])), i
        assert found(b"".join(rows[i + 1 :])), i
        forged = json.dumps({**json.loads(rows[i]), "who": "mallory"}, separators=(",", ":")).encode() + b"\n"
        assert found(b"".join([*rows[:i], forged, *rows[i + 1 :]])), i
        for j in range(i):
            swapped = rows.copy()
            swapped[i], swapped[j] = swapped[j], swapped[i]
            assert found(b"".join(swapped)), (i, j)
    for at in range(0, len(whole) - 1, 5):
        assert found(whole[:at]), at
    target.write_bytes(whole)
    for head in ("", "{}", json.dumps({"seq": 3, "hash": "0" * 64}), json.dumps({"seq": 10**6, "hash": "0" * 64})):
        (copy / chain.HEAD).write_text(head)
        assert touched(copy), head
    (copy / chain.HEAD).unlink()
    assert touched(copy)
    print(f"{tried} changes to a log of {len(rows)} lines, all of them found")


def test_a_log_made_anew_is_found_by_its_key_or_a_noted_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = b"k" * 32
    (tmp_path / "key").write_bytes(key)
    for name, used in (("plain", None), ("keyed", key)):
        with writing(tmp_path / name, key=used) as log:
            log.ended(outcome())
        noted = chain.verify(tmp_path / name, used)
        # All is written anew by who knows how it is made, and has no key.
        facts, last, text = lines(tmp_path / name), chain.FIRST, b""
        for one in facts:
            row = chain.line({**one, **({"who": "mallory"} if "who" in one else {}), "prev": last})
            last, text = hashlib.sha256(row).hexdigest(), text + row + b"\n"
        chain.files(tmp_path / name)[0].write_bytes(text)
        (tmp_path / name / chain.HEAD).write_text(json.dumps({"seq": facts[-1]["seq"], "hash": last}))
        assert bool(chain.verify(tmp_path / name, used).faults) == (used is not None)
        words = ["audit", "verify", str(tmp_path / name), *(["--key", str(tmp_path / "key")] if used else [])]
        assert main([*words, "--head", f"{noted.seq}:{noted.hash}"]) == VerificationFailed.exit_code
        assert "tampered" in capsys.readouterr().err


def test_hashes_are_what_anyone_can_compute(tmp_path: Path) -> None:
    for key in (None, b"k" * 32):
        folder = tmp_path / str(bool(key))
        with writing(folder, key=key) as log:
            log.ended(outcome())
        last = "0" * 64
        for row in chain.files(folder)[0].read_bytes().splitlines():
            assert json.loads(row)["prev"] == last
            last = hmac.new(key, row, "sha256").hexdigest() if key else hashlib.sha256(row).hexdigest()
        assert json.loads((folder / "head.json").read_text())["hash"] == last


def test_a_torn_last_line_is_a_crash_and_no_tampering(tmp_path: Path) -> None:
    with writing(tmp_path / "log") as log:
        log.ended(outcome())
    (path,) = chain.files(tmp_path / "log")
    whole, head = path.read_bytes(), (tmp_path / "log" / chain.HEAD).read_bytes()
    report = chain.verify(tmp_path / "log")
    row = chain.line({"seq": report.seq + 1, "at": "2026-11-22T00:00:00Z", "what": "asked", "who": "a", "prev": report.hash,
                      "prompt_tokens": 1, "tokens": 1}) + b"\n"  # fmt: skip
    for at in range(1, len(row) + 1, 7):
        path.write_bytes(whole + row[:at])
        (tmp_path / "log" / chain.HEAD).write_bytes(head)
        before = chain.verify(tmp_path / "log")
        assert not before.faults and before.torn == (at if at < len(row) else 0)
        with writing(tmp_path / "log"):
            pass
        after = chain.verify(tmp_path / "log")
        started = [one for one in lines(tmp_path / "log") if one["what"] == "started"][-1]
        assert not after.faults and not after.torn and started.get("torn", 0) == before.torn
    path.write_bytes(whole + row)  # whole, but its head had not moved on yet: it counts
    (tmp_path / "log" / chain.HEAD).write_bytes(head)
    assert chain.verify(tmp_path / "log").beyond == 1
    with writing(tmp_path / "log"):
        assert dict(log.used(0.0))["a"] == 2
    path.write_bytes(path.read_bytes()[:-5])  # its head knew the whole line: that was no crash
    with pytest.raises(VerificationFailed):
        audit.Audit(tmp_path / "log")
    path.write_bytes(b"")
    with pytest.raises(VerificationFailed):
        audit.Audit(tmp_path / "log")


@pytest.mark.slow
def test_a_killed_server_loses_nothing_that_was_answered(made: Path, tmp_path: Path) -> None:
    import openai

    for number in range(2):
        with serving(f"home={made / 'gguf'}", "--audit", tmp_path / "audit") as (url, process):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
            for _ in range(3):
                client.chat.completions.create(model="home", messages=ASKED, temperature=0, max_tokens=2)  # type: ignore[call-overload]
            time.sleep(0.5)
            process.kill()
            process.wait(30)
        assert not chain.verify(tmp_path / "audit").faults
        assert sum(one["what"] == "asked" for one in lines(tmp_path / "audit")) == 3 * (number + 1)


@pytest.mark.slow
def test_files_follow_each_other_and_go_when_they_are_old(tmp_path: Path) -> None:
    clock = [time.time() - 40 * 86400]
    for _ in range(6):
        with writing(tmp_path / "log", most_file=2000, keep_days=15, now=lambda: clock[0]) as log:
            for _ in range(10):
                log.ended(outcome())
                time.sleep(0.03)
        clock[0] += 5 * 86400
        report = chain.verify(tmp_path / "log")
        assert not report.faults, report
    assert report.first > 0 and report.files >= 2
    kept = lines(tmp_path / "log")
    assert {"continued", "retired"} <= {one["what"] for one in kept}
    oldest = chain.files(tmp_path / "log")[0]
    oldest.unlink()  # what nobody retired is missing
    assert any("missing" in fault for fault in chain.verify(tmp_path / "log").faults)
    middle = chain.files(tmp_path / "log")[1]
    middle.rename(middle.with_name("999999.jsonl"))
    assert chain.verify(tmp_path / "log").faults


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with writing(tmp_path / "log"), pytest.raises(Busy):
        audit.Audit(tmp_path / "log")


def test_what_cannot_be_written_is_not_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: requests are refused until it is written again, and nothing is lost or doubled."""
    real, full = os.write, [True]

    def short(handle: int, data: Any) -> int:
        if full[0] and handle == log._file:
            real(handle, bytes(data)[:11])
            raise OSError(28, "No space left on device")
        return real(handle, data)

    with writing(tmp_path / "log") as log:
        log.admit(Request("home"), Caller("ann"))
        time.sleep(0.2)
        monkeypatch.setattr(os, "write", short)
        log.ended(outcome())
        time.sleep(0.3)
        with pytest.raises(Busy):
            log.admit(Request("home"), Caller("ann"))
        full[0] = False
        time.sleep(1.3)
        log.admit(Request("home"), Caller("ann"))
    assert not chain.verify(tmp_path / "log").faults
    assert [one["what"] for one in lines(tmp_path / "log")] == ["started", "asked", "ended"]


def test_refusals_cannot_fill_the_disk(tmp_path: Path) -> None:
    clock = [1e9]
    with writing(tmp_path / "log", now=lambda: clock[0]) as log:
        for _ in range(1000):
            log.refused("nobody", "G" * 999, "/" + "x" * 5000, 401)
        clock[0] += 61
        log.refused("nobody", "GET", "/", 401)
    found = [one for one in lines(tmp_path / "log") if one["what"] == "refused"]
    assert len(found) == audit.REFUSALS + 2 and found[-2]["more"] == 1000 - audit.REFUSALS
    assert max(map(len, chain.files(tmp_path / "log")[0].read_bytes().splitlines())) < 600


def test_prompts_are_written_when_asked_for_without_secrets(tmp_path: Path) -> None:
    said = "turn on the light. " + " ".join(
        f"password: {text}" if name == "password" else text for name, text in SECRETS.items()
    )
    for prompts in (False, True):
        folder = tmp_path / str(prompts)
        with writing(folder, redactor=audit.Redactor([r"(?i)lights?"]) if prompts else None) as log:
            log.ended(outcome(prompt=said + " the end"))
            log.ended(outcome(prompt="x" * (audit.MOST_READ - 20) + SECRETS["key"]))
        text = chain.files(folder)[0].read_text()
        assert not [name for name, secret in SECRETS.items() if secret in text] and "slm_abc" not in text
        assert ("turn on the [redacted]" in text and "the end" in text) == prompts
        assert max(map(len, text.splitlines())) < audit.MOST_TEXT + 1000
    with pytest.raises(UsageError):
        audit.Redactor(["("])


def test_prompts_of_every_kind_are_written(tmp_path: Path) -> None:
    """Tokens in place of text once ended the thread that writes: whoever sent some asked unseen from then on."""
    tokens, texts = outcome(), outcome()
    tokens.original = Request("home", prompt=(101, 7592, 102))
    texts.original = Request("home", texts=("the first text", SECRETS["key"]))
    with writing(tmp_path / "log", redactor=audit.Redactor()) as log:
        log.ended(tokens)
        log.ended(texts)
    assert [one.get("prompt") for one in lines(tmp_path / "log")] == [
        None, "101, 7592, 102", "the first text\n[redacted]", None,
    ]  # fmt: skip


def test_whatever_goes_wrong_with_a_line_nothing_happens_unlogged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that nobody thought of, in the thread that writes: requests and changes are refused, and the line is kept."""
    import asyncio

    from serve import guarded

    real, broken = chain.line, [True]

    def line(facts: dict[str, Any]) -> bytes:
        if broken[0] and facts["what"] == "asked":
            raise ValueError("a defect")
        return real(facts)

    monkeypatch.setattr(chain, "line", line)
    with writing(tmp_path / "log") as log:
        app = guarded.built(guarded.keys_file(tmp_path), told=log)

        def removed() -> tuple[int, dict[str, str], bytes]:
            headers = {"X-Api-Key": guarded.KEYS["admin"], "Content-Type": "application/json"}
            return asyncio.run(guarded.ask(app, "DELETE", "/api/delete", headers, b'{"model": "home"}'))

        assert removed()[0] == 403
        log.ended(outcome())
        time.sleep(0.3)
        with pytest.raises(Busy):
            log.admit(Request("home"), Caller("ann"))
        code, headers, _ = removed()
        assert code == 429 and int(headers["retry-after"]) > 0
        broken[0] = False
        time.sleep(1.3)
        assert removed()[0] == 403
    assert [one["what"] for one in lines(tmp_path / "log")] == ["started", "changed", "asked", "changed", "ended"]


def test_signing_in_and_out_of_the_page_stands_in_it(tmp_path: Path) -> None:
    import asyncio

    from serve import guarded

    key = {"Authorization": f"Bearer {guarded.KEYS['user']}"}
    with writing(tmp_path / "log") as log:
        app = guarded.built(guarded.keys_file(tmp_path), told=log)
        assert asyncio.run(guarded.ask(app, "POST", "/slmops/session", key))[0] == 201
        assert asyncio.run(guarded.ask(app, "GET", "/slmops/session", key))[0] == 200
        assert asyncio.run(guarded.ask(app, "DELETE", "/slmops/session", key))[0] == 204
    found = [(one["who"], one["method"], one["path"], one["status"]) for one in lines(tmp_path / "log")[1:-1]]
    assert found == [("user", "POST", "/slmops/session", 201), ("user", "DELETE", "/slmops/session", 204)]


def test_export_is_what_was_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing(tmp_path / "log") as log:
        log.ended(outcome(model="=cmd|' /C calc'!A0"))
        log.ended(outcome(model='a,"b"\nc'))
        log.changed(
            Caller("root", "admin"), "POST", "/api/pull", 200, {"model": "x:1", "digest": "sha256:1", "password": "no"}
        )
    assert main(["audit", "export", str(tmp_path / "log"), "--csv", "-o", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["what"] for row in rows] == ["started", "asked", "asked", "changed", "ended"]
    assert rows[1]["model"].startswith("'=") and rows[2]["model"] == 'a,"b"\nc' and rows[3]["who"] == "root"
    assert rows[1]["digest"] == "sha256:" + "ab" * 32
    capsys.readouterr()
    assert main(["audit", "export", str(tmp_path / "log")]) == 0
    text = capsys.readouterr().out
    assert [json.loads(row) for row in text.splitlines()] == lines(tmp_path / "log") and "password" not in text


def test_who_changed_what_stands_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real routes: what Ollama's clients have removed and copied, by whom, and that it failed."""
    import asyncio

    from serve import guarded
    from slmops.serve.names import Entry

    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    with writing(tmp_path / "log") as log:
        app = guarded.built(guarded.keys_file(tmp_path), rest=Entry(""), told=log)

        async def all_of() -> None:
            for role, method, path, body in (
                ("admin", "DELETE", "/api/delete", {"model": "gone:v1"}),
                ("operator", "POST", "/api/copy", {"source": "gone:v1", "destination": "there:v2"}),
                ("user", "DELETE", "/api/delete", {"model": "gone:v1"}),
                ("operator", "GET", "/models/load/gone", None),
            ):
                headers = {"X-Api-Key": guarded.KEYS[role], "Content-Type": "application/json"}
                await guarded.ask(app, method, path, headers, json.dumps(body).encode() if body else b"")

        asyncio.run(all_of())
    found = [one for one in lines(tmp_path / "log") if one["what"] in ("changed", "refused")]
    assert [(one["who"], one["path"], one.get("model"), one.get("to")) for one in found] == [
        ("admin", "/api/delete", "gone:v1", None), ("operator", "/api/copy", "gone:v1", "there:v2"),
        ("user", "/api/delete", None, None), ("operator", "/models/load/gone", "gone", None),
    ]  # fmt: skip
    assert [one["status"] >= 400 for one in found] == [True] * 4 and found[2]["what"] == "refused"


def test_what_a_name_stands_for_after_a_change_stands_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digest a tag moved to or was taken from; and nobody reaches a model that is not theirs by copying it."""
    import asyncio

    import filed
    from serve import guarded
    from slmops.registry import Registry, references
    from slmops.serve import keys
    from slmops.serve.names import Entry

    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    with Registry.open() as registry:
        digest = registry.add(filed.artifact(tmp_path / "made"), references.named("home:v1"))
        registry.tag(digest, references.named("secret:v1"))
    few = keys.Key(Caller("few", "operator", ("home*",)), keys.mark("few" * 20))
    asked = (
        ("/api/copy", {"source": "home:v1", "destination": "home:v2"}, 200),
        ("/api/copy", {"source": "secret:v1", "destination": "home:v3"}, 403),
        ("/api/copy", {"source": "home:v1", "destination": "secret:v1"}, 403),
        ("/api/create", {"model": "home:v3", "from": "secret:v1", "stream": False}, 403),
        ("/api/create", {"model": "home:v3", "from": "none", "stream": False}, 403),
        ("/api/create", {"model": "home:v3", "from": "home:v9", "stream": False}, 404),
        ("/models/unload/secret:v1", None, 403),
        ("/models/unload/home:v1", None, 200),
    )
    with writing(tmp_path / "log") as log:
        app = guarded.built(guarded.keys_file(tmp_path, few=few), rest=Entry(""), told=log)
        headers = {"X-Api-Key": "few" * 20, "Content-Type": "application/json"}
        for path, body, status in asked:
            found = asyncio.run(guarded.ask(app, "POST", path, headers, json.dumps(body).encode() if body else b""))
            assert found[0] == status, (path, body, found)
    told = [one for one in lines(tmp_path / "log") if one["what"] == "changed"]
    assert [one["status"] for one in told] == [status for *_, status in asked]
    assert [one.get("digest") for one in told] == [digest, None, None, None, None, None, None, digest]
    assert told[0]["to"] == "home:v2" and told[5]["outcome"] == "SourceNotFound"
