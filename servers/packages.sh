#!/bin/sh
# Installs Debian packages (those named as arguments) without starting the services they bring, now or at boot: the local
# stack and the tests run nodes of their own. Needs root; servers/build.py runs it, or says how.
set -eu
export DEBIAN_FRONTEND=noninteractive

units=
for package in "$@"; do
    case $package in
        rabbitmq-server) units="$units rabbitmq-server.service" ;;
        collectd-core) units="$units collectd.service" ;;
    esac
done
# RabbitMQ brings Erlang, and that a service of its own, unless it was here before.
dpkg-query -W erlang-base >/dev/null 2>&1 || units="$units epmd.service epmd.socket"

# What Debian asks before a package starts a service; 101 is no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

apt-get update -q
apt-get install -q -y --no-install-recommends "$@"

if [ -d /run/systemd/system ]; then
    for unit in $units; do
        systemctl disable -q "$unit" || echo "$unit could not be disabled: it would start at the next boot" >&2
    done
fi
