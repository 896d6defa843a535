import http.server
import os
import pathlib
import socket
import subprocess
import sys
import threading

import pytest

from vljepa_jax import hosts
from vljepa_jax.errors import UserError

ROOT = pathlib.Path(__file__).parents[1]
BY_HAND = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "2"}
NO_TPU = {"TPU_SKIP_MDS_QUERY": "1"}


@pytest.mark.parametrize("environ, group", [
    ({}, None),
    (BY_HAND, hosts.Group("a:1", 3, 2)),
    (BY_HAND | {"TPU_WORKER_HOSTNAMES": "b,c"}, hosts.Group("a:1", 3, 2)),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"TPU_WORKER_HOSTNAMES": "b,c"}, hosts.Group("b")),
    ({"TPU_PROCESS_ADDRESSES": "d:8,e:8", "TPU_WORKER_HOSTNAMES": "b"}, hosts.Group("d:8")),
    ({"MEGASCALE_COORDINATOR_ADDRESS": "f", "TPU_WORKER_HOSTNAMES": "b"}, hosts.Group("f")),
])
def test_the_environment_says_who_belongs_together(environ, group):
  assert hosts.find_group(NO_TPU | environ) == group


@pytest.mark.parametrize("changes, message", [
    ({"JAX_PROCESS_ID": ""}, "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES are set, but not JAX_PROCESS_ID; set all"),
    ({"JAX_NUM_PROCESSES": "", "JAX_PROCESS_ID": ""}, "is set, but not JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
    ({"JAX_COORDINATOR_ADDRESS": "a"}, "must be host:port of process 0, not 'a'"),
    ({"JAX_PROCESS_ID": "3"}, "a number below JAX_NUM_PROCESSES, from 0 on; they are '3' and '3'"),
    ({"JAX_NUM_PROCESSES": "two"}, "they are '2' and 'two'"),
])
def test_a_half_set_environment_is_an_error(changes, message):
  with pytest.raises(UserError) as raised:
    hosts.find_group(BY_HAND | changes)
  assert message in str(raised.value)


@pytest.fixture
def metadata():
  """Address of a metadata server of a TPU VM, and what it tells."""
  entries = {}

  class Server(http.server.BaseHTTPRequestHandler):

    def do_GET(self):
      key = self.path.rpartition("/")[2]
      known = key in entries and self.headers["Metadata-Flavor"] == "Google"
      self.send_response(200 if known else 404)
      self.end_headers()
      self.wfile.write(entries.get(key, "").encode())

    def log_message(self, *args):
      pass

  with http.server.HTTPServer(("localhost", 0), Server) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_port}", entries
    server.shutdown()


@pytest.mark.parametrize("entries, group", [
    ({}, None),
    ({"worker-network-endpoints": "10.0.0.1"}, None),
    ({"worker-network-endpoints": "10.0.0.1,10.0.0.2"}, hosts.Group("10.0.0.1")),
    ({"worker-network-endpoints": "unknown:0:10.0.0.1,unknown:1:10.0.0.2"}, hosts.Group("10.0.0.1")),
    ({"worker-network-endpoints": "10.0.0.1", "tpu-env": "ZONE: 'z'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.9'\n"},
     hosts.Group("10.0.0.9")),
])
def test_a_tpu_vm_asks_its_metadata_server(metadata, entries, group):
  server, told = metadata
  told |= entries
  assert hosts.find_group({"GCE_METADATA_IP": server}) == group
  assert hosts.find_group({"GCE_METADATA_IP": server, "JAX_PLATFORMS": "cpu"}) is None


def test_a_metadata_server_that_is_away_is_an_error():
  with pytest.raises(UserError, match="this machine has a TPU, but localhost:1 does not say .* for a single host set"):
    hosts.find_group({"GCE_METADATA_IP": "localhost:1"})


def test_a_process_alone_joins_nobody(monkeypatch):
  for name in BY_HAND:
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(hosts, "_join", None)
  with hosts.joined():
    pass
  with pytest.raises(UserError, match="as it was"), hosts.joined():
    raise UserError("as it was")


def join(index, code, port=None):
  """A process that joins a group of two, on a free port if none is given."""
  with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{port or free.getsockname()[1]}"
  environ = os.environ | BY_HAND | {
      "JAX_PLATFORMS": "cpu", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(index),
      "JAX_COORDINATOR_ADDRESS": address}
  done = subprocess.run(
      [sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)
  return address, done


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_meets_nobody_says_so(index):
  address, done = join(index, "from vljepa_jax import hosts\nhosts.JOIN_SECONDS = 1\nwith hosts.joined(): pass")
  assert done.returncode == 2
  assert done.stderr.strip() == (
      f"error: process {index} of 2 has not met the others within 1 s; the coordinator, process 0, is {address}: is it "
      "running, can its port be reached, and have all processes been started?")


def test_a_port_in_use_is_named():
  with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
    address, done = join(0, "from vljepa_jax import cli, hosts\ncli.run(lambda: hosts.joined().__enter__())",
                         taken.getsockname()[1])
  assert done.returncode == 2
  assert f"error: the processes of this run cannot meet at {address}: " in done.stderr


def test_together_alone():
  with hosts.together():
    pass
  with pytest.raises(UserError, match="as it was"), hosts.together():
    raise UserError("as it was")
  assert hosts.from_first(7) == 7


def test_comes_true_waits_for_a_while(monkeypatch):
  answers = [True, False]
  assert hosts.comes_true(answers.pop) and not answers
  monkeypatch.setattr(hosts, "PATIENCE", 0.1)
  assert not hosts.comes_true(lambda: False)
