# The image of the code location, the webserver and the daemon: one image, three commands (docker-compose.yml).
FROM python:3.11.13-slim-bookworm

ENV PYTHONUNBUFFERED=1 DAGSTER_HOME=/opt/ninjait
WORKDIR /opt/ninjait

# The dependencies first: they change less often than the code, and their layer is then kept. Without the local engines
# and test tools, which would triple the image.
COPY requirements-image.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements-image.txt

COPY pyproject.toml README.md dagster.yaml workspace.yaml ./
COPY sql ./sql
COPY ninjait_pipelines ./ninjait_pipelines
# The two folders become volumes, which take their owner from here.
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && useradd --system --home-dir /opt/ninjait ninjait \
    && mkdir storage spool \
    && chown ninjait . storage spool

USER ninjait
CMD ["dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "4000", "--module-name", "ninjait_pipelines.definitions"]
