"""The end of a conversion: everything is counted, quarantined rows are listed, TFDS is told what there is."""

from collections.abc import Mapping, Sequence
import itertools
import pathlib
import shutil
import tempfile
from typing import Any

import numpy as np

from vljepa_jax.data.conversion.items import Inputs
from vljepa_jax.data.conversion.shard import PLAN, TEMPORARY, Shard, write_lines
from vljepa_jax.data.shards import INFO, NAME, QUARANTINE, VERSION
from vljepa_jax.errors import UserError, as_user_error


Headers = Mapping[Shard, Mapping[str, Any]]


def verify(
    folder: pathlib.Path, shards: Sequence[Shard], inputs: Inputs) -> tuple[Headers, Sequence[Mapping[str, Any]]]:
  """Counts what is there against the input.

  Returns:
    The headers of the shards, and the entries of all rows that are in quarantine.

  Raises:
    UserError: a shard is missing or damaged, or the counts do not add up.
  """
  headers = {shard: _verified(shard) for shard in shards}
  bad = [*inputs.quarantined, *itertools.chain.from_iterable(header["quarantined"] for header in headers.values())]
  clips = sum(header["records"] for header in headers.values())
  if clips + len(bad) != inputs.rows:
    raise UserError(f"{folder} has {clips:,} clips and {len(bad):,} in quarantine of {inputs.rows:,} rows; delete it")
  return headers, bad


def finish(
    folder: pathlib.Path, headers: Headers, bad: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
  """Writes what is told of all shards together, TFDS's `dataset_info.json` last; UserError if nothing could be used."""
  write_lines(folder / QUARANTINE, bad)
  if not any(header["records"] for header in headers.values()):
    raise UserError(f"no clip could be converted; {folder / QUARANTINE} tells why, first: {bad[0]['reason']}")
  _write_info(folder, headers, classes)
  shutil.rmtree(folder / PLAN, ignore_errors=True)
  for left in [*folder.glob(f"*{TEMPORARY}*"), *folder.glob(f"index/*{TEMPORARY}*")]:
    left.unlink(missing_ok=True)


def _verified(shard: Shard) -> Mapping[str, Any]:
  """The header of a shard that holds as many records as it says."""
  from array_record.python import array_record_module

  header = shard.header()
  if header is None:
    raise UserError(f"{shard.data} is not there; run the same command again")
  try:
    reader = array_record_module.ArrayRecordReader(str(shard.data))
    found = reader.num_records()
    reader.close()
  except RuntimeError as error:
    raise UserError(f"{shard.data} is damaged ({error}); delete it and run the same command again") from error
  if found != header["records"]:
    raise UserError(
        f"{shard.data} holds {found} clips and not {header['records']}; delete it and run the same command again")
  return header


def features(classes: Sequence[str]) -> Any:
  """What an Example of a shard holds, for TFDS."""
  import tensorflow_datasets as tfds

  text, texts = tfds.features.Text(), tfds.features.Sequence(tfds.features.Text())
  label = tfds.features.ClassLabel(names=classes) if classes else tfds.features.Scalar(np.int64)
  return tfds.features.FeaturesDict(dict(
      id=text, label=label, captions=tfds.features.Sequence(dict(field=text, text=text)), questions=texts,
      frames=tfds.features.Sequence(tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")), video=text,
      times=tfds.features.Sequence(tfds.features.Scalar(np.int64)), duration=tfds.features.Scalar(np.int64)))


def _write_info(folder: pathlib.Path, headers: Headers, classes: Sequence[str]) -> None:
  import tensorflow_datasets as tfds
  from tensorflow_datasets.core import dataset_info, naming

  identity = dataset_info.DatasetIdentity(
      name=NAME, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name="")
  info = dataset_info.DatasetInfo(
      builder=identity, features=features(classes), description="Clips converted by vljepa_jax.data.convert.")
  info.set_file_format("array_record")
  template = naming.ShardedFileTemplate(
      data_dir=folder, dataset_name=NAME, filetype_suffix="array_record")
  rows = {}
  for shard, header in headers.items():
    rows.setdefault(shard.split, []).append(header)
  info.set_splits(tfds.core.splits.SplitDict([
      tfds.core.SplitInfo(
          name=split, shard_lengths=[header["records"] for header in mine],
          num_bytes=sum(header["bytes"] for header in mine), filename_template=template.replace(split=split))
      for split, mine in rows.items()]))
  with as_user_error(OSError), tempfile.TemporaryDirectory(dir=folder) as written:
    info.write_to_directory(written)
    for path in sorted(pathlib.Path(written).iterdir(), key=lambda path: path.name == INFO):
      path.replace(folder / path.name)
