"""Imports point down the layers only; model/ and data/ never see each other; data/ never sees JAX."""

import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = "vljepa_jax"
ROOT = pathlib.Path(__file__).parents[1] / PACKAGE

# Layer -> modules; a trailing dot stands for everything below. The longest name that fits counts.
LAYERS = {
    5: ("compare.__main__", "main", "evaluate", "paraphrase", "predict", "convert", "plan", "stream", "cli"),
    4: ("aot.", "train", "start", "evaluation", "api", "text_encoder", "progress", "run_log", "interrupt", "report",
        "report_style", "curves", "throughput", "profiling", "accelerator", "streaming", "timeline", "loop", "replay",
        "dump", "y_decoder.texts", "y_decoder.held_out", "y_decoder.train", "compare."),
    3: ("parts", "flops", "step", "inspection", "batch_ids", "optim", "sharding", "checkpoint", "features", "resident",
        "weights.", "y_decoder", "y_decoder.recipe", "y_decoder.step", "y_decoder.text_decoder", "compare",
        "compare.study", "compare.token_step"),
    2: ("hosts", "watch", "loss", "streamed", "metrics", "batches", "decoding", "selective", "config_checks",
        "config_parsing", "tasks.", "data.pipeline", "data.failures"),
    1: ("model.", "data."),
    0: ("errors", "chips", "fatal", "model.presets"),
}
CONFIG = "config"  # typed configs stand between layers 2 and 3
CONFIG_LAYER = 2.5
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "chex"}


def layer(module: str) -> float:
  """The layer of a module, named without the package; LookupError if the table does not have it."""
  if module == CONFIG:
    return CONFIG_LAYER
  fits = [(len(name), number) for number, names in LAYERS.items() for name in names
          if module == name or (name.endswith(".") and (module + ".").startswith(name))]
  if not fits:
    raise LookupError(f"{PACKAGE}.{module} has no layer: add it to tests/layers_test.py")
  return max(fits)[1]


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(tree: ast.AST) -> set[str]:
  """Absolute names of everything that a file imports, inside functions too; a name may be a module's attribute."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, "relative imports hide the layer"
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  return names


def own_imports(module: str) -> set[str]:
  """Modules of the package that a module imports, named without the package."""
  found = set()
  for name in imports(ast.parse(MODULES[module].read_text())):
    root, _, rest = name.partition(".")
    if root == PACKAGE:
      found.add(rest if rest in MODULES else rest.rpartition(".")[0])
  return found - {""}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {""}))
def test_imports_point_down(module):
  for other in own_imports(module):
    assert layer(other) <= layer(module), f"{module} (layer {layer(module)}) imports {other} (layer {layer(other)})"
    for a, b in (("model", "data"), ("data", "model")):
      assert not (module.startswith(a + ".") and other.startswith(b + ".")), f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.split(".")[0] == "data"))
def test_data_never_imports_jax(module):
  roots = {name.split(".")[0] for name in imports(ast.parse(MODULES[module].read_text()))}
  assert not roots & JAX


def test_no_import_cycles():
  done, path = set(), []

  def visit(module):
    assert module not in path, " -> ".join([*path[path.index(module):], module])
    if module in done:
      return
    path.append(module)
    for other in sorted(own_imports(module)):
      visit(other)
    done.add(path.pop())

  for module in sorted(set(MODULES) - {""}):
    visit(module)


def test_the_rules_catch_a_violation(tmp_path, monkeypatch):
  bad = tmp_path / "bad.py"
  bad.write_text("def f():\n  from vljepa_jax import train\n  import jax.numpy\n")
  for module in ("model.bad", "data.bad"):
    monkeypatch.setitem(MODULES, module, bad)
  monkeypatch.setitem(MODULES, "train", bad)
  with pytest.raises(AssertionError, match=r"model.bad \(layer 1\) imports train \(layer 4\)"):
    test_imports_point_down("model.bad")
  with pytest.raises(AssertionError):
    test_data_never_imports_jax("data.bad")
  with pytest.raises(LookupError, match="vljepa_jax.stray has no layer"):
    layer("stray")


def test_layer_zero_inside_model():
  assert layer("model.presets") == 0 < layer("model.vljepa") == layer("data.text") < layer("data.pipeline")


def test_importing_the_package_is_light():
  """Grain's workers import it: nothing heavy may come along."""
  code = f"import {PACKAGE}, sys; print(*sorted(sys.modules))"
  loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
  assert PACKAGE in loaded
  assert not set(loaded) & {*JAX, "numpy", "grain", "tensorflow_datasets"}
