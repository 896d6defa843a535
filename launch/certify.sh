#!/usr/bin/env bash
# Plans every paper-scale recipe for every slice below, ahead of time, and keeps the plans as certificates.
#
#   pip install -r requirements-aot.txt && launch/certify.sh [SLICE ...]
#
# Two to four minutes and 3 GiB of memory for each on two cores; no TPU is needed and none is used. A certificate that is
# there already is left alone. Without arguments the smallest slices follow, by a search of up to twenty minutes each.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-launch/certificates}             # folder of the certificates
RECIPES=(vljepa_stage1:1frame vljepa_stage1:8frames vljepa_stage1:32frames vljepa_sft)
SLICES=("$@")                               # COUNTxTOPOLOGY
[[ $# -gt 0 ]] || SLICES=(1xv6e:16x16 1xv5e:16x16 1xv5p:4x4x8 2xv6e:16x16)

# What a slice needs beyond the recipe: half the memory of a chip asks for smaller parts of the batch.
changes() {
  case "$1 on $2" in
    "vljepa_stage1:32frames on v5e:16x16") echo --config.loss.micro_batches=8 ;;
  esac
}

for slice in "${SLICES[@]}"; do
  count=${slice%%x*} topology=${slice#*x}
  for recipe in "${RECIPES[@]}"; do
    name=${recipe/:/-}@${topology/:/-}
    [[ $count == 1 ]] || name+=-x$count
    [[ -e $OUT/$name.json ]] && continue
    file=configs/${recipe/:/.py:}
    [[ $recipe == *:* ]] || file+=.py
    echo "$name"
    # shellcheck disable=SC2046  # none, one or several words
    python -m vljepa_jax.plan --config="$file" --topology="$topology" --slices="$count" --json="$OUT/$name.json" \
      $(changes "$recipe" "$topology") || echo "$name: does not fit, as its certificate says" >&2
  done
done

[[ $# -eq 0 ]] || exit 0
for topology in v6e:4x4 v5e:4x4; do
  name=vljepa_stage1-1frame@${topology/:/-}
  [[ -e $OUT/$name.json ]] && continue
  echo "$name"
  python -m vljepa_jax.plan --config=configs/vljepa_stage1.py:1frame --topology="$topology" --search --json="$OUT/$name.json"
done
