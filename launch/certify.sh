#!/usr/bin/env bash
# Plans every paper-scale recipe for every slice below, ahead of time, and keeps the plans as certificates.
#
#   pip install -r requirements-aot.txt && launch/certify.sh [OUT_FOLDER]
#
# About three minutes and 3 GiB of memory for each on two cores; no TPU is needed and none is used. What is there already
# is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-launch/certificates}
recipes=(vljepa_stage1:1frame vljepa_stage1:8frames vljepa_stage1:32frames vljepa_sft)
slices=(1xv6e:16x16 1xv5e:16x16 1xv5p:4x4x8 2xv6e:16x16)      # COUNTxTOPOLOGY

for slice in "${slices[@]}"; do
  for recipe in "${recipes[@]}"; do
    count=${slice%%x*} topology=${slice#*x}
    name=${recipe/:/-}@${topology/:/-}
    [[ $count == 1 ]] || name+=-x$count
    [[ -e $out/$name.json ]] && continue
    file=configs/${recipe/:/.py:}
    [[ $recipe == *:* ]] || file+=.py
    echo "$name"
    python -m vljepa_jax.plan --config="$file" --topology="$topology" --slices="$count" --json="$out/$name.json" ||
      echo "$name: does not fit, see its certificate" >&2
  done
done
