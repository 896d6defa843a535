"""Without Apache Beam."""

import sys

from vljepa_jax.data import conversion, convert


def test_what_to_install_is_told(tmp_path, monkeypatch, capsys):
  monkeypatch.delitem(sys.modules, "vljepa_jax.data.conversion.run", raising=False)
  monkeypatch.delattr(conversion, "run", raising=False)
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  assert convert.main(["--manifest=m.jsonl", f"--out={tmp_path}/out"]) == 1
  error = capsys.readouterr().err
  assert "needs Apache Beam" in error and "requirements-convert.txt" in error and error.count("\n") == 1
  assert not (tmp_path / "out").exists()
