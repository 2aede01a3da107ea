"""One container a file: detect, read, write. A file holds:

    TITLE                    what to call it in a table
    detect(path)             whether this path is one, from names and magic bytes alone
    read(path)               -> Model, opening no weight; packed tensors come as `Packed`, code for code
    support(spec, schemes)   raises Unsupported (naming what would work) for a pair that cannot be
    plan(model, ...)         -> Layout: every byte's place, before a weight is read; keyword options by name only
    QUANTIZED / DENSE        names of the schemes that it can hold

Formats that are only read leave out support, plan and the lists; formats never import each other: they meet on disk.
"""
