# shellcheck shell=bash
# Sourced by tpu_vm.sh: every gcloud call it makes. Reads its knobs and `where`, `bucket`, `mount`, `checkout`.
# shellcheck disable=SC2153,SC2154  # they are set there

tpus=(gcloud ${BATCH:+alpha} compute tpus)  # only alpha can reach the hosts in batches
batch=(${BATCH:+--batch-size="$BATCH"})

make() {
  local options=(--accelerator-type="$TYPE" ${SPOT:+--spot} ${RESERVED:+--reserved} ${NETWORK:+--network="$NETWORK"}
    ${SUBNET:+--subnetwork="$SUBNET"} ${SERVICE_ACCOUNT:+--service-account="$SERVICE_ACCOUNT"})
  if [[ $WAY == queue ]]; then
    gcloud compute tpus queued-resources create "$NAME" "${where[@]}" --node-id="$NAME" \
      --runtime-version="${VERSION:-$SOFTWARE}" ${VALID_UNTIL:+--valid-until-duration="$VALID_UNTIL"} "${options[@]}"
  else
    gcloud compute tpus tpu-vm create "$NAME" "${where[@]}" --version="${VERSION:-$SOFTWARE}" "${options[@]}"
  fi
}

discard() {
  if [[ $WAY == queue ]]; then
    gcloud compute tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet
  else
    gcloud compute tpus tpu-vm delete "$NAME" "${where[@]}" --quiet
  fi
}

# look KIND FIELD: that field as gcloud tells it; ABSENT if there is no such thing. Other failures are failures.
look() {
  local answer errors
  errors=$(mktemp)
  if answer=$(gcloud compute tpus "$1" describe "$NAME" "${where[@]}" --format="value($2)" 2>"$errors"); then
    echo "$answer"
  elif grep -q NOT_FOUND "$errors"; then
    echo ABSENT
  else
    cat "$errors" >&2
    exit 1
  fi
  rm "$errors"
}

# GONE: the queue says that it has given a machine, and the machine is no more.
machine_state() {
  local queued=ABSENT machine
  [[ $WAY == create ]] || queued=$(look queued-resources state.state)
  if [[ $WAY == queue && $queued != ACTIVE ]]; then
    echo "$queued"
    return
  fi
  machine=$(look tpu-vm state)
  [[ $queued != ACTIVE || $machine != ABSENT ]] || machine=GONE
  echo "$machine"
}

on_hosts() {                                # on_hosts WHICH COMMAND
  "${tpus[@]}" tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" "${batch[@]}" --command="$2"
}

worker() {                                  # worker ACTION [ARGUMENT ...]: launch/worker.sh on every host
  local command
  printf -v command '%q ' env GENERATION="$GENERATION" BUCKET="$bucket" NFS="$NFS" MOUNT="$mount" \
    PYTHON="$PYTHON" launch/worker.sh "$@"
  on_hosts all "cd $checkout && $command"
}

host_states() {
  on_hosts all "if [ -d $checkout ]; then $checkout/launch/worker.sh state; else echo state=absent; fi"
}

# install_archive: unpacks the code of the run on every host and sets the host up.
install_archive() {
  local extras
  read -ra extras <<<"$EXTRAS"
  "${tpus[@]}" tpu-vm scp "$archive" "$NAME:checkout.tar.gz" "${where[@]}" --worker=all "${batch[@]}"
  on_hosts all "mkdir -p $checkout && tar -xzf checkout.tar.gz -C $checkout"
  worker setup "${extras[@]}"
}
