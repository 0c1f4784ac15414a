# pargate in a container that needs no network at run time:
#
#     docker build --tag pargate .
#     docker run --rm --network none --read-only --tmpfs /tmp --volume "$PWD:/work:ro" pargate scan model --cache off
#
# Each release has it as ghcr.io/OWNER/pargate:VERSION.
#
# Add `--gpus all` where there is an NVIDIA GPU. Reports go to a folder that user 10001 may write, mounted beside.
# The image python:3.13-slim by digest, so that a build next year starts from the same bytes. A newer one:
#     docker buildx imagetools inspect python:3.13-slim
ARG PYTHON=python:3.13-slim@sha256:ffb752e139c0a19692a43af8d8523b274222dd68eebad5d583b45c2201c6e30a

FROM ${PYTHON} AS build
WORKDIR /source
COPY requirements-action.lock ./
RUN python -I -m venv /opt/pargate \
    && /opt/pargate/bin/python -I -m pip --disable-pip-version-check --no-input install --quiet --no-cache-dir \
       --no-deps --require-hashes --only-binary :all: --requirement requirements-action.lock
# pargate itself as it lies here, without a build: shipped policies beside the package, as in the repository.
COPY pargate /opt/source/pargate
COPY policies /opt/source/policies
RUN /opt/pargate/bin/python -I -c 'import compileall, sysconfig, pathlib; \
    pathlib.Path(sysconfig.get_path("purelib"), "pargate.pth").write_text("/opt/source\n"); \
    compileall.compile_dir("/opt/source/pargate", quiet=1)'

FROM ${PYTHON}
COPY --from=build /opt/pargate /opt/pargate
COPY --from=build /opt/source /opt/source
# A number, so that Kubernetes can see that it is not root; no shell, and nothing of its own that it may write.
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin pargate
USER 10001
ENV HF_HUB_OFFLINE=1 PARGATE_CACHE=off
WORKDIR /work
# -P: a file of the mounted folder does not pass for a module.
ENTRYPOINT ["/opt/pargate/bin/python", "-P", "-m", "pargate"]
CMD ["--help"]
