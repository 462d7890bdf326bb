#!/bin/sh
# Installs the Debian packages that the demo and the tests use, and those named as arguments, or says which are missing.
set -eu
packages="e2fsprogs xfsprogs mount util-linux fuse3 libiscsi-bin tgt openssl $*"
missing=""
for p in $packages; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "setup: installing$missing"
  # A package must not start a daemon on the machine of whoever runs a demo.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq >/dev/null
  # shellcheck disable=SC2086
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
  echo "setup: missing Debian packages:$missing (install them with: apt-get install$missing)" >&2
  exit 1
fi
