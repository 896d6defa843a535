#!/usr/bin/env bash
# Runs the entry point on this machine, on as many simulated CPU devices as asked for.
#
#   launch/local.sh [DEVICES] [--config=configs/base.py ...]
set -euo pipefail
cd "$(dirname "$0")/.."

devices=1                                   # simulated devices; the mesh of the config divides them
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
  devices=$1
  shift
fi
if [[ "$*" != *--config=* ]]; then
  set -- --config=configs/base.py "$@"
fi

export JAX_PLATFORMS=cpu
export JAX_NUM_CPU_DEVICES=$devices
exec python -m vljepa_jax.main "$@"
