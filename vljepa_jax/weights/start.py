"""Start values of new parts that follow from the pretrained ones beside them."""

from typing import Any

import jax.numpy as jnp


def init_y_head(kind: str, params: dict[str, Any]) -> dict[str, Any]:
  """The model's parameters with its Y-encoder head started as `kind` says.

  Args:
    kind: "normal" changes nothing; "identity" passes the text encoder's own embedding through at first.
    params: the whole model's, unboxed, with `y_encoder/head`.

  Raises:
    ValueError: another kind, no head, or a head that changes the width.
  """
  if kind == "normal":
    return params
  if kind != "identity":
    raise ValueError(f"y_head_init {kind!r} is not known; there are normal, identity")
  if "head" not in params["y_encoder"]:
    raise ValueError("y_head_init 'identity' needs a head: set y_head to True")
  kernel, bias = params["y_encoder"]["head"]["kernel"], params["y_encoder"]["head"]["bias"]
  if kernel.shape[0] != kernel.shape[1]:
    raise ValueError(
        f"y_head_init 'identity' needs embed_width {kernel.shape[0]}, the text encoder's own width, "
        f"not {kernel.shape[1]}"
    )
  head = {"kernel": jnp.eye(kernel.shape[0], dtype=kernel.dtype), "bias": jnp.zeros_like(bias)}
  return params | {"y_encoder": params["y_encoder"] | {"head": head}}


def copy_token_table(params: dict[str, Any]) -> dict[str, Any]:
  """The model's parameters with the Y-encoder's word embeddings as the predictor's token table.

  The table is scaled as a whole to a root mean square of one. A text encoder normalises its small embeddings at once;
  beside visual tokens they would be lost in the predictor, and questions with them.

  Raises:
    ValueError: the two tables differ in shape.
  """
  source = params["y_encoder"]["backbone"]["token_embed"]["embedding"]
  target = params["predictor"]["token_embed"]["embedding"]
  if source.shape != target.shape:
    raise ValueError(
        f"token_init 'y_encoder' needs a predictor token table of the Y-encoder's shape {tuple(source.shape)}, "
        f"not {tuple(target.shape)}: set the predictor's vocab_size and token_width"
    )
  table = (source / jnp.sqrt(jnp.mean(jnp.square(source)))).astype(target.dtype)
  return params | {"predictor": params["predictor"] | {"token_embed": {"embedding": table}}}
