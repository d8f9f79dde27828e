#!/bin/sh
# Installs a package in a new Debian 12, runs what it brings, and removes it again. As root, with Debian's
# package mmdebstrap: deploy/deb/check.sh FILE
set -eu

deb=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat >"$work/inside" <<'INSIDE'
#!/bin/sh
set -eu
export DEBIAN_FRONTEND=noninteractive
fail() { echo "FAIL: $*" >&2; exit 1; }
apt-get -q -y install --no-install-recommends /root/criproxy.deb >/dev/null
dpkg --verify criproxy || fail "files differ from the package's"
criproxy check -c /etc/criproxy/config.yaml >/dev/null || fail "the configuration is not valid"
for file in /lib/systemd/system/criproxy.service /lib/systemd/system/criproxy.socket \
    /usr/share/bash-completion/completions/criproxy /usr/share/zsh/vendor-completions/_criproxy \
    /usr/share/fish/vendor_completions.d/criproxy.fish; do
    test -s "$file" || fail "$file"
done
dpkg-query -L criproxy | grep -qx /usr/share/man/man1/criproxy.1.gz || fail "no manual page"

/root/answers.sh

echo "# mine" >>/etc/criproxy/config.yaml
apt-get -q -y install --reinstall --no-install-recommends /root/criproxy.deb >/dev/null
tail -n 1 /etc/criproxy/config.yaml | grep -q mine || fail "the edited configuration was replaced"
mkdir -p /var/lib/criproxy/install
echo '{}' >/var/lib/criproxy/install/installed.json
if apt-get -q -y remove criproxy >/tmp/out 2>&1; then fail "removed under a kubelet"; fi
grep -q "run criproxy uninstall first" /tmp/out || fail "no reason for not removing it"
test -x /usr/bin/criproxy || fail "half removed"
rm -r /var/lib/criproxy
apt-get -q -y remove criproxy >/dev/null
test -e /etc/criproxy/config.yaml || fail "the configuration is gone without purge"
test ! -e /opt/criproxy || fail "left: $(find /opt/criproxy | head -n 3)"
apt-get -q -y purge criproxy >/dev/null 2>&1
test ! -e /etc/criproxy || fail "left: /etc/criproxy"
echo "OK: installed, run, reinstalled, removed, purged"
INSIDE
chmod 755 "$work/inside"

sources=$(find /etc/apt/sources.list /etc/apt/sources.list.d -type f -name '*.list' -o -name '*.sources' \
    2>/dev/null | head -n 1)
mmdebstrap --quiet --variant=apt --format=null \
    --aptopt='Acquire::Retries "3"' \
    --customize-hook="copy-in $work/inside $(dirname "$0")/../answers.sh /root" \
    --customize-hook="upload $deb /root/criproxy.deb" \
    --chrooted-customize-hook=/root/inside \
    bookworm - <"${sources:-/dev/null}"
