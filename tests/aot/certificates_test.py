"""The certificates under launch/: what is cheap to work out again is; the rest takes a compiler and minutes (`-m aot`)."""

import os
import pathlib
import subprocess
import sys

import pytest

from vljepa_jax.aot import plan, topology

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "launch" / "certificates"
RECIPES = ("vljepa_stage1-1frame", "vljepa_stage1-8frames", "vljepa_stage1-32frames", "vljepa_sft")
SLICES = ("v5e-16x16", "v6e-16x16", "v5p-4x4x8", "v6e-16x16-x2")
SEARCHED = ("vljepa_stage1-1frame@v5e-4x4", "vljepa_stage1-1frame@v6e-4x4")
NAMES = [f"{recipe}@{name}" for recipe in RECIPES for name in SLICES] + [*SEARCHED]
QUICKEST = "vljepa_stage1-1frame@v5e-16x16"

# Works out the derived part of certificates again, in a process of its own: libtpu reads its environment once.
DERIVE = """
import pathlib, sys
from vljepa_jax.aot import plan, topology
topology.prepare(topology.parse("v5p:4x4x8")[0])
from vljepa_jax.aot import compiler
for path in sys.argv[1:]:
  made = plan.read(pathlib.Path(path))
  config = plan.load_config(made, pathlib.Path.cwd())
  parts = compiler.make_parts(config, made.topology, made.slices)
  again = plan.derive(config, parts, made.topology, made.slices, made.compiled)
  different = [key for key in again if again[key] != made.derived.get(key)]
  print(pathlib.Path(path).stem, "differs in " + ", ".join(different) if different else "agrees")
"""


def certificate(name):
  return plan.read(FOLDER / f"{name}.json")


def fresh_environment():
  return {key: value for key, value in os.environ.items() if key != "LIBTPU_INIT_ARGS"}


def test_there_is_one_for_every_recipe_and_slice():
  assert sorted(path.stem for path in FOLDER.glob("*.json")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_certificate_is_of_what_its_name_says_and_fits(name):
  made = certificate(name)
  recipe = made.recipe.removeprefix("configs/").replace(".py", "").replace(":", "-")
  slices = made.topology.replace(":", "-") + (f"-x{made.slices}" if made.slices > 1 else "")
  assert f"{recipe}@{slices}" == name
  assert made.fits and made.derived["memory"]["headroom"] >= plan.HEADROOM
  assert made.compiled.needed <= 0.9 * topology.parse(made.topology)[0].hbm_bytes
  assert made.versions["LIBTPU_INIT_ARGS"] == " ".join(topology.parse(made.topology)[0].xla_flags)
  crossing = [e for e in made.compiled.exchanges if e.slices > 1]
  assert bool(crossing) == (made.slices > 1) and all("slice" in e.axes for e in crossing)


def test_what_is_cheap_is_worked_out_again():
  pytest.importorskip("libtpu")
  paths = [str(FOLDER / f"{name}.json") for name in NAMES]
  done = subprocess.run(
      [sys.executable, "-c", DERIVE, *paths], cwd=ROOT, env=fresh_environment(), capture_output=True, text=True,
      timeout=300)
  assert done.stdout.split("\n")[:-1] == [f"{name} agrees" for name in NAMES], done.stderr[-2000:]


@pytest.mark.aot
@pytest.mark.parametrize("name", [
    pytest.param(name, marks=() if name == QUICKEST else pytest.mark.slow) for name in NAMES])
def test_the_compiler_says_the_same_again(name, tmp_path):
  pytest.importorskip("libtpu")
  old = certificate(name)
  changes = [f"--config.{key}={value}" for key, value in old.changes.items() if key != "mesh.slice"]
  done = subprocess.run(
      [sys.executable, "-m", "vljepa_jax.plan", f"--config={old.recipe}", f"--topology={old.topology}",
       f"--slices={old.slices}", f"--json={tmp_path / 'again.json'}", *changes],
      cwd=ROOT, env=fresh_environment(), capture_output=True, text=True, timeout=1800)
  assert done.returncode == 0, done.stderr[-2000:]
  new = plan.read(tmp_path / "again.json")
  assert new.compiled.needed == pytest.approx(old.compiled.needed, rel=0.02)
  assert new.compiled.hbm_bytes == pytest.approx(old.compiled.hbm_bytes, rel=0.02)
  moved = lambda made: sum(e.bytes for e in made.compiled.exchanges)
  assert moved(new) == pytest.approx(moved(old), rel=0.02)
  assert new.derived["mfu"] == pytest.approx(old.derived["mfu"], rel=0.02)
