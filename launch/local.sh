#!/usr/bin/env bash
# Trains on this machine in N processes that act as one run, as on N hosts, through the entry point.
#
#   [DEVICES=4] [PORT=12355] launch/local.sh N [--config=configs/base.py:debug ...]
#
# Process 0 writes to the terminal, the others to files in a temporary folder. Ctrl-C or SIGTERM saves and stops the
# run, a second one ends it at once. When a process fails the others are stopped, and this script exits with its code.
set -euo pipefail
cd "$(dirname "$0")/.."

DEVICES=${DEVICES:-1}                       # simulated CPU devices of each process; config.mesh divides N x DEVICES
PORT=${PORT:-}                              # where the processes meet; any free one if not given
GRACE=${GRACE:-10}                          # seconds in which the others may end by themselves after a failure

count=${1:-}
if [[ ! "$count" =~ ^[1-9][0-9]*$ ]]; then
  echo "error: the number of processes comes first: DEVICES=4 launch/local.sh 2 --config=configs/base.py:debug" >&2
  exit 2
fi
shift
if [[ "$*" != *--config=* ]]; then
  set -- --config=configs/base.py "$@"
fi

free_port='import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])'
export JAX_COORDINATOR_ADDRESS=localhost:${PORT:-$(python -c "$free_port")}
export JAX_NUM_PROCESSES=$count
export JAX_NUM_CPU_DEVICES=$DEVICES
export JAX_PLATFORMS=cpu

logs=$(mktemp -d "${TMPDIR:-/tmp}/vljepa_jax.XXXXXX")
pids=()
codes=()

signal_all() {
  for pid in "${pids[@]}"; do
    kill -s "$1" "$pid" 2>/dev/null || true
  done
}

# Sets `left` to how many processes run, and `failed` to the first that has ended with an error.
look() {
  left=0
  for ((i = 0; i < count; i++)); do
    if kill -0 "${pids[i]}" 2>/dev/null; then
      left=$((left + 1))
    elif [[ -z "${codes[i]:-}" ]]; then
      codes[i]=0
      wait "${pids[i]}" || codes[i]=$?
      [[ ${codes[i]} == 0 ]] || failed=${failed:-$i}
    fi
  done
}

trap 'signal_all INT' INT
trap 'signal_all TERM' TERM HUP
set -m                                      # a process group each: Ctrl-C reaches them once, through the trap
JAX_PROCESS_ID=0 python -m vljepa_jax.main "$@" &
pids+=($!)
for ((i = 1; i < count; i++)); do
  JAX_PROCESS_ID=$i python -m vljepa_jax.main "$@" >"$logs/process_$i.log" 2>&1 &
  pids+=($!)
done
set +m
[[ $count == 1 ]] || echo "output of the other processes: $logs/process_*.log" >&2
exec 3>&2 2>/dev/null                       # the shell itself would report what it kills

failed=
left=$count
while [[ $left != 0 && -z "$failed" ]]; do
  sleep 0.2 || true
  look
done
for ((wait = 0; left != 0 && wait < 5 * GRACE; wait++)); do
  sleep 0.2 || true
  look
done
signal_all KILL
for ((i = 1; i < count; i++)); do           # process 0 has had its say, and what all say is said once
  if [[ ${codes[i]:-0} != 0 && ${codes[i]} != "${codes[0]:-}" ]]; then
    echo "error: process $i has ended with code ${codes[i]}; the end of $logs/process_$i.log:" >&3
    tail -n 20 "$logs/process_$i.log" >&3
  fi
done
exit "${codes[${failed:-0}]}"
