# lib.sh: what the scripts share; sourced.

# pg_config of a PostgreSQL 15 or later that has its headers: $PG_CONFIG, the newest of
# Debian's, or the one in PATH.
find_pg_config() {
	local candidate
	for candidate in "${PG_CONFIG:-}" $(ls -d /usr/lib/postgresql/*/bin/pg_config 2>/dev/null | sort -t/ -k5,5nr) pg_config; do
		[ -n "$candidate" ] && command -v "$candidate" >/dev/null || continue
		[ -f "$("$candidate" --pgxs)" ] && [ -f "$("$candidate" --includedir-server)/postgres.h" ] || continue
		[ "$("$candidate" --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')" -ge 15 ] || continue
		command -v "$candidate"
		return 0
	done
	return 1
}

# private_installation PG_CONFIG PREFIX: a copy of the installation under PREFIX, which is
# relocatable as long as its directories keep their distance.  Prints the copy's pg_config.
private_installation() {
	local pg_config=$1 prefix=$2 dir
	for dir in "$("$pg_config" --bindir)" "$("$pg_config" --pkglibdir)" "$("$pg_config" --sharedir)"; do
		[ -d "$prefix$dir" ] && continue
		mkdir -p "$prefix$dir"
		(cd "$dir" && tar -cf - --exclude=./bitcode --exclude=./man .) | tar -xf - -C "$prefix$dir"
	done
	# linked, not copied: headers are only read
	dir=$("$pg_config" --includedir)
	mkdir -p "$prefix$(dirname "$dir")"
	[ -e "$prefix$dir" ] || ln -s "$dir" "$prefix$dir"
	echo "$prefix$("$pg_config" --bindir)/pg_config"
}

# free_port: a TCP port nobody listens on, outside the range given to outgoing connections.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 12000))
		(exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo $port; return; }
	done
}

# PostgreSQL refuses to run as root; root's servers run as this user.
unprivileged_user() {
	if [ "$(id -u)" != 0 ]; then id -un
	elif id postgres >/dev/null 2>&1; then echo postgres
	else
		id dbscale-test >/dev/null 2>&1 || useradd --system --shell /bin/bash dbscale-test
		echo dbscale-test
	fi
}
as_unprivileged() {
	if [ "$(id -u)" = 0 ]; then
		# from / because root's directory may be closed to the other user
		(cd / && runuser -u "$(unprivileged_user)" -- env HOME=/tmp "$@")
	else
		"$@"
	fi
}
give_to_unprivileged() {
	[ "$(id -u)" != 0 ] || chown -R "$(unprivileged_user):" "$1"
	chmod 755 "$1"
}

# stop_servers_in DIRECTORY: those whose data directory lies below it.
stop_servers_in() {
	local pidfile pid
	for pidfile in $(find "$1" -name postmaster.pid 2>/dev/null); do
		pid=$(head -1 "$pidfile")
		kill -QUIT "$pid" 2>/dev/null || continue
		for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
	done
}

# The Debian mirror this machine's apt uses.
debian_mirror() {
	local mirror=${DBSCALE_MIRROR:-}
	[ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^#' |
		grep -oE 'https?://[^ ]*/debian/?( |$)' | head -1 | tr -d ' ')
	mirror=${mirror:-http://deb.debian.org/debian}
	echo "${mirror%/}"
}
mirror_answers() {
	local url=$1
	if command -v curl >/dev/null; then curl -sfI --max-time 20 -o /dev/null "$url"
	elif command -v wget >/dev/null; then wget -q --spider --timeout=20 --tries=1 "$url"
	else
		# apt is always there
		/usr/lib/apt/apt-helper download-file "$url" "$(mktemp)" >/dev/null 2>&1
	fi
}
