# The web page and the commands, on the CPU, as a user without privileges.
#
#   docker build -t fmaml_jax .
#   docker run --rm -p 7860:7860 -v "$PWD:/data" fmaml_jax   # http://127.0.0.1:7860 asks for the token that it prints
#   docker run --rm -v "$PWD:/data" fmaml_jax fmaml-predict --model=my.model interview.wav
FROM python:3.11-slim

COPY . /source
# The versions that are tested: those of the requirements, for what the package asks for.
RUN pip install --no-cache-dir --constraint /source/requirements.txt \
    --constraint /source/requirements-web.txt "/source[web]"

RUN useradd --create-home --uid 1000 fmaml
USER fmaml
WORKDIR /data
EXPOSE 7860
CMD ["fmaml-serve", "--host=0.0.0.0"]
