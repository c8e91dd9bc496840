"""Where the compiled kernels lie. No torch."""

import os
from pathlib import Path

DEFAULT_PATH = Path(__file__).parent / "libvitcop_kernels.so"
"""Where `make kernels` puts the library."""


def library_path() -> Path:
    """The library that is used: DEFAULT_PATH, or what the environment variable VITCOP_KERNELS names."""
    return Path(os.environ.get("VITCOP_KERNELS", DEFAULT_PATH))
