"""Run llama.cpp's convert_hf_to_gguf.py, taking a tokenizer that it does not know for qwen2.

    python convert_hf_to_gguf.py LLAMA_CPP_FOLDER [arguments of convert_hf_to_gguf.py]

It knows a pre-tokenizer by a hash over tokens, which a benchmark's own vocabulary cannot match, and refuses the rest.
The checkpoints of make_checkpoint.py do use Qwen2's pre-tokenizer, so the name is right; its source stays untouched.
"""

import runpy
import sys
from pathlib import Path

script = Path(sys.argv.pop(1)) / "convert_hf_to_gguf.py"
sys.argv[0] = str(script)
sys.path[:1] = [str(script.parent), str(script.parent / "gguf-py")]  # its own modules first

from conversion.base import TextModel  # noqa: E402

known = TextModel.get_vocab_base_pre


def get_vocab_base_pre(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        return "qwen2"


TextModel.get_vocab_base_pre = get_vocab_base_pre
runpy.run_path(str(script), run_name="__main__")
