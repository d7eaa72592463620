"""What the documents show, and how each of it is tested: run, read by its program, or a reason why neither."""

from typing import Final

RUN: Final = "RUN"
READ: Final = "READ"
CONTAINERS: Final = "tests/stack/test_containers.py does it, with containers"
DRIFTS: Final = "takes minutes; tests/benchmarks/test_drift_worlds.py tests its parts"
RESTORES: Final = "tests/stack/test_restore.py does it, with containers"
LONG: Final = "takes minutes to hours; tests/benchmarks/test_benchmarks.py tests its parts"
ELSEWHERE: Final = "is for a system that a test has not: "

STOOD_IN: Final = "tests/repository/test_callbacks.py runs it in seconds, with stand-ins for what is not installed"

AUTH_STRING: Final = r'''"prefect:$(sed -nE "s/^(export )?PREFECT_PASSWORD=['\"]?([^'\" ]*).*/\2/p" docker/.env)"'''
COMMANDS: Final = {
    "make": RUN,
    'make train ARGS="--help"': RUN,
    'make train ARGS="--help-all"': RUN,
    "make train": READ,
    ".venv/bin/python -m flows": "lists the verbs; tests/flows/cli/test_program.py does it",
    "make versions": READ,
    'make compare ARGS="3 champion"': READ,
    'make promote ARGS="3 --dry-run"': READ,
    'make promote ARGS="3"': READ,
    'make promote ARGS="3 --force"': READ,
    'make promote ARGS="3 --shadow-steps 1000"': READ,
    'make promote ARGS="--file policy.onnx"': READ,
    "make promote": "needs a version; another document names it with one",
    "make rollback": READ,
    'make retire ARGS="2"': READ,
    ".venv/bin/python -m flows card champion": "tests/flows/cli/test_card.py writes one",
    'make train ARGS="--seed 7 --num-agents 4"': READ,
    'make train ARGS="--preset article"': READ,
    'make train ARGS="--preset robust"': READ,
    'make train ARGS="--preset frugal"': READ,
    'make train ARGS="--preset lunarlander"': READ,
    'make train ARGS="--warm-start champion"': READ,
    'make train ARGS="--world.length 1.0 --world.wind 2"': READ,
    'make train ARGS="--world.length 0.25 0.75"': READ,
    'make train ARGS="--randomisation.length 0.25 0.75"': READ,
    'make train ARGS="--resume RUN_ID"': READ,
    'make train ARGS="--env-id FrozenLake-v1 --env-kwargs is_slippery=false map_name=8x8 '
    '--max-episode-steps 200"': READ,
    'make train ARGS="--preset general --env-id Taxi-v4 --num-agents 4 --num-envs 8 --hidden-sizes 64 '
    "--batch-size 64 --replay-capacity 40000 --gamma 0.97 --n-step 3 --learning-rate 0.002 --reward-scale 0.1 "
    "--epsilon-decay-updates 4000 --max-updates 10000 --eval-interval 2000 --eval-episodes 20 "
    '--acceptance-return none --acceptance-episodes 20"': READ,
    'make train ARGS="--preset lunarlander --env-id boing_gym:Boing-v0 '
    '--observation-scale 400 240 1 1 10 240 240 10 10"': READ,
    'make serve ARGS="--model models:/dqn-boing_gym~2Boing-v0@champion --allow-env boing_gym:Boing-v0"': READ,
    ".venv/bin/pip install minatar": ELSEWHERE + "a package that is not among the requirements",
    'make train ARGS="--preset minatar"': READ,
    'make train ARGS="--preset minatar --body conv"': READ,
    'make train ARGS="--preset minatar --env-id minatar.gym:MinAtar/Freeway-v1"': READ,
    'make serve ARGS="--model models:/dqn-minatar.gym~2MinAtar~1Breakout-v1@champion '
    '--allow-env minatar.gym:MinAtar/Breakout-v1"': READ,
    ".venv/bin/pip install boing-gym": "make install does it; tests/flows/test_third_party.py trains and serves it",
    ".venv/bin/python -m benchmarks.finite": LONG,
    ".venv/bin/python -m benchmarks.drift_returns MountainCar-v0 WORKBOOK": LONG,
    ".venv/bin/python -m benchmarks.planner": LONG,
    ".venv/bin/python -m benchmarks.losses": LONG,
    ".venv/bin/python -m benchmarks.convolution": LONG,
    ".venv/bin/python -m benchmarks.minatar": LONG,
    ".venv/bin/python -m benchmarks.gate": "takes two minutes; tests/flows/registry/test_gate.py simulates less",
    ".venv/bin/python -m benchmarks.champions": LONG,
    ".venv/bin/python -m benchmarks.drift": LONG,
    ".venv/bin/python -m benchmarks.findings --model FILE.onnx": LONG,
    ".venv/bin/python -m benchmarks.healing --model FILE.onnx": LONG,
    ".venv/bin/python -m benchmarks.closed_loop": ELSEWHERE + "a running stack with a champion",
    ".venv/bin/python -m benchmarks.pictures": ELSEWHERE + "a running stack with two versions",
    ".venv/bin/python -m benchmarks.mutants FILE": LONG,
    "curl -X PUT 127.0.0.1:8000/api/world -d '{\"force_mag\": -10}'": "tests of serving send such requests",
    "make bank": READ,
    'make bank ARGS="--worlds 128 --seed 1"': READ,
    "make sweep": READ,
    'make sweep ARGS="--help"': RUN,
    'make sweep ARGS="--trials 256 --method random"': READ,
    'make sweep ARGS="--space arlbench"': READ,
    'make sweep ARGS="--finalists 8"': READ,
    'make sweep ARGS="--preset acrobot --trials 64"': READ,
    'make sweep ARGS="--save mine"': READ,
    'make sweep ARGS="--promote"': READ,
    'make sweep ARGS="--resume STUDY"': READ,
    ".venv/bin/prefect deployment run sweep-dqn/default -p trials=1024 --watch": (
        "tests/docker/test_deployments.py holds the parameters of a deployment against its flow"
    ),
    ".venv/bin/python -m benchmarks.sweep cost": LONG,
    ".venv/bin/python -m benchmarks.sweep peer": LONG,
    ".venv/bin/python -m benchmarks.sweep worth": LONG,
    ".venv/bin/python -m benchmarks.workers": LONG,
    ".venv/bin/python -m benchmarks.varied": LONG,
    "make serve": READ,
    'make serve ARGS="--port 9000 --model models:/dqn-CartPole-v1/3"': READ,
    'make serve ARGS="--shadow challenger --shadow-share 0.1 --canary-share 0.05"': READ,
    ".venv/bin/python -m benchmarks.shadow": LONG,
    'make up ARGS="--profile monitoring"': "needs a Docker engine; tests/docker/test_monitoring.py reads its files",
    ".venv/bin/python -m serving --no-show": READ,
    "make watch": READ,
    'make record ARGS="--seed 7 --push 100:60"': READ,
    "make site": "tests/site/test_site.py builds it",
    "make test": "is what runs this test",
    "make test-all": "runs this test too",
    "make lint": "is part of make test",
    "make types": "is part of make test",
    "make install": "every other verb does it",
    "make test-stack": "needs a Docker engine; .ci/run does it where there is one",
    "make constraints": "resolves every dependency anew, from the network",
    ".venv/bin/pytest -n 0 tests/serving/page/test_page.py -k greatest_angle": "runs a test that the reader writes",
    'make train ARGS="--preset heavy --num-agents 4"': "trains a preset that the reader writes",
    ".venv/bin/python -m benchmarks.rooms": "tests/repository/test_shown.py holds the picture against the code",
    ".venv/bin/python -m benchmarks.mutants dqn/learning/learner.py": LONG,
    ".venv/bin/python -m benchmarks.mutants MODULE --sample SHARE --tests ...": LONG,
    'make bench ARGS="--quick"': LONG,
    "make bench": LONG,
    ".venv/bin/python -m benchmarks.ablation": LONG,
    ".venv/bin/python -m benchmarks.environments": LONG,
    "git clone https://github.com/ahmedhajyahmed/DrDRL": ELSEWHERE + "the network",
    '.venv/bin/python -m benchmarks.drift_worlds "DrDRL/experimental_results/final_sheet DQN cartepole.xlsx"': DRIFTS,
    ".venv/bin/python -m benchmarks.drift_worlds --frugal "
    '"DrDRL/experimental_results/final_sheet DQN cartepole.xlsx"': DRIFTS,
    ".venv/bin/python -m benchmarks.held": DRIFTS,
    ".venv/bin/python -m benchmarks.generalization": LONG,
    ".venv/bin/python -m benchmarks.limits": LONG,
    ".venv/bin/python -m benchmarks.robustness": LONG,
    ".venv/bin/python -m benchmarks.seeds --last-network": LONG,
    ".venv/bin/python -m benchmarks.seeds --num-agents 32": LONG,
    ".venv/bin/python -m benchmarks.seeds --seeds 1024 --processes 2 --num-agents 128": LONG,
    ".venv/bin/python -m benchmarks.seeds --preset frugal --num-agents 16 --seeds 128": LONG,
    ".venv/bin/python -m benchmarks.seeds --seeds 16 --num-agents 1": LONG,
    "chrt -f 1 .venv/bin/python -m benchmarks.serving": "needs real-time priority and two idle cores",
    "chrt -f 1 .venv/bin/python -m benchmarks.serving --quick beside": "needs real-time priority and two idle cores",
    "mlflow models serve": "is the name of a peer",
    "mlflow not healthy": "is a message",
    "make ui": "is MLflow's own, and runs until it is stopped",
    "make clean": "removes the environment that this test runs in",
    "make train TORCH=cpu": "tests/repository/test_setup.py reads what it installs",
    "make secrets": "tests/docker/test_secrets.py does it, in another directory",
    "make up": CONTAINERS,
    'make up ARGS="--scale worker=3"': CONTAINERS,
    "make down": CONTAINERS,
    "make destroy": CONTAINERS,
    "make backup": RESTORES,
    "make restore FILE=backups/dqn-TIME.tar": RESTORES,
    "make stack": "runs until it is stopped; its parts are those of make up",
    "export PREFECT_API_URL=http://127.0.0.1:4200/api": CONTAINERS,
    f"export PREFECT_API_AUTH_STRING={AUTH_STRING}": "tests/repository/test_documentation.py tries it below",
    ".venv/bin/prefect deployment run train-dqn/cartpole -p 'config={\"seed\": 7}' --watch": CONTAINERS,
    ".venv/bin/prefect flow-run retry ID": "tests/stack/test_outages.py resumes runs, with containers",
    "curl -s 127.0.0.1:8000/v2/models/dqn-CartPole-v1/infer "
    '-d \'{"inputs": [{"name": "observation", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0.05, 0]}]}\'': (
        "tests/serving/inference/test_protocol.py sends such requests"
    ),
    "docker-compose -f docker/compose.yaml --profile inference up -d --scale inference=3": (
        "tests/docker/test_scripts.py reads the profile"
    ),
    ".venv/bin/pip install -c constraints.txt prefect-kubernetes": ELSEWHERE + "Kubernetes",
    ".venv/bin/prefect work-pool create --type kubernetes --base-job-template docker/kubernetes.json k8s": (
        "tests/docker/test_kubernetes.py holds the template against Prefect's own"
    ),
    ".venv/bin/prefect --no-prompt deploy --name train-dqn/cartpole --pool k8s "
    "--job-variable image=REGISTRY/dqn-pipeline:TAG": "tests/docker/test_deployments.py does it, with another pool",
    ".venv/bin/prefect worker start --pool k8s": ELSEWHERE + "Kubernetes",
    "docker inspect": "is Docker's own",
    "docker logs": "is Docker's own",
    "docker ps --all --filter name=dqn": "is Docker's own",
    "docker system df -v": "is Docker's own",
    "git pull": "is git's own",
    "python -OO": "is a way to start Python",
}
PYTHON: Final = {
    "from dqn import PRESETS, train": RUN,
    "from dataclasses import replace": RUN,
    "from torch import nn": RUN,
    "from dqn import Policy, evaluate": STOOD_IN,
    "from torch.utils.tensorboard import SummaryWriter": STOOD_IN,
    "import wandb": STOOD_IN,
    "import gymnasium, mlflow, numpy, onnxruntime": "needs a champion in a registry beside it",
}
