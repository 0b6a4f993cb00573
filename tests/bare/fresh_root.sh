#!/usr/bin/env bash
# Does on a bare Debian 12 what the README says, and prints how long each part takes.
#
#   tests/bare/fresh_root.sh [STAGE...]     plain, demo, serve, test; without any: serve test
#
# plain: a plain `pip install` of the same SGLang, for comparison; serve: `make setup`, then
# `make serve` until a chat completion is answered; demo: `make demo` with its set-up, until workers
# have merged for a document; test: `make test`. The root has make, git,
# python3, python3-venv and ca-certificates, no compiler and nothing cached. It takes the host's
# certificates, apt mirror and pip index, and PORT (30000) for the server; ROOTS says where it is
# made (/var/tmp, needs 25 GB). Needs root and debootstrap.
set -euo pipefail

suite=bookworm
packages=make,git,python3,python3-venv,ca-certificates
bundle=/etc/ssl/certs/ca-certificates.crt
here=$(cd "$(dirname "$0")/../.." && pwd)

fail() {
  echo "error: $1" >&2
  exit 2
}

# Mounts and processes live in namespaces of their own, which end with this script however it
# ends: nothing stays mounted or running, and nothing is mounted where the root is removed.
outside() {
  [ "$(id -u)" = 0 ] || fail "make fresh must run as root: it makes a root directory and mounts"
  command -v debootstrap >/dev/null || fail "no debootstrap: apt-get install debootstrap"
  for stage; do
    [[ $stage =~ ^(plain|demo|serve|test)$ ]] || fail "stage $stage: must be plain, demo, serve or test"
  done
  root=$(mktemp -d "${ROOTS:-/var/tmp}/amoeba-fresh.XXXXXX")
  # As any root directory: other users than root have to pass, and some tests are of them.
  chmod 755 "$root"
  trap 'rm -rf --one-file-system "$root"' EXIT
  trap 'exit 130' INT TERM HUP
  # Inherited by the script inside, which therefore does not start another one.
  export AMOEBA_FRESH_ROOT=$root
  unshare --mount --pid --fork --kill-child "$0" "$@"
}

inside() {
  trap 'exit 130' INT TERM HUP
  root=$AMOEBA_FRESH_ROOT
  cd "$here"
  python3 -m tools.screen "== Debian $suite, minimal" "$root/debootstrap.log" -- \
    debootstrap --variant=minbase --include="$packages" "$suite" "$root" $(mirror)
  # That of this namespace, so that pgrep sees no other process than those started here.
  mount -t proc proc /proc
  mount -t proc proc "$root/proc"
  mount --rbind /sys "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
  cp "$bundle" "$root$bundle"
  cp /etc/resolv.conf /etc/hosts "$root/etc/"
  size "Debian" "$root"
  chroot_do 'command -v cc gcc g++ clang rustc cargo' && fail "the root has a compiler"
  git clone --quiet --no-hardlinks "$here" "$root/amoeba"
  echo "commit $(git -C "$root/amoeba" rev-parse HEAD)"
  for stage; do
    "stage_$stage"
  done
}

stage_plain() {
  local pins
  pins=$(grep -E '^(sglang|torch)==' "$root/amoeba/requirements.txt" | tr '\n' ' ')
  timed "plain pip install $pins" chroot_do \
    "python3 -m venv /plain && /plain/bin/pip install --progress-bar off --quiet $pins"
  size "plain SGLang" "$root/plain"
  rm -rf "$root/plain"
}

stage_serve() {
  timed "make setup model" chroot_do 'cd /amoeba && make setup model'
  size "make setup" "$root/amoeba/.venv" "$root/amoeba/.cache"
  chroot_do "cd /amoeba && exec make serve PORT=${PORT:-30000}" >"$root/serve.out" 2>&1 &
  local server=$!
  timed "make serve, first chat answer" first_answer "$server" || {
    cat "$root/serve.out"
    exit 1
  }
  ready_line || fail "no line of the first 40 of make serve's output says that it is ready"
  # Not SIGINT, to which a shell makes its background jobs deaf.
  pkill -TERM -x make
  wait "$server" || true
  # make does not wait for what it has told to end.
  timed "the server's end" no_process_left || fail "the server left processes behind"
}

# A newcomer's path: one command after the clone.
stage_demo() {
  timed "make demo, set-up and a minute of it" chroot_do \
    "cd /amoeba && make demo PORT=${PORT:-30000} ARGS='--seconds 45'" | tee "$root/demo.out"
  grep -q 'router: merge of ranks .* done' "$root/demo.out" || fail "make demo showed no merge"
}

stage_test() {
  timed "make test" chroot_do 'cd /amoeba && CI=true make test'
}

# SGLang answers before its own warm-up is over, and so before the server says that it is ready.
ready_line() {
  local number
  for _ in {1..60}; do
    number=$(grep -n '^Amoeba is ready' "$root/serve.out" | cut -d: -f1) && [ -n "$number" ] && break
    sleep 1
  done
  echo "ready line: number $number of make serve's output"
  [ -n "$number" ] && [ "$number" -le 40 ]
}

no_process_left() {
  for _ in {1..60}; do
    pgrep -f amoeba_sglang >/dev/null || return 0
    sleep 1
  done
  return 1
}

first_answer() {
  local server=$1
  while kill -0 "$server" 2>/dev/null; do
    chroot_do "cd /amoeba && python3 tests/bare/ask.py http://127.0.0.1:${PORT:-30000}" && return 0
    sleep 1
  done
  return 1
}

# Settings of pip that say where packages come from; none that bring packages of this host.
chroot_do() {
  local settings=() name
  for name in PIP_INDEX_URL PIP_TRUSTED_HOST PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_PROXY \
    http_proxy https_proxy no_proxy; do
    [ -z "${!name:-}" ] || settings+=("$name=${!name}")
  done
  chroot "$root" /usr/bin/env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    PIP_CERT="$bundle" SSL_CERT_FILE="$bundle" PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 "${settings[@]}" bash -ec "$1"
}

# The host's mirror of the same release; none where the host is of another.
mirror() {
  apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 2>/dev/null |
    awk -v suite="$suite" '$1 == suite && $2 == "main" { print $3; exit }'
}

# Time of the processors too: a machine with other work to do takes longer by the clock.
timed() {
  local title=$1 code=0
  shift
  echo "== $title"
  TIMEFORMAT="== $title: %0R s, on the processors %0U s and %0S s in the kernel"
  time "$@" || code=$?
  return "$code"
}

size() {
  local title=$1
  shift
  echo "$title takes $(du -sxb --total "$@" | tail -1 | cut -f1) bytes"
}

[ $# -gt 0 ] || set -- serve test
if [ -n "${AMOEBA_FRESH_ROOT:-}" ]; then inside "$@"; else outside "$@"; fi
