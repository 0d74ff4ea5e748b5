# syntax=docker/dockerfile:1
# Builds on amd64 and arm64: every pinned package has wheels for both. On arm64, OpenVINO needs glibc 2.35.
# To pin the base image by digest: --build-arg PYTHON_IMAGE=python:3.11.15-slim-bookworm@sha256:…
ARG PYTHON_IMAGE=python:3.11.15-slim-bookworm
# cpu, or cuda for NVIDIA GPUs.
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS packages-cpu
# The environment has no pip: nothing is installed into it later.
RUN python -m venv --without-pip /venv
COPY requirements.lock /src/
# The lock is complete. --no-deps keeps out rtmlib's OpenCV builds with a GUI.
RUN pip --python /venv/bin/python install --no-cache-dir --only-binary=:all: --no-deps --require-hashes \
    -r /src/requirements.lock

# CUDA and cuDNN are pinned packages too, so both variants share one base image.
FROM packages-cpu AS packages-cuda
COPY requirements-cuda.lock /src/
RUN pip --python /venv/bin/python uninstall --yes onnxruntime \
    && pip --python /venv/bin/python install --no-cache-dir --only-binary=:all: --no-deps --require-hashes \
    -r /src/requirements-cuda.lock

# hadolint ignore=DL3006
FROM packages-${VARIANT} AS packages
COPY pyproject.toml README.md LICENSE /src/
COPY detector /src/detector
COPY model_files /src/model_files
RUN pip --python /venv/bin/python install --no-cache-dir --no-deps /src
# The starter model is built here, since containers may have neither write access nor time. Its source is data only.
RUN /venv/bin/python -m detector.models.starter && pip --python /venv/bin/python uninstall --yes mediapipe

FROM ${PYTHON_IMAGE} AS image-cpu
RUN groupadd --gid 1000 wholebody \
    && useradd --uid 1000 --gid 1000 --no-create-home --home-dir /tmp --no-log-init --shell /usr/sbin/nologin wholebody \
    && install --directory --owner 1000 --group 1000 /data
COPY --from=packages /venv /venv
COPY mock /app/mock
# The node writes only to /data and /tmp, so the root file system can be read-only. Libraries keep caches in HOME.
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    NICEGUI_STORAGE_PATH=/tmp/nicegui \
    DATA_FOLDER=/data
WORKDIR /app
USER 1000:1000
VOLUME /data
EXPOSE 8004
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD \
    ["python", "-I", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + (os.environ.get('BACKEND_PORT') or os.environ.get('NODE_PORT') or '8004') + '/ready', timeout=2)"]
ENTRYPOINT ["wholebody"]
CMD ["serve"]
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Whole-body pose node" \
    org.opencontainers.image.description="Whole-body pose (133 COCO-WholeBody keypoints) as a Learning Loop detector node" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM image-cpu AS image-cuda
# Driver libraries that NVIDIA's container runtime adds from the host, and the folder of compiled kernels.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CUDA_CACHE_PATH=/data/cuda \
    DEVICE=cuda

# hadolint ignore=DL3006
FROM image-${VARIANT}
