import subprocess
import sys

BLOCKED = """
import sys

WORLDS = ("dqn.environments", "dqn.finite", "dqn.identification")

class Blocked:
    def find_spec(self, name, path=None, target=None):
        of_dqn = name.startswith("dqn.") and not name.startswith(WORLDS)
        if of_dqn or name.split(".")[0] in {"torch", "flows", "prefect", "pandas", "mlflow"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
import serving.application
import serving.__main__
print("imported")
"""


def test_serving_starts_where_torch_is_not_installed() -> None:
    result = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert result.stdout == "imported\n", result.stderr
