"""NNCF's weight compression at its best, in the environment of its own: python nncf_best.py MODEL TEXT TOKENS OUT

Every matrix in 4 bits, symmetric, groups of 32 (4.5 bits a weight): scale estimation and GPTQ, by windows of the text.
"""

import sys
from pathlib import Path

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
from transformers import AutoTokenizer

WINDOW = 256
source, text, tokens, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
tokenizer = AutoTokenizer.from_pretrained(source)
content = Path(text).read_text(encoding="utf-8", errors="ignore")
ids = tokenizer(content, add_special_tokens=False).input_ids[:tokens]
windows = [tokenizer.decode(ids[start : start + WINDOW]) for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
how = OVWeightQuantizationConfig(
    bits=4,
    sym=True,
    group_size=32,
    ratio=1.0,
    all_layers=True,
    scale_estimation=True,
    gptq=True,
    dataset=windows,
    num_samples=len(windows),
    tokenizer=source,
)
OVModelForCausalLM.from_pretrained(source, export=True, quantization_config=how).save_pretrained(out)
tokenizer.save_pretrained(out)
