# shellcheck shell=bash
# Sourced by the other launchers: what a Cloud TPU type such as v6e-256 stands for, and the one way to refuse.

fail() {
  echo "error: $*" >&2
  exit 2
}

# need PROGRAM WHERE: refuses where a program is not installed.
need() {
  command -v "$1" >/dev/null || fail "$1 is not installed: see $2"
}

# on_or_off KNOB ...: refuses a switch that is neither 1 nor empty, as "0" or "no" would otherwise turn it on.
on_or_off() {
  local knob
  for knob in "$@"; do
    [[ -z ${!knob} || ${!knob} == 1 ]] || fail "$knob is 1 or empty, not '${!knob}'"
  done
}

# read_type TYPE: sets GENERATION, CHIPS, HOSTS and SOFTWARE version of a TPU VM, ACCELERATOR and TOPOLOGY for GKE.
# Sources: cloud.google.com/tpu/docs/runtimes and .../kubernetes-engine/docs/concepts/plan-tpus.
# shellcheck disable=SC2034  # they are read by the scripts that source this one
read_type() {
  [[ $1 =~ ^(v4|v5litepod|v5p|v6e)-([1-9][0-9]*)$ ]] || fail "TYPE '$1' is none of v4-N, v5litepod-N, v5p-N, v6e-N"
  local number=${BASH_REMATCH[2]}
  case ${BASH_REMATCH[1]} in
    v4) GENERATION=v4 SOFTWARE=tpu-ubuntu2204-base ACCELERATOR=tpu-v4-podslice ;;
    v5litepod) GENERATION=v5e SOFTWARE=v2-alpha-tpuv5-lite ACCELERATOR=tpu-v5-lite-podslice ;;
    v5p) GENERATION=v5p SOFTWARE=v2-alpha-tpuv5 ACCELERATOR=tpu-v5p-slice ;;
    v6e) GENERATION=v6e SOFTWARE=v2-alpha-tpuv6e ACCELERATOR=tpu-v6e-slice ;;
  esac
  case $GENERATION in
    v4 | v5p)                               # the number counts cores, two on a chip, four chips on a host
      CHIPS=$((number / 2)) HOSTS=$(((number + 7) / 8))
      TOPOLOGY=$(shape "$CHIPS" 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16)
      ;;
    *)                                      # the number counts chips; a slice that fits one host has one
      CHIPS=$number HOSTS=$((number <= 8 ? 1 : (number + 3) / 4))
      TOPOLOGY=$(shape "$CHIPS" 1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16)
      ;;
  esac
}

# shape CHIPS TOPOLOGY ...: the first topology with so many chips, or nothing.
shape() {
  local chips=$1 topology
  shift
  for topology in "$@"; do
    if ((${topology//x/*} == chips)); then
      echo "$topology"
      return
    fi
  done
}
