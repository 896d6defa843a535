import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from vljepa_jax import weights
from vljepa_jax.model import presets
from vljepa_jax.model.text import YEncoder
from vljepa_jax.text_encoder import load_text_encoder

pytestmark = pytest.mark.usefixtures("quick_compiler")
WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "red", "cat", "and", "the", "dog")
MODULE = YEncoder(presets.y_encoder("bert_nano"), None)


@pytest.fixture(scope="module")
def params():
  init = MODULE.init(jax.random.key(3), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool))["params"]
  return jax.tree.map(lambda x: 3 * x, nn.unbox(init))


@pytest.fixture(scope="module")
def folder(params, tmp_path_factory):
  """A text encoder as a hub has it."""
  folder = tmp_path_factory.mktemp("encoder")
  weights.export_folder(folder, MODULE.config, params)
  words = tokenizers.Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
  words.pre_tokenizer = pre_tokenizers.Whitespace()
  words.post_processor = processors.TemplateProcessing(
      single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
  words.save(str(folder / "tokenizer.json"))
  return folder


def test_it_embeds_as_the_module_does(folder, params):
  encode = load_text_encoder("bert_nano", str(folder), 6, "the ")
  found = encode(["a red cat", "dog", "a dog and a cat and a dog"])
  for row, ids in zip(found, ([1, 8, 4, 5, 6, 2], [1, 8, 9, 2], [1, 8, 4, 9, 7, 2]), strict=True):
    expected = MODULE.apply({"params": params}, jnp.array([ids]), jnp.ones((1, len(ids)), bool))[0]
    np.testing.assert_allclose(row, expected / np.linalg.norm(expected), atol=1e-6)
  assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("preset, part, message", [
    ("bert_micro", "", "no y_encoder preset 'bert_micro'"),
    ("minilm", "", "config.json"),
    ("bert_nano", "absent", "there is no .*absent"),
])
def test_what_cannot_be_loaded_is_named(folder, preset, part, message):
  with pytest.raises((OSError, ValueError), match=message):
    load_text_encoder(preset, str(folder / part), 6)
