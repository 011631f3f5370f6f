# syntax=docker/dockerfile:1
# The command line and the page in the browser, on CPUs; the bundled networks are in it, so it works offline.
#
#   docker build -t diffusers-restore .
#   docker run --rm -p 127.0.0.1:7860:7860 diffusers-restore app --host 0.0.0.0
#   docker run --rm -v "$PWD:/pictures" --user "$(id -u)" diffusers-restore restore old.jpg -o new.jpg
#
# On x86-64 pip's torch brings several GB for GPUs. Without them: `docker build --build-arg PIP_EXTRA_INDEX_URL=...`, with
# the address of PyTorch's index of builds for CPUs.
FROM python:3.11-slim

ARG PIP_EXTRA_INDEX_URL
RUN --mount=type=bind,target=/source,readwrite \
    pip install --no-cache-dir -c /source/constraints.txt "/source[app]"

# Any user may run it: what is downloaded and compiled goes to a folder that all can write.
ENV HOME=/home/restore HF_HOME=/home/restore/.cache/huggingface
RUN useradd --create-home --home-dir /home/restore restore && chmod 1777 /home/restore
USER restore
WORKDIR /pictures
EXPOSE 7860
ENTRYPOINT ["diffusers-restore"]
CMD ["--help"]
