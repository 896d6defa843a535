"""The command as it is run: Beam, exit codes, what is kept, what a kill leaves."""

import json
import logging
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from tests.data.conversion.items_test import write_tar
from tests.tiny_video import write_video
from vljepa_jax.data import convert
from vljepa_jax.data.shards import QUARANTINE
from vljepa_jax.data.sources import open_source

pytest.importorskip("apache_beam", reason="conversion needs Apache Beam: see requirements-convert.txt")

ROOT = pathlib.Path(__file__).parents[2]
COUNT = 24
BROKEN = (3, 17)
BOTH_CORES = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]


@pytest.fixture(autouse=True)
def handlers():
  """Of logging, which other runners than DirectRunner get some of their own."""
  before, level = logging.root.handlers[:], logging.root.level
  yield
  logging.root.handlers[:] = before
  logging.root.setLevel(level)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
  """Videos and pictures, two of them broken, one missing, one row wrong."""
  folder, rng = tmp_path_factory.mktemp("media"), np.random.default_rng(0)
  rows = []
  for i in range(COUNT):
    path = folder / (f"{i}.mp4" if i % 2 else f"{i}.png")
    if i % 2:
      write_video(path, rng.integers(0, 255, (8, 3)), size=(640, 360))
    else:
      Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8)).save(path)
    if i in BROKEN:
      path.write_bytes(b"broken")
    rows.append({"path": path.name, "caption": f"clip {i}", "label": "ab"[i // 2 % 2],
                 "split": "test" if i % 8 == 7 else "train"})
  rows += [{"path": "none.mp4", "caption": "lost"}, {"path": "1.mp4", "captoin": "wrong"},
           {"path": "1.mp4", "caption": "once more"}]
  (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
  return str(folder / "m.jsonl")


def run(out, *arguments):
  return convert.main([f"--out={out}", "--clips_per_shard=3", *arguments])


@pytest.fixture(scope="module")
def converted(manifest, tmp_path_factory):
  out = tmp_path_factory.mktemp("converted")
  assert run(out, f"--manifest={manifest}") == convert.QUARANTINED
  return out


def files(folder):
  """All files of a conversion with what they hold; TFDS sets no times in its own."""
  return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_row_is_a_clip_or_in_quarantine(converted):
  ids = [record.id for split in ("train", "test") for record in open_source(str(converted), split).records]
  expected = {f"{i}.mp4" if i % 2 else f"{i}.png" for i in range(COUNT)} - {f"{i}.mp4" for i in BROKEN}
  assert len(ids) == len(expected) and set(ids) == expected
  told = [json.loads(line) for line in (converted / QUARANTINE).read_text().splitlines()]
  assert sorted((pathlib.Path(entry["path"]).name, entry["record"].rpartition(", ")[2]) for entry in told) == [
      ("1.mp4", "line 26"), ("1.mp4", "line 27"), ("17.mp4", "line 18"), ("3.mp4", "line 4"), ("none.mp4", "line 25")]
  reasons = {pathlib.Path(entry["path"]).name: entry["reason"] for entry in told}
  assert "cannot be read as a video" in reasons["3.mp4"] and "there is no video" in reasons["none.mp4"]
  assert not list(converted.glob("*.tmp-*")) and not (converted / ".plan").exists()


def test_tfds_reads_it(converted):
  builder = tfds.builder_from_directory(str(converted))
  for split in ("train", "test"):
    data, source = builder.as_data_source(split), open_source(str(converted), split)
    assert len(data) == len(source) == builder.info.splits[split].num_examples
    for i, record in enumerate(source.records):
      row = data[i]
      assert row["id"].decode() == record.id and row["captions"]["text"] == [record.caption.encode()]
      assert source.classes[row["label"]] == "ab"[record.label] == builder.info.features["label"].int2str(row["label"])
      assert len(row["frames"]) == len(row["times"]) == (1 if record.id.endswith("png") else 7)
      if record.id.endswith("png"):
        np.testing.assert_array_equal(row["frames"][0], source.frames(i, 1)[0])


def test_shards_and_splits_of_nothing(manifest, tmp_path):
  rows = [{"path": "0.png", "caption": "a"}, {"path": "3.mp4", "caption": "b"}, {"path": "2.png", "caption": "c"},
          {"path": "17.mp4", "caption": "d", "split": "test"}]
  path = pathlib.Path(manifest).with_name("few.jsonl")
  path.write_text("\n".join(map(json.dumps, rows)))
  assert run(tmp_path, f"--manifest={path}", "--clips_per_shard=1") == convert.QUARANTINED
  builder = tfds.builder_from_directory(str(tmp_path))
  assert builder.info.splits["train"].shard_lengths == [1, 0, 1] and builder.info.splits["test"].num_examples == 0
  assert [row["id"] for row in builder.as_data_source("train")] == [b"0.png", b"2.png"]
  source = open_source(str(tmp_path), "train")
  assert source.frames(1, 1).shape == (1, 256, 341, 3) and len(open_source(str(tmp_path), "test")) == 0


def test_again_it_does_nothing(manifest, converted, capsys):
  before = {path: path.stat().st_mtime_ns for path in converted.glob("clips-*")}
  assert run(converted, f"--manifest={manifest}") == convert.QUARANTINED
  assert "is complete; nothing to do" in capsys.readouterr().out
  assert before == {path: path.stat().st_mtime_ns for path in converted.glob("clips-*")}


@pytest.mark.parametrize("changes, message", [
    (["--size=128"], "holds a conversion with --size=256 and not 128; give another --out, or delete it"),
    (["--codec=h264"], "with --codec=jpeg and not h264"),
])
def test_other_options_are_an_error(manifest, converted, capsys, changes, message):
  before = files(converted)
  assert run(converted, f"--manifest={manifest}", *changes) == 1
  assert message in capsys.readouterr().err and files(converted) == before


def test_a_changed_manifest_is_an_error(manifest, converted, capsys):
  lines = pathlib.Path(manifest).read_text().replace("clip 5", "clip five")
  changed = pathlib.Path(manifest).with_name("changed.jsonl")
  changed.write_text(lines)
  assert run(converted, f"--manifest={changed}") == 1
  error = capsys.readouterr().err
  assert "holds a conversion of other rows" in error and error.count("\n") == 1


def test_other_folders_are_left_alone(manifest, tmp_path, capsys):
  (tmp_path / "plan").mkdir()
  assert run(tmp_path, f"--manifest={manifest}") == 1
  assert "is no conversion, but holds plan" in capsys.readouterr().err
  assert {path.name for path in tmp_path.iterdir()} == {"plan", ".lock"}


def test_the_same_manifest_by_another_path(manifest, converted, monkeypatch):
  monkeypatch.chdir(pathlib.Path(manifest).parent)
  assert run(converted, "--manifest=m.jsonl") == convert.QUARANTINED


@pytest.mark.parametrize("arguments", [[], BOTH_CORES])
def test_killed_and_started_again(manifest, converted, tmp_path, arguments):
  """Another folder of another number of workers, killed twice, holds the same bytes."""
  command = [sys.executable, "-m", "vljepa_jax.data.convert", f"--manifest={manifest}", f"--out={tmp_path}",
             "--clips_per_shard=3", *arguments]
  for more in (1, 3):
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while len(list(tmp_path.glob("index/*.jsonl"))) < more and process.poll() is None:
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was not over"
    left = {path: path.stat().st_mtime_ns for path in tmp_path.glob("index/*.jsonl")}
  (tmp_path / "clips-train.array_record-00000-of-00008.tmp-12345678").write_bytes(b"half a file")
  finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
  assert finished.returncode == convert.QUARANTINED and "22 clips, 5 of 27 rows" in finished.stdout
  assert "0 of them finished before" not in finished.stdout
  assert all(path.stat().st_mtime_ns == when for path, when in left.items()), "finished shards are kept"
  assert files(tmp_path) == files(converted)


def children(pid):
  """Processes that a process has started, by its threads."""
  return [int(child) for path in pathlib.Path("/proc").glob(f"{pid}/task/*/children")
          for child in path.read_text().split()]


def test_a_worker_that_dies_does_not_leave_the_command_waiting(manifest, tmp_path):
  command = [sys.executable, "-m", "vljepa_jax.data.convert", f"--manifest={manifest}", f"--out={tmp_path}",
             "--clips_per_shard=1", *BOTH_CORES]
  process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
  while not list(tmp_path.glob("index/*.jsonl")):
    time.sleep(0.002)
  shell = children(process.pid)[0]
  os.kill((children(shell) or [shell])[0], signal.SIGSEGV)  # a shell may have become the worker
  _, error = process.communicate(timeout=60)
  assert process.returncode == 1 and "a file has crashed its decoder" in error


@pytest.mark.parametrize("arguments", [[], BOTH_CORES])
def test_stopped_by_hand(manifest, tmp_path, arguments):
  """Ctrl-C reaches all processes of a terminal's group."""
  command = [sys.executable, "-m", "vljepa_jax.data.convert", f"--manifest={manifest}", f"--out={tmp_path}",
             "--clips_per_shard=1", *arguments]
  process = subprocess.Popen(
      command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
  while not list(tmp_path.glob("index/*.jsonl")):
    time.sleep(0.002)
  os.killpg(process.pid, signal.SIGINT)
  _, error = process.communicate(timeout=60)
  assert process.returncode == 130 and error.startswith("stopped; finished shards are kept") and error.count("\n") == 1


def test_damaged_shards_are_made_again(manifest, converted):
  before = files(converted)
  first, second = sorted(converted.glob("clips-train*"))[:2]
  first.write_bytes(first.read_bytes()[:-1000])
  second.unlink()
  assert run(converted, f"--manifest={manifest}") == convert.QUARANTINED
  assert files(converted) == before


def test_tar_files_without_a_fault(tmp_path, manifest):
  media = pathlib.Path(manifest).parent
  for number in range(2):
    members = []
    for i in (1 + 4 * number, 2 + 4 * number):
      name = f"{i}.mp4" if i % 2 else f"{i}.png"
      members += [(name, (media / name).read_bytes()), (f"{i}.txt", f"clip {i}".encode())]
    write_tar(tmp_path / f"s-{number}.tar", members)
  assert run(tmp_path / "out", f"--webdataset={tmp_path}/s-{{0..1}}.tar", "--split=validation") == 0
  source = open_source(str(tmp_path / "out"), "validation")
  assert [record.caption for record in source.records] == ["clip 1", "clip 2", "clip 5", "clip 6"]
  assert [len(source.frames(i, 5)) for i in range(4)] == [5, 1, 5, 1]
  assert (tmp_path / "out" / QUARANTINE).read_text() == ""


@pytest.mark.parametrize("arguments, message", [
    (["--manifest=none.jsonl"], "there is no manifest none.jsonl"),
    (["--fsp=3"], "--fsp is an option neither of the conversion nor of Beam"),
    (["--runner=NoRunner"], "NoRunner"),
    (["--fps=0"], "--fps=0 must be positive"),
    (["--quality=99"], "must be 95 or less"),
    (["--size=0"], "--size=0 must be 2 or more"),
])
def test_one_line_for_what_is_wrong(manifest, tmp_path, capsys, arguments, message):
  assert run(tmp_path / "out", f"--manifest={manifest}", *arguments) == 1
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1


def test_options_reach_the_runner(manifest, tmp_path, monkeypatch):
  from vljepa_jax.data.conversion import run as beam_run

  options = beam_run.read_options("FlinkRunner", ["--flink_master=host:81", "--parallelism=7"])
  told = options.get_all_options()
  assert (told["runner"], told["flink_master"], told["parallelism"]) == ("FlinkRunner", "host:81", 7)
  seen = []
  monkeypatch.setattr(beam_run, "run", lambda shards, encoding, options: seen.append(options.get_all_options()))
  assert run(tmp_path, f"--manifest={manifest}", "--runner=SparkRunner", "--spark_version", "3") == 1
  assert seen[0]["runner"] == "SparkRunner" and seen[0]["spark_version"] == "3"


def test_nothing_that_could_be_converted(tmp_path, capsys):
  (tmp_path / "m.jsonl").write_text('{"path": "none.mp4", "caption": "lost"}\n')
  assert run(tmp_path / "out", f"--manifest={tmp_path}/m.jsonl") == 1
  assert "no clip could be converted" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], BOTH_CORES])
def test_a_full_disk(manifest, converted, tmp_path, arguments):
  """As a limit on the size of files has it."""
  command = [sys.executable, "-m", "vljepa_jax.data.convert", f"--manifest={manifest}", f"--out={tmp_path}",
             "--clips_per_shard=3", *arguments]
  limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
  stopped = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
  assert stopped.returncode == 1 and stopped.stderr.count("\n") == 1, stopped.stderr
  assert "cannot be written: " in stopped.stderr and "File too large" in stopped.stderr
  assert run(tmp_path, f"--manifest={manifest}") == convert.QUARANTINED
  assert files(tmp_path) == files(converted)


def test_broken_off_at_the_very_end(manifest, converted):
  before = files(converted)
  (converted / "dataset_info.json").unlink()
  assert run(converted, f"--manifest={manifest}") == convert.QUARANTINED
  assert files(converted) == before


def test_two_at_a_time(manifest, converted, capsys):
  with open(converted / ".lock", "w") as lock:
    convert.fcntl.flock(lock, convert.fcntl.LOCK_EX)
    assert run(converted, f"--manifest={manifest}") == 1
  assert "another conversion writes to" in capsys.readouterr().err
