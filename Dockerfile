# syntax=docker/dockerfile:1
# Works on amd64 and arm64: every pinned package has wheels for both (OpenVINO wants glibc 2.35 on arm64).

FROM python:3.11-slim-bookworm AS build
RUN python -m venv /venv
COPY requirements.lock /src/
# --no-deps: the lock is complete, and rtmlib's GUI builds of OpenCV must not come back
RUN /venv/bin/pip install --no-cache-dir --no-deps --require-hashes -r /src/requirements.lock
COPY pyproject.toml README.md LICENSE /src/
COPY detector /src/detector
COPY model_files /src/model_files
RUN /venv/bin/pip install --no-cache-dir --no-deps /src

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 wholebody && install -d -o wholebody /data
COPY --from=build /venv /venv
COPY mock /app/mock
ENV PATH=/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 DATA_FOLDER=/data
WORKDIR /app
USER wholebody
VOLUME /data
EXPOSE 8004
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD \
    ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('BACKEND_PORT', '8004') + '/ready', timeout=2)"]
ENTRYPOINT ["wholebody"]
CMD ["serve"]
