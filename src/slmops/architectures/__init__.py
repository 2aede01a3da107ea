"""One family a file, named after Hugging Face's model_type. A file holds:

TOY                  a config.json of a few thousand parameters, for the conformance tests
spec(config)         config.json -> Spec; raises UnknownFamily or Unsupported for what the program does not do
names(spec)          role -> name in a Hugging Face checkpoint, and so which tensors there are
forward(ops, spec, w, ids)   the program (slmops/ops)
GGUF                 llama.cpp's name of the architecture
GGUF_PERMUTED        role kinds whose rows llama.cpp wants in interleaved-pair order; () where it rotates halves
MLX                  mlx-lm's name of the module
"""
