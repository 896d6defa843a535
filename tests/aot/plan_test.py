import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

from vljepa_jax.aot import compiler, plan, report, search, topology
from vljepa_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, **environ):
  """`python -m vljepa_jax.plan` in a process of its own: libtpu reads its environment once."""
  environ = {k: v for k, v in os.environ.items() if k != "LIBTPU_INIT_ARGS"} | environ
  return subprocess.run(
      [sys.executable, "-m", "vljepa_jax.plan", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True,
      timeout=300)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """The debug recipe, compiled for four chips of v5e with a 2 x 2 mesh: (printed, plan)."""
  pytest.importorskip("libtpu")
  path = tmp_path_factory.mktemp("plan") / "folder" / "debug.json"
  done = run("--config=configs/base.py:debug", "--topology=v5e:2x2", "--config.mesh.data=2", "--config.mesh.fsdp=2",
             f"--json={path}")
  assert done.returncode == 0, done.stderr[-2000:]
  return done.stdout, plan.read(path)


@pytest.mark.aot
def test_a_plan_says_everything(small):
  printed, _ = small
  for words in (
      "configs/base.py:debug on v5e:2x2: compiled, not run", "with config.mesh.data = 2",
      "4 chips on 1 host(s), mesh slice 1 x data 2 x fsdp 2 x tensor 1", "GiB, 100% to spare: fits",
      "largest temporary arrays", "x_encoder", "collectives of a chip in a step", "all-gather", "fsdp", "compute",
      "memory", "MFU at most", "samples/s", "clips/s to decode on each host", "chip-days"):
    assert words in printed, words


@pytest.mark.aot
def test_a_plan_is_read_as_it_was_written(small, tmp_path):
  made = small[1]
  made.write(tmp_path / "again.json")
  assert plan.read(tmp_path / "again.json") == made
  assert report.text(plan.read(tmp_path / "again.json")) in small[0]


@pytest.mark.aot
def test_a_table_of_plans(small, tmp_path):
  small[1].write(tmp_path / "one.json")
  done = run(f"--certificates={tmp_path}")
  assert done.returncode == 0, done.stderr[-2000:]
  head, line = done.stdout.splitlines()
  assert "MFU at most" in head and line.startswith("one ") and "100%" in line
  done = run(f"--certificates={tmp_path / 'nothing'}")
  assert done.returncode == 2 and "holds no plans" in done.stderr


@pytest.mark.aot
def test_numbers_of_a_plan_agree_with_one_another(small):
  made = small[1]
  d = made.derived
  assert made.fits and made.compiled.needed == made.compiled.arguments + made.compiled.temporary + made.compiled.code
  assert d["memory"]["needed"] == made.compiled.needed < d["memory"]["chip"] == 16 * 2**30
  assert d["seconds"]["step"] == max(d["seconds"][name] for name in ("compute", "hbm", "ici", "dcn"))
  assert d["samples_per_second"] == pytest.approx(16 / d["seconds"]["step"])
  assert sum(map(sum, d["flops"]["model"].values())) == d["flops"]["model_total"] <= d["flops"]["total"]
  gathers = [e for e in made.compiled.exchanges if e.op == "all-gather" and e.axes == ("fsdp",)]
  assert gathers and all(e.chips == 2 and e.slices == 1 for e in gathers)
  assert made.versions["LIBTPU_INIT_ARGS"] and made.versions["libtpu"]


@pytest.mark.aot
@pytest.mark.parametrize("arguments, words", [
    (["--topology=v6e:16x32"], "--topology=v6e:16x32 does not exist; nearest: v6e:16x16"),
    (["--topology=v5e:2x2", "--config.mesh.fsdp=3"], "does not fit 4 device(s)"),
    (["--topology=v5e:2x2", "--config.train.batch_size=18"], "16 or 20 would do"),
    (["--topology=v5e:2x2", "--config.model.pooling=(1,3,1)"], "pooling (1, 3, 1) does not divide"),
    (["--topology=v5e:2x2", "--config.mesh.slice=2", "--config.mesh.data=2"], "but the devices lie in 1 slice"),
])
def test_what_cannot_be_planned_is_one_clear_error(arguments, words):
  pytest.importorskip("libtpu")
  done = run("--config=configs/base.py:debug", *arguments)
  assert done.returncode == 2 and words in done.stderr, done.stderr[-2000:]
  assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.aot
def test_a_search_takes_the_fastest_that_fits(tmp_path):
  pytest.importorskip("libtpu")
  done = run("--config=configs/base.py:debug", "--topology=v5e:2x2", "--search", f"--json={tmp_path / 'found.json'}")
  assert done.returncode == 0, done.stderr[-2000:]
  found = plan.read(tmp_path / "found.json")
  assert "ways to run configs/base.py:debug on v5e:2x2" in done.stdout
  assert found.fits and found.changes["loss.micro_batches"] == 1  # nothing is computed twice where all fits
  assert found.changes["model.predictor.remat"] == "dots"
  assert plan.load_config(found, ROOT).loss.micro_batches == 1


@pytest.mark.aot
def test_a_plan_that_does_not_fit(small):
  made = dataclasses.replace(small[1], compiled=compiler.Compiled(False, "RESOURCE_EXHAUSTED: 50 GiB of 16"))
  assert not made.fits and "DOES NOT FIT: RESOURCE_EXHAUSTED: 50 GiB of 16" in report.text(made)
  tight = json.loads(json.dumps(small[1].derived))
  tight["memory"]["headroom"] = 0.09
  made = dataclasses.replace(small[1], derived=tight)
  assert not made.fits and "leaves less than the 10% to spare" in report.text(made)


@pytest.mark.aot
def test_a_file_that_cannot_be_written(small, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(UserError, match="cannot be written"):
    small[1].write(tmp_path / "file" / "plan.json")


def test_what_is_tried_follows_what_was_found():
  make = lambda remat, size: search.Candidate({}, remat, 1, 1, 1, size)
  hopeful = [make("dots", 8.0), make("dots", 7.0), make("full", 6.0), make("dots", 4.0), make("full", 1.0)]
  found, too_low, tried = {}, {}, []
  for candidate in search._tried(hopeful, found, too_low, room=9.0):
    tried.append((candidate.remat, candidate.bytes))
    if tried[-1] == ("dots", 8.0):
      too_low["dots"] = 2.0  # it took 16: 7 would not fit, either
    else:
      found[candidate.remat] = None
  assert tried == [("dots", 8.0), ("full", 6.0), ("dots", 4.0)]


def test_larger_slices():
  assert search.larger("v5e:4x4") == ["v5e:4x8", "v5e:8x8"]
  assert search.larger("v6e:16x16") == ["several slices (--slices=2)"]


def test_changes_of_a_recipe():
  from configs import vljepa_stage1

  plain = vljepa_stage1.get_config("1frame").to_dict()
  made = plan.changed(plain, {"loss.micro_batches": 8, "model.predictor.remat": "full"})
  assert made.loss.micro_batches == 8 and made.model.predictor.changes["remat"] == "full"
  assert plain["loss"]["micro_batches"] == 1


def test_largest_arrays_of_a_compiler_s_report():
  text = """Memory Space: default (color=0)
Total bytes: 12 (12B)
  cumulative_size;       size;       offset; used_by_n_values; shapes_list
  ------------------------------------------------------------
    6.00GiB( 30%);    6.00GiB;   3601465344;                2; bf16[24576,8192], 2×bf16[8,96,256,2048]
   10.69GiB( 54%);    1.50MiB;    990183424;                1; f32[24,96]

Memory Space: other (color=1)
    6.00GiB( 30%);    6.00GiB;   3601465344;                2; f32[1]
"""
  program = '  %x = bf16[8,96,256,2048]{3,2,1,0} fusion(%y), metadata={op_name="jit(step)/VLJepa.predict/predictor/add"}'
  assert compiler.consumers(text, program) == (
      (6 * 2**30, "bf16[8,96,256,2048] predictor"), (3 * 2**19, "f32[24,96]"))


def test_the_longest_batch_counts():
  from configs import vljepa_sft, vljepa_stage1
  from vljepa_jax import config as config_lib

  assert compiler.query_length(config_lib.parse(vljepa_stage1.get_config("8frames"))) == 0
  assert compiler.query_length(config_lib.parse(vljepa_sft.get_config())) == 512


@pytest.mark.aot
def test_several_slices_share_the_outer_axis():
  pytest.importorskip("libtpu")
  code = (
      "from vljepa_jax.aot import topology; chip, _ = topology.parse('v6e:2x4'); topology.prepare(chip); "
      "from vljepa_jax.aot import compiler; from vljepa_jax.config import Mesh; from vljepa_jax import sharding; "
      "mesh = sharding.make_mesh(Mesh(2, 2, -1, 1, ()), topology.describe('v6e:2x4', 2)); "
      "print(mesh.devices.shape, compiler.group_place((0, 8), mesh), compiler.group_place(tuple(range(4)), mesh))")
  environ = {k: v for k, v in os.environ.items() if k != "LIBTPU_INIT_ARGS"}
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
  shape = topology.parse("v6e:2x4")[1]
  assert shape == (2, 4)
  assert done.stdout.startswith("(2, 2, 4, 1) (('slice',), (), 2) (('fsdp',), (2, 2), 1)"), done.stderr[-2000:]
