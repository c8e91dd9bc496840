"""Nothing of TensorRT's API is used that does not exist: names, enum members, methods and the arguments of calls, from
the sources themselves (`api_calls`), against NVIDIA's real bindings (`real_api`) of the last 10 and of 11."""

import textwrap

import pytest
from api_calls import Reader, read
from real_api import RELEASES, ROOT, real_bindings

SOURCES = sorted(
    path
    for package in ("plugins", "calibrate", "export", "pipeline", "benchmarks")
    for path in (ROOT / package).rglob("*.py")
)
GUARDED = {
    ("INetworkDefinition", "add_kv_cache_update"),
    ("INetworkDefinition", "add_attention_v2"),
    ("IAttention", "key_value_lengths"),
    ("trt", "CausalMaskKind"),
    ("CausalMaskKind", "NONE"),
}
"""What the code asks for with hasattr before it uses it, and what hangs on that. It may be missing in a release."""


@pytest.fixture(scope="session", params=RELEASES)
def bindings(request, tmp_path_factory):
    return real_bindings(request.param, tmp_path_factory.mktemp(f"bindings-{request.param}"))


def wrong_uses(readers, bindings):
    """One line for each use that these bindings would not take."""
    wrong = []
    for use in (use for reader in readers for use in reader.uses):
        what = f"{use.where}: {use.owner}.{use.name}"
        if not bindings.has(use.owner, use.name):
            if not use.guarded:
                wrong.append(f"{what} does not exist in {bindings.version}")
            continue
        if use.stored and not bindings.settable(use.owner, use.name):
            wrong.append(f"{what} cannot be set in {bindings.version}")
        if use.positional is None:
            continue
        signatures = bindings.signatures(use.owner, use.name)
        if signatures and not any(item.takes(use.positional, use.keywords) for item in signatures):
            wrong.append(f"{what} is called with {use.positional} arguments and {list(use.keywords)}: {signatures}")
    return wrong


def test_every_use_exists(bindings):
    readers = list(read(SOURCES, bindings.api()))
    uses = [use for reader in readers for use in reader.uses]
    assert len(readers) >= 8 and len({(use.owner, use.name) for use in uses}) >= 80, "the list of uses shrank: look"
    assert wrong_uses(readers, bindings) == []


def test_no_call_escapes_the_list(bindings):
    untold = [line for reader in read(SOURCES, bindings.api()) for line in reader.untold]
    assert untold == [], "annotate these, so that they can be looked up"


def test_most_calls_have_a_signature_to_check(bindings):
    calls = [use for reader in read(SOURCES, bindings.api()) for use in reader.uses if use.positional is not None]
    called = {(use.owner, use.name) for use in calls if bindings.has(use.owner, use.name)}
    silent = {pair for pair in called if not bindings.signatures(*pair)}
    assert len(silent) <= 0.2 * len(called), silent


def test_only_what_is_known_is_guarded(bindings):
    uses = [use for reader in read(SOURCES, bindings.api()) for use in reader.uses]
    missing = {(use.owner, use.name) for use in uses if not bindings.has(use.owner, use.name)}
    assert missing <= GUARDED
    if bindings.version.startswith("11."):
        assert not missing


WRONG = {
    "no such class": "trt.Bilder(None)",
    "no such enum member": "trt.BuilderFlag.FP17",
    "no such method": "trt.Builder(log).create_netwerk()",
    "a method of what a method gives": "trt.Builder(log).create_network().add_imput('a', trt.DataType.INT8, (1,))",
    "too many arguments": "trt.Builder(log).create_builder_config(1)",
    "too few arguments": "network.add_input('a')",
    "no such keyword": "network.add_input('a', dtype=trt.DataType.INT8, shap=(1,))",
    "a property that cannot be set": "network.num_layers = 3",
    "in the other branch": "0 if hasattr(network, 'add_wings') else network.add_wings()",
    "of a nested enum": "trt.ILogger.Severity.LOUD",
}


@pytest.mark.parametrize("code", WRONG.values(), ids=WRONG)
def test_a_wrong_use_is_found(bindings, tmp_path, code):
    path = tmp_path / "wrong.py"
    path.write_text(_function(code))
    reader = _read_one(path, bindings)
    assert len(wrong_uses([reader], bindings)) == 1


def test_what_is_asked_for_first_may_be_missing(bindings, tmp_path):
    path = tmp_path / "asked.py"
    path.write_text(_function("x = hasattr(network, 'add_wings') and network.add_wings()"))
    assert wrong_uses([_read_one(path, bindings)], bindings) == []


def test_an_untold_call_is_reported(bindings, tmp_path):
    path = tmp_path / "untold.py"
    path.write_text(_function("unknown.set_tensor_address('a', 0)"))
    assert len(_read_one(path, bindings).untold) == 1


def _function(code):
    return textwrap.dedent(f"""
        import tensorrt as trt

        def work(network: "trt.INetworkDefinition", log: "trt.ILogger", unknown):
            {code}
        """)


def _read_one(path, bindings) -> Reader:
    (reader,) = read([path], bindings.api())
    return reader
