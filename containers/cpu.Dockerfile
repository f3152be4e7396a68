# r1pipe with the engines of a CPU: docker build -f containers/cpu.Dockerfile -t r1pipe:cpu .
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.9

WORKDIR /opt/r1pipe
COPY pyproject.toml README.md LICENSE ./
COPY constraints constraints
COPY r1pipe r1pipe
COPY stages stages
COPY manifests manifests
ENV UV_TORCH_BACKEND=cpu
RUN uv venv /opt/venv \
    && uv pip install --python /opt/venv/bin/python --constraint constraints/cpu.txt \
        --override constraints/engines-cpu.txt '.[cpu,ray]'

RUN useradd --create-home runner && mkdir /store && chown runner /store
USER runner
WORKDIR /home/runner
ENV PATH=/opt/venv/bin:$PATH R1PIPE_STORE=/store OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
VOLUME /store
ENTRYPOINT ["r1pipe"]
CMD ["doctor"]
