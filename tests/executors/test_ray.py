"""--executor ray on a real cluster: a head that computes nothing, two workers, token authentication on."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import children
from conftest import SAMPLE
from searched import CALM, remembered, unchanged
from slmops import cli
from slmops.core import plugins
from slmops.core.errors import EngineMissing, UsageError
from slmops.executors.ray import Nodes

RAY = Path(sys.executable).with_name("ray")
SECONDS = 300
no_ray = pytest.mark.skipif(not RAY.exists(), reason="not installed: ray; pip install 'slmops[ray]'")


def command(out: Path, budget: str = "1h") -> list[str]:
    words = [sys.executable, "-m", "slmops", "optimize", str(SAMPLE), "-o", str(out), "--format", "gguf", "--json"]
    return [*words, "--objective", "size,quality", "--executor", "ray", "--budget", budget, *CALM]


def optimize(out: Path, environment: dict[str, str], budget: str = "1h") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(out, budget), capture_output=True, text=True, check=False, env=environment, timeout=SECONDS
    )


@contextlib.contextmanager
def optimizing(out: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A search that has measured something, and goes on."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command(out), stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            end = time.monotonic() + SECONDS
            while not remembered(out):
                if process.poll() is not None or time.monotonic() > end:
                    process.kill()
                    pytest.fail(process.communicate(timeout=SECONDS)[1])
                time.sleep(0.1)
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def node(environment: dict[str, str], *head: str) -> Iterator[subprocess.Popen[bytes]]:
    """One more node, the first with the words of a head; of the others each has a processor to give."""
    words = head or (f"--address={environment['RAY_ADDRESS']}", "--num-cpus=1")
    start = [str(RAY), "start", "--block", "--object-store-memory=80000000", *words]
    with tempfile.TemporaryFile() as log, subprocess.Popen(start, env=environment, stdout=log, stderr=log) as process:
        try:
            yield process
        finally:
            children.ended(process)


def alive(environment: dict[str, str], process: subprocess.Popen[bytes], count: int) -> bool:
    """Wait until so many nodes are; whether they are, as the process of the last of them may end before."""
    ask = "import ray; ray.init(log_to_driver=False); print(sum(node['Alive'] for node in ray.nodes()))"
    end = time.monotonic() + SECONDS / 4
    while process.poll() is None and time.monotonic() < end:
        said = subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, check=False, env=environment, timeout=SECONDS
        )
        if said.stdout.strip() == str(count):
            return True
    return False


def join(environment: dict[str, str], stack: contextlib.ExitStack, count: int, *head: str) -> None:
    """One more node, the one of this number. Begun again where it does not come: another process may have a port of its."""
    for _ in range(4):
        with contextlib.ExitStack() as until_joined:
            process = until_joined.enter_context(node(environment, *head))
            if alive(environment, process, count):
                stack.push(until_joined.pop_all())
                return
    pytest.fail(f"the cluster has not {count} nodes")


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which the cluster can be reached."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A socket's path must be short, so not below pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ADDRESS": f"127.0.0.1:{port}"}
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}"]
        join(environment, stack, 1, *head)
        for count in (2, 3):  # two that begin at once may choose the same ports
            join(environment, stack, count)
        yield environment


@no_ray
@pytest.mark.slow
def test_trials_on_two_nodes(cluster: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = optimize(out, cluster)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["choice"]["passed"] and len(found["trials"]) > 3
    schemes = [one["scheme"] for one in found["trials"]]
    assert schemes[0] == "f16" and len(set(schemes)) == len(schemes)
    assert all((out / one / "gguf" / "model.gguf").is_file() for one in schemes) and not list(out.rglob("*.partial"))
    kept = remembered(out) | {path: path.stat().st_mtime_ns for path in out.glob("*/gguf/*")}
    again = optimize(out, cluster)
    assert again.returncode == 0 and unchanged(kept)
    assert json.loads(again.stdout)["choice"]["scheme"] == found["choice"]["scheme"]


PIPELINE = """
pipeline: two
parameters: {model: {type: model}}
steps:
  - name: source
    acquire: {model: "${parameters.model}"}
  - name: four
    convert: {model: "${steps.source.model}", to: [gguf], quantize: q4}
  - name: eight
    convert: {model: "${steps.source.model}", to: [gguf], quantize: q8}
  - name: named
    tag: {artifact: "${steps.eight.artifact}", name: "two:eight"}
"""


@no_ray
@pytest.mark.slow
def test_steps_of_a_pipeline_on_two_nodes(cluster: dict[str, str], tmp_path: Path) -> None:
    """Both conversions at once, each on a node; what they filed is recalled here."""
    (tmp_path / "two.yaml").write_text(PIPELINE)
    words = [sys.executable, "-m", "slmops", "pipeline", "run", str(tmp_path / "two.yaml"), "--set", f"model={SAMPLE}"]

    def run(executor: str) -> dict[str, Any]:
        done = subprocess.run(
            [*words, "--executor", executor, "--json"], capture_output=True, text=True, env=environment, timeout=SECONDS
        )
        assert done.returncode == 0, done.stderr
        return {one["name"]: one for one in json.loads(done.stdout)["steps"]}

    for attempt in range(3):  # on a busy machine the second node may begin when the first is done
        environment = {**cluster, "SLMOPS_HOME": str(tmp_path / f"home{attempt}")}
        first = run("ray")
        four, eight = first["four"], first["eight"]
        assert (four["state"], eight["state"]) == ("made", "made")
        ends = [one["began"] + one["seconds"] for one in (four, eight)]
        if together := max(four["began"], eight["began"]) < min(ends):
            break
    assert together
    found = [first, run("ray"), run("local")]
    (tmp_path / "two.yaml").write_text(PIPELINE.replace("to: [gguf], quantize: q8", "to: [mlx], quantize: q4_k_m"))
    done = subprocess.run([*words, "--executor", "ray"], capture_output=True, text=True, env=environment, timeout=SECONDS)
    assert done.returncode == 6 and "line 9, step 'eight': " in done.stderr and "Traceback" not in done.stderr
    for again in found[1:]:
        assert again["four"]["state"] == again["eight"]["state"] == "recalled"
        assert again["named"]["outputs"] == found[0]["named"]["outputs"]


@no_ray
@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(cluster: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with optimizing(out, cluster) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 130, said
    assert "Traceback" not in said and not list(out.rglob("*.partial"))
    kept = remembered(out)
    done = optimize(out, cluster, budget="1s")  # what is measured already costs nothing
    assert done.returncode == 0 and kept and unchanged(kept), done.stderr


FATAL = """
import contextlib, os, sys, time
from pathlib import Path
from slmops.executors import ray

class Lab:
    machine = "a machine"

    def __init__(self, folder):
        self.folder = folder

    def outcome(self, job):
        time.sleep(1)
        if job.isdigit() and len(list(self.folder.iterdir())) < int(job):  # takes so many nodes with it
            (self.folder / str(os.getpid())).touch()
            os.kill(os.getpid(), 9)
        return job * 2

def start(check, folder=Path(sys.argv[1])):
    return contextlib.nullcontext(Lab(folder))

said = []
with ray.open(start, said.append) as nodes:
    print("as Ray prints")
    found = sorted(nodes.run(sys.argv[2:]))
print(said[-1])
print(found)
print(nodes.slots)
"""


@no_ray
@pytest.mark.slow
def test_what_ran_on_a_lost_node_runs_on_another(cluster: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "fatal.py"
    script.write_text(FATAL)

    def run(folder: str, *jobs: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / folder).mkdir()
        words = [sys.executable, str(script), str(tmp_path / folder), *jobs]
        return subprocess.run(words, capture_output=True, text=True, check=False, env=cluster, timeout=SECONDS)

    done = run("once", "1", "b")
    assert done.returncode == 0, done.stderr
    said, found, left = done.stdout.splitlines()
    assert "lost" in said and said.endswith("; 1 go on")
    assert (found, left) == ("[('1', '11'), ('b', 'bb')]", "1")
    assert "as Ray prints" in done.stderr  # of its lost nodes, when it likes: standard output is for answers
    done = run("always", "9", "b")
    assert done.returncode == 1 and "a node of the Ray cluster is lost" in done.stderr and "[(" not in done.stdout
    assert len(list((tmp_path / "always").iterdir())) == 2


class Fake:
    """In place of Ray: actors that are gone, or that a job takes with it. What is asked is answered when it is fetched."""

    class exceptions:  # noqa: N801 - its name there
        RayTaskError, NodeDiedError, OutOfMemoryError = (type(name, (Exception,), {}) for name in ("T", "N", "M"))
        ObjectLostError, GetTimeoutError = (type(name, (Exception,), {}) for name in ("O", "G"))
        ActorDiedError, ActorUnavailableError = (type(name, (Exception,), {}) for name in ("D", "U"))

    class Actor:
        def __init__(self) -> None:
            self.gone: type[Exception] | None = None
            self.began: list[str] = []
            self.facts = SimpleNamespace(remote=lambda: (self, ("a machine", "here")))
            self.outcome = SimpleNamespace(remote=lambda job: (self, job))

    def get(self, what: Any, timeout: float | None = None) -> Any:
        if isinstance(what, list):
            return [self.get(one) for one in what]
        actor, job = what
        if actor.gone is None and isinstance(job, str):
            actor.began.append(job)
            actor.gone = {"kills": self.exceptions.ActorDiedError, "cuts": self.exceptions.ActorUnavailableError}.get(job)
        if actor.gone is not None:
            raise actor.gone("gone")
        return job

    def wait(self, those: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return those[:1], those[1:]


def test_a_job_takes_two_nodes_at_most_with_it() -> None:
    actors, said = [Fake.Actor() for _ in range(4)], list[str]()
    nodes = Nodes(Fake(), actors, said.append)
    with pytest.raises(UsageError, match="is lost"):
        list(nodes.run(["kills"]))
    assert [one.began for one in actors] == [["kills"], ["kills"], [], []] and nodes.slots == 2
    assert said[-1].endswith("; 2 go on")


def test_nodes_that_were_lost_meanwhile_are_not_held_against_a_job() -> None:
    actors = [Fake.Actor() for _ in range(3)]
    nodes = Nodes(Fake(), actors, lambda line: None)
    for one in actors[:2]:
        one.gone = Fake.exceptions.ActorDiedError
    assert list(nodes.run(["a", "b"])) == [("a", "a"), ("b", "b")] and nodes.slots == 1
    actors[2].gone = Fake.exceptions.NodeDiedError
    with pytest.raises(UsageError, match="is lost"):
        list(nodes.run(["c"]))


def test_what_may_still_be_computed_is_not_begun_anew() -> None:
    actors = [Fake.Actor() for _ in range(2)]
    with pytest.raises(UsageError, match="cannot be reached"):
        list(Nodes(Fake(), actors, lambda line: None).run(["cuts"]))
    assert [one.began for one in actors] == [["cuts"], []]


@no_ray
@pytest.mark.slow
def test_another_token_is_refused(cluster: dict[str, str], tmp_path: Path) -> None:
    done = optimize(tmp_path / "out", {**cluster, "RAY_AUTH_TOKEN": secrets.token_hex(32)})
    assert done.returncode == UsageError.exit_code and "no Ray cluster can be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(RAY.exists(), reason="ray is installed")
def test_without_ray_the_command_that_installs_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["optimize", str(SAMPLE), "-o", str(tmp_path / "out"), "--executor", "ray"]
    assert cli.main(words) == EngineMissing.exit_code
    assert 'pip install "slmops[ray]"' in capsys.readouterr().err


def test_an_executor_that_there_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["optimize", str(SAMPLE), "-o", str(tmp_path / "out"), "--executor", "spark"]
    assert cli.main(words) == UsageError.exit_code
    assert "local, ray" in capsys.readouterr().err
    assert plugins.names("executors") == ("local", "ray")
