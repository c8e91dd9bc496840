"""Code lines of the project by package: lines that hold code, so no blank ones, no comments and no docstrings.

`make lines` prints them. Tests are counted too, the doubles that stand in for libraries and devices apart from them.
"""

import ast
import io
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("plugins", "calibrate", "export", "pipeline")
DOUBLES = ("emulator", "stand_in", "host_sessions", "fake_", "made_up")
"""Parts of the names of test files that stand in for something real."""

_WITHOUT_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
    tokenize.ENCODING,
)


def code_lines(source: str) -> int:
    """Number of lines of a Python source that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _WITHOUT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        # A text that stands alone is a docstring, also below an attribute.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


def main() -> None:
    """Print a table: code lines and files of each package, and of its parts."""
    lines, files = Counter[str](), Counter[str]()
    for top in (*PACKAGES, "benchmarks", "examples", "tests"):
        for path in sorted((ROOT / top).rglob("*.py")):
            inner = path.relative_to(ROOT).parts[1:-1]
            part = f"{top}/{inner[0]}" if inner and top in PACKAGES else None
            if top == "tests" and any(word in str(path) for word in DOUBLES):
                part = "tests/doubles"
            count = code_lines(path.read_text(encoding="utf-8"))
            for name in filter(None, (top, part)):
                lines[name] += count
                files[name] += 1
    for name in sorted(lines):
        print(f"{'  ' * ('/' in name)}{name:<28}{lines[name]:>7,}{files[name]:>5} files")
    print(f"{'calibrate and pipeline':<28}{lines['calibrate'] + lines['pipeline']:>7,}")
    print(f"{'production':<28}{sum(lines[name] for name in PACKAGES):>7,}")


if __name__ == "__main__":
    main()
