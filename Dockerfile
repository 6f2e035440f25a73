# mmembed serve, as a user without rights, on a file system that may be read-only but for /data, /models and /tmp.
#
#   docker build -t mmembed:0.1.0 .
#   docker run -p 8600:8600 -e MMEMBED_KEY=SECRET -v mmembed-data:/data -v mmembed-models:/models mmembed:0.1.0
#
# torch comes as pip finds it: with CUDA, some 5 GB, which docker run --gpus all then uses. For a machine without a GPU
# give the index that PyTorch publishes for that: --build-arg TORCH_OPTIONS='--index-url INDEX'.

FROM python:3.12-slim AS build
ARG TORCH_OPTIONS=""
ARG EXTRAS=offline
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/mmembed
RUN /opt/mmembed/bin/pip install $TORCH_OPTIONS 'torch>=2.8' torchvision
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY mmembed ./mmembed
RUN /opt/mmembed/bin/pip install ".[$EXTRAS]" && /opt/mmembed/bin/python -m compileall -q /opt/mmembed/lib

FROM python:3.12-slim
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin mmembed \
    && install -d -o mmembed -g mmembed -m 0750 /data /models
COPY --from=build /opt/mmembed /opt/mmembed
ENV PATH=/opt/mmembed/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/models \
    MMEMBED_HOST=0.0.0.0 \
    MMEMBED_PORT=8600 \
    MMEMBED_STORE=edge:/data/store.mm \
    MMEMBED_FOLDER=/data/files
USER 10001:10001
WORKDIR /data
VOLUME ["/data", "/models"]
EXPOSE 8600
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"MMEMBED_PORT\"]}/health', timeout=4).read()"]
ENTRYPOINT ["mmembed", "serve"]
