# backflip with the robots and PostgreSQL's driver. CI does not build this; see docs/servers.md.
#
#     docker build -t backflip .
#     docker run --rm -it -p 127.0.0.1:8642:8642 -v backflip-runs:/runs backflip \
#         serve /runs/run --host 0.0.0.0 --allow-remote --port 8642
FROM python:3.11-slim

# What pip is told beside: the index of PyTorch's CPU build, for example, which saves 4 GB where there is no GPU.
ARG PIP_OPTIONS=""

RUN useradd --create-home --uid 1000 backflip && mkdir /runs && chown backflip:backflip /runs

WORKDIR /opt/backflip
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ${PIP_OPTIONS} -c constraints.txt '.[mujoco,postgres]'

USER backflip
WORKDIR /runs
VOLUME /runs
ENV OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1
EXPOSE 8642

# Whoever has no link is refused with 401, by a server that is well.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python", "-c", "\
import sys, urllib.error, urllib.request\n\
try:\n\
    urllib.request.urlopen('http://127.0.0.1:8642/', timeout=5)\n\
except urllib.error.HTTPError as error:\n\
    sys.exit(error.code != 401)\n\
except OSError as error:\n\
    sys.exit(str(error))\n"]

ENTRYPOINT ["backflip"]
CMD ["--help"]
