"""Our modules over NVIDIA's real bindings, as far as these go without a builder: log, types, options, refusals.

Each in a process of its own with stand-ins for TensorRT's libraries (tensorrt_stand_ins), in which no builder starts.
"""

import json
import textwrap

import pytest
from real_api import RELEASES, ROOT, bindings_environment
from tensorrt_stand_ins import run


@pytest.fixture(scope="module", params=RELEASES)
def environment(request, tmp_path_factory):
    return request.param, bindings_environment(request.param, tmp_path_factory.mktemp(f"real-{request.param}"))


def ask(environment, code, *arguments):
    return run(environment[1], textwrap.dedent(code), *arguments).strip()


def test_the_form_of_caches(environment):
    code = """
        from vitcop.export.runtimes.tensorrt.kv_cache import kv_form
        print(*(kv_form(wanted) for wanted in ("auto", "in_place", "plain")))
        """
    form = "lengths" if environment[0].startswith("11") else "mask"
    assert ask(environment, code) == f"{form} {form} plain"


def test_the_version_is_taken(environment):
    code = "from vitcop.export.runtimes.tensorrt.installation import load_tensorrt; print(load_tensorrt())"
    assert ask(environment, code).startswith(environment[0])


def test_the_log_goes_to_python_and_not_to_stdout(environment):
    code = """
        import logging
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
        logging.getLogger("vitcop.tensorrt").addHandler(handler)
        from vitcop.export.runtimes.tensorrt.network import make_logger
        import tensorrt as trt
        logger = make_logger()
        for severity in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"):
            logger.log(getattr(trt.ILogger.Severity, severity), "two\\nlines")
        assert lines == [(level, "TensorRT: two lines") for level in ("WARNING", "ERROR", "ERROR")], lines
        """
    assert ask(environment, code) == ""


def test_types_and_profiler(environment):
    code = """
        import torch
        from vitcop.export.runtimes.tensorrt.layers import make_profiler
        from vitcop.export.runtimes.tensorrt.session import torch_types
        assert len(torch_types()) == 6 and torch.bfloat16 in torch_types().values()
        times = {}
        profiler = make_profiler(times)
        profiler.report_layer_time("a", 2.0)
        profiler.report_layer_time("a", 0.5)
        assert times == {"a": 2.5}
        """
    assert ask(environment, code) == ""


def test_a_builder_that_does_not_start_is_told_and_the_tables_answer(environment, bundle):
    code = """
        import json, sys
        from pathlib import Path
        from vitcop.export.bundle import Bundle
        from vitcop.export.runtimes import open_target
        found = open_target("tensorrt").dry_run(Bundle.open(Path(sys.argv[1])))
        print(json.dumps([found.passed, found.checked_by]))
        """
    passed, checked_by = json.loads(ask(environment, code, bundle.path))
    assert passed and "cannot start a builder" in checked_by and "static tables" in checked_by


def test_this_checkout_is_what_the_processes_import(environment):
    assert ask(environment, "import vitcop.export as e; print(e.__file__)").startswith(str(ROOT))


def library_for_a_registry(environment):
    """A built library. Skips without one, and without the lean runtime, whose registry is NVIDIA's own."""
    from tensorrt_stand_ins import lean_library

    from vitcop.plugins.tensorrt.paths import plugin_path

    release, _ = environment
    library = plugin_path()
    if library is None:
        pytest.skip("no plugin library is built here: make plugin")
    packages = ROOT / "build" / f"tensorrt-bindings-{release}"
    if lean_library(packages if packages.is_dir() else None) is None:
        pytest.skip("tensorrt-lean-cu13-libs of this release is not installed, so there is no registry")
    return library


def test_the_dry_run_asks_the_real_registry(environment, bundle):
    library_for_a_registry(environment)
    code = """
        import sys
        from pathlib import Path
        from vitcop.export.bundle import Bundle
        from vitcop.export.runtimes import open_target
        found = open_target("tensorrt").dry_run(Bundle.open(Path(sys.argv[1])))
        assert found.plugins_by == "the registry of TensorRT", found.plugins_by
        assert "KNormSelect" in {op for _, op in found.plugin_nodes["prefill"]}
        assert not any(found.waiting_nodes.values()), found.waiting_nodes
        assert not any("make plugin" in line for line in found.missing), found.missing
        """
    assert ask(environment, code, bundle.path) == ""


def test_our_plugins_are_found_in_the_real_registry(environment):
    library = library_for_a_registry(environment)
    code = """
        import sys
        from pathlib import Path
        import tensorrt as trt
        from vitcop.export.runtimes.tensorrt.installation import register_plugin
        from vitcop.export.runtimes.tensorrt.network import VitcopNode, check_creators
        from vitcop.plugins.errors import MissingError
        from vitcop.plugins.registry import ONNX_OPS
        registry, library = trt.get_plugin_registry(), Path(sys.argv[1])
        nodes = [VitcopNode(name=op, op=op, plugin=True) for op in ONNX_OPS]
        try:
            check_creators(registry, nodes, None)
        except MissingError as missing:
            assert "the plugin library is not built" in str(missing)
        else:
            raise AssertionError("creators before the library was loaded")
        for _ in range(2):
            register_plugin(registry, str(library))
        check_creators(registry, nodes, library)
        """
    assert ask(environment, code, library) == ""
