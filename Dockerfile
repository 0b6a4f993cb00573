# SGLang's own image of the release that the patches are for, and Amoeba in it:
#
#   docker build -t amoeba-sglang .
#   docker run --gpus all --ipc host --ulimit nofile=1048576 -v MODELS:/models -p 30000:30000 \
#       amoeba-sglang --model-path /models/NAME --tp-size 4 --host 0.0.0.0
#
# Each page of weights that changes hands has a descriptor: `python -m amoeba_sglang.plan` says how
# many. Never built where this was written, which has neither docker nor a GPU.
FROM lmsysorg/sglang:v0.5.23
COPY pyproject.toml README.md LICENSE /opt/amoeba/
COPY amoeba_sglang /opt/amoeba/amoeba_sglang
COPY patches /opt/amoeba/patches
# SGLang and what it needs are there already.
RUN pip install --no-cache-dir --no-deps /opt/amoeba && python3 -m amoeba_sglang.patch apply
EXPOSE 30000
ENTRYPOINT ["python3", "-m", "amoeba_sglang.launch_server"]
