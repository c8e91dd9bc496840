"""Token-dropping operations: for each a definition, torch reference, torch.library op, ONNX function, CUDA kernels.

Shape letters used in every package: B batch, S sequence, V visual tokens present, K kept visual tokens, R visual
tokens after a merge, C clusters, H hidden, D head dim, Nh query heads, Nkv key-value heads, N vision patches, L
decoder layers.
"""

if __name__ != "vitcop.plugins":
    raise ImportError(
        f"import this package as 'vitcop.plugins', not as {__name__!r}: install the project (pip install -e .)"
    )
