import os
import pathlib
import signal
import subprocess
import sys
import time

PARENT = """
import concurrent.futures, multiprocessing, os, sys
from vljepa_jax.data.orphans import end_with_parent
end_with_parent()
spawn = multiprocessing.get_context("spawn")
pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, initializer=end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
sys.stdin.read()
"""


def runs(process):
  try:
    return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
  except OSError:
    return False


def test_a_worker_ends_with_the_process_that_has_started_it():
  parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  worker = int(parent.stdout.readline())
  assert runs(worker) and parent.poll() is None
  os.kill(parent.pid, signal.SIGKILL)
  parent.wait()
  for _ in range(600):
    if not runs(worker):
      return
    time.sleep(0.1)
  os.kill(worker, signal.SIGKILL)
  raise AssertionError("the worker has outlived its parent")
