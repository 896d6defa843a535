# shellcheck shell=bash
# Sourced by tpu_vm.sh: starting the kept command, and going on with it after whatever has happened.
# shellcheck disable=SC2153,SC2154  # its variables

start() {
  check_workdir "${COMMAND[@]}"
  worker start "${COMMAND[@]}" ${workdir:+--workdir="$workdir"}
  echo "$NAME: started on $HOSTS host(s)"
}

# One look, and what follows from it. Its last line tells `watch` where the run stands.
resume() {
  local machine
  ((${#COMMAND[@]})) || fail "nothing to resume: no run of $NAME is known in $memory"
  machine=$(machine_state)
  case $machine in
    READY)
      resume_run
      return
      ;;
    STOPPED) fail "$NAME is STOPPED: start it with gcloud compute tpus tpu-vm start, or delete it" ;;
    ABSENT) make ;;
    GONE | PREEMPTED | TERMINATED | SUSPENDED | FAILED)
      echo "$NAME is $machine: made again"
      discard
      make
      ;;
    *)
      echo "$NAME is $machine: waiting"
      return
      ;;
  esac
  if [[ $WAY == queue ]]; then
    echo "$NAME is queued: waiting"
  else
    resume_run
  fi
}

resume_run() {
  local hosts
  hosts=$(host_states)
  case $hosts$'\n' in
    *state=absent*)
      install_archive
      start
      ;;
    *$'state=failed, code 2\n'*) fail "the run ended with code 2, a mistake in its arguments: see tail, run again" ;;
    *state=failed* | *state=none*)
      [[ -z ${GIVE_UP:-} ]] || fail "the run failed again after $RESTARTS new starts"
      echo "a host failed: stopped everywhere, started again"
      worker stop
      start
      ;;
    *state=running*) echo "$NAME: under way" ;;
    *state=finished*) echo "$NAME: finished" ;;
    *) fail "the hosts of $NAME tell no state: $hosts" ;;
  esac
}

# GIVE_UP tells a look that the run has failed often enough.
watch() {
  local code answer failures=0 last
  while [[ -e $memory ]]; do                # `delete` ends a watch, too
    code=0 last=$((failures >= RESTARTS ? 1 : 0))
    answer=$(GIVE_UP=${last#0} launch/tpu_vm.sh resume | tee /dev/stderr) || code=$?
    ((code != 2)) || exit 2
    [[ $answer != *"$NAME: finished" ]] || return 0
    [[ $answer != *"a host failed"* ]] || failures=$((failures + 1))
    sleep "$INTERVAL"
  done
}
