"""One container a file: detect, read, write. A file holds:

    TITLE                    what to call it in a table
    detect(path)             whether this path is one, from names and magic bytes alone
    read(path)               -> Model, opening no weight; packed tensors come as `Packed`, code for code
    support(spec)            raises Unsupported (naming what would work) for a family that its engines cannot compute
    forms(scheme, ...)       its own schemes that may take codes of the one given, the best first (see _forms.py)
    plan(model, ...)         -> Layout: every byte's place, before a weight is read; keyword options by name only
    DENSE                    names of the plain dtypes that it can hold
    adapter(model, base, out) -> the file of the model's adapter alone, as engines load it beside the served base
    MIXES                    schemes that one artifact may hold side by side, for `mixed:4.5bpw` to choose from

Formats that are only read leave out all but the first three; formats never import each other: they meet on disk.
"""
