"""Time of spelling an answer out: python benchmarks/decode.py [--workdir=runs/base --decoder=runs/base_decoder].

Two things, each with its yardstick in the same run, in turns:
  greedy search of 64 embeddings with a cache of keys and values, against running the whole prefix again for every
    token. Same weights, same tokens, which is checked; neither stops early, and the yardstick never runs pads: it has a
    program for each length, which computes the logits of the last token alone.
  query -> answer on one picture or clip, whatever the model was trained on: by candidates, whose texts are encoded
    anew for each answer or once for all, and by spelling it out. With a model and its decoder; without --decoder this
    part is left out.
The first part takes decoder_small with weights from the seed.
"""

import pathlib
import statistics
import sys
import time

from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from vljepa_jax import cli

_WORKDIR = flags.DEFINE_string("workdir", "runs/base", "Of the model.")
_DECODER = flags.DEFINE_string("decoder", "", "Workdir of its Y-decoder; without one, only the search is timed.")
_BATCH = flags.DEFINE_integer("batch", 64, "Embeddings at a time.", lower_bound=1)
_LENGTH = flags.DEFINE_integer("length", 15, "Tokens of a text.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Turns; the median counts.", lower_bound=1)
VOCABULARY, WIDTH = 4000, 384  # of the decoder of configs/base.py, roughly


def in_turns(functions):
  """Name -> median milliseconds of functions that are called in turns, after two calls each to warm up."""
  for function in (*functions.values(), *functions.values()):
    function()
  times = {name: [] for name in functions}
  for _ in range(_ROUNDS.value):
    for name, function in functions.items():
      began = time.perf_counter()
      function()
      times[name].append(1000 * (time.perf_counter() - began))
  return {name: statistics.median(rows) for name, rows in times.items()}


def rerun_prefix(apply, params, embed, length):
  """Greedy search without a cache: (B, length) token ids."""
  import jax.numpy as jnp
  from vljepa_jax.data.vocabulary import BOS

  tokens = jnp.full((len(embed), 1), BOS, jnp.int32)
  for _ in range(length):
    tokens = apply(params, embed, tokens)
  return tokens[:, 1:]


def time_search():
  """Prints the times of both searches; fails if they differ in a token."""
  import flax.linen as nn
  import jax
  import jax.numpy as jnp
  import numpy as np

  from vljepa_jax import decoding
  from vljepa_jax.model import presets
  from vljepa_jax.model.decoder import Decoder

  decoder = Decoder(presets.y_decoder("decoder_small"), WIDTH, VOCABULARY)
  embed = np.random.default_rng(0).normal(size=(_BATCH.value, WIDTH)).astype(np.float32)
  embed = jnp.asarray(embed / np.linalg.norm(embed, axis=1, keepdims=True))
  params = nn.unbox(jax.jit(decoder.init)(jax.random.key(0), embed, jnp.zeros((_BATCH.value, 1), jnp.int32)))["params"]
  params = jax.tree.map(lambda x: x * 3.0, params)  # fresh weights say one token for ever

  @jax.jit
  def add_token(params, embed, tokens):
    _, state = decoder.apply(
        {"params": params}, embed, tokens, mutable=["intermediates"],
        capture_intermediates=lambda module, _: module.name == "norm")
    last = state["intermediates"]["norm"]["__call__"][0][:, -1]
    best = jnp.argmax(decoding.writable(last @ params["head"]["kernel"]), axis=-1).astype(jnp.int32)
    return jnp.concatenate([tokens, best[:, None]], axis=1)

  cached = lambda: jax.block_until_ready(
      decoding.greedy(decoder, params, embed, length=_LENGTH.value, stop=()).tokens)
  again = lambda: jax.block_until_ready(rerun_prefix(add_token, params, embed, _LENGTH.value))
  np.testing.assert_array_equal(cached(), again())
  times = in_turns({"cached": cached, "again": again})
  print(f"{_BATCH.value} texts of {_LENGTH.value} tokens, greedy, decoder_small, {jax.devices()[0].device_kind}, "
        f"{len({tuple(row) for row in np.asarray(cached()).tolist()})} different texts")
  print(f"  with a cache          {times['cached']:9.1f} ms  {times['cached'] / times['again']:6.3f}")
  print(f"  the prefix run again  {times['again']:9.1f} ms   1.000   ({times['again'] / times['cached']:.1f} times)")


def time_answer():
  """Prints the times of one question about one picture, by candidates and in words."""
  import numpy as np

  from vljepa_jax import api
  from vljepa_jax.data.sources import open_source

  model = api.load(_WORKDIR.value, _DECODER.value)
  source = open_source(model.config.eval.dataset, model.config.eval.split)
  video = source.frames(0, model.config.data.frames)[None]
  query, candidates = model.config.eval.class_query or "what kind of thing is it?", source.classes
  known = model.encode_text(candidates)
  predict = lambda: model.predict(model.encode_video(video), query)
  functions = {
      f"{source.media} and query to an embedding": predict,
      f"and {len(candidates)} candidates, encoded before": lambda: int(np.argmax(predict() @ known.T)),
      f"and {len(candidates)} candidates, encoded now": lambda: model.rank(predict(), candidates),
      "and words, greedy": lambda: model.decode(predict()),
      "and words, beam of 4": lambda: model.decode(predict(), beam=4),
  }
  print(f"one {source.media} of {video.shape[1]} frame(s), {query!r}:")
  for name, milliseconds in in_turns(functions).items():
    print(f"  {name:<36} {milliseconds:9.1f} ms")


def main() -> None:
  time_search()
  if _DECODER.value:
    time_answer()


if __name__ == "__main__":
  cli.run(main)
