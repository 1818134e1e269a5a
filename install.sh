#!/usr/bin/env bash
# Installs Keelson on this machine and founds a cluster, or removes it again. Can be run twice.
set -euo pipefail

usage() {
    cat <<'USAGE'
Usage: ./install.sh [OPTIONS] [-- FLAGS OF keelson server]

  --binary FILE      install this keelson instead of building one
  --demo             also deploy a small web Deployment and Service, and show it answering
  --demo-image FILE  archive of the demo's image [default: built from images/]
  --data-dir DIR     everything that Keelson keeps [default: /var/lib/keelson]
  --config-dir DIR   where the kubeconfig goes [default: /etc/keelson]
  --prefix DIR       where bin/keelson goes [default: /usr/local]
  --no-systemd       a supervised background process even where systemd runs
  --role agent, --token TOKEN   reserved: joining nodes comes later
  --uninstall        remove every trace
USAGE
}

fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
usage_error() { printf 'install.sh: %s; see ./install.sh --help\n' "$*" >&2; exit 2; }

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
binary="" demo="" demo_image="" uninstall="" systemd=auto
data_dir=/var/lib/keelson config_dir=/etc/keelson prefix=/usr/local
server_flags=()

while [ $# -gt 0 ]; do
    case $1 in
        --binary | --demo-image | --data-dir | --config-dir | --prefix | --role | --token)
            [ $# -ge 2 ] || usage_error "$1 needs a value"
            case $1 in
                --binary) binary=$2 ;;
                --demo-image) demo_image=$2 ;;
                --data-dir) data_dir=$2 ;;
                --config-dir) config_dir=$2 ;;
                --prefix) prefix=$2 ;;
                --role) [ "$2" = server ] || usage_error "--role $2 is reserved: only 'server' can be installed yet" ;;
                --token) usage_error "--token is reserved: joining nodes comes later" ;;
            esac
            shift 2 ;;
        --demo) demo=yes; shift ;;
        --no-systemd) systemd=no; shift ;;
        --uninstall) uninstall=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        --) shift; server_flags=("$@"); break ;;
        *) usage_error "unknown option $1" ;;
    esac
done

[ "$(id -u)" = 0 ] || fail "must be run as root"
if [ "$systemd" = auto ]; then
    if [ -d /run/systemd/system ]; then systemd=yes; else systemd=no; fi
fi

program=$prefix/bin/keelson
unit=/etc/systemd/system/keelson.service
supervisor=$data_dir.supervisor # beside the data directory: it outlives what uninstall removes
kubeconfig=$config_dir/kubeconfig
begun=$EPOCHREALTIME
stage() { printf '[%6.1f s] %s\n' "$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }')" "$*"; }

# ---------------------------------------------------------------- the service

supervised_pid() {
    # The pid file names our supervisor only while a process with its script in the command line has that id.
    local pid
    pid=$(cat "$supervisor/pid" 2>/dev/null) || return 1
    grep -qF "$supervisor/run" "/proc/$pid/cmdline" 2>/dev/null || return 1
    echo "$pid"
}

stop_service() {
    if [ -e "$unit" ] && [ "$systemd" = yes ]; then systemctl stop keelson.service; fi
    local pid
    if pid=$(supervised_pid); then
        kill -TERM "$pid"
        # The supervisor ends once its server has; both are gone when the lock on the log can be had.
        flock -w 60 "$supervisor/lock" true || fail "process $pid did not stop; see $supervisor/log"
    fi
}

quoted_flags() { [ ${#server_flags[@]} = 0 ] || printf ' %q' "${server_flags[@]}"; }

start_systemd() {
    cat >"$unit" <<UNIT
[Unit]
Description=Keelson: Kubernetes for bare-metal Linux
Documentation=file:$prefix/share/doc/keelson
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
# Reads the command line as a shell would, so that flags may be quoted.
ExecStart=/bin/sh -c 'exec "$program" server --data-dir "$data_dir" --write-kubeconfig "$kubeconfig"$(quoted_flags)'
NotifyAccess=all
WatchdogSec=60
Restart=always
RestartSec=2
KillMode=process
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
LimitCORE=infinity

[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload
    systemctl enable --quiet keelson.service
    systemctl restart --no-block keelson.service
}

start_supervised() {
    mkdir -p "$supervisor"
    cat >"$supervisor/run" <<SCRIPT
#!/bin/sh
# Runs keelson and runs it again when it fails. Written by install.sh.
exec 9>"$supervisor/lock"
flock -n 9 || exit 0
echo \$\$ >"$supervisor/pid"
stop() { stopping=yes; [ -z "\$child" ] || kill -TERM "\$child"; }
trap stop TERM INT
while [ -z "\$stopping" ]; do
    "$program" server --data-dir "$data_dir" --write-kubeconfig "$kubeconfig"$(quoted_flags) 9>&- &
    child=\$!
    wait "\$child" || true
    # A signal ends wait early: the server itself is waited for once more.
    wait "\$child" 2>/dev/null || true
    child=
    [ -n "\$stopping" ] || sleep 2
done
rm -f "$supervisor/pid"
SCRIPT
    chmod 0755 "$supervisor/run"
    setsid "$supervisor/run" >>"$supervisor/log" 2>&1 </dev/null &
}

# ---------------------------------------------------------------- the host

# What pods send comes in on links with these names: nobody else is to configure them, and firewalls that a distribution
# turns on by itself must let them in. `keelson check` names the rest.
links=keel
networkmanager=/etc/NetworkManager/conf.d/90-keelson.conf
networkd=/etc/systemd/network/05-keelson.network
sysctls=/etc/sysctl.d/90-keelson.conf
active() { [ "$systemd" = yes ] && systemctl is-active --quiet "$1"; }

reload_networks() {
    if active NetworkManager; then systemctl reload NetworkManager; fi
    if active systemd-networkd; then networkctl reload; fi
}

firewall() { # add | remove
    if active firewalld; then
        local zone=(firewall-cmd -q --zone=trusted "--$1-interface=$links+")
        { "${zone[@]}" && "${zone[@]}" --permanent; } || true # it says why itself
        # firewalld keeps a copy of a zone that was changed once, even when it is as it came again.
        local copy=/etc/firewalld/zones/trusted.xml
        if [ "$1" = remove ] && diff -qwB "$copy" /usr/lib/firewalld/zones/trusted.xml >/dev/null 2>&1; then
            rm -f "$copy" "$copy.old"
        fi
    fi
    if command -v ufw >/dev/null && ufw status | grep -q '^Status: active'; then
        local delete=""
        [ "$1" = add ] || delete=delete
        # $delete is a word or none.
        ufw $delete allow in on "$links+" >/dev/null
        ufw route $delete allow in on "$links+" >/dev/null
    fi
}

prepare_host() {
    [ "$systemd" = yes ] || return 0
    if [ -d /etc/NetworkManager/conf.d ]; then
        # A section of its own: [keyfile] unmanaged-devices would replace what the machine's owner set there.
        printf '[device-keelson]\nmatch-device=interface-name:%s*\nmanaged=0\n' "$links" >"$networkmanager"
    fi
    if [ -d /etc/systemd/network ]; then
        printf '[Match]\nName=%s*\n\n[Link]\nUnmanaged=yes\n' "$links" >"$networkd"
    fi
    reload_networks
    firewall add
    printf 'fs.inotify.max_user_instances=8192\nfs.inotify.max_user_watches=524288\nnet.ipv4.ip_forward=1\n' >"$sysctls"
    sysctl -q -p "$sysctls" || true
}

restore_host() {
    [ "$systemd" = yes ] || return 0
    firewall remove
    rm -f "$networkmanager" "$networkd" "$sysctls"
    reload_networks
}

# ---------------------------------------------------------------- uninstall

if [ -n "$uninstall" ]; then
    stop_service
    if [ -x "$program" ]; then
        "$program" uninstall --yes --data-dir "$data_dir"
    elif [ -e "$data_dir" ]; then
        fail "$data_dir is there but $program is not; give --prefix, or put the binary back with --binary first"
    fi
    if [ -e "$unit" ]; then
        systemctl disable --quiet keelson.service || true
        rm -f "$unit"
        systemctl daemon-reload || true
    fi
    rm -rf "$supervisor" "$program" "$kubeconfig"
    restore_host
    rmdir "$config_dir" 2>/dev/null || true
    stage "removed"
    exit 0
fi

# ---------------------------------------------------------------- install

install_packages() {
    if command -v apt-get >/dev/null; then
        apt-get -q update >/dev/null
        DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" >/dev/null
    elif command -v dnf >/dev/null; then
        dnf -q install -y "$@" >/dev/null
    else
        fail "neither apt-get nor dnf is here; install $* by hand, then run this again"
    fi
}

missing=()
command -v containerd >/dev/null || missing+=(containerd)
# crun does as well, but not where cgroup v1 is there beside v2.
command -v runc >/dev/null || { command -v crun >/dev/null && [ ! -e /sys/fs/cgroup/unified ]; } || missing+=(runc)
command -v nft >/dev/null || missing+=(nftables)
# Fedora's policy lets containerd and pods work only with this package's module.
if [ -e /sys/fs/selinux/enforce ] && command -v rpm >/dev/null; then
    rpm -q --quiet container-selinux || missing+=(container-selinux)
fi
if [ ${#missing[@]} -gt 0 ]; then
    stage "installing ${missing[*]}"
    install_packages "${missing[@]}"
    # A package manager that was interrupted may say that all is well.
    command -v containerd >/dev/null || fail "installing ${missing[*]} left no containerd on the path"
fi
stage "containerd and runc are here"

if [ -z "$binary" ]; then
    [ -e "$here/Cargo.toml" ] || fail "this is no checkout to build from; give --binary FILE"
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        command -v curl >/dev/null || install_packages curl ca-certificates
        stage "installing Rust with rustup"
        release=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml")
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain "$release" >/dev/null
    fi
    command -v cc >/dev/null || install_packages gcc $(command -v apt-get >/dev/null && echo libc6-dev)
    stage "building the release binary"
    (cd "$here" && cargo xtask setup --build-only)
    binary=$(cd "$here" && cargo xtask build)
fi
[ -f "$binary" ] || fail "$binary is no file"
version=$("$binary" version) || fail "$binary does not run on this machine"

stop_service
mkdir -p "$prefix/bin" "$config_dir" "$data_dir/images"
chmod 0700 "$data_dir"
install -m 0755 "$binary" "$program.new"
mv -f "$program.new" "$program"
stage "installed $version as $program"

prepare_host
# A port that the former server still held would be free by now.
"$program" check --data-dir "$data_dir" | grep -E ' (warning|FAILED ) ' || true

if [ -n "$demo" ]; then
    if [ -z "$demo_image" ]; then
        [ -e "$here/Cargo.toml" ] || fail "this is no checkout to build the demo's image from; give --demo-image FILE"
        (cd "$here" && cargo xtask image web --out "$data_dir/images")
    else
        cp "$demo_image" "$data_dir/images/"
    fi
    stage "the demo's image is ready"
fi

if [ "$systemd" = yes ]; then start_systemd; else start_supervised; fi
stage "started"
"$program" await --kubeconfig "$kubeconfig" --timeout 180 2>&1 || {
    [ "$systemd" = yes ] && journalctl -u keelson.service -n 20 --no-pager >&2 || tail -n 20 "$supervisor/log" >&2
    fail "the node did not become Ready; the end of its log is above"
}
stage "the node is Ready"

if [ -n "$demo" ]; then
    # No kubectl is needed: what lies there is applied.
    mkdir -p "$data_dir/manifests"
    cp "$here/images/web/demo.yaml" "$data_dir/manifests/"
    address=$("$program" await --kubeconfig "$kubeconfig" --service default/demo --timeout 120) ||
        fail "the demo did not become ready; kubectl --kubeconfig $kubeconfig describe pods tells why"
    stage "the demo runs; http://$address answers:"
    for _ in 1 2 3; do
        exec 3<>"/dev/tcp/$address/80"
        printf 'GET / HTTP/1.0\r\nHost: demo\r\n\r\n' >&3
        sed '1,/^\r*$/d' <&3
        exec 3>&-
    done
fi

cat <<DONE

Keelson runs. Try:
  kubectl --kubeconfig $kubeconfig get nodes -o wide
  kubectl --kubeconfig $kubeconfig get pods -A
DONE
