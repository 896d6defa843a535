"""A copy of launch/ whose PATH holds recording stand-ins for gcloud, kubectl and others, and plain tools."""

import json
import pathlib
import shutil
import subprocess
import sys

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
TOOLS = ("bash", "cat", "dirname", "env", "git", "grep", "gzip", "hostname", "id", "mkdir", "mktemp", "mv", "nohup",
         "rm", "setsid", "sleep", "tar", "tee", "touch", "tr")

# Notes its arguments as a line of JSON, and answers what it was told to for a command that holds certain words.
STAND_IN = f"""#!{sys.executable} -SE
import json, os, sys
told = os.path.dirname(os.path.dirname(sys.argv[0])) + "/told"
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
sys.stdin.read()
with open(told + "/calls", "a") as calls:
  calls.write(json.dumps(call) + "\\n")
for number, (words, turns) in enumerate(json.load(open(told + "/answers"))):
  if words in " ".join(call):
    used = told + f"/turn{{number}}"
    turn = os.path.getsize(used) if os.path.exists(used) else 0
    open(used, "a").write(".")
    out, err, code = turns[min(turn, len(turns) - 1)]
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)
"""


class Checkout:
  """A checkout in `root` to start launchers from, with stand-ins beside it."""

  def __init__(self, root: pathlib.Path, *programs: str):
    self.root = root / "checkout"
    self.told = root / "told"
    self.programs = root / "programs"
    for folder in (self.told, self.programs, root / "tools"):
      folder.mkdir(parents=True)
    shutil.copytree(LAUNCH, self.root / "launch")
    self.path = f"{self.programs}:{root / 'tools'}"
    for tool in TOOLS:
      (root / "tools" / tool).symlink_to(shutil.which(tool))
    self.answers = []
    self._write_answers()
    self.install(*programs)

  def install(self, *programs: str) -> None:
    for program in programs:
      (self.programs / program).write_text(STAND_IN)
      (self.programs / program).chmod(0o755)

  def answer(self, words: str, *turns: str | tuple[str, str, int]) -> None:
    """Commands that hold `words` get one turn after the other, stdout or (stdout, stderr, exit code); then the last."""
    self.answers.insert(0, (words, [(turn, "", 0) if isinstance(turn, str) else turn for turn in turns]))
    for used in self.told.glob("turn*"):
      used.unlink()
    self._write_answers()

  def commit(self) -> None:
    """Makes it a repository with one commit."""
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "all"]):
      subprocess.run(["git", *command], cwd=self.root, check=True)

  def run(self, script: str, *args: str, **knobs: str) -> subprocess.CompletedProcess:
    """Starts launch/`script` with no environment but PATH, HOME and the knobs."""
    environment = {"PATH": self.path, "HOME": str(self.root.parent), **knobs}
    return subprocess.run(
        [self.root / "launch" / script, *args], env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60)

  def calls(self, *words: str) -> list[list[str]]:
    """Commands issued so far that hold all the words, oldest first."""
    noted = self.told / "calls"
    calls = [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []
    return [call for call in calls if all(word in call for word in words)]

  def forget(self) -> None:
    (self.told / "calls").unlink(missing_ok=True)

  def _write_answers(self) -> None:
    (self.told / "answers").write_text(json.dumps(self.answers))


def refused(done: subprocess.CompletedProcess, message: str) -> bool:
  """Whether it ended with code 2 and one line on stderr that holds `message`."""
  lines = done.stderr.splitlines()
  assert (done.returncode, len(lines)) == (2, 1), done
  assert lines[0].startswith("error: ") and message in lines[0], lines
  return True
