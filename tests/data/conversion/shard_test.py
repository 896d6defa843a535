"""One shard: what cannot be read stays out, whatever the reason."""

import errno
import json

from PIL import Image
import pytest

from vljepa_jax.data.conversion import shard as shard_lib
from vljepa_jax.data.conversion.frames import Encoding, encode
from vljepa_jax.data.conversion.items import Item
from vljepa_jax.data.conversion.shard import Shard, convert_shard, write_items
from vljepa_jax.data.shards import read_index
from vljepa_jax.errors import MediaError, UserError

ENCODING = Encoding(64, 8.0, 0, 0.0, "jpeg", 90)


@pytest.fixture
def shard(tmp_path):
  made = Shard(str(tmp_path / "out"), "train", 0, 1)
  texts = lambda i: dict(id=str(i), captions={"caption": [f"picture {i}"]}, questions=[], label=-1)
  for i in range(3):
    Image.new("RGB", (8, 8), (80 * i,) * 3).save(tmp_path / f"{i}.png")
  write_items(made, [Item(f"line {i}", str(tmp_path / f"{i}.png"), None, 0, 0, 0.0, None, texts(i)) for i in range(3)])
  return made


def test_a_finished_shard_is_left_alone(shard):
  convert_shard(shard, ENCODING)
  before = shard.data.stat().st_mtime_ns, shard.index.stat().st_mtime_ns
  convert_shard(shard, ENCODING)
  assert (shard.data.stat().st_mtime_ns, shard.index.stat().st_mtime_ns) == before
  assert shard.header()["records"] == 3 and not list(shard.data.parent.glob("*.tmp-*"))


def test_a_decoder_may_raise_anything(shard, monkeypatch):
  def broken(item, encoding):
    if item.record == "line 1":
      raise RuntimeError("lost its way")
    return encode(item, encoding)

  monkeypatch.setattr(shard_lib, "encode", broken)
  convert_shard(shard, ENCODING)
  header, rows = read_index(shard.index)
  assert [row["id"] for row in rows] == ["0", "2"]
  assert [(entry["record"], entry["reason"]) for entry in header["quarantined"]] == [
      ("line 1", "RuntimeError: lost its way")]


def test_a_missing_package_is_no_fault_of_files(shard, monkeypatch):
  def missing(item, encoding):
    raise ImportError("reading videos needs PyAV")

  monkeypatch.setattr(shard_lib, "encode", missing)
  with pytest.raises(ImportError):
    convert_shard(shard, ENCODING)
  assert shard.header() is None and not list(shard.data.parent.glob("clips-*"))


def test_a_fault_that_passes_is_no_fault_of_files(shard, monkeypatch):
  def unplugged(item, encoding):
    raise MediaError(f"{item.name} cannot be read") from OSError(errno.EIO, "Input/output error")

  monkeypatch.setattr(shard_lib, "encode", unplugged)
  with pytest.raises(UserError, match="0.png cannot be read now: .*run the same command again"):
    convert_shard(shard, ENCODING)
  assert shard.header() is None and not list(shard.data.parent.glob("clips-*"))


def test_an_index_without_its_clips_is_not_finished(shard):
  convert_shard(shard, ENCODING)
  data = shard.data.read_bytes()
  for damaged in (data[:-1], b""):
    shard.data.write_bytes(damaged)
    assert shard.header() is None
  shard.data.write_bytes(data)
  assert shard.header()
  shard.index.write_text(json.dumps({"records": 3, "bytes": len(data), "quarantined": []}))
  assert shard.header() is None
