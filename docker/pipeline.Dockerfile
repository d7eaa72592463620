# Prefect server, MLflow server, worker and deployer: one image, four commands (docker/compose.yaml).
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# pip's own variables choose where packages come from, e.g. an index of CPU-only builds of torch.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
# Empty packages stand in for the code, so that changing it does not install the dependencies again.
RUN mkdir dqn flows serving \
    && /opt/venv/bin/pip install --quiet -c constraints.txt '.[train,server,postgres,s3]' \
    && /opt/venv/bin/pip uninstall --quiet --yes dqn-pipeline

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app \
    && install -d -o app -g app /app /app/checkpoints /app/results /artifacts /prefect
COPY --from=build /opt/venv /opt/venv
# Heartbeats come as often as the automations of docker/deploy.py expect them. Where a Docker or Kubernetes pool runs
# `prefect flow-run execute`, a container that is stopped hands its run back at once.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PREFECT_HOME=/tmp/prefect \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/prefect-ui \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_LOGGING_EXTRA_LOGGERS=flows \
    PREFECT_LOGGING_LOG_PRINTS=true \
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 \
    PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR=reschedule \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=1 \
    MPLCONFIGDIR=/tmp/matplotlib \
    GIT_PYTHON_REFRESH=quiet
WORKDIR /app
COPY . ./
RUN python -m compileall -q dqn flows serving docker
USER app
ENTRYPOINT ["/app/docker/entrypoint.sh"]
# Smoke test: every entrypoint loads, and so does what the servers need beside them.
RUN python -c "import asyncpg, boto3, flask_wtf, psycopg2, flows.cleanup, flows.deployed" \
    && PYTHONPATH=/app:/app/docker python -c "import deploy" \
    && prefect --version && mlflow --version && rm -rf /tmp/*
# Last, so that a new commit copies no dependencies again.
ARG GIT_COMMIT=unknown
ENV GIT_COMMIT=${GIT_COMMIT}
LABEL org.opencontainers.image.title="dqn-pipeline" \
      org.opencontainers.image.description="Trains, tracks and promotes DQN agents: Prefect, MLflow and a worker" \
      org.opencontainers.image.revision="${GIT_COMMIT}"
CMD ["prefect", "worker", "start", "--pool", "dqn"]
