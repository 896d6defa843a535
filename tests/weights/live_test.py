"""Our towers against the libraries that their weights come from, through files and back.

They run where both are installed: pip install torch transformers==5.24.0 (and sentence-transformers, timm).
The test of real weights takes the folder of SmolLM2-135M from the environment variable VLJEPA_REAL_WEIGHTS.
"""

import dataclasses
import os
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.weights.families import make_shapes
from vljepa_jax import weights
from vljepa_jax.model import layers, presets
from vljepa_jax.model.gemma import EmbeddingGemma
from vljepa_jax.model.predictor import PredictorBlock
from vljepa_jax.model.text import YEncoder
from vljepa_jax.model.vision import MobileNetV2, VJepa2
from vljepa_jax.weights.tensors import Tensors

pytestmark = pytest.mark.live
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VJEPA2 = presets.x_encoder(
    "vjepa2_vitl", width=36, num_layers=3, num_heads=3, mlp_width=63, patch_size=4, scan=False)
LLAMA = presets.PredictorConfig(
    width=36, layers=(2, 5), num_heads=3, num_kv_heads=1, head_width=10, mlp_width=50, vocab_size=41, token_width=36,
    rope_theta=100.0, rope_scaling=(8.0, 1.0, 4.0, 32), scan=False,
)
GEMMA = presets.EmbeddingGemmaConfig(
    width=36, num_layers=5, num_heads=3, num_kv_heads=1, head_width=10, mlp_width=50, vocab_size=41, query_scale=24.0,
    rope_theta=1000.0, rope_local_theta=10.0, sliding_window=4, full_every=3, dense_widths=(50, 36), scan=False,
)
BERT = presets.BertConfig(
    width=36, num_layers=3, num_heads=3, mlp_width=50, vocab_size=41, max_positions=24, scan=False)


@torch.no_grad()
def randomise(model):
  """Weights of unit gain, so that attention is peaked and norms and biases matter."""
  generator = torch.Generator().manual_seed(0)
  for name, value in (*model.named_parameters(), *model.named_buffers()):
    if not value.is_floating_point() or "inv_freq" in name or "embed_scale" in name:
      continue
    noise = torch.randn(value.shape, generator=generator)
    is_table = "embeddings.weight" in name or "embed_tokens" in name
    if name.endswith("running_var"):
      value.copy_(0.5 + noise.abs())
    elif value.ndim > 1:
      value.copy_(noise if is_table else noise / value[0].numel() ** 0.5)
    elif name.endswith("weight") and "Gemma" not in type(model).__name__:
      value.copy_(1 + 0.2 * noise)
    else:
      value.copy_(0.2 * noise)
  return model.eval()


def assert_near(ours, theirs, tolerance, title):
  theirs = theirs.detach().numpy()
  error = np.max(np.abs(np.asarray(ours) - theirs)) / np.max(np.abs(theirs))
  print(f"{title}: largest error {error:.1e} of the output's scale")
  assert error < tolerance


def assert_same_weights(model, original):
  expected, found = original.state_dict(), model.state_dict()
  assert list(found) == list(expected)
  for name, value in expected.items():
    assert found[name].numpy().tobytes() == value.numpy().tobytes(), name


def through_files(folder, model, config, scan):
  """The tower that a saved model gives."""
  model.save_pretrained(folder / "theirs")
  config = dataclasses.replace(config, scan=scan)
  return config, weights.load_tower(str(folder / "theirs"), config, make_shapes(config))


def in_memory(model, prefix=""):
  return Tensors("memory", {f"{prefix}{name}": value.numpy() for name, value in model.state_dict().items()})


def vjepa2_model(config, crop_size):
  return randomise(transformers.VJEPA2Model(transformers.VJEPA2Config(
      patch_size=config.patch_size, tubelet_size=config.tubelet_size, crop_size=crop_size, hidden_size=config.width,
      num_attention_heads=config.num_heads, num_hidden_layers=config.num_layers,
      mlp_ratio=config.mlp_width / config.width, pred_hidden_size=12, pred_num_attention_heads=1,
      pred_num_hidden_layers=1, attn_implementation="sdpa",
  )))


def vjepa2_tokens(model, frames):
  with torch.no_grad():
    video = torch.from_numpy(frames).permute(0, 1, 4, 2, 3)
    return model(pixel_values_videos=video, skip_predictor=True).last_hidden_state


@pytest.mark.parametrize("scan", [False, True])
def test_vjepa2(tmp_path, scan):
  model = vjepa2_model(VJEPA2, crop_size=20)
  config, params = through_files(tmp_path, model, VJEPA2, scan)
  for shape in ((1, 4, 20, 20, 3), (2, 2, 8, 20, 3)):
    frames = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    tokens = jax.jit(VJepa2(config).apply)({"params": params}, frames)
    assert_near(tokens, vjepa2_tokens(model, frames), 1e-5, f"V-JEPA 2 {shape}")
  weights.export_folder(tmp_path / "ours", config, params)
  again = transformers.VJEPA2Model.from_pretrained(tmp_path / "ours")
  assert_same_weights(again.encoder, model.encoder)


class LlamaLayers(nn.Module):
  """The predictor's layers and norm, for sequences that are embedded already."""

  config: presets.PredictorConfig

  @nn.compact
  def __call__(self, x):  # (B, S, D) -> (B, S, D)
    c, length = self.config, x.shape[1]
    cos, sin = layers.rope_tables(length, layers.rope_frequencies(c.head_width, c.rope_theta, c.rope_scaling))
    x = layers.run_layers(
        PredictorBlock, dict(config=c, deterministic=True), c.num_layers, x, None, cos, sin, scan=c.scan, remat=None)
    return layers.RMSNorm(c.norm_eps, name="norm")(x)


def llama_hidden(config, params, x):
  used = {name: value for name, value in params.items() if name.startswith("layers") or name == "norm"}
  return jax.jit(LlamaLayers(config).apply)({"params": used}, x)


def llama_config(config, num_layers, **changes):
  scaling = dict(zip(("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
                     config.rope_scaling))
  return transformers.LlamaConfig(
      vocab_size=config.vocab_size, hidden_size=config.width, num_hidden_layers=num_layers,
      num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads, head_dim=config.head_width,
      intermediate_size=config.mlp_width, rms_norm_eps=config.norm_eps, max_position_embeddings=131_072,
      rope_parameters=dict(rope_type="llama3", rope_theta=config.rope_theta, **scaling),
      attn_implementation="sdpa", **changes,
  )


def see_everything(model, x):
  """Hidden states of a LlamaModel whose tokens look in both directions."""
  x = torch.from_numpy(x)
  with torch.no_grad():
    mask = torch.zeros(x.shape[0], 1, x.shape[1], x.shape[1])
    return model(inputs_embeds=x, attention_mask=mask, use_cache=False).last_hidden_state


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_llama_layers(tmp_path, scan, tied):
  model = randomise(transformers.LlamaForCausalLM(llama_config(LLAMA, 6, tie_word_embeddings=tied)))
  config, params = through_files(tmp_path, model, LLAMA, scan)
  x = np.random.default_rng(0).normal(size=(2, 50, config.width)).astype(np.float32)
  model.model.layers = model.model.layers[2:5]
  assert_near(llama_hidden(config, params, x), see_everything(model.model, x), 1e-5, "Llama")
  weights.export_folder(tmp_path / "ours", config, params)
  again = transformers.LlamaModel.from_pretrained(tmp_path / "ours", attn_implementation="sdpa").eval()
  assert_same_weights(again, model.model)
  assert_near(llama_hidden(config, params, x), see_everything(again, x), 1e-5, "Llama after export")


def test_a_headless_llama(tmp_path):
  model = randomise(transformers.LlamaModel(llama_config(LLAMA, 6)))
  _, params = through_files(tmp_path, model, LLAMA, scan=False)
  np.testing.assert_array_equal(params["layers_0"]["gate"]["kernel"], model.layers[2].mlp.gate_proj.weight.detach().T)


def gemma_model(config):
  types = ["sliding_attention" if i % config.full_every else "full_attention" for i in range(1, config.num_layers + 1)]
  return randomise(transformers.Gemma3TextModel(transformers.Gemma3TextConfig(
      vocab_size=config.vocab_size, hidden_size=config.width, num_hidden_layers=config.num_layers,
      num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads, head_dim=config.head_width,
      intermediate_size=config.mlp_width, query_pre_attn_scalar=int(config.query_scale),
      sliding_window=2 * (config.sliding_window - 1), use_bidirectional_attention=True, layer_types=types,
      rope_parameters=dict(full_attention=dict(rope_type="default", rope_theta=config.rope_theta),
                           sliding_attention=dict(rope_type="default", rope_theta=config.rope_local_theta)),
      attn_implementation="sdpa",
  )))


def text_batch(config, lengths):
  ids = np.random.default_rng(0).integers(1, config.vocab_size, (len(lengths), max(lengths))).astype(np.int32)
  return ids, np.arange(max(lengths)) < np.array(lengths)[:, None]


def torch_text(model, ids, mask):
  with torch.no_grad():
    batch = torch.from_numpy(ids).long(), torch.from_numpy(mask).long()
    return model(input_ids=batch[0], attention_mask=batch[1]).last_hidden_state


def assert_real_tokens_near(hidden, theirs, mask, tolerance, title):
  assert_near(np.asarray(hidden)[mask], theirs[torch.from_numpy(mask)], tolerance, title)


@pytest.mark.parametrize("scan", [False, True])
def test_gemma(tmp_path, scan):
  config = dataclasses.replace(GEMMA, dense_widths=())
  model = gemma_model(config)
  config, params = through_files(tmp_path, model, config, scan)
  ids, mask = text_batch(config, (20, 13, 4))
  hidden = jax.jit(EmbeddingGemma(config).apply)({"params": params["backbone"]}, ids, mask)
  assert_real_tokens_near(hidden, torch_text(model, ids, mask), mask, 1e-5, "Gemma")
  weights.export_folder(tmp_path / "ours", config, params)
  again = transformers.Gemma3TextModel.from_pretrained(tmp_path / "ours", attn_implementation="sdpa").eval()
  assert_same_weights(again, model)
  assert again.config.sliding_window == config.sliding_window
  assert_real_tokens_near(hidden, torch_text(again, ids, mask), mask, 1e-5, "Gemma after export")


def test_sentence_transformers_loads_an_exported_gemma_and_saves_it_again(tmp_path):
  sentence_transformers = pytest.importorskip("sentence_transformers")
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) / 6, make_shapes(GEMMA))
  weights.export_folder(tmp_path / "ours", GEMMA, params)
  vocabulary = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3} | {f"w{i}": i for i in range(4, GEMMA.vocab_size)}
  tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  transformers.PreTrainedTokenizerFast(
      tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>",
  ).save_pretrained(tmp_path / "ours")
  model = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
  ids, mask = text_batch(GEMMA, (20, 13, 4))
  ids = np.where(ids < 4, 4, ids)
  texts = [" ".join(f"w{i}" for i in row[real]) for row, real in zip(ids, mask)]
  kept = {name: value for name, value in params.items() if name != "head"}
  out = layers.unit(jax.jit(YEncoder(GEMMA, None).apply)({"params": kept}, ids, mask))
  assert_near(out, torch.from_numpy(model.encode(texts)), 1e-5, "EmbeddingGemma with its dense heads")
  model.save(str(tmp_path / "again"))
  again = weights.load_tower(str(tmp_path / "again"), GEMMA, make_shapes(GEMMA))
  jax.tree.map(np.testing.assert_array_equal, again, kept)


@pytest.mark.parametrize("scan", [False, True])
def test_bert(tmp_path, scan):
  model = randomise(transformers.BertModel(transformers.BertConfig(
      vocab_size=BERT.vocab_size, hidden_size=BERT.width, num_hidden_layers=BERT.num_layers,
      num_attention_heads=BERT.num_heads, intermediate_size=BERT.mlp_width, max_position_embeddings=BERT.max_positions,
  ), add_pooling_layer=False))
  config, params = through_files(tmp_path, model, BERT, scan)
  ids, mask = text_batch(config, (20, 13, 4))
  out = YEncoder(config, None).apply({"params": params}, ids, mask)
  hidden = torch_text(model, ids, mask) * torch.from_numpy(mask)[..., None]
  assert_near(out, hidden.sum(1) / torch.from_numpy(mask).sum(1, keepdim=True), 1e-5, "BERT")
  weights.export_folder(tmp_path / "ours", config, params)
  assert_same_weights(transformers.BertModel.from_pretrained(tmp_path / "ours", add_pooling_layer=False), model)


@pytest.mark.parametrize("prefixed", ["BertForMaskedLM", "BertForSequenceClassification"])
def test_bert_under_other_heads_is_the_same(tmp_path, prefixed):
  model = getattr(transformers, prefixed)(transformers.BertConfig(
      vocab_size=BERT.vocab_size, hidden_size=BERT.width, num_hidden_layers=BERT.num_layers,
      num_attention_heads=BERT.num_heads, intermediate_size=BERT.mlp_width, max_position_embeddings=BERT.max_positions,
  ))
  randomise(model).save_pretrained(tmp_path)
  with pytest.raises(ValueError, match="tensor (cls|classifier).* is unexpected"):
    weights.load_tower(str(tmp_path), BERT, make_shapes(BERT))
  tensors = Tensors("memory", {k: v for k, v in in_memory(model).items() if k.startswith("bert.")})
  params = weights.fill_tower(tensors, BERT, make_shapes(BERT))
  np.testing.assert_array_equal(
      params["backbone"]["layers_2"]["up"]["kernel"], model.bert.encoder.layer[2].intermediate.dense.weight.detach().T)


@pytest.mark.parametrize("width", ["050", "100"])
def test_timm_mobilenet(width):
  timm = pytest.importorskip("timm")
  model = randomise(timm.create_model(f"mobilenetv2_{width}"))
  config = presets.x_encoder("mobilenet_v2", width_multiplier=int(width) / 100)
  params = weights.fill_tower(in_memory(model), config, make_shapes(config))
  frames = np.random.default_rng(0).normal(size=(2, 1, 64, 90, 3)).astype(np.float32)
  tokens = jax.jit(MobileNetV2(config).apply)({"params": params}, frames)
  with torch.no_grad():
    features = model.forward_features(torch.from_numpy(frames[:, 0]).permute(0, 3, 1, 2))
  assert_near(tokens, features.flatten(2).transpose(1, 2), 1e-4, f"MobileNetV2 x {width} of timm")


# Full size, random weights, one at a time.


@pytest.mark.slow
def test_full_size_vjepa2_vit_l():
  config = presets.x_encoder("vjepa2_vitl")
  model = vjepa2_model(config, crop_size=256)
  frames = np.random.default_rng(0).normal(size=(1, 16, 256, 256, 3)).astype(np.float32)
  expected = vjepa2_tokens(model, frames)
  params = weights.fill_tower(in_memory(model), config, make_shapes(config))
  tokens = jax.jit(VJepa2(config).apply)({"params": params}, frames)
  assert tokens.shape == (1, 2048, 1024)
  assert_near(tokens, expected, 1e-4, "V-JEPA 2 ViT-L, 16 x 256 x 256")


@pytest.mark.slow
def test_full_size_llama_layers_8_to_16():
  config = presets.predictor("llama3_1b_l8")
  model = randomise(transformers.LlamaModel(llama_config(config, 8)))
  x = np.random.default_rng(0).normal(size=(1, 600, config.width)).astype(np.float32)
  expected = see_everything(model, x)
  moved = {}  # the eight layers as the upper half of sixteen
  for name, value in in_memory(model).items():
    part, _, rest = name.partition("layers.")
    number, _, inside = rest.partition(".")
    moved[f"layers.{int(number) + 8}.{inside}" if rest else name] = value
  moved |= {f"layers.{i}.input_layernorm.weight": np.zeros(config.width, np.float32) for i in range(8)}
  params = weights.fill_tower(Tensors("memory", moved), config, make_shapes(config))
  del model, moved
  assert_near(llama_hidden(config, params, x), expected, 1e-4, "Llama-3.2-1B layers 8-16, 600 tokens")


@pytest.mark.slow
def test_full_size_embedding_gemma():
  config = presets.y_encoder("embedding_gemma_300m", dense_widths=())
  model = gemma_model(config)
  ids, mask = text_batch(config, (300, 181))
  expected = torch_text(model, ids, mask)
  params = weights.fill_tower(in_memory(model), config, make_shapes(config))
  hidden = jax.jit(EmbeddingGemma(config).apply)({"params": params["backbone"]}, ids, mask)
  assert_real_tokens_near(hidden, expected, mask, 1e-4, "EmbeddingGemma-300M, 300 tokens with padding")


# Real weights.


def test_smollm2_knows_the_capital_of_france():
  folder = os.environ.get("VLJEPA_REAL_WEIGHTS")
  if not folder:
    pytest.skip("needs the folder of real weights in VLJEPA_REAL_WEIGHTS")
  folder = pathlib.Path(folder) / "smollm2-135m-instruct"
  config = presets.PredictorConfig(
      width=576, layers=(0, 30), num_heads=9, num_kv_heads=3, head_width=64, mlp_width=1536, vocab_size=49_152,
      token_width=576, rope_theta=100_000.0, rope_scaling=None, causal=True,
  )
  params = weights.load_tower(str(folder), config, make_shapes(config))
  tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
  table = params["token_embed"]["embedding"]
  hidden = llama_hidden(config, params, table[tokenizer.encode("The capital of France is").ids][None])
  assert tokenizer.decode([int(np.argmax(table @ hidden[0, -1]))]) == " Paris"
