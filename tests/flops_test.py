"""Operations worked out by hand, and as XLA counts them in unrolled towers."""

import dataclasses

from configs import base, vljepa_stage1
from flax.linen import logical_axis_rules
import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from vljepa_jax import config as config_lib
from vljepa_jax import flops, sharding, step
from vljepa_jax.model import presets, products
from vljepa_jax.model.vljepa import VLJepa, VLJepaConfig
from vljepa_jax.parts import make_parts, make_step

FRAMES, SIZE, QUERY, TARGET, BATCH = 4, 128, 64, 128, 2
VJEPA2 = presets.VJepa2Config(width=192, num_layers=2, num_heads=3, mlp_width=768, scan=False)
MOBILENET = presets.MobileNetV2Config()
LLAMA = presets.PredictorConfig(
    width=256, layers=(0, 2), num_heads=8, num_kv_heads=2, head_width=32, mlp_width=1024, vocab_size=512,
    token_width=96, rope_scaling=None, scan=False)
GEMMA = presets.EmbeddingGemmaConfig(
    width=256, num_layers=2, num_heads=4, num_kv_heads=1, head_width=64, mlp_width=768, vocab_size=512,
    query_scale=64.0, sliding_window=17, full_every=2, dense_widths=(512, 256), scan=False)
BERT = presets.BertConfig(width=192, num_layers=2, num_heads=6, mlp_width=768, vocab_size=512, max_positions=256)
X, PREDICTOR, Y = "x_encoder", "predictor", "y_encoder"
NOTHING = {X: False, PREDICTOR: False, Y: False}


def model_of(part, tower):
  towers = {X: VJEPA2, PREDICTOR: LLAMA, Y: BERT} | {part: tower}
  return VLJepaConfig(**towers, embed_width=128)


def xla_flops(config, part, frozen):
  """Operations of forward pass and gradient of one tower as XLA's cost analysis has them, per example."""
  model, batch = VLJepa(config), step.abstract_batch(BATCH, FRAMES, SIZE, QUERY, TARGET)
  params = sharding.unbox(jax.eval_shape(lambda key: step.init_params(model, batch, key), jax.random.key(0)))
  tokens = flops.visual_tokens(config.x_encoder, FRAMES, SIZE)
  batch["visual"] = jax.ShapeDtypeStruct((BATCH, tokens, config.x_encoder.width), jnp.float32)

  def run(params, batch):
    method, inputs = {
        X: (VLJepa.encode_video, ("video",)),
        PREDICTOR: (VLJepa.predict, ("visual", "query", "query_mask")),
        Y: (VLJepa.encode_text, ("target", "target_mask")),
    }[part]
    return model.apply({"params": params}, *(batch[name] for name in inputs), method=method)

  def loss(own, params, batch):
    own = jax.tree.map(lambda x, skip: jax.lax.stop_gradient(x) if skip else x, own, frozen(own))
    return jnp.sum(jnp.square(run({**params, part: own}, batch)))

  count = lambda f, *args: jax.jit(f).lower(*args).cost_analysis()["flops"] / BATCH
  return count(run, params, batch), count(jax.grad(loss), params[part], params, batch), frozen(params[part])


def ours(config, part, frozen):
  tower = flops._towers(config, FRAMES, SIZE, flops.visual_tokens(config.x_encoder, FRAMES, SIZE), QUERY, TARGET)[part]
  backward, again, _ = flops._backward(tower, frozen, (False,) * len(tower.branches))
  forward = flops.forward_flops(config, FRAMES, SIZE, QUERY, TARGET)[part] + tower.rotary
  return forward, backward + again


def all_trained(tree):
  return jax.tree.map(lambda _: False, tree)


def first_layer_frozen(tree):
  """Embeddings and the first layer, as in configs/base.py."""
  lower = lambda path: any(key.key.endswith("_embed") or key.key in ("embed_norm", "layers_0") for key in path)
  return jax.tree_util.tree_map_with_path(lambda path, _: lower(path), tree)


@pytest.mark.parametrize("part, tower, remat, frozen, room", [
    (X, VJEPA2, None, all_trained, 0.06),  # XLA counts the exact GELU as a dozen operations an entry
    (X, VJEPA2, "full", all_trained, 0.06),
    (X, MOBILENET, None, all_trained, 0.1),  # much of it is activations and norms
    (PREDICTOR, LLAMA, None, all_trained, 0.02),
    (PREDICTOR, LLAMA, "full", all_trained, 0.02),
    (PREDICTOR, LLAMA, "dots", first_layer_frozen, 0.02),
    (Y, GEMMA, "full", all_trained, 0.02),
    (Y, BERT, None, first_layer_frozen, 0.07),
])
def test_xla_counts_the_same(part, tower, remat, frozen, room):
  config = model_of(part, dataclasses.replace(tower, **({"remat": remat} if remat else {})))
  xla_forward, xla_gradient, tree = xla_flops(config, part, frozen)
  forward, rest = ours(config, part, tree)
  assert 1 <= xla_forward / forward < 1 + room
  assert 1 - room / 2 <= xla_gradient / (forward + rest) < 1 + room


@pytest.mark.parametrize("x_encoder, frames, size, tokens", [
    (presets.VJepa2Config(), 1, 256, 256), (presets.VJepa2Config(), 2, 256, 256),
    (presets.VJepa2Config(), 32, 256, 4096),
    (MOBILENET, 2, 192, 72), (MOBILENET, 1, 200, 49),
])
def test_visual_tokens(x_encoder, frames, size, tokens):
  assert flops.visual_tokens(x_encoder, frames, size) == tokens


def test_the_paper_s_towers():
  config = config_lib.parse(vljepa_stage1.get_config("1frame"))
  model = config_lib.model_config(config.model)
  n, d, f = 256, 1024, 4096  # ViT-L
  vit = 2 * n * 2 * 16 * 16 * 3 * d + 24 * (2 * n * (4 * d * d + 2 * d * f) + 4 * n * n * d)
  d, f = 2048, 8192  # Llama: 32 heads of 64, 8 of keys
  llama = 2 * n * 1024 * d + 8 * (2 * n * (2 * d * d + 2 * d * 512 + 3 * d * f) + 4 * n * n * d) + 2 * d * 1536
  n, d, f = 512, 768, 1152  # Gemma: 3 heads of 256, one of keys
  gemma = 24 * (2 * n * (2 * d * d + 2 * d * 256 + 3 * d * f) + 4 * n * n * d) + 2 * (2 * d * 3072 + d * 1536)
  assert flops.forward_flops(model, 1, 256, 0, 512) == {X: vit, PREDICTOR: llama, Y: gemma}
  assert [round(x / 1e9) for x in (vit, llama, gemma)] == [162, 254, 123]


def recipe(module=vljepa_stage1, variant="1frame", **changes):
  config = module.get_config(variant)
  config.update_from_flattened_dict(changes)
  return config_lib.parse(config)


ROTARY = 0.04  # share of ViT-L's forward pass that rotates queries and keys


def shares(config, frozen, **kwargs):
  """(forward, backward, again) of every tower, in forward passes of the batch."""
  own = flops.step_flops(config, frozen, **kwargs)
  return {part: (backward / forward, own.recomputed[part] / forward)
          for part, (forward, backward) in own.model.items() if forward}


def test_a_step_of_the_paper():
  config = recipe(**{"tokenizers.target.length": 512})
  assert flops.step_flops(config, NOTHING, devices=256).recomputed["loss"] == 0  # so many hold the plain table
  own = shares(config, {X: True, PREDICTOR: False, Y: False}, devices=8)
  assert own[X] == (0, pytest.approx(ROTARY, abs=1e-3))
  assert own[PREDICTOR][0] == pytest.approx(2, abs=0.01)  # the lowest products need no gradient of their input
  # What attention gives is stored, but for its scores: 19.3 of 123.2 GFLOP are attention, 6.4 rotate.
  assert own[Y] == (pytest.approx(2, abs=1e-4), pytest.approx(1 - 19.3 / 123.2 / 2 + 3 * 6.4 / 123.2, abs=2e-3))
  assert 0.7 < own[PREDICTOR][1] < 0.8  # all but the last product of every layer
  assert own["loss"] == (2, 1)  # a ring, which computes its logits again


@pytest.mark.parametrize("changes, share", [
    ({"loss.micro_batches": 1, "model.x_encoder.remat": None}, 2 * ROTARY),
    ({"loss.micro_batches": 4, "model.x_encoder.remat": None}, 1 + 3 * ROTARY),
    ({"loss.micro_batches": 1, "model.x_encoder.remat": "dots"}, 2 * ROTARY + 0.02),
])
def test_what_is_computed_again(changes, share):
  assert shares(recipe(**changes), NOTHING)[X] == (pytest.approx(2, abs=0.01), pytest.approx(share, abs=0.01))


def test_a_frozen_tower_costs_a_forward_pass_for_every_micro_batch():
  assert shares(recipe(**{"loss.micro_batches": 2}), NOTHING | {X: True})[X] == (0, pytest.approx(1 + 2 * ROTARY, abs=1e-3))


def test_cached_tokens_stand_for_the_x_encoder():
  config = recipe(base, "base")
  frozen = make_parts(config).frozen
  own = flops.step_flops(config, frozen)
  assert own.model[X] == (0, 0) and own.recomputed[X] == 0
  tower = products.predictor(presets.predictor("small"), 14, 1280, 0, 384)
  assert own.model[PREDICTOR][0] == 256 * tower.forward
  asked = flops.step_flops(config, frozen, query_length=19).model[PREDICTOR][0]
  assert asked == 256 * products.predictor(presets.predictor("small"), 14, 1280, 19, 384).forward
  forward, backward = own.model[Y]
  assert backward / forward == pytest.approx(2 / 6, abs=0.05)  # one of six layers learns


def test_a_gradient_passes_through_a_frozen_tower_to_a_trained_one_below():
  config = recipe()
  backward = {x: flops.step_flops(config, {X: x, PREDICTOR: True, Y: True}).model[PREDICTOR][1] for x in (True, False)}
  forward = flops.step_flops(config, NOTHING).model[PREDICTOR][0]
  assert backward[True] == 0
  assert forward < backward[False] < 1.1 * forward  # one product each for the input, two in attention


@pytest.mark.parametrize("kind, regularizer, expected", [
    ("info_nce", "", ((1, 2), 0)), ("sigmoid", "", ((1, 2), 0)), ("info_nce_chunked", "", ((1, 2), 1)),
    ("info_nce_ring", "", ((1, 2), 1)), ("cosine", "", ((1, 0), 0)), ("cosine", "vicreg", ((1.125, 0.25), 0)),
])
def test_the_loss(kind, regularizer, expected):
  config = recipe(**{"loss.kind": kind, "loss.regularizer": regularizer, "train.batch_size": 24_576,
                     "model.logit_bias": kind == "sigmoid"})
  own = flops.step_flops(config, NOTHING)
  table = 2 * 24_576**2 * 1536
  assert own.model["loss"] == tuple(share * table for share in expected[0])
  assert own.recomputed["loss"] == expected[1] * table


def test_totals():
  own = flops.StepFlops(model={"a": (1, 2), "b": (3, 4)}, recomputed={"a": 5, "b": 0})
  assert own.model_total == 10 and own.total == 15


def sized_recipe(remat, groups):
  """The debug recipe with towers as large as those above."""
  again = {"remat": remat} if remat else {}
  config = base.get_config("debug")
  config.model.x_encoder = dict(
      preset="vjepa2_nano", weights="", width=192, num_heads=3, mlp_width=768, **again)
  config.model.predictor = dict(
      preset="nano", weights="", width=256, num_heads=8, head_width=32, mlp_width=1024, dropout=0.1, **again)
  config.model.y_encoder = dict(
      preset="bert_nano", weights="", width=192, num_heads=6, mlp_width=768, max_positions=TARGET, **again)
  config.tokenizers.query.length, config.tokenizers.target.length = QUERY, TARGET
  config.data.image_size = SIZE
  config.optim.groups = (("predictor/token_embed/.*", None), *groups, (".*", 1.0))
  return config_lib.parse(config)


@pytest.mark.parametrize("remat, groups", [
    (None, ()),
    ("full", (("y_encoder/backbone/(.*_embed|embed_norm|layers_0)/.*", None),)),
    ("dots", (("x_encoder/.*", None),)),
])
def test_xla_counts_the_same_in_a_whole_training_step(remat, groups):
  config = sized_recipe(remat, groups)
  parts = make_parts(config, jax.devices()[:1])
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in tiny.batch(0, config).items()}
  with jax.set_mesh(parts.mesh), logical_axis_rules(config.mesh.rules):
    counted = make_step(config, parts).lower(parts.state, batch).cost_analysis()["flops"]
  assert 1 < counted / flops.step_flops(config, parts.frozen, QUERY).total < 1.03
