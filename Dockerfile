# The image of the code location, the webserver and the daemon: one image, three commands (docker-compose.yml).
FROM python:3.11.13-slim-bookworm

ENV PYTHONUNBUFFERED=1 DAGSTER_HOME=/opt/ninjait
WORKDIR /opt/ninjait

# The dependencies first: they change less often than the code, and their layer is then kept.
COPY requirements.txt ./
RUN pip install --no-cache-dir --require-hashes -r requirements.txt

COPY pyproject.toml README.md dagster.yaml workspace.yaml ./
COPY sql ./sql
COPY ninjait_pipelines ./ninjait_pipelines
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e . \
    && useradd --system --home-dir /opt/ninjait ninjait \
    && chown ninjait /opt/ninjait

USER ninjait
CMD ["dagster", "api", "grpc", "--host", "0.0.0.0", "--port", "4000", "--module-name", "ninjait_pipelines.definitions"]
