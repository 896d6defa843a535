#!/usr/bin/env bash
# Trains on GKE: SLICES TPU slices as one JobSet, which starts again by itself when a host is lost or preempted.
#
#   export NAME=jepa CLUSTER=c ZONE=us-east5 PROJECT=p IMAGE=us-docker.pkg.dev/p/r/vljepa:1 BUCKET=b
#   launch/gke_jobset.sh image                                        builds the last commit and pushes it
#   TYPE=v6e-256 SLICES=2 launch/gke_jobset.sh apply --config=configs/vljepa_stage1.py:1frame
#   TYPE=v6e-256 SLICES=2 launch/gke_jobset.sh render --config=…      shows what apply creates
#   launch/gke_jobset.sh status | tail [HOST] | delete
#   launch/gke_jobset.sh resume                                       what was applied, once it has failed for good
#   TYPE=v6e-256 SLICES=2 launch/gke_jobset.sh xpk --config=… | bash  the same run as a workload of xpk
#
# The cluster needs the JobSet controller, one TPU node pool per slice, and the add-on GcsFuseCsiDriver.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
source launch/tpu_types.sh

NAME=${NAME:-}                              # of the JobSet
CLUSTER=${CLUSTER:-}                        # of GKE
ZONE=${ZONE:-}                              # zone of the cluster, or its region
PROJECT=${PROJECT:-}                        # of the cluster
NAMESPACE=${NAMESPACE:-default}             # of Kubernetes
IMAGE=${IMAGE:-}                            # such as us-docker.pkg.dev/PROJECT/REPOSITORY/vljepa:1
EXTRAS=${EXTRAS:-}                          # more packages in the image, such as huggingface_hub
TYPE=${TYPE:-v6e-16}                        # of each slice, such as v6e-256, v5litepod-256, v5p-256
TOPOLOGY=${TOPOLOGY:-}                      # of each slice; empty: the usual one of TYPE
SLICES=${SLICES:-1}                         # how many
CHIPS_PER_HOST=${CHIPS_PER_HOST:-}          # of the node pools; empty: 4
BUCKET=${BUCKET:-}                          # Cloud Storage bucket that all Pods mount; best a hierarchical one
MOUNT=${MOUNT:-/mnt/bucket}                 # where
WORKDIR=${WORKDIR:-}                        # of the run, below MOUNT; empty: MOUNT/NAME
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-}        # of Kubernetes, with rights to the bucket; empty: default
SPOT=${SPOT:-}                              # 1: node pools of spot machines
QUEUE=${QUEUE:-}                            # local queue of Kueue; empty: none
RESTARTS=${RESTARTS:-10}                    # how often a run that fails starts again; preemptions do not count
GRACE=${GRACE:-300}                         # seconds to save in before a Pod is ended; spot machines give less

manifest=runs/launch/$NAME.yaml             # as applied; `resume` applies it again
source launch/gke_render.sh

# on_cluster ARGUMENT ...: kubectl there, whatever cluster it is set to.
on_cluster() {
  local context
  require NAME CLUSTER ZONE PROJECT
  need kubectl https://kubernetes.io/docs/tasks/tools
  context=gke_${PROJECT}_${ZONE}_$CLUSTER
  if ! kubectl config get-contexts --output=name | grep -qx "$context"; then
    need gcloud https://cloud.google.com/sdk/docs/install
    gcloud container clusters get-credentials "$CLUSTER" --location="$ZONE" --project="$PROJECT"
  fi
  kubectl --context="$context" --namespace="$NAMESPACE" "$@"
}

case ${1:-} in
  image)
    require IMAGE
    need docker https://docs.docker.com/engine/install
    git archive HEAD | docker build --file=launch/Dockerfile --tag="$IMAGE" --build-arg=EXTRAS="$EXTRAS" -
    docker push "$IMAGE"
    ;;
  render) render "${@:2}" ;;
  apply)
    require NAME CLUSTER ZONE PROJECT
    mkdir -p runs/launch
    render "${@:2}" >"$manifest.partial"
    mv "$manifest.partial" "$manifest"
    on_cluster create --filename="$manifest"
    ;;
  status)
    on_cluster get jobset "$NAME"
    on_cluster get pods --selector=jobset.sigs.k8s.io/jobset-name="$NAME" --output=wide
    ;;
  tail)
    pod=jobset.sigs.k8s.io/jobset-name=$NAME,jobset.sigs.k8s.io/job-index=0
    on_cluster logs --follow --tail=50 --container=train \
      --selector="$pod,batch.kubernetes.io/job-completion-index=${2:-0}"
    ;;
  resume)
    require NAME CLUSTER ZONE PROJECT
    [[ -e $manifest ]] || fail "nothing to resume: no run of $NAME is known in $manifest"
    state=$(on_cluster get jobset "$NAME" --ignore-not-found --output='jsonpath=found {.status.terminalState}')
    case $state in
      "found Completed") echo "$NAME: finished" ;;
      "found Failed")
        on_cluster delete jobset "$NAME" --wait
        on_cluster create --filename="$manifest"
        ;;
      "") on_cluster create --filename="$manifest" ;;
      *) echo "$NAME: under way; it starts again by itself after a preemption" ;;
    esac
    ;;
  delete)
    on_cluster delete jobset "$NAME"
    rm -f "$manifest"
    ;;
  xpk)
    require CLUSTER ZONE PROJECT
    check_run "${@:2}"
    printf -v command '%q ' env GENERATION="$GENERATION" launch/worker.sh main "${@:2}" --workdir="$WORKDIR"
    where=(--cluster="$CLUSTER" --zone="$ZONE" --project="$PROJECT")
    printf '%q ' xpk storage attach "$NAME-bucket" "${where[@]}" --type=gcsfuse --bucket="$BUCKET" \
      --mount-point="$MOUNT" --readonly=false --auto-mount=false --mount-options="$MOUNT_OPTIONS"
    printf '&&\n'
    printf '%q ' xpk workload create "${where[@]}" --workload="$NAME" --tpu-type="$TYPE" --num-slices="$SLICES" \
      --docker-image="$IMAGE" --storage="$NAME-bucket" --max-restarts="$RESTARTS" --restart-on-exit-codes=1 \
      ${SPOT:+--spot} --command="cd /app && exec $command"
    echo
    ;;
  *) fail "no action '${1:-}'; there are image, render, apply, status, tail, resume, delete, xpk" ;;
esac
