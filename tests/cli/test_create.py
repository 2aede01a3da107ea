"""slmops models create, and folders that say something of themselves, through the verbs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from conftest import SAMPLE
from needs import needs
from serve.serving import ANSWER, ASKED
from slmops import cli

pytestmark = [pytest.mark.slow, needs("xllamacpp")]
SAID = ASKED[0]["content"]


class Ran(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """A verb, in this process: what compiles is compiled once."""

    def run(home: Path, *words: object, code: int = 0) -> Ran:
        monkeypatch.setenv("SLMOPS_HOME", str(home))
        capsys.readouterr()
        found = cli.main(list(map(str, words)))
        said = Ran(*capsys.readouterr())
        assert found == code, said.stderr
        return said

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from slmops import compile as compiler
    from slmops.source import load

    out = tmp_path_factory.mktemp("made")
    compiler.convert(load(SAMPLE), ["gguf", "onnx"], "q8", out, verify=False)
    return out


MODELFILE = '''FROM {place}
TEMPLATE """{{{{ range .Messages }}}}<|im_start|>{{{{ .Role }}}}
{{{{ .Content }}}}<|im_end|>
{{{{ end }}}}<|im_start|>assistant
"""
SYSTEM You control a house.
PARAMETER temperature 0
MESSAGE user hello
MESSAGE assistant {{"tool": "none"}}
'''


def test_a_modelfile_makes_a_model(made: Path, tmp_path: Path, ran: Callable[..., Ran]) -> None:
    home, file = tmp_path / "home", tmp_path / "Modelfile"
    file.write_text(MODELFILE.format(place=made / "gguf"))
    facts = json.loads(ran(home, "models", "create", "butler", "--modelfile", file, "--json").stdout)
    assert facts["name"] == "butler:latest" and facts["digest"].startswith("sha256:")
    first = json.loads(ran(home, "run", "butler", SAID, "--json").stdout)
    plain = json.loads(ran(home, "run", made / "gguf", SAID, "--json").stdout)
    assert first["prompt_tokens"] > plain["prompt_tokens"] + 10 and json.loads(plain["text"]) == ANSWER
    # Twice the same is one; another of that name asks for --force.
    again = json.loads(ran(home, "models", "create", "other", "--modelfile", file, "--json").stdout)
    assert again["digest"] == facts["digest"]
    file.write_text("FROM butler\nSYSTEM You control a flat.\n")
    assert "--force" in ran(home, "models", "create", "butler", "--modelfile", file, code=12).stderr
    ran(home, "models", "create", "butler", "--modelfile", file, "--force")
    lineage = ran(home, "models", "lineage", "butler").stdout
    assert facts["digest"][7:19] in lineage or "other" in lineage

    def refused(home: Path, folder: Path, text: str, code: int) -> str:
        (folder / "wrong").write_text(text)
        said: Ran = ran(home, "models", "create", "wrong", "--modelfile", folder / "wrong", code=code)
        return said.stderr

    assert "line 2" in refused(home, tmp_path, "FROM butler\nPARAMETER colour red", 4)
    assert "top_p" in refused(home, tmp_path, "FROM butler\nPARAMETER top_p 5", 2)
    assert "leave TEMPLATE out" in refused(home, tmp_path, "FROM butler\nTEMPLATE {{ .Tools }}", 6)
    assert "no artifact" in refused(home, tmp_path, "FROM nobody", 3)


def test_quantized_and_with_an_adapter(tmp_path: Path, ran: Callable[..., Ran]) -> None:
    """The adapter is zero: its model answers as without it; FROM and ADAPTER are told from the Modelfile's place."""
    config = json.loads((Path(SAMPLE) / "config.json").read_text())
    width = config["hidden_size"]
    heads = config["num_attention_heads"] * config.get("head_dim", width // config["num_attention_heads"])
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    (tmp_path / "lora").mkdir()
    down, up = np.ones((4, width), np.float32), np.zeros((heads, 4), np.float32)
    zeros = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    save_file(zeros, tmp_path / "lora" / "adapter_model.safetensors")
    said: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 4, "bias": "none"}
    said["target_modules"] = ["q_proj"]
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(said))
    shutil.copytree(SAMPLE, tmp_path / "base", ignore=shutil.ignore_patterns("*.py", "eval", "*.yaml"))
    (tmp_path / "Modelfile").write_text("FROM ./base\nADAPTER ./lora\n")
    home = tmp_path / "home"
    ran(home, "models", "create", "tuned", "--modelfile", tmp_path / "Modelfile", "--quantize", "q4_K_M")
    assert json.loads(ran(home, "run", "tuned", SAID).stdout) == ANSWER
    (row,) = [one for one in json.loads(ran(home, "models", "ls", "--json").stdout) if "tuned:latest" in one["tags"]]
    assert (row["format"], row["scheme"]) == ("gguf", "q4_k_m")


def test_foundrys_folder_is_honoured(made: Path, tmp_path: Path, ran: Callable[..., Ran]) -> None:
    """As Foundry Local keeps models: genai_config.json beside inference_model.json, and here no other chat template."""
    folder = tmp_path / "Home-5M"
    shutil.copytree(made / "onnx", folder, ignore=shutil.ignore_patterns("slmops.json", "inference_model.json", "*.jinja"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert "no chat template" in ran(tmp_path, "run", folder, SAID, code=2).stderr
    user = "<|im_start|>user\n{Content}<|im_end|>\n"
    templates = {"user": user, "prompt": f"{user}<|im_start|>assistant\n"}
    (folder / "inference_model.json").write_text(json.dumps({"Name": "Home-5M:1", "PromptTemplate": templates}))
    assert json.loads(ran(tmp_path, "run", folder, SAID).stdout) == ANSWER
    # And so it is once it was filed.
    ran(tmp_path, "models", "add", folder, "--name", "home:foundry")
    assert json.loads(ran(tmp_path, "run", "home:foundry", SAID).stdout) == ANSWER
