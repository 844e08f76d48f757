# syntax=docker/dockerfile:1
# memoserve on vLLM's CUDA image, for a machine with NVIDIA GPUs: docker build -t memoserve .
# The tag must lie in the range that pyproject.toml gives for the extra `cuda`; the build checks it.
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

FROM ${VLLM_IMAGE} AS build
WORKDIR /build
# What memoserve needs apart from its code. These two files change, and with them the slow layer below,
# only when the dependencies do. constraints.txt pins all that the image brings: if memoserve should ever
# need another version of something, the build fails instead of changing vLLM's own environment.
COPY pyproject.toml ./
COPY scripts/pin_image.py ./
RUN python3 pin_image.py
COPY README.md LICENSE ./
COPY queries queries
COPY memoserve memoserve
RUN uv build --wheel --out-dir dist

FROM ${VLLM_IMAGE}
COPY --from=build /build/requirements.txt /build/constraints.txt /opt/memoserve/
RUN uv pip install --system --break-system-packages --no-cache \
        --constraints /opt/memoserve/constraints.txt --requirements /opt/memoserve/requirements.txt
RUN --mount=type=bind,from=build,source=/build/dist,target=/dist \
    uv pip install --system --break-system-packages --no-cache --no-deps /dist/*.whl

# Any user may run it (docker run --user): whoever it is has a home, a name (torch asks for one) and may
# write these two folders.
RUN useradd --uid 10001 --gid 0 --home-dir /cache --no-create-home --shell /usr/sbin/nologin memoserve \
    && mkdir -p /cache /out \
    && chmod 1777 /cache /out
ENV HOME=/cache \
    USER=memoserve \
    HF_HOME=/cache/huggingface \
    VLLM_CACHE_ROOT=/cache/vllm \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor \
    TRITON_CACHE_DIR=/cache/triton \
    MEMOSERVE_OUT=/out
WORKDIR /out
USER 10001
# As that user: the installed files are whole and can be read.
RUN memoserve --version && memoserve suite list && memoserve query --list
VOLUME ["/cache", "/out"]
# For memoserve serve --host 0.0.0.0, which wants MEMOSERVE_TOKEN.
EXPOSE 8000
ENTRYPOINT ["memoserve"]
CMD ["--help"]
