"""A small TFDS folder for tests."""

import io

from PIL import Image
import tensorflow_datasets as tfds

from vljepa_jax.data.sources import FIELDS


def webp(shade: int) -> bytes:
  buffer = io.BytesIO()
  Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, "WEBP", lossless=True)
  return buffer.getvalue()


def write_data_set(folder, without: str | None = None, label=None) -> str:
  """A two-record TFDS folder as a user would write it."""
  features = {field: tfds.features.Text() for field in FIELDS if field not in ("label", without)}
  features["label"] = label or tfds.features.ClassLabel(names=["cat", "dog"])

  class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    # As in a script: for classes of importable modules TFDS 4.9 needs a package that it does not declare.
    __module__ = "__main__"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      del dl_manager
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      for i in range(2):
        record = {"id": f"p{i}", "title": f"pet {i}", "caption": f"pet {i}, fur", "keywords": "fur\ntail", "label": i,
                  "image": webp(i)}
        yield i, {key: value for key, value in record.items() if key in features}

  builder = Pets(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()
  return str(builder.data_path)
