#!/bin/sh
# A Python for the tests of scripts/: it answers as version $FAKE_VERSION, makes
# an environment of itself in no time, and its pip does what $FAKE_PIP says.
# Everything else is done by the true Python, $TRUE_PYTHON.
me=$(readlink -f -- "$0")
note() { echo "$@" >>"$FAKE_NOTES"; }

case "$*" in
  *ensurepip,*)  # the question which Python this is
    version=${FAKE_VERSION:-3.11.9}
    case $version in
      3.11.* | 3.12.* | 3.13.*) good=good ;;
      *) good=unfit ;;
    esac
    echo "$good ${FAKE_VENV:-venv} $version"
    ;;
  "-I -m venv "*)
    note venv
    mkdir -p "$4/bin" && echo 'home = fake' >"$4/pyvenv.cfg"
    # A copy, for the place tells an environment's Python from the base one.
    cp "$me" "$4/bin/python"
    printf '#!/bin/sh\necho "ruff $*" >>"$FAKE_NOTES"\n' >"$4/bin/ruff"
    chmod +x "$4/bin/ruff"
    ;;
  "-I -m pip install "*" --upgrade pip" | "-I -m compileall "*) ;;
  "-I -m pip uninstall --yes "*" lilly") note uninstalled ;;
  "-I -m pip install "*)
    for last in "$@"; do :; done
    note "pip $last"
    case ${FAKE_PIP:-good} in
      good) echo 'Successfully installed lilly-jax' ;;
      slow) sleep 1 ;;
      hang) touch "$FAKE_NOTES.hangs" && exec sleep 20 ;;
      killed) kill -KILL $$ ;;
      full)
        echo 'ERROR: Could not install packages due to an OSError:' \
          '[Errno 28] No space left on device' >&2
        exit 1
        ;;
      network)
        echo 'WARNING: Retrying after connection broken by' \
          'NewConnectionError(...)' >&2
        echo 'ERROR: No matching distribution found for setuptools>=77' >&2
        exit 1
        ;;
      conflict)
        echo 'ERROR: Cannot install jax==1 and jax==2.' >&2
        exit 1
        ;;
    esac
    ;;
  "-m pip wheel "*) mkdir wheel && touch wheel/lilly.whl && note wheel ;;
  "-m pip install "*) mkdir site && note site ;;
  "-m pytest "*)
    note "pytest $PYTHONPATH: $*"
    if [ "${FAKE_PYTEST:-}" = hang ]; then
      touch "$FAKE_NOTES.hangs" && exec sleep 20
    fi
    exit "${FAKE_PYTEST:-0}"
    ;;
  "-m pyright "*) note pyright ;;
  *) exec "$TRUE_PYTHON" "$@" ;;
esac
