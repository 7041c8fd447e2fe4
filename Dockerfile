# facegm with all its extras, as `make install` makes it: docker build --tag=facegm . && docker run --rm facegm demo
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install --yes --no-install-recommends make \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 facegm \
    && install --directory --owner=facegm --group=facegm /data /home/facegm/source

COPY --chown=facegm:facegm . /home/facegm/source
USER facegm
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN make --directory=/home/facegm/source install

# Commands run in /data, where a folder of the host may be mounted.
WORKDIR /data
ENTRYPOINT ["/home/facegm/source/.venv/bin/facegm"]
CMD ["--help"]
