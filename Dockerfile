# syntax=docker/dockerfile:1
# amp in a container, as a user without rights.
#
#   docker build -t amp .                                             PyTorch as it is installed by default: with CUDA on x86
#   docker build -t amp:cpu --build-arg TORCH_INDEX=ADDRESS .         the small CPU build; PyTorch's site tells the address
#   docker build --target smoke .                                     runs the demo: some minutes
#   docker run --rm --gpus all --shm-size 2g -v "$PWD:/work" -v amp-cache:/cache --user "$(id -u):$(id -g)" amp doctor
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CACHE_DIR=/var/cache/pip
RUN python -m venv /opt/amp
WORKDIR /src
COPY constraints.txt ./
# the largest part changes least: a layer of its own
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/amp/bin/pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY templates templates
COPY amp_cli amp_cli
RUN --mount=type=cache,target=/var/cache/pip \
    /opt/amp/bin/pip install -c constraints.txt .

FROM python:${PYTHON}-slim AS amp
COPY --from=build /opt/amp /opt/amp
ENV PATH=/opt/amp/bin:$PATH PYTHONUNBUFFERED=1 HOME=/cache HF_HOME=/cache/huggingface AMP_HOME=/cache/amp
# any user may be given with --user
RUN useradd --uid 1000 --no-create-home --home-dir /cache amp && install -d -m 1777 /cache /work
USER 1000
WORKDIR /work
VOLUME ["/cache"]
ENTRYPOINT ["amp"]
CMD ["--help"]

FROM amp AS smoke
RUN ["amp", "quickstart", "--out", "/tmp/demo", "--json"]

FROM amp
