"""One family a file, named after Hugging Face's model_type. A file holds:

TOY                  a config.json of a few thousand parameters, for the conformance tests
spec(config)         config.json -> Spec; raises UnknownFamily or Unsupported for what the program does not do
names(spec)          role -> name in a Hugging Face checkpoint, and so which tensors there are
shapes(spec)         role -> shape
forward(ops, spec, w, ids)   the program (slmops/ops)
GGUF                 llama.cpp's name of the architecture; None where it has none
GGUF_TAKES           what llama.cpp's program of that name does beyond a plain decoder (formats/gguf.py, support)
GGUF_PERMUTED        role kinds whose rows llama.cpp wants in interleaved-pair order; () where it rotates halves
gguf_config(known)   only where GGUF's metadata leave something of config.json unsaid: what config.json must add
MLX                  mlx-lm's name of the module; None where it has none
"""
