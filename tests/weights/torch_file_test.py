"""The PyTorch file reader: right values from both formats, and nothing but tensors. Files: make_vision_fixtures.py."""

import io
import os
import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from vljepa_jax.weights import torch_file

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
FILES = ("torch_zip.pth", "torch_legacy.pth")
BASE = np.arange(24, dtype=np.float32).reshape(4, 6)
EXPECTED = {
    "model.weight": np.array([[1, 2]], np.float32),
    "model.bias": np.array([3], np.float32),
    "list.0": BASE[2],
    "float32": BASE / 4,
    "float64": BASE.astype(np.float64),
    "float16": BASE.astype(np.float16),
    "bfloat16": (BASE / 8).astype(ml_dtypes.bfloat16),
    "int64": np.array([-1, 2**40]),
    "int32": np.array([-(2**31)], np.int32),
    "int16": np.array([-300], np.int16),
    "int8": np.array([-128], np.int8),
    "uint8": np.array([255], np.uint8),
    "bool": np.array([True, False]),
    "strided": BASE[1::2, ::3].T,
    "row": BASE[2],
    "expanded": np.full((2, 3), 7, np.float32),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": BASE[:1],
}




def read(tmp_path, data):
  path = tmp_path / "weights.pth"
  path.write_bytes(data)
  return torch_file.read_torch_file(path)


def zip_file(pickled, compression=zipfile.ZIP_STORED, **storages):
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, "w", compression) as archive:
    archive.writestr("archive/data.pkl", pickled)
    for key, content in storages.items():
      archive.writestr(f"archive/data/{key}", content)
  return buffer.getvalue()


def legacy_file(pickled, little_endian=True):
  head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian})
  return b"".join(pickle.dumps(part, 2) for part in head) + pickled


def tensor_pickle(offset, size, stride, storage_type="FloatStorage"):
  """A dict of one tensor "x" over storage "w" of four elements, with numbers that torch.save would not write."""
  number = lambda n: b"I%d\n" % n
  entries = lambda *parts: b"(" + b"".join(parts) + b"t"
  storage_id = entries(b"Vstorage\n", b"ctorch\n%s\n" % storage_type.encode(), b"Vw\n", b"Vcpu\n", number(4))
  arguments = entries(storage_id + b"Q", number(offset), entries(*map(number, size)), entries(*map(number, stride)))
  return b"(dVx\nctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_has_its_value_and_type(name):
  tensors = torch_file.read_torch_file(FIXTURES / name)
  assert list(tensors) == list(EXPECTED)
  for key, expected in EXPECTED.items():
    assert tensors[key].dtype == expected.dtype, key
    assert tensors[key].shape == expected.shape, key
    np.testing.assert_array_equal(tensors[key], expected, err_msg=key)
    assert not tensors[key].flags.writeable, key


class Evil:
  """Pickles as a call of `os.mkdir(path)`."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (self.path,)


@pytest.mark.parametrize("wrap", (zip_file, legacy_file, lambda pickled: pickled))
@pytest.mark.parametrize("protocol", (0, 2, 4))
def test_a_call_is_refused_by_name_and_not_made(tmp_path, wrap, protocol):
  target = tmp_path / "made"
  pickled = pickle.dumps({"weight": Evil(str(target))}, protocol)
  with pytest.raises(torch_file.RefusedGlobalError, match=rf"weights\.pth is refused.*`{os.mkdir.__module__}\.mkdir`"):
    read(tmp_path, wrap(pickled))
  assert not target.exists()
  pickle.loads(pickled)  # the same bytes do act in Python's own reader
  assert target.exists()


@pytest.mark.parametrize("module, name", (
    ("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("torch.storage", "_load_from_bytes"),
    ("torch", "FloatStorage.__class__"), ("collections", "defaultdict"), ("numpy", "dtype"), ("models.yolo", "Model"),
))
@pytest.mark.parametrize("form", (b"c%s\n%s\n.", b"(i%s\n%s\n.", b"\x80\x04V%s\nV%s\n\x93."))
def test_other_globals_are_refused_by_name(tmp_path, module, name, form):
  pickled = form % (module.encode(), name.encode())
  with pytest.raises(torch_file.RefusedGlobalError, match=f"`{module}.{name}`"):
    read(tmp_path, zip_file(pickled))


@pytest.mark.parametrize("module, name", sorted(torch_file._GLOBALS))
def test_a_pickle_cannot_alter_what_it_is_given(tmp_path, module, name):
  set_attribute = b"(N(dV__call__\nI1\nst"  # the state (None, {"__call__": 1}), which sets attributes
  set_dictionary = b"(dV__call__\nI1\ns"
  for state in (set_attribute, set_dictionary):
    with pytest.raises(ValueError, match="attribute|does not support item assignment"):
      read(tmp_path, zip_file(b"c%s\n%s\n" % (module.encode(), name.encode()) + state + b"b."))


def test_views_are_what_their_numbers_say(tmp_path):
  content = np.arange(4, dtype=np.float32).tobytes()
  x = read(tmp_path, zip_file(tensor_pickle(1, (2, 2), (1, 1)), w=content))["x"]
  np.testing.assert_array_equal(x, [[1, 2], [2, 3]])


@pytest.mark.parametrize("offset, size, stride", (
    (0, (5,), (1,)), (1, (4,), (1,)), (-1, (2,), (1,)), (3, (2,), (-4,)), (0, (2, 2), (1, 3)), (0, (2,), (2**62,)),
    (0, (2,), (1, 1)), (2**62, (1,), (1,)),
))
def test_views_outside_of_their_storage_are_refused(tmp_path, offset, size, stride):
  with pytest.raises(ValueError, match="is damaged or not"):
    read(tmp_path, zip_file(tensor_pickle(offset, size, stride), w=bytes(16)))


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_one_clear_error(tmp_path, name):
  whole = (FIXTURES / name).read_bytes()
  lengths = sorted({0, 1, 3, 4, 10, len(whole) - 1} | set(range(0, len(whole), 101)))
  for length in lengths:
    with pytest.raises(ValueError, match="weights.pth is damaged or not a PyTorch weight file: ."):
      read(tmp_path, whole[:length])


def test_changed_bytes_of_a_tensor_are_noticed(tmp_path):
  whole = (FIXTURES / "torch_zip.pth").read_bytes()
  content = (np.arange(24, dtype=np.float32) / 4).tobytes()
  assert whole.count(content) == 1
  with pytest.raises(ValueError, match="do not match their checksum"):
    read(tmp_path, whole.replace(content, content[:-1] + b"\1"))


@pytest.mark.parametrize("data, message", (
    (b"\x93NUMPY not a pickle", "weights.pth is damaged"),
    (zip_file(b"}."), None),
    (zip_file(tensor_pickle(0, (4,), (1,))), "the archive has no data/w"),
    (zip_file(tensor_pickle(0, (4,), (1,)), w=bytes(8)), "is damaged"),
    (zip_file(tensor_pickle(0, (4,), (1,)), zipfile.ZIP_DEFLATED, w=bytes(16)), "is compressed"),
    (legacy_file(b"}.", little_endian=False), "big-endian"),
    (legacy_file(tensor_pickle(0, (2**40,), (1,)).replace(b"I4", b"I%d" % 2**40)), "shorter than its tensors"),
    (legacy_file(tensor_pickle(0, (4,), (1,)) + pickle.dumps([], 2)), "does not match its tensors"),
    (legacy_file(b"(lp0\ng0\na." + pickle.dumps([], 2)), None),  # a list that holds itself
))
def test_odd_files_end_well(tmp_path, data, message):
  if message is None:
    assert read(tmp_path, data) == {}
  else:
    with pytest.raises(ValueError, match=message):
      read(tmp_path, data)


def test_a_missing_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="none.pth"):
    torch_file.read_torch_file(tmp_path / "none.pth")
