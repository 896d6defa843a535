#!/usr/bin/env bash
# Trains on a Cloud TPU VM, a single host or a slice of many: creates it, installs this checkout, runs, and goes on.
#
#   NAME=jepa ZONE=us-east5-b TYPE=v6e-8 launch/tpu_vm.sh create  or queue, which waits until there is room
#   NAME=jepa launch/tpu_vm.sh setup                             the last commit and what it requires, on every host
#   NAME=jepa launch/tpu_vm.sh run --config=configs/base.py      the same command on every host
#   NAME=jepa launch/tpu_vm.sh status | tail [HOST] | stop | delete
#   NAME=jepa launch/tpu_vm.sh resume                            after preemption: the same machine, code and command
#   NAME=jepa launch/tpu_vm.sh watch                             resume every INTERVAL seconds until the run is finished
#
# Knobs and the command are kept in runs/launch/NAME.sh, so later calls need NAME alone; a knob that is given wins.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
source launch/tpu_types.sh

action=${1:-}
case $action in
  create | queue | setup | run | status | tail | stop | resume | watch | delete) shift ;;
  *) fail "no action '$action'; there are create, queue, setup, run, status, tail, stop, resume, watch, delete" ;;
esac
NAME=${NAME:-}                              # of the TPU VM, and of the queued resource
[[ $NAME =~ ^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$ ]] || fail "NAME '$NAME' is no name for a TPU VM, such as jepa-1"
memory=runs/launch/$NAME.sh
# shellcheck disable=SC1090  # written by `remember`
[[ ! -e $memory ]] || source "$memory"

ZONE=${ZONE:-}                              # one that has TYPE, such as us-east5-b
PROJECT=${PROJECT:-}                        # empty: the one that gcloud is set to
TYPE=${TYPE:-v6e-8}                         # such as v6e-8, v5litepod-256, v5p-256
VERSION=${VERSION:-}                        # software of the VM; empty: what fits TYPE
SPOT=${SPOT:-}                              # 1: cheaper, and may be taken away
RESERVED=${RESERVED:-}                      # 1: from a reservation
VALID_UNTIL=${VALID_UNTIL:-}                # how long `queue` may wait, such as 6h; empty: without end
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-}        # whose rights the VM has, as to the bucket; empty: the project's default
NETWORK=${NETWORK:-}                        # empty: default
SUBNET=${SUBNET:-}                          # empty: the network's own
BUCKET=${BUCKET:-}                          # Cloud Storage bucket that all hosts mount; best a hierarchical one
NFS=${NFS:-}                                # HOST:/SHARE to mount instead, such as a Filestore instance
MOUNT=${MOUNT:-}                            # where; empty: /mnt/BUCKET, /mnt/nfs. With neither, a mount of your own
WORKDIR=${WORKDIR:-}                        # of the run; empty: MOUNT/NAME, or without a mount runs/ on the VM's disk
PYTHON=${PYTHON:-3.12}                      # Python to install
EXTRAS=${EXTRAS:-}                          # more packages to install, such as huggingface_hub
BATCH=${BATCH:-}                            # reach so many hosts at once, by gcloud alpha; empty: all of them
INTERVAL=${INTERVAL:-300}                   # seconds between two looks of `watch`
RESTARTS=${RESTARTS:-3}                     # how often `watch` starts a run that fails on a healthy machine
KNOBS=(ZONE PROJECT TYPE VERSION SPOT RESERVED VALID_UNTIL SERVICE_ACCOUNT NETWORK SUBNET BUCKET NFS MOUNT WORKDIR
  PYTHON EXTRAS BATCH INTERVAL RESTARTS)
WAY=${WAY:-create}                          # how the machine is got: create or queue; kept with the knobs
[[ -n ${COMMAND+set} ]] || COMMAND=()       # arguments of the last `run`; kept too

[[ -n $ZONE ]] || fail "give ZONE, one that has $TYPE, such as us-east5-b"
on_or_off SPOT RESERVED
[[ -z $SPOT || -z $RESERVED ]] || fail "give SPOT or RESERVED, not both"
[[ -z $BUCKET || -z $NFS ]] || fail "give BUCKET or NFS, not both"
read_type "$TYPE"
need gcloud https://cloud.google.com/sdk/docs/install
bucket=${BUCKET#gs://}
mount=${MOUNT:-${bucket:+/mnt/$bucket}${NFS:+/mnt/nfs}}
workdir=${WORKDIR:-${mount:+$mount/$NAME}}
archive=runs/launch/$NAME.tar.gz            # the code of the run
checkout=vljepa_jax_checkout
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
source launch/tpu_gcloud.sh
source launch/tpu_resume.sh

remember() {
  local knob
  mkdir -p runs/launch
  {
    for knob in "${KNOBS[@]}"; do
      # shellcheck disable=SC2016  # for when it is read
      printf '[[ -n ${%s+set} ]] || %s=%q\n' "$knob" "$knob" "${!knob}"
    done
    declare -p WAY COMMAND
  } >"$memory.partial"
  mv "$memory.partial" "$memory"
}

# A run on many hosts writes one checkpoint together, and all of them read it.
check_workdir() {
  [[ " $* " != *" --workdir"* ]] || fail "give WORKDIR, not --workdir"
  [[ $workdir != gs:* ]] || fail "WORKDIR is a folder, not $workdir: give BUCKET, which is mounted at MOUNT"
  ((HOSTS == 1)) || [[ -n $mount && $workdir == "$mount"/* ]] ||
    fail "$TYPE has $HOSTS hosts, each with a WORKDIR '$workdir' of its own: give BUCKET or NFS, and one below MOUNT"
  [[ -n $workdir ]] || echo "note: checkpoints lie on the VM's disk and go with it; BUCKET or NFS keeps them" >&2
}

case $action in
  create | queue)
    WAY=$action
    remember
    make
    ;;
  setup)
    remember
    git archive --format=tar.gz --output="$archive" HEAD
    install_archive
    ;;
  run)
    (($#)) || fail "give the arguments of vljepa_jax.main, such as --config=configs/base.py"
    check_workdir "$@"
    COMMAND=("$@")
    remember
    start
    ;;
  status)
    machine=$(machine_state)
    echo "$NAME is $machine"
    [[ $machine != READY ]] || host_states
    ;;
  tail) on_hosts "${1:-0}" "tail -n 50 -F $checkout/run.log" ;;
  stop) worker stop ;;
  resume) resume ;;
  watch) watch ;;
  delete)
    [[ $(machine_state) == ABSENT ]] || discard
    rm -f "$memory" "$archive"
    ;;
esac
