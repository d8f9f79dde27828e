#!/bin/sh
# Builds deploy/Containerfile without a registry, on a Debian 12 that mmdebstrap makes, and has criproxy run answer in
# the image; writes its bill of materials to build/image.spdx.json. As root, with Debian's packages buildah and
# mmdebstrap, in a checkout: deploy/image/check.sh
#
# Two things differ from a build with a registry: the base, and that criproxy's Python is the base's, because uv would
# download one. The base trusts the certificate authorities that this machine trusts.
set -eu

for each in buildah mmdebstrap; do
    command -v "$each" >/dev/null || { echo "install Debian's package $each" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "run it as root" >&2; exit 2; }
work=$(mktemp -d)
bundle=/etc/ssl/certs/ca-certificates.crt
image() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@"; }
trap 'image rm --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

cat /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null >"$work/sources" || true
mkdir -p /usr/local/share/ca-certificates
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3 \
    --aptopt='Acquire::Retries "3"' \
    --customize-hook='copy-in /usr/local/share/ca-certificates /usr/local/share' \
    --chrooted-customize-hook='update-ca-certificates >/dev/null 2>&1' \
    bookworm "$work/base.tar" - <"$work/sources"
base=$(image from scratch)
image add --quiet "$base" "$work/base.tar" / >/dev/null
image config --env "PIP_CERT=$bundle" --env "SSL_CERT_FILE=$bundle" "$base"
image commit --quiet "$base" localhost/base >/dev/null

image build --isolation chroot --network host --pull-never --build-arg BASE=localhost/base \
    --build-arg PYTHON="--python /usr/bin/python3" --timestamp "$(git log -1 --format=%ct)" \
    -f deploy/Containerfile -t localhost/criproxy .

made=$(image from --pull-never localhost/criproxy)
image run --isolation chroot "$made" sh -c "$(cat deploy/answers.sh)"
tree=$(image mount "$made")
du -s --block-size=1M "$tree/opt/criproxy" "$tree"
ln -s "$tree" "$work/image"
.venv/bin/python deploy/sbom.py "$work/image" >/dev/null
mkdir -p build
mv "$work/image.spdx.json" build/
echo "OK: built, run; build/image.spdx.json"
