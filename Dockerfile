# docker build -t snn_rl . && docker run --rm -v "$PWD/runs:/snn_rl/runs" snn_rl train env=CartPole-v1 T=1
FROM python:3.11-slim
# OpenCV needs libGL, and the export to C a compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /snn_rl
COPY . .
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
    -c constraints.txt -e .
ENTRYPOINT ["snn-rl"]
CMD ["doctor"]
