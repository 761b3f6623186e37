#!/bin/bash
# base-image.sh [NAME]: a base image out of Debian's packages, for machines that cannot pull one. It is made once; remove
# the image to have it made anew. Certificates that this machine trusts are trusted in it, for the builds upon it.
set -euo pipefail
name=${1:-fwd-base:bookworm}
certificates=/etc/ssl/certs/ca-certificates.crt

! docker image inspect "$name" >/dev/null 2>&1 || exit 0
command -v mmdebstrap >/dev/null || { echo "base-image.sh: the command mmdebstrap is missing: install mmdebstrap" >&2; exit 1; }
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3-venv \
    --customize-hook="copy-in $certificates $(dirname $certificates)" bookworm - |
    docker import --change "ENV PIP_CERT=$certificates" - "$name" >/dev/null
