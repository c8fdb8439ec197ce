# The kit in one image. `make image` builds it with CUDA, `make image-cpu` without; docs/containers.md says how to run it.
# There is no `# syntax=` line: a builder would fetch that from a registry before it read anything else.
ARG BASE_IMAGE=nvidia/cuda:13.0.3-base-ubuntu24.04@sha256:7c7413a56200486f71f181cad9310f6fd31b6bb21816ade15fc9c1e1e927a5c1
# cuda or cpu: which locks are installed.
ARG TORCH=cuda

# What both stages of the build and the image itself need of the system. git reads the commit of a mounted pipeline.
FROM ${BASE_IMAGE} AS system
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates git python3 \
 && rm -rf /var/lib/apt/lists/*

# The locked packages in /opt/kit, every hash checked.
FROM system AS packages
ARG TORCH
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN --mount=type=bind,source=containers,target=/containers \
    --mount=type=bind,source=requirements,target=/requirements \
    --mount=type=bind,source=wheelhouse,target=/wheelhouse \
    /containers/install.sh "${TORCH}"

# The wheel of this checkout, made by the locked build backend without a network.
FROM packages AS wheel
WORKDIR /src
COPY LICENSE README.md pyproject.toml ./
COPY artifacts/paper artifacts/paper
COPY artifacts/pocket_teacher artifacts/pocket_teacher
COPY protocol protocol
COPY harness harness
RUN /opt/kit/bin/pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /dist .

FROM system AS runtime-cpu

# Triton compiles its launchers when a kernel first runs.
FROM system AS runtime-cuda
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
 && rm -rf /var/lib/apt/lists/*

# The two stages above; hadolint takes them for an image without a tag.
# hadolint ignore=DL3006
FROM runtime-${TORCH} AS runtime
# Any user may write to the folders of runs and caches. The name is one that says nothing about anybody: logs are
# scrubbed of the user's name.
RUN groupadd --gid 10001 worker \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker \
 && install -d -m 1777 /cache /runs /work/runs
COPY --from=packages /opt/kit /opt/kit
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    /opt/kit/bin/pip install --no-cache-dir --no-index --no-deps /dist/*.whl
COPY examples /work/examples

# HOME exists for every --user. What programs keep goes to the cache volume, which is no `noexec` tmpfs: compiled
# kernels are loaded from there. git reads trees that belong to the user outside. DL3064 takes TOKENIZERS for a secret.
# hadolint ignore=DL3064
ENV PATH=/opt/kit/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    OMP_WAIT_POLICY=PASSIVE \
    TOKENIZERS_PARALLELISM=false \
    KIT_CACHE=/cache/kit \
    HF_HOME=/cache/huggingface \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    TRITON_CACHE_DIR=/cache/triton \
    VLLM_CACHE_ROOT=/cache/vllm \
    VLLM_NO_USAGE_STATS=1 \
    FLASHINFER_WORKSPACE_BASE=/cache \
    GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=* \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    KIT_IMAGE=/opt/kit/image.json

# Told by scripts/image.py; last, because they change with every commit.
ARG TORCH BASE_IMAGE
ARG KIT_VERSION="" PROTOCOL_VERSION="" LOCK_SHA256="" GIT_COMMIT="" GIT_DIRTY=""
RUN --mount=type=bind,source=containers,target=/containers \
    GIT_COMMIT="${GIT_COMMIT}" GIT_DIRTY="${GIT_DIRTY}" LOCK_SHA256="${LOCK_SHA256}" TORCH="${TORCH}" \
    python3 /containers/record.py
LABEL org.opencontainers.image.title="Distillation Energy Kit" \
      org.opencontainers.image.description="Audits, reproduces and validates the energy of LLM distillation pipelines" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${KIT_VERSION}" \
      org.opencontainers.image.revision="${GIT_COMMIT}" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      distill-energy-kit.dirty="${GIT_DIRTY}" \
      distill-energy-kit.protocol-version="${PROTOCOL_VERSION}" \
      distill-energy-kit.lock-sha256="${LOCK_SHA256}" \
      distill-energy-kit.torch="${TORCH}"

USER 10001:10001
WORKDIR /work
VOLUME ["/cache", "/runs"]
# Rare on purpose: a check is work on the machine whose energy is being measured.
HEALTHCHECK --interval=10m --timeout=30s --start-period=5s --retries=3 CMD ["kit", "health"]
ENTRYPOINT ["kit"]
CMD ["--help"]
