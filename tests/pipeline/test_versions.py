"""Versions in stage keys: of packages and their variants, and of our own sources while they are being changed."""

import importlib.metadata

import pytest

from vitcop.export.bundle import versions as packages
from vitcop.pipeline import versions
from vitcop.pipeline.versions import source_hash, stage_version, versions_of, vitcop_version


@pytest.fixture
def installed(monkeypatch):
    """Pretends that just these distributions are installed."""

    plain = packages.version_of.__wrapped__

    def pretend(**found):
        def version(name):
            if name not in found:
                raise importlib.metadata.PackageNotFoundError(name)
            return found[name]

        monkeypatch.setattr(packages, "version", version)
        monkeypatch.setattr(packages, "version_of", plain)
        return plain

    return pretend


def test_the_gpu_variant_of_a_runtime_counts(installed):
    assert installed()("onnxruntime") == "not installed"
    assert installed(onnxruntime="1.0")("onnxruntime") == "1.0"
    assert installed(**{"onnxruntime": "1.0", "onnxruntime-gpu": "2.0"})("onnxruntime") == "2.0 (onnxruntime-gpu)"
    assert packages.installed_versions(("onnxruntime", "torch")) == {
        "onnxruntime": "2.0 (onnxruntime-gpu)",
        "torch": "not installed",
    }


def test_sources_are_a_part_of_the_version_of_a_development_install(monkeypatch):
    try:
        stage_version.cache_clear()
        monkeypatch.setattr(versions, "_is_development", lambda: False)
        assert stage_version() == vitcop_version() == versions_of()["vitcop"]
        stage_version.cache_clear()
        monkeypatch.setattr(versions, "_is_development", lambda: True)
        own, _, found = versions_of("onnx")["vitcop"].partition("src.")
        assert own.rstrip("+.") == vitcop_version() and len(found) == 12
    finally:
        stage_version.cache_clear()


def test_every_source_file_counts_and_nothing_else(tmp_path):
    (tmp_path / "steps").mkdir()
    file = tmp_path / "steps" / "a.py"
    file.write_text("one")
    first = source_hash({"p": tmp_path})
    (tmp_path / "a.pyc").write_text("compiled")
    assert source_hash({"p": tmp_path}) == first != source_hash({"q": tmp_path})
    file.write_text("two")
    assert source_hash({"p": tmp_path}) != first
    file.write_text("one")
    file.rename(tmp_path / "a.py")
    assert source_hash({"p": tmp_path}) != first


def test_our_own_folders_are_found():
    folders = versions._folders()
    assert set(folders) == {"vitcop.calibrate", "vitcop.export", "vitcop.pipeline", "vitcop.plugins"}
    assert all((folder / "__init__.py").is_file() for folder in folders.values())
