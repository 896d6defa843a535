import json
import resource
import shutil
import signal
import subprocess
import types

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from tests import tiny
from vljepa_jax import progress, run_log, train
from vljepa_jax.errors import UserError


def write(workdir, step, *lines):
  log = run_log.RunLog(workdir, step)
  for number, values in lines:
    log.write(number, values)
  log.close()
  return log


def test_lines_come_back(tmp_path):
  log = write(tmp_path, 0, (1, {"loss": 2.0}), (2, {"loss": 1.5}))
  assert run_log.read_metrics(tmp_path) == log.records == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}]


def test_numbers_of_one_step_share_a_line(tmp_path):
  write(tmp_path, 0, (1, {"loss": 2.0}), (2, {"loss": 1.5}), (2, {"eval/r1": 0.5}))
  assert run_log.read_metrics(tmp_path)[1:] == [{"step": 2, "loss": 1.5, "eval/r1": 0.5}]


@pytest.mark.parametrize("step, kept", [(0, []), (1, [1]), (2, [1, 2]), (9, [1, 2])])
def test_resuming_drops_later_steps_and_a_cut_off_line(tmp_path, step, kept):
  write(tmp_path, 0, (1, {"loss": 2.0}), (2, {"loss": 1.5}))
  with (tmp_path / run_log.METRICS).open("a") as file:
    file.write('{"step": 3, "lo')
  write(tmp_path, step, (step + 1, {"loss": 9.0}))
  assert [record["step"] for record in run_log.read_metrics(tmp_path)] == [*kept, step + 1]


@pytest.mark.parametrize("tear", [b'{"step": 3, "lo', b"\0" * 40, b"\0\xff\n", b"7\n"])
def test_torn_lines_are_repaired_and_told(tmp_path, tear, capsys):
  write(tmp_path, 0, (1, {"loss": 2.0}), (2, {"loss": 1.5}))
  path = tmp_path / run_log.METRICS
  before = path.read_bytes()
  path.write_bytes(before + tear)
  log = write(tmp_path, 2)
  assert path.read_bytes() == before and [record["step"] for record in log.records] == [1, 2]
  assert capsys.readouterr().err == f"warning: {path}: 1 torn line(s) left out\n"


def test_a_workdir_that_has_gone_is_an_error(tmp_path):
  workdir = tmp_path / "run"
  workdir.mkdir()
  log = write(workdir, 0, (1, {"loss": 2.0}))
  shutil.rmtree(workdir)
  with pytest.raises(UserError, match=r"metrics.jsonl cannot be written: No such file or directory \(it has gone: was"):
    log.write(2, {"loss": 1.0})


def test_a_full_disk_is_an_error(tmp_path):
  log = run_log.RunLog(tmp_path, 0)
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    with pytest.raises(UserError, match="metrics.jsonl cannot be written: File too large; put that right and run"):
      log.write(1, {"loss": 1.0})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)
  log.close()


def test_a_full_disk_of_tensorboard_alone_is_an_error(tmp_path):
  folder = tmp_path / run_log.TENSORBOARD
  folder.mkdir()
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)], capture_output=True)
  if mounted.returncode:
    pytest.skip("this user may not mount a file system")
  log = run_log.RunLog(tmp_path, 0)
  try:
    with pytest.raises(UserError, match="tensorboard cannot be written: No space left on device; put that right"):
      for step in range(1, 1000):
        log.write(step, {"loss": 1.0})
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
  lines = run_log.read_metrics(tmp_path)
  assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)) and len(lines) > 100


def test_batch_ids_keep_every_digit(tmp_path):
  write(tmp_path, 0, (1, {"loss": 2.0, "batch_ids": 2**32 - 1}))
  assert '"batch_ids": 4294967295}' in (tmp_path / run_log.METRICS).read_text()
  (path,) = (tmp_path / run_log.TENSORBOARD).iterdir()
  assert [value.tag for event in events(path) for value in event.summary.value] == ["loss"]


def test_no_metrics_yet(tmp_path):
  assert run_log.read_metrics(tmp_path) == []


def test_tensorboard_has_the_same_numbers(tmp_path):
  write(tmp_path, 0, (1, {"loss": 2.5}), (2, {"loss": 1.25}))
  (path,) = (tmp_path / run_log.TENSORBOARD).iterdir()
  found = [(event.step, value.tag, value.simple_value) for event in events(path) for value in event.summary.value]
  assert found == [(1, "loss", 2.5), (2, "loss", 1.25)]


def events(path):
  """Records of an event file: length, its checksum, data, its checksum."""
  data, at = path.read_bytes(), 0
  while at < len(data):
    length = int(np.frombuffer(data, "<u8", 1, at)[0])
    event = event_pb2.Event()
    event.ParseFromString(data[at + 12:at + 12 + length])
    yield event
    at += 16 + length


def test_nested_results_become_flat_numbers():
  results = {"vqa": {"accuracy": 0.5, "kinds": {"what": 1}}, "name": "base"}
  assert run_log.flat_numbers(results, "eval") == {"eval/vqa/accuracy": 0.5, "eval/vqa/kinds/what": 1}


def test_versions(tmp_path):
  run_log.write_versions(tmp_path)
  versions = json.loads((tmp_path / run_log.VERSIONS).read_text())
  assert set(run_log.PACKAGES) < set(versions) and versions["numpy"] == np.__version__


def test_streams_are_told_of_as_often_as_asked_for_and_no_more(tmp_path):
  config = tiny.recipe(**{"train.log_every": 4})  # where captions have most weight
  throughput = types.SimpleNamespace(count=None, take=None, numbers=lambda *_: {})

  def go(first, last):
    log = run_log.RunLog(tmp_path, first - 1)
    writer = train.Writer(config, log, progress.Clock(0.0, first - 1), throughput)
    for step in range(first, last + 1):
      stream = "what" if step % 2 == 0 else "is_there" if step == 9 else "captions"
      if writer.is_due(step, stream):
        writer.write(step, stream, {"loss": 1.0, "temperature": 0.1, "batch_recall": 0.5}, 0.0)
    log.close()
    return [record["step"] for record in log.records]

  assert go(1, 12) == [2, 4, 8, 9, 12]
  assert go(7, 12) == [2, 4, 8, 9, 12], "after a restart the same"
