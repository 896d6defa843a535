"""Time and memory of importing the paper's three parts: python benchmarks/convert_paper.py [--folder=parts].

Writes random weights of V-JEPA 2 ViT-L, Llama-3.2-1B (all 16 layers, bfloat16 as published) and EmbeddingGemma-300M as
Hugging Face folders, about 5 GB, unless they are there; then runs `python -m vljepa_jax.convert` on them in a process of
its own and compares its largest resident memory with the size of the parameters that it makes.
"""

from collections.abc import Iterator, Mapping
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from absl import flags
import jax
import ml_dtypes
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vljepa_jax import api, cli
from vljepa_jax import config as config_lib
from vljepa_jax import weights
from vljepa_jax.model import presets
from vljepa_jax.weights.safetensors_file import save_safetensors
from configs import vljepa_stage1

_FOLDER = flags.DEFINE_string("folder", None, "Where the parts lie or go; a temporary folder by default.")
GIB = 2**30


class Random(Mapping):
  """Random tensors of given shapes, made when they are looked up."""

  def __init__(self, shapes: dict[str, tuple[int, ...]], dtype: np.dtype):
    self._shapes = shapes
    self._dtype = dtype

  def __getitem__(self, name: str) -> np.ndarray:
    rng = np.random.default_rng(abs(hash(name)))
    return (0.02 * rng.standard_normal(self._shapes[name], np.float32)).astype(self._dtype)

  def __iter__(self) -> Iterator[str]:
    return iter(self._shapes)

  def __len__(self) -> int:
    return len(self._shapes)


def write_part(folder: pathlib.Path, config: object, params: dict, dtype: np.dtype) -> None:
  """The folder of one tower with other numbers, unless it is there."""
  if (folder / "config.json").exists():
    return
  zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), params)
  weights.export_folder(folder, config, zeros)
  for file in folder.rglob("model.safetensors"):
    found = weights.tensors.read_tensors(file)
    save_safetensors(file, Random({name: found[name].shape for name in found}, dtype))


def main() -> None:
  plain = vljepa_stage1.get_config("1frame").to_dict()
  config = config_lib.parse(plain)
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(_FOLDER.value or scratch)
    towers, shapes = config_lib.model_config(config.model), api.abstract_params(config)
    llama = presets.predictor("llama3_1b_l8", layers=(0, 16))
    stacked = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((16, *x.shape[1:]), x.dtype), shapes["predictor"]["layers"])
    write_part(folder / "vjepa2", towers.x_encoder, shapes["x_encoder"], np.float32)
    write_part(folder / "llama", llama, shapes["predictor"] | {"layers": stacked}, ml_dtypes.bfloat16)
    write_part(folder / "gemma", towers.y_encoder, shapes["y_encoder"], np.float32)
    made = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    out = pathlib.Path(scratch) / "out"
    command = [sys.executable, "-m", "vljepa_jax.convert", f"--config={ROOT}/configs/vljepa_stage1.py:1frame",
               f"--x_encoder={folder}/vjepa2", f"--predictor={folder}/llama", f"--y_encoder={folder}/gemma",
               f"--out={out}"]
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    peak = [0]
    watcher = threading.Thread(target=watch, args=(process, peak))
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - began
    watcher.join()
    if code:
      sys.exit(code)
    print(f"{made / GIB:.2f} GiB of parameters in {seconds:.0f} s; largest resident memory {peak[0] / GIB:.2f} GiB, "
          f"{(peak[0] - made) / GIB:.2f} GiB more than the parameters")


def watch(process: subprocess.Popen, peak: list[int]) -> None:
  """Keeps the high-water mark of a process's resident memory in bytes (Linux)."""
  status = pathlib.Path(f"/proc/{process.pid}/status")
  while process.poll() is None:
    for line in status.read_text().splitlines():
      if line.startswith("VmHWM:"):
        peak[0] = max(peak[0], 1024 * int(line.split()[1]))
    time.sleep(0.05)


if __name__ == "__main__":
  cli.run(main)
