"""Export: capture a model as graphs, rewrite them to drop tokens, lower them to ONNX, run and measure the engines."""

if __name__ != "vitcop.export":
    raise ImportError(
        f"import this package as 'vitcop.export', not as {__name__!r}: install the project (pip install -e .)"
    )
