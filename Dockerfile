# CPU image of the playground; also what a Docker Space runs.
FROM python:3.11-slim

RUN apt-get update && apt-get install -y --no-install-recommends libosmesa6 make git \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 vidvla
WORKDIR /home/vidvla/app
COPY --chown=vidvla . .
RUN chown vidvla /home/vidvla/app
USER vidvla
RUN make .venv/play
ENV GRADIO_ANALYTICS_ENABLED=False
EXPOSE 7860
CMD [".venv/bin/vidvla", "serve", "--host", "0.0.0.0", "--port", "7860"]
