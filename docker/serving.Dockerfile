# The page and the inference API: onnxruntime and no torch.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/venv
COPY pyproject.toml constraints.txt ./
# Empty packages stand in for the code, so that changing it does not install the dependencies again.
RUN mkdir dqn flows serving \
    && /opt/venv/bin/pip install --quiet -c constraints.txt '.[serving,record,box2d]' \
    && /opt/venv/bin/pip uninstall --quiet --yes dqn-pipeline setuptools pip \
    && find /opt/venv -type d -name tests -prune -exec rm -rf {} +

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin app \
    && install -d -o app -g app /app /models
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=1
WORKDIR /app
COPY dqn/__init__.py dqn/
COPY dqn/finite.py dqn/
COPY dqn/environments dqn/environments
COPY dqn/identification dqn/identification
COPY docker/entrypoint.sh docker/
COPY serving serving
RUN python -m compileall -q dqn serving
USER app
ENTRYPOINT ["/app/docker/entrypoint.sh"]
# Smoke test: the server loads, and torch is not there to be loaded.
RUN python -m serving --help >/dev/null \
    && python -c "import importlib.util as find; assert not find.find_spec('torch'), 'torch is in the serving image'" \
    && rm -rf /tmp/*
EXPOSE 8000
# Last, so that a new commit copies no dependencies again.
ARG GIT_COMMIT=unknown
LABEL org.opencontainers.image.title="dqn-serving" \
      org.opencontainers.image.description="Plays and serves DQN policies with onnxruntime" \
      org.opencontainers.image.revision="${GIT_COMMIT}"
CMD ["python", "-m", "serving", "--host", "0.0.0.0", "--port", "8000", "--cache-dir", "/models"]
