"""From raw media to shards: what `python -m vljepa_jax.data.convert` is made of."""
