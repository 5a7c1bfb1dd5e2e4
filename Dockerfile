# The service, as docs/image.md tells. Build it with 'make image'; the two stages begin from the same Python.
#
# The digest is that of an index for amd64 and arm64 (Python 3.11.16); docs/image.md says how it is verified and renewed.
FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b AS python

FROM python AS builder
WORKDIR /build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

# What is locked comes first: it changes seldom, and then this layer is built once.
COPY requirements-build.lock requirements-server.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --without-pip /opt/ndoo \
    && pip install --require-hashes --only-binary :all: -r requirements-build.lock \
    && pip --python /opt/ndoo/bin/python install --no-compile --require-hashes --only-binary :all: \
       -r requirements-server.lock

COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-deps --no-build-isolation --no-cache-dir --wheel-dir dist . \
    && pip --python /opt/ndoo/bin/python install --no-cache-dir --no-deps --no-index --no-compile dist/*.whl

# Nobody may write in the image, so byte code is made now, and not compared with its source later; then machine code. The
# service's own is compared: who patches a file of it, in an image built on this one, is to get what he wrote.
RUN python -m compileall -q -j 0 -x /tests/ --invalidation-mode unchecked-hash /opt/ndoo/lib \
    && python -m compileall -q -j 0 -f --invalidation-mode checked-hash /opt/ndoo/lib/python3*/site-packages/ndoo \
    && /opt/ndoo/bin/python -m ndoo.register.compiled

FROM python
# What would install or build anything stays out of reach.
RUN rm -rf /usr/local/bin/pip* /usr/local/bin/wheel /usr/local/lib/python3*/site-packages/* \
    /usr/local/lib/python3*/ensurepip
COPY --from=builder /opt/ndoo /opt/ndoo

ENV PATH=/opt/ndoo/bin:$PATH HOME=/nonexistent PYTHONDONTWRITEBYTECODE=1
WORKDIR /
USER 65532:65532
EXPOSE 50551 50552
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-m", "ndoo.ops.probe"]
ENTRYPOINT ["ndoo"]
CMD ["serve"]

# Last, since they differ from build to build.
ARG VERSION="" REVISION="" CREATED=""
LABEL org.opencontainers.image.title="ndoo" \
      org.opencontainers.image.description="National Data Opt-Out checks at memory speed: a gRPC service fed by a change stream" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
