# r1pipe with vLLM and DeepSpeed for NVIDIA GPUs: docker build -f containers/gpu.Dockerfile -t r1pipe:gpu .
# DeepSpeed compiles its kernels when they are first used, hence the image with nvcc.
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04

RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        build-essential libnuma1 python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/tools && /opt/tools/bin/pip install --no-cache-dir uv==0.13.9

WORKDIR /opt/r1pipe
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY r1pipe r1pipe
COPY stages stages
COPY manifests manifests
ENV PATH=/opt/tools/bin:$PATH
RUN uv venv --python python3 /opt/venv \
    && uv pip install --python /opt/venv/bin/python --constraint constraints/gpu.txt '.[gpu,ray]'

RUN useradd --create-home runner && mkdir /store && chown runner /store
USER runner
WORKDIR /home/runner
ENV PATH=/opt/venv/bin:$PATH R1PIPE_STORE=/store TOKENIZERS_PARALLELISM=false
VOLUME /store
ENTRYPOINT ["r1pipe"]
CMD ["doctor"]
