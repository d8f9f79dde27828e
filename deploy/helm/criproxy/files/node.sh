#!/bin/sh
# What the chart's containers do to a node, whose files are below $HOST. VERSION is that of the image.
#
#   node.sh copy VERSION       put the program there; a version has a directory of its own, so that no
#                              file of a daemon that runs is replaced
#   node.sh configure VERSION  put the configuration there, if it is valid; keep the one that was there
#   node.sh watch VERSION      do so whenever it changes, and have the daemon load it
#   node.sh tidy VERSION       put back the configuration that was there, and remove the program
set -eu

HOST=${HOST:-/host}
IMAGE=${IMAGE:-/opt/criproxy}
CONFIG=${CONFIG:-/config/config.yaml}
SECONDS_BETWEEN=${SECONDS_BETWEEN:-10}
version=$2
there=$HOST/etc/criproxy/config.yaml

copy() {
  target=$HOST/opt/criproxy
  test ! -e "$target/$version" || return 0
  mkdir -p "$target"
  rm -rf "$target/.$version"
  cp -a "$IMAGE/$version" "$target/.$version"
  mv -T "$target/.$version" "$target/$version"
}

configure() {
  "$IMAGE/$version/bin/criproxy" check -c "$CONFIG" >/dev/null || return 1
  mkdir -p "${there%/*}"
  if test -e "$there" && ! test -e "$there.chart"; then
    cp -p "$there" "$there.before-chart"
  fi
  touch "$there.chart"
  rm -f "$there.new"
  (umask 077 && cp "$CONFIG" "$there.new")
  mv -T "$there.new" "$there"
}

watch() {
  trap 'exit 0' TERM
  while sleep "$SECONDS_BETWEEN" & wait $!; do
    cmp -s "$CONFIG" "$there" && continue
    # An invalid file stays where it is: the error is in this container's log.
    configure && chroot "$HOST" systemctl reload criproxy.service || continue
  done
}

tidy() {
  if test -e "$there.before-chart"; then
    mv -T "$there.before-chart" "$there"
  elif test -e "$there.chart"; then
    rm -f "$there"
  fi
  rm -f "$there.chart"
  rm -rf "$HOST/opt/criproxy"
}

case $1 in
copy | configure | watch | tidy) "$1" ;;
*)
  echo "node.sh: $1 is none of copy, configure, watch, tidy" >&2
  exit 2
  ;;
esac
